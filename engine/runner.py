"""Runs planned steps on the model; holds tensors, no policy.

A step is one forward over a flat batch of rows: texts that are read, and all canvases in flight, each
denoised once. To the host goes one transfer of a few numbers per canvas, and one more of the tokens
of those that finished.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Generation, Outcome
from .canvas_table import CanvasTable
from .draws import Purpose, draw_bits, to_uniforms
from .kv_pages import PageCounts
from .kv_pool import KVPool
from .layout import LayoutBuilder, StepLayout
from .model import DiffusionGemma
from .operations import RowReadings
from .paged import PagedAttend
from .readout import candidates_of, scores_of
from .scheduler import Plan
from .step_rules import StepRules


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """What ``Runner.run`` needs: the canvases, where their rows lie, and by which rules they go.

    rules: None for a step that only reads.
    """

    canvases: list[Generation]
    layout: StepLayout
    rules: StepRules | None


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
        self, model: DiffusionGemma, max_canvases: int, page_counts: PageCounts, *, sparse: bool
    ) -> None:
        """sparse: whether soft embeddings may leave some probability out, see Operations."""
        weight = model.decoder.embed_tokens.weight
        config = model.config
        self._model = model
        self._sparse = sparse
        self._device = weight.device
        self._table = CanvasTable(config, max_canvases, weight.dtype, weight.device)
        self._pool = KVPool(config, page_counts, weight.dtype, weight.device)
        self._layouts = LayoutBuilder(
            config.sliding_window, config.canvas_length, weight.dtype, weight.device
        )
        self._rules: tuple[list[tuple[int, int, int]], StepRules] | None = None

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
        rules = self._rules_for(plan.canvases) if plan.canvases else None
        return PreparedStep(plan.canvases, layout, rules)

    def run(self, prepared: PreparedStep) -> list[tuple[Generation, Outcome]]:
        """Read and denoise what is planned; gives the canvases that stopped or used all their steps."""
        hidden = self._forward(prepared.layout)
        if prepared.rules is None:
            return []
        step = self._denoise(prepared.layout, prepared.rules, hidden)
        return self._outcomes(prepared.canvases, hidden, step)

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

    def _denoise(self, layout: StepLayout, rules: StepRules, hidden: Tensor) -> _Step:
        """Judge the canvases by their hidden states, and write what they become into the table."""
        table, slots = self._table, layout.slots
        ids, free, steps = table.ids[slots], table.free[slots], table.steps[slots]
        num_rows = ids.shape[1]
        rows = layout.canvas_rows if layout.free is None else layout.canvas_rows[layout.free]
        grid = layout.grid if layout.free is None else layout.grid[layout.free]
        readings = self._read(
            rules, steps, grid, num_rows, hidden if layout.free is None else hidden[layout.free]
        )
        entropy = _spread(readings.entropy, grid, ids.shape)
        argmax = torch.where(free, _spread(readings.argmax, grid, ids.shape), ids)
        accepted = rules.acceptance.accept(entropy, free)
        table.ids[slots] = rules.renoise.renoise(
            ids,
            _spread(readings.sampled, grid, ids.shape),
            accepted,
            free,
            draw_bits(rules.keys, Purpose.RENOISE, steps, num_rows),
            to_uniforms(draw_bits(rules.keys, Purpose.RENOISE_SHARE, steps, num_rows)),
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

    def _read(
        self, rules: StepRules, steps: Tensor, grid: Tensor, num_rows: int, hidden: Tensor
    ) -> RowReadings:
        """The head on free rows, at grid's places in [B, num_rows]."""
        temperature = rules.schedule.temperature(rules.num_steps_allowed - steps)
        bits = draw_bits(rules.keys, Purpose.SAMPLE, steps, num_rows)
        return self._model.read_rows(
            hidden, temperature[grid // num_rows], bits.view(-1)[grid], sparse=self._sparse
        )

    def _outcomes(
        self, generations: list[Generation], hidden: Tensor, step: _Step
    ) -> list[tuple[Generation, Outcome]]:
        facts = step.facts.tolist()  # the step's one wait for the device
        finished = [i for i, (done, *_) in enumerate(facts) if done]
        if not finished:
            return []
        ids = step.argmax[finished].tolist()
        starts = [0]
        for generation in generations:
            starts.append(starts[-1] + generation.width)
        outcomes = []
        for i, row_ids in zip(finished, ids, strict=True):
            generation, (_, converged, mean_entropy, num_steps) = generations[i], facts[i]
            own = hidden[starts[i] : starts[i + 1]]
            outcome = Outcome(
                ids=row_ids[: generation.width],
                num_steps=int(num_steps),
                mean_entropy=mean_entropy,
                converged=bool(converged),
                scores=scores_of(self._model, own, generation),
                candidates=candidates_of(self._model, own, generation),
            )
            outcomes.append((generation, outcome))
        return outcomes

    def _rules_for(self, generations: list[Generation]) -> StepRules:
        """Kept for as long as the same canvases are in flight."""
        places = [generation.place for generation in generations]
        if self._rules is None or self._rules[0] != places:
            rules = StepRules.of(generations, self._model.config.vocab_size, self._device)
            self._rules = places, rules
        return self._rules[1]


def _spread(values: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
    """values [F] to grid's places in a tensor of this shape, zeros elsewhere."""
    return values.new_zeros(shape.numel()).index_copy_(0, grid, values).view(shape)
