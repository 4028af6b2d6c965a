"""Runs planned steps on the model; holds tensors, no policy.

A step is one forward over a flat batch of rows: texts that are read, and all canvases in flight, each
denoised once. Operations that can be captured run static steps, all others steps as they are. To the host
go a few numbers per canvas and its most probable tokens, in the stream's order; nothing here waits for
them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .canvas import Generation
from .canvas_table import CanvasTable
from .denoising import Denoised
from .engine_config import EngineConfig
from .kv_pages import PageCounts
from .kv_pool import KVPool
from .layout import StepLayout
from .model import DiffusionGemma
from .ragged_step import RaggedStep
from .readout import asks_more
from .scheduler import Plan
from .static_step import StaticStep
from .step_in_flight import DenoisedCanvas, StepInFlight


class StepPath(Protocol):
    """How steps are laid out and run: ragged_step.py, static_step.py."""

    def lay_out(self, plan: Plan, slots: Sequence[int]) -> StepLayout:
        """slots: of the plan's canvases, in the canvas table, in order."""
        ...

    def run(self, layout: StepLayout) -> tuple[Tensor, Denoised | None]:
        """The canvas rows' hidden states, and what became of the canvases; None where there are none.

        Both may be overwritten by the next step.
        """
        ...

    def clear(self) -> None:
        """Give up memory that only saves time."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """What ``Runner.launch`` needs: the canvases, and where their rows lie."""

    canvases: list[Generation]
    layout: StepLayout


class Runner:
    """The device path. One thread only."""

    def __init__(
        self,
        model: DiffusionGemma,
        config: EngineConfig,
        page_counts: PageCounts,
        eos_ids: Collection[int],
    ) -> None:
        """eos_ids: the tokens that end a text."""
        weight = model.decoder.embed_tokens.weight
        dtype, self._device = weight.dtype, weight.device
        self._model = model
        self._table = CanvasTable(model.config, config.max_canvases, eos_ids, dtype, self._device)
        self._pool = KVPool(model.config, page_counts, dtype, self._device)
        path = StaticStep if model.operations.is_static else RaggedStep
        self._path: StepPath = path(model, self._table, self._pool, config)

    @property
    def is_asynchronous(self) -> bool:
        """Whether the device works while the host goes on."""
        return self._device.type == "cuda"

    @property
    def num_held(self) -> int:
        """Canvases whose tensors are held."""
        return self._table.num_held

    @property
    def device_memory_bytes(self) -> int:
        """What torch holds of the accelerator's memory; from any thread. 0 on a CPU."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def release(self, generation: Generation) -> None:
        """Forget a generation's canvas."""
        self._table.release(generation)

    def release_all(self) -> None:
        """Forget all canvases, and give the memory of the last step back to the device."""
        self._table.release_all()
        self._path.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def prepare(self, plan: Plan) -> PreparedStep:
        """Start the canvases that are due, and lay the step out."""
        self._table.start(plan.start)
        layout = self._path.lay_out(plan, [self._table.slot(g) for g in plan.canvases])
        return PreparedStep(plan.canvases, layout)

    def launch(self, prepared: PreparedStep) -> StepInFlight:
        """Tell the device to read and denoise what is planned."""
        hidden, denoised = self._path.run(prepared.layout)
        if denoised is None:
            nothing = hidden.new_empty(0, 4)
            return StepInFlight(self._model, [], nothing, nothing)
        canvases, start = [], 0
        for generation in prepared.canvases:
            rows = slice(start, start + generation.width)
            own = hidden[rows].clone() if asks_more(generation) else None
            canvases.append(DenoisedCanvas(generation, generation.place, generation.width, own))
            start = rows.stop
        return StepInFlight(self._model, canvases, denoised.facts, denoised.argmax)
