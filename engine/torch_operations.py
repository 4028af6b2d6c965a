"""The operations in plain PyTorch: the reference, on any device, differentiable as training needs it.

On a CPU a row's result is the same to the bit in any company of LEAST_ROWS rows or more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgq.kernels.fp8 import Fp8Tensor, rounded
from dgq.kernels.fp8_experts import INNER_BLOCK
from dgq.kernels.grouped_experts import dense_expert
from dgq.kernels.nf4 import Nf4Tensor
from dgq.kernels.nf4_linear import nf4_linear_reference

from . import head
from .config import ModelConfig
from .draws import to_uniforms
from .feedforward import LEAST_ROWS, gelu_tanh
from .operations import Operations, RowReadings, Weight, Workspace

_DECODING_BYTES = 20
"""Per element of a weight while it is decoded: NF4's indices, codes and products; FP8 takes less."""

_HEAD_TENSORS = 6
"""fp32 tensors of the head's tile that live at once (head.py)."""


@dataclass(frozen=True, slots=True)
class TorchOperations:
    """See Operations."""

    @property
    def is_static(self) -> bool:
        """As Operations says."""
        return False

    def rms_norm(
        self, x: Tensor, weight: Tensor | None, eps: float, residual: Tensor | None
    ) -> Tensor:
        """As Operations says."""
        fp32_weight = None if weight is None else weight.float()
        normed = F.rms_norm(x.float(), x.shape[-1:], fp32_weight, eps).to(x.dtype)
        return normed if residual is None else residual + normed

    def rotate(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """In place."""
        cos, sin = rotary
        num_angles, half = cos.shape[-1], x.shape[-1] // 2
        first, second = x[..., :num_angles], x[..., half : half + num_angles]
        turned_first = first * cos - second * sin
        turned_second = second * cos + first * sin
        first.copy_(turned_first)
        second.copy_(turned_second)
        return x

    def route(self, scores: Tensor, expert_scale: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """As Operations says."""
        probabilities = scores.softmax(dim=-1, dtype=torch.float32)
        weights, experts = probabilities.topk(top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights * expert_scale[experts], experts

    def experts(
        self,
        x: Tensor,
        gate_up_proj: Weight,
        down_proj: Weight,
        weights: Tensor,
        experts: Tensor,
    ) -> Tensor:
        """Rows are sorted by expert, and back."""
        num_chosen = experts.shape[1]
        rows_are_fp8 = isinstance(gate_up_proj, Fp8Tensor)
        order = experts.flatten().argsort(stable=True)
        counts = torch.bincount(experts.flatten(), minlength=gate_up_proj.shape[0]).tolist()
        sorted_x = (rounded(x) if rows_are_fp8 else x).index_select(0, order // num_chosen)
        results = x.new_empty(len(order), x.shape[1])
        start = 0
        for expert, count in enumerate(counts):
            if count:
                # Fewer rows would take another path through the product, with other roundings.
                first = max(min(start, len(order) - LEAST_ROWS), 0)
                rows = sorted_x[first : max(start + count, first + LEAST_ROWS)]
                gate_up = F.linear(rows, dense_expert(gate_up_proj, expert, x.dtype))
                gate, up = gate_up.chunk(2, dim=-1)
                inner = gelu_tanh(gate) * up
                if rows_are_fp8:
                    inner = rounded(inner, INNER_BLOCK)
                own = F.linear(inner, dense_expert(down_proj, expert, x.dtype))
                own = own[start - first :][:count]
                results.index_copy_(0, order[start : start + count], own)
                start += count
        results = results.view(*experts.shape, -1)
        output = results[:, 0] * weights[:, :1]
        for k in range(1, num_chosen):
            output = output.addcmul(results[:, k], weights[:, k : k + 1])
        return output.to(x.dtype)

    def nf4_linear(self, x: Tensor, weight: Nf4Tensor) -> Tensor:
        """The weight is decoded, then multiplied."""
        return nf4_linear_reference(x, weight)

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
        """One uniform number for each row; see head.py."""
        tiling = head.HeadTiling(sparse=sparse)
        uniforms = to_uniforms(bits)
        return head.read_rows(hidden, embedding, softcap, temperature, uniforms, tiling)

    def workspace(
        self, config: ModelConfig, quantized_shapes: Iterable[torch.Size], dtype: torch.dtype
    ) -> Workspace:
        """One weight, or one expert's, is decoded at a time; the head has one tile at a time."""
        decoded = max((shape[-2] * shape[-1] for shape in quantized_shapes), default=0)
        tile = max(head.TILE_ELEMENTS, LEAST_ROWS * config.hidden_size)
        return Workspace(
            per_row=_row_bytes(config, dtype),
            per_head_row=0,
            max_head_rows=0,
            per_step=decoded * _DECODING_BYTES + 4 * _HEAD_TENSORS * tile,
        )


TORCH: Operations = TorchOperations()


def _row_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Of one row, what lives at once where a step is largest; the residual and soft embedding beside it.

    In the experts: the chosen rows, sorted, and their results; of one expert, gate, up, their product
    and its own result; the sum in fp32. In attention: queries, keys and values, rotated and not, and the
    outcome.
    """
    hidden, inner, size = config.hidden_size, config.moe_intermediate_size, dtype.itemsize
    experts = (2 * config.top_k_experts * hidden + 3 * inner + hidden) * size + 8 * hidden
    heads = config.attention_width
    attention = 4 * heads * size + 4 * heads
    return 6 * hidden * size + max(experts, attention)
