"""What fits into a given memory: weights first, then rows of a step, canvases, and keys and values.

Everything is counted from the checkpoint's shapes, before anything is allocated:

- *weights*, to the byte: those of the model that load_model builds;
- *keys and values*: what one token takes in the layers of each kind of the KV pool;
- *a canvas*: its slot in the canvas table;
- *a step*: the largest of its intermediate tensors that live at once, a weight that is decoded among
  them; the operations say how large (operations.py).

Rows are cut down first, for as long as they are more than the blocks whose texts would fit beside them;
then what is left goes to keys and values: of each kind of layers what as many long texts as possible
take, see ``_kv_tokens``. The budget is for what is counted here. Beside it, a GPU's
driver takes some hundred megabytes, and torch's attention a copy of the keys that a step's tiles see
(paged.py), which grows with the texts; running out only lowers the row budget (loop.py).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dgq.kernels.page import PAGE_TOKENS

from .checkpoint import read_quantization
from .config import ModelConfig
from .engine_config import EngineConfig
from .errors import EngineError
from .feedforward import LEAST_ROWS
from .kv_pages import PageCounts
from .model import DiffusionGemma
from .operations import Operations, Workspace
from .quantization import PRESETS, Quantization
from .quantized_weight import hold_quantized, quantized_weights
from .scheduler import LEAST_READ_ROWS
from .sliding_pages import READ_ROOM_PAGES, steady_pages
from .step_rules import NUM_KNOBS

LONG_CONTEXT_TOKENS = 4096
SHORT_CONTEXT_TOKENS = 512
"""Of a block, where a plan says how many blocks fit."""

_LIKELY_CONTEXT_TOKENS = 1024
"""Of a block, where rows are weighed against keys and values."""


@dataclass(frozen=True, slots=True)
class MemoryCosts:
    """Bytes of one model in one format, computed in one way. step: of its intermediate tensors."""

    weights: int
    per_full_token: int
    per_sliding_token: int
    per_canvas: int
    step: Workspace

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        quantization: Quantization,
        dtype: torch.dtype,
        operations: Operations,
    ) -> "MemoryCosts":
        """CheckpointError for a shape that the preset cannot hold."""
        with torch.device("meta"):
            model = DiffusionGemma(config, operations)
            hold_quantized(model, quantization, operations)
        held = quantized_weights(model)
        weights = sum(
            tensor.nbytes if name.rpartition(".")[0] in held else tensor.numel() * dtype.itemsize
            for name, tensor in model.state_dict().items()
        )
        shapes = [weight.shape for weight in held.values()]
        return cls(
            weights=weights,
            per_full_token=_kv_token_bytes(config, dtype, full=True),
            per_sliding_token=_kv_token_bytes(config, dtype, full=False),
            per_canvas=_canvas_bytes(config, dtype),
            step=operations.workspace(config, shapes, dtype),
        )

    def kv_bytes(self, counts: PageCounts) -> int:
        """Of a KV pool of so many pages."""
        per_page = counts.full * self.per_full_token + counts.sliding * self.per_sliding_token
        return PAGE_TOKENS * per_page


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a budget is spent. canvas_length: rows of the blocks that are counted."""

    budget_bytes: int
    costs: MemoryCosts
    engine_config: EngineConfig
    canvas_length: int
    sliding_window: int

    @property
    def step_bytes(self) -> int:
        """Of the largest step's intermediate tensors."""
        return _step_bytes(self.costs, self.engine_config.max_rows)

    @property
    def kv_bytes(self) -> int:
        """Of the KV pool, its pages for padding and its room for reading included."""
        return self.costs.kv_bytes(self._page_counts)

    @property
    def canvas_bytes(self) -> int:
        """Of the canvas table."""
        return _table_bytes(self.costs, self.engine_config.max_canvases)

    @property
    def total_bytes(self) -> int:
        """At most the budget."""
        return self.costs.weights + self.step_bytes + self.kv_bytes + self.canvas_bytes

    def blocks_in_flight(self, context_tokens: int) -> int:
        """Whole canvases denoised at once, each behind so many tokens of its own."""
        config, counts = self.engine_config, self._page_counts
        text, canvas = -(-context_tokens // PAGE_TOKENS), self.canvas_length // PAGE_TOKENS
        num_booked = min(text, steady_pages(self.sliding_window)) + canvas
        return min(
            config.max_canvases,
            config.max_rows // self.canvas_length,
            (counts.full - 1) // (text + canvas),
            (counts.sliding - 1 - READ_ROOM_PAGES) // num_booked,
        )

    @property
    def _page_counts(self) -> PageCounts:
        return PageCounts.of(self.engine_config, self.sliding_window, self.canvas_length)

    def __str__(self) -> str:
        config = self.engine_config
        return (
            f"{_size(self.total_bytes)} of {_size(self.budget_bytes)}: "
            f"weights {_size(self.costs.weights)}, step {_size(self.step_bytes)} (max_rows "
            f"{config.max_rows}), canvases {_size(self.canvas_bytes)} (max_canvases "
            f"{config.max_canvases}), keys and values {_size(self.kv_bytes)} (max_kv_tokens "
            f"{config.max_kv_tokens}, max_sliding_tokens {config.max_sliding_tokens}); blocks of {self.canvas_length} in flight: "
            f"{self.blocks_in_flight(LONG_CONTEXT_TOKENS)} with {LONG_CONTEXT_TOKENS} tokens of "
            f"context each, {self.blocks_in_flight(SHORT_CONTEXT_TOKENS)} with "
            f"{SHORT_CONTEXT_TOKENS}"
        )


def plan_for_folder(
    folder: Path,
    quantization: Quantization,
    dtype: torch.dtype,
    budget_bytes: int,
    wanted: EngineConfig,
    operations: Operations,
) -> MemoryPlan:
    """As plan_memory, for a checkpoint's folder; one that is quantized stays as it is.

    CheckpointError for a folder that is none.
    """
    stored = read_quantization(folder)
    config = ModelConfig.from_file(folder / "config.json")
    if not stored.is_none:
        quantization = stored
    return plan_memory(config, quantization, dtype, budget_bytes, wanted, operations)


def plan_memory(
    config: ModelConfig,
    quantization: Quantization,
    dtype: torch.dtype,
    budget_bytes: int,
    wanted: EngineConfig,
    operations: Operations,
) -> MemoryPlan:
    """Fit an engine into a budget.

    wanted: bounds of rows and canvases. Keys and values get what is left, up to what these bounds can
    use with long texts, or what is wanted if that is more.

    EngineError with the arithmetic where not even one canvas fits, and which preset would.
    """
    costs = MemoryCosts.of(config, quantization, dtype, operations)
    width, rows = config.canvas_length, wanted.max_rows
    while True:
        canvases = min(wanted.max_canvases, rows // LEAST_ROWS)
        fixed = costs.weights + _table_bytes(costs, canvases) + _step_bytes(costs, rows)
        kv_bytes = budget_bytes - fixed - costs.kv_bytes(PageCounts(1, READ_ROOM_PAGES + 1))
        likely_bytes = _text_bytes(costs, *_text_tokens(config, _LIKELY_CONTEXT_TOKENS))
        if rows <= width or kv_bytes >= rows // width * likely_bytes:
            break
        rows = max(rows - width, width)
    num_tokens, num_sliding = _kv_tokens(config, costs, kv_bytes)
    if num_tokens < _least_kv_tokens(config):
        raise EngineError(_refusal(config, quantization, dtype, budget_bytes, costs, operations))
    long_tokens, long_sliding = _text_tokens(config, LONG_CONTEXT_TOKENS)
    chosen = replace(
        wanted,
        max_canvases=canvases,
        max_rows=rows,
        max_kv_tokens=_whole_pages(
            min(num_tokens, max(canvases * long_tokens, wanted.max_kv_tokens))
        ),
        max_sliding_tokens=_whole_pages(min(num_sliding, canvases * long_sliding)),
    )
    return MemoryPlan(budget_bytes, costs, chosen, width, config.sliding_window)


def _kv_tokens(config: ModelConfig, costs: MemoryCosts, num_bytes: int) -> tuple[int, int]:
    """How many tokens of full and of sliding layers there is room for.

    The first text gets as many of one kind as of the other, until it has all that it needs in
    sliding layers, and then more in full ones until it is long. From there on both grow as the number
    of long texts.
    """
    long, sliding = _text_tokens(config, LONG_CONTEXT_TOKENS)
    long_bytes = _text_bytes(costs, long, sliding)
    if num_bytes >= long_bytes:
        return num_bytes * long // long_bytes, num_bytes * sliding // long_bytes
    if num_bytes >= _text_bytes(costs, sliding, sliding):
        return (num_bytes - sliding * costs.per_sliding_token) // costs.per_full_token, sliding
    num_tokens = num_bytes // _text_bytes(costs, 1, 1)
    return num_tokens, num_tokens


def _text_tokens(config: ModelConfig, context_tokens: int) -> tuple[int, int]:
    """What a text of so many tokens and its canvas need of full layers and of sliding ones."""
    width = config.canvas_length
    tokens = min(context_tokens, config.max_position_embeddings - width)
    seen = steady_pages(config.sliding_window) * PAGE_TOKENS
    return _whole_pages(tokens + PAGE_TOKENS - 1) + width, min(tokens, seen) + width


def _text_bytes(costs: MemoryCosts, num_full: int, num_sliding: int) -> int:
    return num_full * costs.per_full_token + num_sliding * costs.per_sliding_token


def _whole_pages(num_tokens: int) -> int:
    return num_tokens // PAGE_TOKENS * PAGE_TOKENS


def _least_bytes(costs: MemoryCosts, config: ModelConfig) -> int:
    """Of an engine that can denoise one canvas behind a text of its length."""
    step = _step_bytes(costs, config.canvas_length)
    canvases = _table_bytes(costs, config.canvas_length // LEAST_ROWS)
    return costs.weights + step + canvases + _least_kv_bytes(costs, config)


def _least_kv_bytes(costs: MemoryCosts, config: ModelConfig) -> int:
    num_pages = _least_kv_tokens(config) // PAGE_TOKENS + 1
    return costs.kv_bytes(PageCounts(num_pages, num_pages + READ_ROOM_PAGES))


def _least_kv_tokens(config: ModelConfig) -> int:
    return 2 * config.canvas_length


def _step_bytes(costs: MemoryCosts, max_rows: int) -> int:
    """Reading may take a few rows more than the budget."""
    return costs.step.of(max_rows + LEAST_READ_ROWS)


def _refusal(
    config: ModelConfig,
    quantization: Quantization,
    dtype: torch.dtype,
    budget_bytes: int,
    costs: MemoryCosts,
    operations: Operations,
) -> str:
    width, tokens = config.canvas_length, _least_kv_tokens(config)
    needed = _least_bytes(costs, config)
    smaller = [
        preset
        for preset in PRESETS
        if (other := MemoryCosts.of(config, Quantization(preset), dtype, operations)).weights
        < costs.weights
        and _least_bytes(other, config) <= budget_bytes
    ]
    advice = f"; the preset {smaller[0]} would fit" if smaller else ""
    return (
        f"{_size(budget_bytes)} is too little: weights {_size(costs.weights)} ({quantization.preset}) "
        f"+ a step of {width} rows {_size(_step_bytes(costs, width))} "
        f"+ canvases {_size(_table_bytes(costs, width // LEAST_ROWS))} "
        f"+ keys and values of {tokens} tokens {_size(_least_kv_bytes(costs, config))} "
        f"= {_size(needed)}{advice}"
    )


def _kv_token_bytes(config: ModelConfig, dtype: torch.dtype, full: bool) -> int:
    """Keys and values of one token in all layers of one kind, as kv_pool.py holds them."""
    if full:
        elements = 2 * config.num_key_value_heads_full * config.head_dim_full
    else:
        elements = 2 * config.num_key_value_heads * config.head_dim
    num_layers = sum(config.is_full(i) == full for i in range(len(config.layer_types)))
    return num_layers * elements * dtype.itemsize


def _table_bytes(costs: MemoryCosts, num_canvases: int) -> int:
    """Of the canvas table; it has one slot more, for padding."""
    return costs.per_canvas * (num_canvases + 1)


def _canvas_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """A slot of canvas_table.py: two ids, two flags and a soft embedding per row, three counts, a
    key and the knobs.
    """
    per_row = 2 * 8 + 2 + config.hidden_size * dtype.itemsize
    return config.canvas_length * per_row + (4 + NUM_KNOBS) * 8


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
