"""What the model's modules leave to others: the operations that torch and the Triton kernels both have.

The modules hold the weights and say what follows what; an ``Operations`` says how each of these steps
is computed. torch_operations.py is the reference, and what runs on a CPU and in training;
triton_operations.py runs the kernels and never waits for the device.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dgq.kernels.fp8 import Fp8Tensor
from dgq.kernels.nf4 import Nf4Tensor

from .config import ModelConfig

Weight = Tensor | Nf4Tensor | Fp8Tensor
"""A weight of the rows' dtype, in NF4, or in FP8."""


@dataclass(frozen=True, slots=True)
class RowReadings:
    """What one step says of R rows: int64 [R], int64 [R], fp32 [R] in nats, [R, d]."""

    argmax: Tensor
    sampled: Tensor
    entropy: Tensor
    soft_embeddings: Tensor


@dataclass(frozen=True, slots=True)
class Workspace:
    """Bytes of a step's intermediate tensors, at most.

    per_row: of each row. per_head_row: of each row of the vocabulary head, of which max_head_rows are
    worked on at once. per_step: whatever the number of rows.
    """

    per_row: int
    per_head_row: int
    max_head_rows: int
    per_step: int

    def of(self, num_rows: int) -> int:
        """Of a step of so many rows, all of which may be the head's."""
        head_rows = min(num_rows, self.max_head_rows)
        return self.per_step + self.per_row * num_rows + self.per_head_row * head_rows


class Operations(Protocol):
    """One way to compute. Rows are the leading dimensions of a tensor, or R of them."""

    @property
    def is_static(self) -> bool:
        """Whether shapes never depend on data, nothing waits for the device, and attention follows
        pages: steps can then be padded to few shapes and captured, see static_step.py.
        """
        ...

    def rms_norm(
        self, x: Tensor, weight: Tensor | None, eps: float, residual: Tensor | None
    ) -> Tensor:
        """x [.., d], weight [d] or None for ones -> x / rms(x) * weight, plus residual if any.

        Computed in fp32 and rounded to x's dtype before residual [.., d] is added.
        """
        ...

    def rotate(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Turn the pairs (i, i + D/2) of x [.., H, D] for i < A; x itself may be overwritten.

        rotary: cosines and sines, [.., 1, A] each, A <= D / 2. The other pairs stay.
        """
        ...

    def route(self, scores: Tensor, expert_scale: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """scores [R, E], expert_scale [E] -> weights fp32 [R, K] and experts int64 [R, K].

        The K most probable experts; their probabilities, made to sum to 1, times their scales.
        """
        ...

    def experts(
        self,
        x: Tensor,
        gate_up_proj: Weight,
        down_proj: Weight,
        weights: Tensor,
        experts: Tensor,
    ) -> Tensor:
        """The weighted sum of a row's gated MLPs: [R, d] -> [R, d].

        gate_up_proj [E, 2 I, d], down_proj [E, d, I]; weights and experts as ``route`` gives them.
        Where the weights are FP8, the rows are quantized too (dgq.kernels.fp8_experts says how).
        """
        ...

    def nf4_linear(self, x: Tensor, weight: Nf4Tensor) -> Tensor:
        """x [.., K], weight [N, K] -> [.., N]."""
        ...

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
        """The vocabulary's answer to hidden [R, d], with z = softcap * tanh(logits / softcap) / T.

        embedding [V, d]; temperature T fp32 [R]; bits int64 [R], which decide on the samples, see
        draws.py. The soft embeddings are softmax(z) @ embedding * sqrt(d); sparse: up to 1e-4 of a
        row's probability may be left out of them.
        """
        ...

    def workspace(
        self, config: ModelConfig, quantized_shapes: Iterable[torch.Size], dtype: torch.dtype
    ) -> Workspace:
        """What a step takes of the device's memory beside weights, pools and canvases.

        quantized_shapes: of the weights that are held in NF4 or FP8.
        """
        ...
