"""A step on a GPU: the same launches on the same memory, however many rows there are.

What is static. All inputs lie in one buffer, allocated once, and a step's shape is rounded up to few
sizes (step_inputs.py). From there to the results, which lie in buffers of their own, nothing is decided
by the host: the embeddings, the layers, the head, the sampler and the stop test are one fixed sequence of
launches for a shape, which graphs.py can capture and replay. What a step holds is laid out by the host
as on a CPU, and copied in one piece through pinned memory; a step that holds what the last one held
copies nothing.

All steps share these buffers. The copy into the inputs, the launches, and the copies out of the results
stand in one stream, so step n + 1 overwrites nothing that step n still needs, although the host has
prepared it before step n was done.

The operations must be static (operations.py). The same code runs kernel by kernel on a CPU in Triton's
interpreter, for the tests.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from dgq.kernels.page import PAGE_TOKENS

from .canvas_table import CanvasTable
from .denoising import CanvasRows, Denoised, denoise
from .engine_config import EngineConfig
from .errors import EngineError
from .graphs import CudaCapturer, StepGraphs
from .kv_pool import KVPool
from .layout import LayoutBuilder, StepLayout
from .model import DiffusionGemma
from .paged import SegmentAttend
from .scheduler import LEAST_READ_ROWS, Plan
from .step_inputs import StepInputs, StepShape, pack, round_up_power, round_up_rows
from .upload import staged


class StaticStep:
    """Lays steps out and runs them; see StepPath."""

    def __init__(
        self, model: DiffusionGemma, table: CanvasTable, pool: KVPool, engine_config: EngineConfig
    ) -> None:
        config, weight = model.config, model.decoder.embed_tokens.weight
        self._model = model
        self._table = table
        self._pool = pool
        self._sparse = engine_config.sparse_self_conditioning
        self._layouts = LayoutBuilder(
            config.sliding_window,
            config.canvas_length,
            weight.dtype,
            torch.device("cpu"),
            follows_pages=True,
        )
        largest = _largest_shape(engine_config, config.canvas_length)
        num_tokens = (
            min(config.max_position_embeddings, engine_config.max_kv_tokens) + config.canvas_length
        )
        num_pages = 2 * largest.num_segments * (num_tokens // PAGE_TOKENS + 1)
        device = weight.device
        self._numbers = torch.zeros(
            largest.num_numbers(num_pages), dtype=torch.int64, device=device
        )
        self._hidden = weight.new_zeros(largest.num_canvas_rows, config.hidden_size)
        self._argmax = torch.zeros(
            largest.num_canvases, config.canvas_length, dtype=torch.int64, device=device
        )
        self._facts = torch.zeros(largest.num_canvases, 4, device=device)
        self._layout: StepLayout | None = None  # what the numbers say
        self._graphs = (
            StepGraphs(CudaCapturer(device))
            if engine_config.cuda_graphs and weight.is_cuda
            else None
        )

    def lay_out(self, plan: Plan, slots: Sequence[int]) -> StepLayout:
        """slots: of the plan's canvases, in the canvas table, in order. Its tensors are on the host."""
        return self._layouts.build(plan, slots)

    def run(self, layout: StepLayout) -> tuple[Tensor, Denoised | None]:
        """Read and denoise. What it gives is the buffers', and the next step's as soon as that runs."""
        shape = StepShape.of(layout, len(self._facts))
        if layout is not self._layout:
            self._fill(layout, shape)
        if self._graphs is None:
            self.compute(shape)
        else:
            self._graphs.run(shape, partial(self.compute, shape))
        hidden, count = self._hidden[: layout.num_canvas], len(layout.slots)
        if count == 0:
            return hidden, None
        return hidden, Denoised(self._argmax[:count], self._facts[:count])

    def compute(self, shape: StepShape) -> None:
        """All of a step that happens on the device: from the numbers to the results' buffers."""
        inputs = StepInputs.of(self._numbers, shape)
        hidden = self._forward(inputs)
        if shape.num_canvases == 0:
            return
        rows = CanvasRows(
            inputs.slots,
            inputs.head,
            inputs.grid,
            inputs.places,
            inputs.head_table_rows,
            held=inputs.table_rows,  # all: which of them are pinned would be a shape of its own
        )
        denoised = denoise(self._model, self._table, rows, hidden, sparse=self._sparse)
        self._hidden[: len(hidden)].copy_(hidden)
        self._argmax[: shape.num_canvases].copy_(denoised.argmax)
        self._facts[: shape.num_canvases].copy_(denoised.facts)

    def clear(self) -> None:
        """Give up what was captured, and the memory that it holds."""
        if self._graphs is not None:
            self._graphs.clear()

    def _fill(self, layout: StepLayout, shape: StepShape) -> None:
        """Bring a step's numbers to the device."""
        numbers = pack(layout, shape, *self._table.ids.shape)
        if len(numbers) > len(self._numbers):
            raise EngineError(
                f"a step of {len(numbers)} numbers, where {len(self._numbers)} were to be the most"
            )
        target = self._numbers[: len(numbers)]
        target.copy_(staged(numbers, target.device), non_blocking=True)
        self._layout = layout

    def _forward(self, inputs: StepInputs) -> Tensor:
        """The hidden states [C, d] of the rows that hold the canvases'."""
        table, config = self._table, self._model.config
        rows = inputs.table_rows
        is_canvas = torch.arange(len(rows), device=rows.device) < inputs.num_canvas
        token_ids = inputs.read_ids.clone()
        token_ids[: len(rows)] = torch.where(
            is_canvas, table.ids.view(-1)[rows], token_ids[: len(rows)]
        )
        full = [config.is_full(layer) for layer in range(len(config.layer_types))]
        attends = [
            SegmentAttend(self._pool, layer, inputs.full_kv_rows, inputs.full, None)
            if is_full
            else SegmentAttend(
                self._pool, layer, inputs.sliding_kv_rows, inputs.sliding, config.sliding_window
            )
            for layer, is_full in enumerate(full)
        ]
        return self._model.read_and_denoise_padded(
            token_ids,
            table.soft_embeddings[rows],
            inputs.positions,
            inputs.num_canvas,
            inputs.num_rows,
            attends,
        )


def _largest_shape(config: EngineConfig, canvas_length: int) -> StepShape:
    """That any step may have; see scheduler.LEAST_READ_ROWS."""
    num_rows = config.max_rows + LEAST_READ_ROWS + canvas_length + PAGE_TOKENS
    num_canvas_rows = round_up_rows(config.max_rows)
    return StepShape(
        num_rows=round_up_rows(num_rows),
        num_canvas_rows=num_canvas_rows,
        num_head_rows=num_canvas_rows,
        num_canvases=config.max_canvases,
        num_segments=round_up_power(2 * config.max_canvases),  # each may be read and begin
    )
