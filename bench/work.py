"""How many operations, bytes and instructions one step takes, by component, counted from the shapes.

A multiplication with its addition is two operations. Bytes are those that cannot stay on the chip:

- weights, once a step, in the preset's format. An NF4 weight of attention or the dense MLP is decoded
  once where rows are many (nf4_linear.py): read in 4.5 bits, written and read again in 16;
- keys and values that are seen, once for each canvas and layer, and those of the rows, written;
- rows between launches, in 16 bits: what a product reads and writes, and each norm with its residual;
- of the head, the embeddings once for every HEAD_ROWS rows, and the logits that self-conditioning reads
  again.

Instructions are those that decode NF4 in registers, the only ones that compete with the products. An
expert's weights are decoded for each tile of its rows (grouped_experts.py).
"""

from dataclasses import dataclass, fields

from dgq.engine.config import ModelConfig
from dgq.engine.quantization import Quantization
from dgq.engine.triton_operations import HEAD_ROWS
from dgq.kernels.grouped_experts import tile_height
from dgq.kernels.nf4_linear import CROSSOVER_ROWS

DECODING_INSTRUCTIONS = 5.7
"""Per NF4 weight: counted in the kernel's machine code for sm_90 (docs/decisions.md)."""

SURVIVORS = 8
"""Embeddings that a sparse row of the self-conditioning product gathers: assumed."""

_NORMS_PER_LAYER = 7
_ROW_BYTES = 2
"""Rows, keys and values, and weights that are not quantized have 16 bits."""


@dataclass(frozen=True, slots=True)
class Work:
    """What something takes of a device: matrix operations, bytes of memory, instructions.

    fp8_operations: of the matrix operations, those on FP8 numbers.
    """

    operations: float = 0.0
    num_bytes: float = 0.0
    instructions: float = 0.0
    fp8_operations: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Both."""
        return Work(
            self.operations + other.operations,
            self.num_bytes + other.num_bytes,
            self.instructions + other.instructions,
            self.fp8_operations + other.fp8_operations,
        )

    def __mul__(self, times: float) -> "Work":
        """So many times."""
        return Work(
            self.operations * times,
            self.num_bytes * times,
            self.instructions * times,
            self.fp8_operations * times,
        )


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step holds: texts of so many tokens, and behind each a canvas that is denoised.

    dense_share: of the rows, those whose self-conditioning needs the whole vocabulary. With reads,
    each text's rows are read causally in place of being denoised: a commit.
    """

    num_canvases: int
    context_tokens: int
    dense_share: float = 1.0
    reads: bool = False


@dataclass(frozen=True, slots=True)
class StepWork:
    """The work of a step, by component."""

    experts: Work
    attention_projections: Work
    dense_mlp: Work
    attention: Work
    head: Work
    self_conditioning_product: Work
    self_conditioning_mlp: Work
    router_and_norms: Work

    def by_component(self) -> dict[str, Work]:
        """The fields, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def total(self) -> Work:
        """Of all components."""
        return sum(self.by_component().values(), Work())


def count_step(config: ModelConfig, quantization: Quantization, step: StepShape) -> StepWork:
    """One forward of all layers; of a commit, without the head and self-conditioning."""
    rows = step.num_canvases * config.canvas_length
    layers = range(len(config.layer_types))
    hidden, vocabulary = config.hidden_size, config.vocab_size
    projections, attention = Work(), Work()
    for layer in layers:
        projections += _projections(config, quantization, rows, layer)
        attention += _attention(config, step, layer)
    mlp = _gated_mlp(
        hidden, config.intermediate_size, rows, _covers(quantization, "mlp.gate_proj.weight")
    )
    norms = Work(num_bytes=2.0 * _NORMS_PER_LAYER * rows * hidden * _ROW_BYTES)
    router = _linear(hidden, config.num_experts, rows, quantized=False)
    num_heads = 0 if step.reads else 1
    head = Work(
        2.0 * rows * vocabulary * hidden,
        _ROW_BYTES * (_chunks(rows) * vocabulary * hidden + rows * hidden + rows * vocabulary),
    )
    return StepWork(
        experts=_experts(config, quantization, rows) * len(layers),
        attention_projections=projections,
        dense_mlp=mlp * len(layers),
        attention=attention,
        head=head * num_heads,
        self_conditioning_product=_soft_embeddings(config, rows, step.dense_share) * num_heads,
        self_conditioning_mlp=_gated_mlp(hidden, config.intermediate_size, rows, False) * num_heads,
        router_and_norms=(norms + router) * len(layers),
    )


def _chunks(rows: int) -> int:
    """How often the head reads the embeddings."""
    return -(-rows // HEAD_ROWS)


def _covers(quantization: Quantization, name: str) -> bool:
    return quantization.covers(f"decoder.layers.0.{name}")


def _bits(quantization: Quantization, quantized: bool) -> float:
    """Of a weight, its share of the scales included."""
    if not quantized:
        return 16.0
    if quantization.format == "fp8":
        return 8.0  # and 32 for a row's scale, which is next to nothing
    return 4.0 + (8.0 + 32.0 / 256 if quantization.double_quantization else 32.0) / 64


def _experts(config: ModelConfig, quantization: Quantization, rows: int) -> Work:
    """One layer's, on rows that choose evenly."""
    hidden, inner = config.hidden_size, config.moe_intermediate_size
    slots, num_experts = rows * config.top_k_experts, config.num_experts
    quantized = _covers(quantization, "experts.gate_up_proj")
    chosen = 1 - (1 - config.top_k_experts / num_experts) ** rows
    weights = num_experts * chosen * 3 * inner * hidden
    tiles = -(-slots // num_experts) / tile_height(slots, num_experts)
    operations = 6.0 * slots * inner * hidden
    num_bytes = weights * _bits(quantization, quantized) / 8
    if quantized and quantization.format == "fp8":
        # Rows that are gathered, and inner, have a byte an element; they are quantized once before.
        num_bytes += slots * (2 * inner + hidden) + _ROW_BYTES * slots * hidden
        num_bytes += (2 * _ROW_BYTES + 1) * rows * hidden
        return Work(operations, num_bytes, fp8_operations=operations)
    return Work(
        operations,
        num_bytes + _ROW_BYTES * (2 * slots * (inner + hidden) + 2 * rows * hidden),
        weights * max(1.0, tiles) * DECODING_INSTRUCTIONS if quantized else 0.0,
    )


def _linear(inputs: int, outputs: int, rows: int, quantized: bool) -> Work:
    """One product; NF4 without double quantization where quantized."""
    weights = inputs * outputs
    num_bytes = weights * (4.5 / 8 if quantized else 2.0)
    if quantized and rows > CROSSOVER_ROWS:
        num_bytes += 2 * _ROW_BYTES * weights
    return Work(
        2.0 * rows * weights,
        num_bytes + _ROW_BYTES * rows * (inputs + outputs),
        weights * DECODING_INSTRUCTIONS if quantized else 0.0,
    )


def _gated_mlp(hidden: int, inner: int, rows: int, quantized: bool) -> Work:
    gate_and_up = _linear(hidden, inner, rows, quantized) * 2
    return gate_and_up + _linear(inner, hidden, rows, quantized)


def _heads(config: ModelConfig, layer: int) -> tuple[int, int]:
    """Key heads and their size."""
    if config.is_full(layer):
        return config.num_key_value_heads_full, config.head_dim_full
    return config.num_key_value_heads, config.head_dim


def _projections(config: ModelConfig, quantization: Quantization, rows: int, layer: int) -> Work:
    """Queries, keys and output; values too in a sliding layer."""
    key_heads, head_size = _heads(config, layer)
    hidden, queries = config.hidden_size, config.num_attention_heads * head_size
    quantized = _covers(quantization, "self_attn.q_proj.weight")
    keys = _linear(hidden, key_heads * head_size, rows, quantized)
    return (
        _linear(hidden, queries, rows, quantized)
        + keys * (1 if config.is_full(layer) else 2)
        + _linear(queries, hidden, rows, quantized)
    )


def _attention(config: ModelConfig, step: StepShape, layer: int) -> Work:
    """Scores and sums of one layer; each canvas reads its text's keys once."""
    key_heads, head_size = _heads(config, layer)
    width, context = config.canvas_length, step.context_tokens
    window = None if config.is_full(layer) else config.sliding_window
    prefix = context if window is None else min(context, window - 1)
    if step.reads:
        last = [context + row + 1 for row in range(width)]
        pairs = sum(last) if window is None else sum(min(seen, window) for seen in last)
    else:
        pairs = width * (prefix + width)
    kept = 2 * key_heads * head_size * _ROW_BYTES
    queries = 2 * width * config.num_attention_heads * head_size * _ROW_BYTES
    own = Work(
        4.0 * pairs * config.num_attention_heads * head_size,
        kept * (prefix + 2 * width) + queries,
    )
    return own * step.num_canvases


def _soft_embeddings(config: ModelConfig, rows: int, dense_share: float) -> Work:
    """softmax(logits) E: over the vocabulary for dense rows, gathered for the others."""
    hidden, vocabulary = config.hidden_size, config.vocab_size
    dense, sparse = rows * dense_share, rows * (1 - dense_share)
    embeddings = _chunks(rows) * vocabulary * hidden if dense else 0
    return Work(
        2.0 * dense * vocabulary * hidden + 2.0 * sparse * SURVIVORS * hidden,
        _ROW_BYTES
        * (embeddings + dense * vocabulary + sparse * SURVIVORS * hidden + rows * hidden),
    )
