"""The products with quantized weights as cases: a layer's experts, and a linear layer."""

from collections.abc import Callable

import torch
from torch import Tensor

from dgq.engine.config import ModelConfig
from dgq.kernels import fp8
from dgq.kernels.fp8 import Fp8Tensor
from dgq.kernels.fp8_experts import fp8_experts, fp8_experts_reference
from dgq.kernels.grouped_experts import grouped_experts, grouped_experts_reference
from dgq.kernels.nf4 import Nf4Tensor, codebook
from dgq.kernels.nf4_linear import CROSSOVER_ROWS, nf4_linear, nf4_linear_reference
from dgq.kernels.router import route_reference

from .kernel_case import Inputs, Prepared, bytes_of
from .work import DECODING_INSTRUCTIONS, Work


def experts(config: ModelConfig, rows: int, kind: str) -> Callable[[Inputs], Prepared]:
    """One layer's experts. kind: unquantized, nf4, or nf4, double."""
    hidden, inner = config.hidden_size, config.moe_intermediate_size
    num_experts, top_k = config.num_experts, config.top_k_experts

    def prepare(inputs: Inputs) -> Prepared:
        x = inputs.normal(rows, hidden)
        gate_up, down = (
            inputs.normal(*shape, spread=shape[-1] ** -0.5)
            if kind == "unquantized"
            else inputs.nf4(*shape, double_quantization=kind.endswith("double"))
            for shape in ((num_experts, 2 * inner, hidden), (num_experts, hidden, inner))
        )
        scores = inputs.normal(rows, num_experts)
        weights, experts = route_reference(scores, torch.ones_like(scores[0]), top_k)
        arguments = (x, gate_up, down, weights.contiguous(), experts.contiguous())
        chosen = len(set(experts.flatten().tolist())) / num_experts
        size = inputs.bytes_per_number
        activations = size * (2 * rows * hidden + 2 * rows * top_k * (inner + hidden))
        decoded = 3 * inner * hidden * num_experts * chosen
        return Prepared(
            lambda: (grouped_experts(*arguments),),
            lambda: (grouped_experts_reference(*arguments),),
            lambda: (_every_expert(*arguments),),
            Work(
                6.0 * rows * top_k * inner * hidden,
                bytes_of(gate_up, down) * chosen + activations,
                0.0 if kind == "unquantized" else decoded * DECODING_INSTRUCTIONS,
            ),
        )

    return prepare


def experts_in_fp8(config: ModelConfig, rows: int) -> Callable[[Inputs], Prepared]:
    """One layer's experts, weights and rows in FP8."""
    hidden, inner = config.hidden_size, config.moe_intermediate_size
    num_experts, top_k = config.num_experts, config.top_k_experts

    def prepare(inputs: Inputs) -> Prepared:
        x = inputs.normal(rows, hidden)
        gate_up, down = (
            fp8.quantize(inputs.normal(*shape, spread=shape[-1] ** -0.5))
            for shape in ((num_experts, 2 * inner, hidden), (num_experts, hidden, inner))
        )
        scores = inputs.normal(rows, num_experts)
        weights, experts = route_reference(scores, torch.ones_like(scores[0]), top_k)
        arguments = (x, gate_up, down, weights.contiguous(), experts.contiguous())
        chosen = len(set(experts.flatten().tolist())) / num_experts
        size, slots = inputs.bytes_per_number, rows * top_k
        # x, read, and written and read again in a byte an element; inner in a byte; outputs.
        activations = 2 * rows * hidden * (size + 1) + 2 * slots * (inner + size * hidden)
        operations = 6.0 * slots * inner * hidden
        return Prepared(
            lambda: (fp8_experts(*arguments),),
            lambda: (fp8_experts_reference(*arguments),),
            lambda: (_every_fp8_expert(*arguments),),
            Work(
                operations,
                bytes_of(gate_up, down) * chosen + activations,
                fp8_operations=operations,
            ),
        )

    return prepare


def _every_fp8_expert(
    x: Tensor, gate_up: Fp8Tensor, down: Fp8Tensor, weights: Tensor, experts: Tensor
) -> Tensor:
    """As _every_expert, with rows, and blocks of 64 of what is between, as FP8 has them; in fp32."""
    result = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    rows = _as_fp8(x.float(), x.shape[1])
    for expert in range(gate_up.shape[0]):
        wide, back = (
            weight.values[expert].float() * weight.scales[expert] for weight in (gate_up, down)
        )
        gate, up = (rows @ wide.T).chunk(2, dim=-1)
        inner = 0.5 * gate * (1 + torch.tanh(0.7978845608 * (gate + 0.044715 * gate**3))) * up
        share = (weights * (experts == expert)).sum(dim=-1, keepdim=True)
        result += (_as_fp8(inner, 64) @ back.T) * share
    return result.to(x.dtype)


def _as_fp8(x: Tensor, block_size: int) -> Tensor:
    """Each block over its largest magnitude, times 448, rounded, and back."""
    blocks = x.reshape(len(x), -1, block_size)
    scales = blocks.abs().amax(dim=-1, keepdim=True) / 448
    return ((blocks / scales).to(torch.float8_e4m3fn).float() * scales).reshape(x.shape)


def _every_expert(
    x: Tensor,
    gate_up: Tensor | Nf4Tensor,
    down: Tensor | Nf4Tensor,
    weights: Tensor,
    experts: Tensor,
) -> Tensor:
    """All rows through all experts; those that a row has not chosen count nothing."""
    result = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in range(gate_up.shape[0]):
        gate, up = (x @ _decoded(gate_up, expert, x.dtype).T).chunk(2, dim=-1)
        inner = 0.5 * gate * (1 + torch.tanh(0.7978845608 * (gate + 0.044715 * gate**3))) * up
        share = (weights * (experts == expert)).sum(dim=-1, keepdim=True)
        result += (inner @ _decoded(down, expert, x.dtype).T).float() * share
    return result.to(x.dtype)


def _decoded(weight: Tensor | Nf4Tensor, index: int | None, dtype: torch.dtype) -> Tensor:
    """Half byte by half byte."""
    if isinstance(weight, Tensor):
        return weight if index is None else weight[index]
    part = weight if index is None else weight.part(index)
    code = codebook(part.packed.device)
    high, low = code[(part.packed // 16).long()], code[(part.packed % 16).long()]
    values = torch.empty(part.shape, dtype=torch.float32, device=code.device)
    values[..., 0::2], values[..., 1::2] = high, low
    return (values * part.scales().repeat_interleave(64, dim=-1)).to(dtype)


def linear(config: ModelConfig, rows: int) -> Callable[[Inputs], Prepared]:
    """The dense MLP's gate projection in NF4."""
    hidden, outputs = config.hidden_size, config.intermediate_size

    def prepare(inputs: Inputs) -> Prepared:
        x, weight = inputs.normal(rows, hidden), inputs.nf4(outputs, hidden)
        size = inputs.bytes_per_number
        num_bytes = bytes_of(weight, x) + rows * outputs * size
        if rows > CROSSOVER_ROWS:
            num_bytes += 2 * outputs * hidden * size
        return Prepared(
            lambda: (nf4_linear(x, weight),),
            lambda: (nf4_linear_reference(x, weight),),
            lambda: (x @ _decoded(weight, None, x.dtype).T,),
            Work(
                2.0 * rows * hidden * outputs, num_bytes, DECODING_INSTRUCTIONS * hidden * outputs
            ),
        )

    return prepare
