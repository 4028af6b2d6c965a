"""Every kernel as a case: at the real model's shapes, and at small odd ones.

Work is the least that the kernel's outputs ask for, its inputs read and its outputs written once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dgq.engine.config import ModelConfig
from dgq.engine.shapes import PUBLISHED, SHAPES
from dgq.kernels import fp8
from dgq.kernels.fp8 import Fp8Tensor
from dgq.kernels.fp8_experts import fp8_experts, fp8_experts_reference
from dgq.kernels.grouped_experts import grouped_experts, grouped_experts_reference
from dgq.kernels.nf4 import Nf4Tensor, codebook
from dgq.kernels.nf4_linear import CROSSOVER_ROWS, nf4_linear, nf4_linear_reference
from dgq.kernels.rms_norm import rms_norm, rms_norm_reference
from dgq.kernels.rotary import rotate, rotate_reference
from dgq.kernels.router import route, route_reference
from dgq.kernels.routing import ExpertRows, sort_by_expert, sort_by_expert_reference
from dgq.kernels.self_conditioning import self_conditioning, self_conditioning_reference
from dgq.kernels.vocabulary_head import (
    TILE_TOKENS,
    VocabularyReadings,
    read_vocabulary,
    read_vocabulary_reference,
)

from .attention_case import attention
from .kernel_case import Inputs, KernelCase, Outputs, Prepared, bytes_of
from .work import DECODING_INSTRUCTIONS, Work

SMALL = replace(
    ModelConfig.from_dict(SHAPES["micro"]),
    vocab_size=1000,
    hidden_size=192,
    num_experts=12,
    top_k_experts=3,
    num_attention_heads=6,
    num_key_value_heads=3,
    sliding_window=50,
)
"""Sizes that are no powers of two, and rows that do not fill their tiles."""

_SMALL_ROWS = 37
_EPS = 1e-6


def small_cases() -> list[KernelCase]:
    """Quick ones, which the interpreter can run too."""
    return _cases(SMALL, experts=(5, _SMALL_ROWS), linears=(_SMALL_ROWS, 70), rows=(_SMALL_ROWS,))


def real_cases(config: ModelConfig = PUBLISHED) -> list[KernelCase]:
    """The rows of 1 canvas of 16 rows, of 1, of 2 and of 8 canvases."""
    return _cases(config, experts=(16, 256, 2048), linears=(16, 256), rows=(256, 512))


def cpu_cases(config: ModelConfig) -> list[KernelCase]:
    """Fewer, without the sparse soft embeddings: the reference computes all of them densely."""
    cases = _cases(config, experts=(256,), linears=(16, 256), rows=(64,))
    return [case for case in cases if not case.name.endswith("sparse")]


def _cases(
    config: ModelConfig, experts: Sequence[int], linears: Sequence[int], rows: Sequence[int]
) -> list[KernelCase]:
    cases = [
        KernelCase(
            "grouped_experts", f"experts {kind}, {count} rows", _experts(config, count, kind)
        )
        for kind in ("nf4", "unquantized")
        for count in experts
    ]
    doubled = _experts(config, experts[-1], "nf4, double")
    cases.append(KernelCase("grouped_experts", f"experts nf4, double, {experts[-1]} rows", doubled))
    cases += [
        KernelCase(
            "fp8_experts", f"experts fp8, {count} rows", _fp8_experts(config, count), is_fp8=True
        )
        for count in experts
    ]
    for count in linears:
        kind = "decoded in the loop" if count <= CROSSOVER_ROWS else "decoded before"
        name = f"linear nf4, {count} rows, {kind}"
        cases.append(KernelCase("nf4_linear", name, _nf4_linear(config, count)))
    for count in rows:
        cases += [
            KernelCase("vocabulary_head", f"head, {count} rows", _head(config, count)),
            KernelCase(
                "self_conditioning",
                f"soft embeddings, {count} rows, dense",
                _soft_embeddings(config, count, spread=0.25),
            ),
            KernelCase(
                "self_conditioning",
                f"soft embeddings, {count} rows, sparse",
                _soft_embeddings(config, count, spread=25.0),
            ),
            KernelCase(
                "paged_attention",
                f"sliding attention, {count} rows",
                attention(config, count, full=False),
            ),
            KernelCase(
                "paged_attention",
                f"full attention, {count} rows",
                attention(config, count, full=True),
            ),
            KernelCase("rms_norm", f"norm and residual, {count} rows", _norm(config, count)),
            KernelCase("rotary", f"rotary, {count} rows", _rotation(config, count)),
            KernelCase("router", f"router, {count} rows", _router(config, count)),
            KernelCase("routing", f"sorting by expert, {count} rows", _sorting(config, count)),
        ]
    return cases


def _experts(config: ModelConfig, rows: int, kind: str) -> Callable[[Inputs], Prepared]:
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


def _fp8_experts(config: ModelConfig, rows: int) -> Callable[[Inputs], Prepared]:
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


def _nf4_linear(config: ModelConfig, rows: int) -> Callable[[Inputs], Prepared]:
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


def _head(config: ModelConfig, rows: int) -> Callable[[Inputs], Prepared]:
    vocabulary, hidden_size = config.vocab_size, config.hidden_size

    def prepare(inputs: Inputs) -> Prepared:
        hidden = inputs.normal(rows, hidden_size)
        embedding = inputs.normal(vocabulary, hidden_size, spread=3 * hidden_size**-0.5)
        temperature, uniforms = 0.4 + 0.4 * inputs.uniform(rows), inputs.uniform(rows, 2)
        cap = config.final_logit_softcapping
        arguments = (hidden, embedding, temperature, uniforms, cap, True)
        num_bytes = bytes_of(hidden, embedding) + rows * vocabulary * inputs.bytes_per_number
        return Prepared(
            lambda: _readings(read_vocabulary(*arguments)),
            lambda: _readings(read_vocabulary_reference(*arguments)),
            lambda: _plain_readings(hidden, embedding, temperature, uniforms, cap),
            Work(2.0 * rows * vocabulary * hidden_size, num_bytes),
        )

    return prepare


def _readings(readings: VocabularyReadings) -> Outputs:
    return readings.argmax, readings.sampled, readings.entropy, readings.log_sum_exp


def _plain_readings(
    hidden: Tensor, embedding: Tensor, temperature: Tensor, uniforms: Tensor, cap: float
) -> Outputs:
    """All logits, their softmax, and two inverse CDFs over it: of the tiles, and inside one."""
    z = torch.tanh(hidden.float() @ embedding.float().T / cap) * cap / temperature[:, None]
    probabilities = z.softmax(dim=-1)
    entropy = torch.special.entr(probabilities).sum(dim=-1)
    padded = F.pad(probabilities, (0, -z.shape[1] % TILE_TOKENS)).view(len(z), -1, TILE_TOKENS)
    tiles = padded.sum(dim=-1).cumsum(dim=-1)
    tile = torch.searchsorted(tiles, uniforms[:, :1] * tiles[:, -1:], right=True)
    tile = tile.clamp(max=tiles.shape[1] - 1)
    inside = padded[torch.arange(len(z), device=z.device), tile[:, 0]].cumsum(dim=-1)
    token = torch.searchsorted(inside, uniforms[:, 1:] * inside[:, -1:], right=True)
    sampled = (tile * TILE_TOKENS + token.clamp(max=TILE_TOKENS - 1))[:, 0]
    return z.argmax(dim=-1), sampled, entropy, z.exp().double().sum(dim=-1).log().float()


def _soft_embeddings(config: ModelConfig, rows: int, spread: float) -> Callable[[Inputs], Prepared]:
    """spread: of the logits; large ones make rows sure, and so sparse."""
    vocabulary, hidden_size = config.vocab_size, config.hidden_size

    def prepare(inputs: Inputs) -> Prepared:
        hidden = inputs.normal(rows, hidden_size)
        embedding = inputs.normal(vocabulary, hidden_size, spread=hidden_size**-0.5)
        ones, uniforms = torch.ones(rows, device=inputs.device), inputs.uniform(rows, 2)
        # No softcap, which would make the largest of large logits equal.
        read = read_vocabulary_reference(spread * hidden, embedding, ones, uniforms, 1e4, True)
        assert read.logits is not None
        logits, normalizer = read.logits, hidden_size**0.5
        is_dense = spread < 1
        gathered = bytes_of(logits, embedding) if is_dense else bytes_of(embedding[:rows])
        return Prepared(
            lambda: (self_conditioning(read, embedding, normalizer),),
            lambda: (self_conditioning_reference(logits, embedding, normalizer),),
            lambda: (_weighted_embeddings(logits, embedding, normalizer),),
            Work(
                2.0 * rows * (vocabulary if is_dense else 1) * hidden_size,
                gathered + rows * hidden_size * inputs.bytes_per_number,
            ),
        )

    return prepare


def _weighted_embeddings(logits: Tensor, embedding: Tensor, normalizer: float) -> Tensor:
    """Row by row."""
    rows = []
    for row in logits.float():
        e = (row - row.max()).exp()
        rows.append((e / e.sum()) @ embedding.float() * normalizer)
    return torch.stack(rows).to(embedding.dtype)


def _norm(config: ModelConfig, rows: int) -> Callable[[Inputs], Prepared]:
    def prepare(inputs: Inputs) -> Prepared:
        x, residual = (inputs.normal(rows, config.hidden_size) for _ in range(2))
        weight = inputs.normal(config.hidden_size)

        def plain() -> Outputs:
            mean_square = (x.float() * x.float()).mean(dim=-1, keepdim=True)
            normed = x.float() / (mean_square + _EPS).sqrt() * weight.float()
            return (residual + normed.to(x.dtype),)

        return Prepared(
            lambda: (rms_norm(x, weight, _EPS, residual),),
            lambda: (rms_norm_reference(x, weight, _EPS, residual),),
            plain,
            Work(0.0, bytes_of(x, residual, weight) + x.nbytes),
        )

    return prepare


def _rotation(config: ModelConfig, rows: int) -> Callable[[Inputs], Prepared]:
    """The queries of a full-attention layer."""
    heads, head_size = config.num_attention_heads, config.head_dim_full
    num_angles = int(config.partial_rotary_factor_full * head_size // 2)

    def prepare(inputs: Inputs) -> Prepared:
        x = inputs.normal(rows, heads, head_size)
        angles = 6.28 * inputs.uniform(rows, num_angles)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)

        def plain() -> Outputs:
            """As complex numbers."""
            whole = F.pad(torch.complex(cos.float(), sin.float()), (0, head_size // 2 - num_angles))
            whole[:, num_angles:] = 1
            first, second = x.float().chunk(2, dim=-1)
            turned = torch.complex(first, second) * whole[:, None]
            return (torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype),)

        return Prepared(
            lambda: (rotate(x, cos, sin),),
            lambda: (rotate_reference(x, cos, sin),),
            plain,
            Work(0.0, 2 * x.nbytes + bytes_of(cos, sin)),
        )

    return prepare


def _router(config: ModelConfig, rows: int) -> Callable[[Inputs], Prepared]:
    top_k = config.top_k_experts

    def prepare(inputs: Inputs) -> Prepared:
        # Without equal scores, which a kernel may rank by number and another way otherwise.
        scores = inputs.normal(rows, config.num_experts, dtype=torch.float32)
        scale = 1 + inputs.uniform(config.num_experts)

        def plain() -> Outputs:
            left, weights, experts = scores.softmax(dim=-1), [], []
            for _ in range(top_k):
                weight, expert = left.max(dim=-1)
                weights.append(weight)
                experts.append(expert)
                left = left.scatter(1, expert[:, None], -1.0)
            chosen = torch.stack(experts, dim=1)
            kept = torch.stack(weights, dim=1)
            return kept / kept.sum(dim=1, keepdim=True) * scale[chosen], chosen

        return Prepared(
            lambda: route(scores, scale, top_k),
            lambda: route_reference(scores, scale, top_k),
            plain,
            Work(0.0, bytes_of(scores) + rows * top_k * 12),
        )

    return prepare


def _sorting(config: ModelConfig, rows: int) -> Callable[[Inputs], Prepared]:
    num_experts, top_k = config.num_experts, config.top_k_experts

    def prepare(inputs: Inputs) -> Prepared:
        experts = inputs.whole(num_experts, rows, top_k)

        def plain() -> Outputs:
            slots = [(experts.flatten() == expert).nonzero()[:, 0] for expert in range(num_experts)]
            ends = torch.tensor([0, *map(len, slots)], device=experts.device).cumsum(0)
            return torch.cat(slots).int(), ends.int()

        return Prepared(
            lambda: _sorted(sort_by_expert(experts, num_experts)),
            lambda: _sorted(sort_by_expert_reference(experts, num_experts)),
            plain,
            Work(0.0, 2 * bytes_of(experts) + 4.0 * rows * top_k),
        )

    return prepare


def _sorted(rows: ExpertRows) -> Outputs:
    return rows.order, rows.offsets
