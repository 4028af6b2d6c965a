"""torch's operations, as a reference for what the Triton kernels draw."""

from dataclasses import dataclass

from dgq.engine.draws import to_uniform_pairs
from dgq.engine.operations import RowReadings
from dgq.engine.torch_operations import TorchOperations
from dgq.kernels.self_conditioning import self_conditioning_reference
from dgq.kernels.vocabulary_head import read_vocabulary_reference


@dataclass(frozen=True, slots=True)
class SameDraws(TorchOperations):
    """torch's operations but for the samples, which are drawn as the kernel draws them."""

    def read_rows(self, hidden, embedding, softcap, temperature, bits, *, sparse):
        uniforms = to_uniform_pairs(bits)
        read = read_vocabulary_reference(
            hidden, embedding, temperature, uniforms, softcap, keep_logits=True
        )
        soft = self_conditioning_reference(read.logits, embedding, embedding.shape[1] ** 0.5)
        return RowReadings(read.argmax, read.sampled, read.entropy, soft)
