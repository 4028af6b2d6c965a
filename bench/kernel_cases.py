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
from dgq.kernels.nf4_linear import CROSSOVER_ROWS
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
from .weight_cases import experts, experts_in_fp8, linear
from .work import Work

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
    return _cases(
        SMALL, expert_rows=(5, _SMALL_ROWS), linear_rows=(_SMALL_ROWS, 70), rows=(_SMALL_ROWS,)
    )


def real_cases(config: ModelConfig = PUBLISHED) -> list[KernelCase]:
    """The rows of 1 canvas of 16 rows, of 1, of 2 and of 8 canvases."""
    return _cases(config, expert_rows=(16, 256, 2048), linear_rows=(16, 256), rows=(256, 512))


def cpu_cases(config: ModelConfig) -> list[KernelCase]:
    """Fewer, without the sparse soft embeddings: the reference computes all of them densely."""
    cases = _cases(config, expert_rows=(256,), linear_rows=(16, 256), rows=(64,))
    return [case for case in cases if not case.name.endswith("sparse")]


def _cases(
    config: ModelConfig, expert_rows: Sequence[int], linear_rows: Sequence[int], rows: Sequence[int]
) -> list[KernelCase]:
    cases = [
        KernelCase("grouped_experts", f"experts {kind}, {count} rows", experts(config, count, kind))
        for kind in ("nf4", "unquantized")
        for count in expert_rows
    ]
    doubled = experts(config, expert_rows[-1], "nf4, double")
    cases.append(
        KernelCase("grouped_experts", f"experts nf4, double, {expert_rows[-1]} rows", doubled)
    )
    cases += [
        KernelCase(
            "fp8_experts", f"experts fp8, {count} rows", experts_in_fp8(config, count), is_fp8=True
        )
        for count in expert_rows
    ]
    for count in linear_rows:
        kind = "decoded in the loop" if count <= CROSSOVER_ROWS else "decoded before"
        name = f"linear nf4, {count} rows, {kind}"
        cases.append(KernelCase("nf4_linear", name, linear(config, count)))
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
