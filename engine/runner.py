"""Runs planned steps on the model; holds tensors, no policy.

A step is one forward over a flat batch of rows: texts that are read, and all canvases in flight, each
denoised once. To the host go a few numbers per canvas and its most probable tokens, in the stream's
order; nothing here waits for them.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Generation
from .canvas_table import CanvasTable
from .draws import Purpose, draw_bits_for, to_uniforms
from .kv_pages import PageCounts
from .kv_pool import KVPool
from .layout import LayoutBuilder, StepLayout
from .model import DiffusionGemma
from .paged import PagedAttend
from .readout import asks_more
from .scheduler import Plan
from .step_in_flight import DenoisedCanvas, StepInFlight


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """What ``Runner.launch`` needs: the canvases, and where their rows lie."""

    canvases: list[Generation]
    layout: StepLayout


@dataclass(frozen=True, slots=True)
class _Step:
    """A step's canvases after it, as grids [B, W]: argmax; and [B, 4] of what the host must know:
    done, converged, mean entropy, steps.
    """

    argmax: Tensor
    facts: Tensor


class Runner:
    """The device path. One thread only."""

    def __init__(
        self,
        model: DiffusionGemma,
        max_canvases: int,
        page_counts: PageCounts,
        eos_ids: Collection[int],
        *,
        sparse: bool,
    ) -> None:
        """eos_ids: the tokens that end a text. sparse: whether soft embeddings may leave some
        probability out, see Operations.
        """
        weight = model.decoder.embed_tokens.weight
        config = model.config
        self._model = model
        self._sparse = sparse
        self._device = weight.device
        self._table = CanvasTable(config, max_canvases, eos_ids, weight.dtype, weight.device)
        self._pool = KVPool(config, page_counts, weight.dtype, weight.device)
        self._layouts = LayoutBuilder(
            config.sliding_window, config.canvas_length, weight.dtype, weight.device
        )

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
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def prepare(self, plan: Plan) -> PreparedStep:
        """Start the canvases that are due, and lay the step out."""
        self._table.start(plan.start)
        layout = self._layouts.build(plan, [self._table.slot(g) for g in plan.canvases])
        return PreparedStep(plan.canvases, layout)

    def launch(self, prepared: PreparedStep) -> StepInFlight:
        """Tell the device to read and denoise what is planned."""
        hidden = self._forward(prepared.layout)
        if not prepared.canvases:
            nothing = hidden.new_empty(0, 4)
            return StepInFlight(self._model, [], nothing, nothing)
        step = self._denoise(prepared.layout, hidden)
        canvases, start = [], 0
        for generation in prepared.canvases:
            own = hidden[start : start + generation.width] if asks_more(generation) else None
            canvases.append(DenoisedCanvas(generation, generation.place, generation.width, own))
            start += generation.width
        return StepInFlight(self._model, canvases, step.facts, step.argmax)

    def _forward(self, layout: StepLayout) -> Tensor:
        """The canvas rows' hidden states."""
        config = self._model.config
        attends = [
            PagedAttend(self._pool, layer, layout, config.is_full(layer))
            for layer in range(len(config.layer_types))
        ]
        return self._model.read_and_denoise(
            layout.read_ids,
            self._table.ids.view(-1)[layout.canvas_rows],
            self._table.soft_embeddings[layout.canvas_rows],
            layout.positions,
            attends,
        )

    def _denoise(self, layout: StepLayout, hidden: Tensor) -> _Step:
        """Judge the canvases by their hidden states, and write what they become into the table."""
        table, slots = self._table, layout.slots
        rules = table.rules(slots)
        ids, free, steps = table.ids[slots], table.free[slots], table.steps[slots]
        num_rows = ids.shape[1]
        sample, noise, share = draw_bits_for(
            (Purpose.SAMPLE, Purpose.RENOISE, Purpose.RENOISE_SHARE), rules.keys, steps, num_rows
        )
        temperature = rules.schedule.temperature(rules.num_steps_allowed - steps)
        rows, grid = layout.canvas_rows, layout.grid
        if layout.free is not None:  # the head has nothing to say of pinned rows
            rows, grid, hidden = rows[layout.free], grid[layout.free], hidden[layout.free]
        readings = self._model.read_rows(
            hidden,
            temperature[grid // num_rows],
            sample.view(-1)[grid],
            sparse=self._sparse,
        )
        entropy = _spread(readings.entropy, grid, ids.shape)
        argmax = torch.where(free, _spread(readings.argmax, grid, ids.shape), ids)
        accepted = rules.acceptance.accept(entropy, free)
        table.ids[slots] = rules.renoise.renoise(
            ids,
            _spread(readings.sampled, grid, ids.shape),
            accepted,
            free,
            noise,
            to_uniforms(share),
        )
        steps = steps + 1
        state, done, converged, mean = rules.stop.update(
            table.get_stop_state(slots), argmax, entropy, accepted, free, steps
        )
        table.put_stop_state(slots, state)
        table.steps[slots] = steps
        table.soft_embeddings[rows] = readings.soft_embeddings
        if layout.free is not None:  # a pinned row believes in its token
            pinned = layout.canvas_rows[layout.pinned]
            table.soft_embeddings[pinned] = self._model.embed(table.ids.view(-1)[pinned])
        facts = torch.stack([done.float(), converged.float(), mean, steps.float()], dim=1)
        return _Step(argmax, facts)


def _spread(values: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
    """values [F] to grid's places in a tensor of this shape, zeros elsewhere."""
    return values.new_zeros(shape.numel()).index_copy_(0, grid, values).view(shape)
