"""The kernels' launches at the shapes of DiffusionGemma 26B-A4B, on tensors without memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from dgq.engine.shapes import PUBLISHED
from dgq.kernels.fp8 import Fp8Tensor
from dgq.kernels.fp8_experts import fp8_experts
from dgq.kernels.grouped_experts import grouped_experts
from dgq.kernels.nf4 import NestedScales, Nf4Tensor
from dgq.kernels.nf4_linear import nf4_linear
from dgq.kernels.paged_attention import Segments, paged_attention
from dgq.kernels.rms_norm import rms_norm
from dgq.kernels.rotary import rotate
from dgq.kernels.router import route
from dgq.kernels.self_conditioning import self_conditioning
from dgq.kernels.vocabulary_head import VocabularyReadings, read_vocabulary

HIDDEN, DENSE_INNER = PUBLISHED.hidden_size, PUBLISHED.intermediate_size
NUM_EXPERTS, TOP_K = PUBLISHED.num_experts, PUBLISHED.top_k_experts
EXPERT_INNER, VOCABULARY = PUBLISHED.moe_intermediate_size, PUBLISHED.vocab_size
QUERY_HEADS, KEY_HEADS = PUBLISHED.num_attention_heads, PUBLISHED.num_key_value_heads
HEAD_SIZE, WINDOW = PUBLISHED.head_dim, PUBLISHED.sliding_window
FULL_KEY_HEADS, FULL_HEAD_SIZE = PUBLISHED.num_key_value_heads_full, PUBLISHED.head_dim_full


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor that has a shape and a dtype only."""
    return torch.empty(shape, dtype=dtype, device="meta")


def nf4(*shape: int, nested: bool = False) -> Nf4Tensor:
    """A quantized tensor that has a shape only."""
    packed = empty(*shape[:-1], shape[-1] // 2, dtype=torch.uint8)
    scales = (*shape[:-1], shape[-1] // 64)
    if not nested:
        return Nf4Tensor(packed, empty(*scales, dtype=torch.float32))
    absmax = empty(*scales, dtype=torch.uint8)
    levels = NestedScales(
        empty(256, dtype=torch.float32),
        empty(-(-absmax.numel() // 256), dtype=torch.float32),
        empty(dtype=torch.float32),
    )
    return Nf4Tensor(packed, absmax, levels)


def fp8(*shape: int) -> Fp8Tensor:
    """A quantized tensor that has a shape only."""
    scales = empty(*shape[:-1], 1, dtype=torch.float32)
    return Fp8Tensor(empty(*shape, dtype=torch.float8_e4m3fn), scales)


def experts(rows: int, weight_format: str) -> Callable[[], object]:
    """One layer's experts on so many rows."""

    def call() -> object:
        shapes = (NUM_EXPERTS, 2 * EXPERT_INNER, HIDDEN), (NUM_EXPERTS, HIDDEN, EXPERT_INNER)
        x, chosen = empty(rows, HIDDEN), empty(rows, TOP_K, dtype=torch.int64)
        weights = empty(rows, TOP_K, dtype=torch.float32)
        if weight_format == "fp8":
            gate_up_fp8, down_fp8 = (fp8(*shape) for shape in shapes)
            return fp8_experts(x, gate_up_fp8, down_fp8, weights, chosen)
        gate_up, down = (
            empty(*shape)
            if weight_format == "bf16"
            else nf4(*shape, nested=weight_format == "nf4-double")
            for shape in shapes
        )
        return grouped_experts(x, gate_up, down, weights, chosen)

    return call


def linear(rows: int, crossover_rows: int) -> Callable[[], object]:
    """The dense MLP's gate projection."""
    return lambda: nf4_linear(empty(rows, HIDDEN), nf4(DENSE_INNER, HIDDEN), crossover_rows)


def head(rows: int) -> Callable[[], object]:
    """The vocabulary head on so many rows."""

    def call() -> object:
        temperature, uniforms = (
            empty(*shape, dtype=torch.float32) for shape in ((rows,), (rows, 2))
        )
        embedding = empty(VOCABULARY, HIDDEN)
        return read_vocabulary(empty(rows, HIDDEN), embedding, temperature, uniforms, 30.0, True)

    return call


def conditioning(rows: int) -> Callable[[], object]:
    """Self-conditioning after the head on so many rows."""

    def call() -> object:
        numbers, tiles = empty(rows, dtype=torch.float32), empty(2048, rows, dtype=torch.float32)
        tokens = empty(rows, dtype=torch.int64)
        readings = VocabularyReadings(
            tokens, tokens, numbers, numbers, tiles, tiles, empty(rows, VOCABULARY)
        )
        return self_conditioning(readings, empty(VOCABULARY, HIDDEN), 53.0)

    return call


def attention(rows: int, full: bool) -> Callable[[], object]:
    """One layer's attention of canvases of 256 rows, or of chunks: one kernel serves both."""
    heads, size = (FULL_KEY_HEADS, FULL_HEAD_SIZE) if full else (KEY_HEADS, HEAD_SIZE)

    def call() -> object:
        num_segments = rows // 256
        numbers, offsets, pages = (
            empty(length, dtype=torch.int32)
            for length in (num_segments, num_segments + 1, num_segments * 272)
        )
        segments = Segments(offsets, numbers, numbers, pages, offsets, numbers)
        pool = empty(65536, heads, size)
        query = empty(rows, QUERY_HEADS, size)
        return paged_attention(query, pool, pool, segments, None if full else WINDOW)

    return call


def norm() -> object:
    """A layer's norm with its residual."""
    rows = empty(256, HIDDEN)
    return rms_norm(rows, empty(HIDDEN), 1e-6, rows)


def rotation() -> object:
    """The queries of a full-attention layer, which turns a quarter of its pairs."""
    table = empty(256, FULL_HEAD_SIZE // 8)
    return rotate(empty(256, QUERY_HEADS, FULL_HEAD_SIZE), table, table)


def routing() -> object:
    """A layer's routing weights."""
    return route(empty(256, NUM_EXPERTS), empty(NUM_EXPERTS), TOP_K)


CASES: dict[str, Callable[[], object]] = {
    "experts nf4 16 rows": experts(16, "nf4"),
    "experts nf4 256 rows": experts(256, "nf4"),
    "experts nf4 512 rows": experts(512, "nf4"),
    "experts nf4 2048 rows": experts(2048, "nf4"),
    "experts nf4-double 256 rows": experts(256, "nf4-double"),
    "experts bf16 256 rows": experts(256, "bf16"),
    "experts bf16 2048 rows": experts(2048, "bf16"),
    "experts fp8 16 rows": experts(16, "fp8"),
    "experts fp8 256 rows": experts(256, "fp8"),
    "experts fp8 512 rows": experts(512, "fp8"),
    "experts fp8 2048 rows": experts(2048, "fp8"),
    "linear 16 rows": linear(16, 64),
    "linear 64 rows": linear(64, 64),
    "linear 256 rows": linear(256, 64),
    "head 64 rows": head(64),
    "head 512 rows": head(512),
    "self-conditioning 64 rows": conditioning(64),
    "self-conditioning 512 rows": conditioning(512),
    "sliding attention 256 rows": attention(256, full=False),
    "sliding attention 2048 rows": attention(2048, full=False),
    "full attention 256 rows": attention(256, full=True),
    "norm": norm,
    "rotary": rotation,
    "router": routing,
}
