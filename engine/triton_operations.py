"""The operations by the Triton kernels: what the engine runs on a GPU.

Nothing here waits for the device, and no shape depends on data, so that a CUDA graph can hold a whole
step; but for what is made once, when a kernel or a codebook is first used, so a step is run before it
is captured. The vocabulary head works on HEAD_ROWS rows at a time, which bounds its logits.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgq.kernels.fp8 import Fp8Tensor
from dgq.kernels.fp8_experts import fp8_experts
from dgq.kernels.grouped_experts import grouped_experts
from dgq.kernels.nf4 import Nf4Tensor
from dgq.kernels.nf4_linear import nf4_linear
from dgq.kernels.rms_norm import rms_norm
from dgq.kernels.rotary import rotate
from dgq.kernels.router import route
from dgq.kernels.self_conditioning import (
    MAX_DROPPED_MASS,
    MAX_SURVIVORS,
    NUM_SPLITS,
    self_conditioning,
)
from dgq.kernels.vocabulary_head import TILE_TOKENS, read_vocabulary

from .config import ModelConfig
from .draws import to_uniform_pairs
from .operations import Operations, RowReadings, Weight, Workspace

HEAD_ROWS = 512
"""Rows whose logits are held at a time."""


@dataclass(frozen=True, slots=True)
class TritonOperations:
    """See Operations."""

    @property
    def is_static(self) -> bool:
        """As Operations says."""
        return True

    def rms_norm(
        self, x: Tensor, weight: Tensor | None, eps: float, residual: Tensor | None
    ) -> Tensor:
        """One launch, the residual included."""
        return rms_norm(x, weight, eps, residual)

    def rotate(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """As Operations says."""
        cos, sin = (table.flatten(0, -2) for table in rotary)
        return rotate(x.flatten(0, -3), cos, sin).view_as(x)

    def route(self, scores: Tensor, expert_scale: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """As Operations says."""
        return route(scores, expert_scale, top_k)

    def experts(
        self,
        x: Tensor,
        gate_up_proj: Weight,
        down_proj: Weight,
        weights: Tensor,
        experts: Tensor,
    ) -> Tensor:
        """All experts in a few launches. A choice of E or more is none, and costs nothing."""
        if isinstance(gate_up_proj, Fp8Tensor) or isinstance(down_proj, Fp8Tensor):
            return fp8_experts(x, gate_up_proj, down_proj, weights, experts)
        return grouped_experts(x, gate_up_proj, down_proj, weights, experts)

    def nf4_linear(self, x: Tensor, weight: Nf4Tensor) -> Tensor:
        """Decoded in registers; above the kernel's crossover, as a whole for torch's product."""
        return nf4_linear(x.flatten(0, -2), weight).view(*x.shape[:-1], weight.shape[0])

    def read_rows(
        self,
        hidden: Tensor,
        embedding: Tensor,
        softcap: float,
        temperature: Tensor,
        bits: Tensor,
        *,
        sparse: bool,
    ) -> RowReadings:
        """Two uniform numbers for each row: the kernel draws a tile, then a token of it."""
        uniforms = to_uniform_pairs(bits)
        max_dropped_mass = MAX_DROPPED_MASS if sparse else 0.0
        chunks = [
            _read_chunk(
                hidden[start : start + HEAD_ROWS],
                embedding,
                softcap,
                temperature[start : start + HEAD_ROWS],
                uniforms[start : start + HEAD_ROWS],
                max_dropped_mass,
            )
            for start in range(0, max(len(hidden), 1), HEAD_ROWS)
        ]
        if len(chunks) == 1:
            return chunks[0]
        return RowReadings(
            torch.cat([chunk.argmax for chunk in chunks]),
            torch.cat([chunk.sampled for chunk in chunks]),
            torch.cat([chunk.entropy for chunk in chunks]),
            torch.cat([chunk.soft_embeddings for chunk in chunks]),
        )

    def workspace(
        self, config: ModelConfig, quantized_shapes: Iterable[torch.Size], dtype: torch.dtype
    ) -> Workspace:
        """Experts are never decoded to memory; a linear layer's weight may be, one at a time."""
        linears = (shape for shape in quantized_shapes if len(shape) == 2)
        decoded = max((shape.numel() for shape in linears), default=0)
        return Workspace(
            per_row=_row_bytes(config, dtype),
            per_head_row=_head_row_bytes(config, dtype),
            max_head_rows=HEAD_ROWS,
            per_step=decoded * dtype.itemsize,
        )


TRITON: Operations = TritonOperations()


def _read_chunk(
    hidden: Tensor,
    embedding: Tensor,
    softcap: float,
    temperature: Tensor,
    uniforms: Tensor,
    max_dropped_mass: float,
) -> RowReadings:
    """A function of its own, so that a chunk's logits are gone when the next one is read."""
    read = read_vocabulary(hidden, embedding, temperature, uniforms, softcap, keep_logits=True)
    normalizer = embedding.shape[1] ** 0.5
    soft = self_conditioning(read, embedding, normalizer, max_dropped_mass)
    return RowReadings(read.argmax, read.sampled, read.entropy, soft)


def _row_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Of one row, what lives at once where a step is largest; the residual and soft embedding beside it,
    and what a static step keeps of it.

    In the experts: for each choice, inner and result, and its weight, number and place in the sorted
    order; the scores, and the sum. In the dense MLP: gate, its GELU, up, and the product. In attention:
    queries, keys and values, rotated and not, and the outcome.
    """
    hidden, inner, size = config.hidden_size, config.moe_intermediate_size, dtype.itemsize
    choices = config.top_k_experts * ((inner + hidden) * size + 4 + 8 + 4)
    experts = choices + (config.num_experts + hidden) * size
    dense = 4 * config.intermediate_size * size
    attention = 4 * config.attention_width * size
    kept = hidden * size + 12 * 8
    return 6 * hidden * size + kept + max(experts, dense, attention)


def _head_row_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Of one row: its logits, five numbers for each tile of the vocabulary, its survivors, and the parts
    of its dense soft embedding.
    """
    logits = config.vocab_size * dtype.itemsize
    tiles = 5 * 4 * -(-config.vocab_size // TILE_TOKENS)
    survivors = (4 + 4) * MAX_SURVIVORS
    parts = 4 * NUM_SPLITS * (config.hidden_size + 1)
    return logits + tiles + survivors + parts
