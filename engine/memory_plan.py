"""What fits into a given memory: weights first, then rows of a step, canvases, and keys and values.

Everything is counted from the checkpoint's shapes, before anything is allocated:

- *weights*, to the byte: those of the model that load_model builds;
- *keys and values*: what one token takes in all layers of the KV pool;
- *a canvas*: its slot in the canvas table;
- *a step*: the largest of its intermediate tensors that live at once, a weight that is decoded from
  four bits among them; the operations say how large (operations.py).

Rows are cut down first, for as long as they are more than the blocks whose texts would fit beside them;
then what is left goes to keys and values. The budget is for what is counted here. Beside it, a GPU's
driver takes some hundred megabytes, and torch's attention a copy of the keys that a step's tiles see
(paged.py), which grows with the texts; running out only lowers the row budget (loop.py).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .checkpoint import read_quantization
from .config import ModelConfig
from .engine_config import EngineConfig
from .errors import EngineError
from .feedforward import LEAST_ROWS
from .model import DiffusionGemma
from .nf4_weight import Nf4Weight, hold_in_nf4
from .operations import Operations, Workspace
from .pages import PAGE_TOKENS
from .quantization import PRESETS, Quantization
from .scheduler import LEAST_READ_ROWS

LONG_CONTEXT_TOKENS = 4096
SHORT_CONTEXT_TOKENS = 512
"""Of a block, where a plan says how many blocks fit."""

_LIKELY_CONTEXT_TOKENS = 1024
"""Of a block, where rows are weighed against keys and values."""


@dataclass(frozen=True, slots=True)
class MemoryCosts:
    """Bytes of one model in one format, computed in one way. step: of its intermediate tensors."""

    weights: int
    per_kv_token: int
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
            hold_in_nf4(model, quantization, operations)
        held = {
            name: module for name, module in model.named_modules() if isinstance(module, Nf4Weight)
        }
        weights = sum(
            tensor.nbytes if name.rpartition(".")[0] in held else tensor.numel() * dtype.itemsize
            for name, tensor in model.state_dict().items()
        )
        shapes = [weight.shape for weight in held.values()]
        return cls(
            weights=weights,
            per_kv_token=_kv_token_bytes(config, dtype),
            per_canvas=_canvas_bytes(config, dtype),
            step=operations.workspace(config, shapes, dtype),
        )


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a budget is spent. canvas_length: rows of the blocks that are counted."""

    budget_bytes: int
    costs: MemoryCosts
    engine_config: EngineConfig
    canvas_length: int

    @property
    def step_bytes(self) -> int:
        """Of the largest step's intermediate tensors."""
        return _step_bytes(self.costs, self.engine_config.max_rows)

    @property
    def kv_bytes(self) -> int:
        """Of the KV pool, its page for padding included."""
        return self.costs.per_kv_token * (self.engine_config.max_kv_tokens + PAGE_TOKENS)

    @property
    def canvas_bytes(self) -> int:
        """Of the canvas table."""
        return self.costs.per_canvas * self.engine_config.max_canvases

    @property
    def total_bytes(self) -> int:
        """At most the budget."""
        return self.costs.weights + self.step_bytes + self.kv_bytes + self.canvas_bytes

    def blocks_in_flight(self, context_tokens: int) -> int:
        """Whole canvases denoised at once, each behind so many tokens of its own."""
        config = self.engine_config
        return min(
            config.max_canvases,
            config.max_rows // self.canvas_length,
            config.max_kv_tokens // (context_tokens + self.canvas_length),
        )

    def __str__(self) -> str:
        config = self.engine_config
        return (
            f"{_size(self.total_bytes)} of {_size(self.budget_bytes)}: "
            f"weights {_size(self.costs.weights)}, step {_size(self.step_bytes)} (max_rows "
            f"{config.max_rows}), canvases {_size(self.canvas_bytes)} (max_canvases "
            f"{config.max_canvases}), keys and values {_size(self.kv_bytes)} (max_kv_tokens "
            f"{config.max_kv_tokens}); blocks of {self.canvas_length} in flight: "
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
    width = config.canvas_length
    rows = wanted.max_rows
    while True:
        canvases = min(wanted.max_canvases, rows // LEAST_ROWS)
        fixed = costs.weights + costs.per_canvas * canvases + _step_bytes(costs, rows)
        num_tokens = (budget_bytes - fixed) // costs.per_kv_token - PAGE_TOKENS
        if rows <= width or num_tokens >= rows // width * (_LIKELY_CONTEXT_TOKENS + width):
            break
        rows = max(rows - width, width)
    if num_tokens < _least_kv_tokens(config):
        raise EngineError(_refusal(config, quantization, dtype, budget_bytes, costs, operations))
    useful = canvases * min(LONG_CONTEXT_TOKENS + width, config.max_position_embeddings)
    num_tokens = min(num_tokens, max(useful, wanted.max_kv_tokens)) // PAGE_TOKENS * PAGE_TOKENS
    chosen = replace(wanted, max_canvases=canvases, max_rows=rows, max_kv_tokens=num_tokens)
    return MemoryPlan(budget_bytes, costs, chosen, width)


def _least_bytes(costs: MemoryCosts, config: ModelConfig) -> int:
    """Of an engine that can denoise one canvas behind a text of its length."""
    tokens = _least_kv_tokens(config) + PAGE_TOKENS
    step = _step_bytes(costs, config.canvas_length)
    canvases = config.canvas_length // LEAST_ROWS * costs.per_canvas
    return costs.weights + step + canvases + tokens * costs.per_kv_token


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
        f"+ canvases {_size(width // LEAST_ROWS * costs.per_canvas)} "
        f"+ {tokens} tokens of keys and values {_size(tokens * costs.per_kv_token)} "
        f"= {_size(needed)}{advice}"
    )


def _kv_token_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers, as kv_pool.py holds them."""
    elements = 0
    for layer in range(len(config.layer_types)):
        if config.is_full(layer):
            elements += 2 * config.num_key_value_heads_full * config.head_dim_full
        else:
            elements += 2 * config.num_key_value_heads * config.head_dim
    return elements * dtype.itemsize


def _canvas_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """A slot of canvas_table.py: two ids, two flags and a soft embedding per row, three counts."""
    return config.canvas_length * (2 * 8 + 2 + config.hidden_size * dtype.itemsize) + 3 * 8


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
