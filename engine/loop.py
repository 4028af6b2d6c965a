"""The engine's steps: what is scheduled is launched, what is finished is handed back.

On a CPU a step is read as soon as it is launched. A GPU works while the host goes on, so there the
next step is planned and launched before the last one's outcomes are read, and all that the host does
hides behind the device: at most ``lag`` steps are in flight beyond the one that is read. What this
costs: a canvas that a step finishes is denoised once more, in vain, unless it had used its steps up
(the host can count those). What comes of that is recognised and dropped (step_in_flight.py).

Why it is safe. All that a step does is put into one stream, which works in the order of the launches.
When step n is read and its finished canvases give back their slots and pages, step n + 1, which still
writes into them, has been launched. Whoever gets them next, a canvas that begins or a text that is
read, fills them in a step that is launched later, and so after that write; and it reads nothing of
them that it has not filled. A canvas that goes on, or begins anew in its own slot, is such a next
owner too. And no row's result depends on what else is in a step, so the rows denoised in vain change
nothing beside them.

When memory runs out, whatever is on the device is thrown away, the row budget is halved, and the
canvases in flight begin anew from what the host knows of them. There is no half-done step to be
understood, and draws are keyed by place and not by time, so every canvas goes the way it would have
gone. What it costs is the steps of the canvases in flight, and a second reading of their prefixes.
Steps that were launched before the one for which memory ran out are read first, as if it had not been
tried; if reading fails, they are thrown away as well.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import TypeVar

from .canvas import Generation, Outcome, Verdict
from .engine_config import EngineConfig
from .errors import RequestError, RequestTooLarge
from .faults import is_out_of_memory
from .kv_pages import KVPages, PageCounts
from .model import DiffusionGemma
from .request import ROW_MULTIPLE, Result
from .runner import Runner
from .scheduler import Plan, Scheduler
from .stats import EngineStats, StepMeter
from .step_in_flight import StepInFlight
from .trace import Trace

logger = logging.getLogger("dgq.engine")

_Made = TypeVar("_Made")

Settled = tuple[int, Result | RequestError]
"""A request's number, and its result or why it cannot have one."""


class Loop:
    """Runs generations to their ends. One thread only, but for ``stats``."""

    def __init__(
        self,
        model: DiffusionGemma,
        config: EngineConfig,
        eos_ids: Collection[int],
        may_start: Callable[[Generation], bool],
        trace: Trace,
    ) -> None:
        """eos_ids: the tokens that end a text. may_start: see Scheduler. trace: told of every step."""
        window = model.config.sliding_window
        counts = PageCounts.of(config, window, model.config.canvas_length)
        max_rows = config.max_rows
        self._runner = Runner(model, config, counts, eos_ids)
        pages = KVPages(counts, window, share=config.share_prefixes)
        self._scheduler = Scheduler(config.max_canvases, max_rows, pages, may_start)
        self._lag = 1 if self._runner.is_asynchronous else 0
        self._in_flight: deque[tuple[Plan, StepInFlight]] = deque()
        self._trace = trace
        self._meter = StepMeter()
        self._out_of_memory_total = 0
        self._proven_rows = max_rows  # the row budget of the last step that denoised
        self._is_clean = False  # nothing was denoised since everything was thrown away

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return self._scheduler.is_idle

    def add(self, generation: Generation) -> None:
        """Append to the queue."""
        self._scheduler.add(generation)

    def check(self) -> None:
        """Raise EngineError if rows got lost."""
        self._scheduler.check()

    def stats(self, num_outside: int) -> EngineStats:
        """From any thread. num_outside: requests that were not added yet."""
        return EngineStats(
            rows_in_flight=self._scheduler.rows_in_use,
            canvases_in_flight=self._scheduler.num_running,
            requests_waiting=self._scheduler.num_waiting + num_outside,
            row_budget=self._scheduler.max_rows,
            block_fill=self._meter.block_fill,
            steps_total=self._meter.steps_total,
            out_of_memory_total=self._out_of_memory_total,
            device_memory_bytes=self._runner.device_memory_bytes,
        )

    def step(self) -> list[Settled]:
        """Launch a step and read one; gives what it settled. Raises whatever the device raises but
        out of memory.

        Out of memory halves the row budget, and the lowered budget stays. A request that does not
        fit alone gets RequestTooLarge; then lowering has not helped, and is taken back.
        """
        self._trace.step_began()
        plan = self._scheduler.schedule()
        is_launched = _unless_out_of_memory(partial(self._launch, plan))
        num_kept = self._lag if is_launched and not plan.is_empty else 0
        outcomes = _unless_out_of_memory(partial(self._read, num_kept))
        self._trace.computed()
        settled = [] if outcomes is None else self._judge(outcomes)
        if is_launched is None or outcomes is None:
            self._in_flight.clear()
            return settled + self._recover()
        if self._scheduler.is_idle:
            self._in_flight.clear()  # all that is in it is stale
        self._trace.step_ended(self._scheduler.num_waiting)
        return settled

    def _launch(self, plan: Plan) -> bool:
        """Tell the device what is planned; with nothing to do, it waits for what is in flight."""
        prepared = None if plan.is_empty else self._runner.prepare(plan)
        self._trace.planned(plan, self._scheduler.running)
        if prepared is not None:
            self._in_flight.append((plan, self._runner.launch(prepared)))
        return True

    def _read(self, num_kept: int) -> list[tuple[Generation, Outcome]]:
        """Wait for the oldest step in flight, if there are more than so many."""
        if len(self._in_flight) <= num_kept:
            return []
        plan, step = self._in_flight.popleft()
        outcomes = step.outcomes()
        if plan.canvases:  # reading alone takes less than what follows it, and proves nothing
            self._proven_rows = self._scheduler.max_rows
            self._is_clean = False
        self._meter.count(plan.num_read_rows, plan.num_canvas_rows)
        return outcomes

    def _judge(self, outcomes: list[tuple[Generation, Outcome]]) -> list[Settled]:
        """Let the generations of finished canvases move on."""
        settled: list[Settled] = []
        for generation, outcome in outcomes:
            verdict = generation.finish_canvas(outcome)
            self._trace.judged(generation, outcome, verdict)
            self._scheduler.resize(generation)
            if verdict is Verdict.FINISHED and generation.result is not None:
                self._runner.release(generation)
                settled.append((generation.number, generation.result))
        return settled

    def _recover(self) -> list[Settled]:
        """Put the canvases in flight back, to begin anew under a lower row budget.

        One that was alone is refused if it was the first to be denoised on an emptied device; else
        the last step's tensors may have been in its way, and it gets another try.
        """
        self._out_of_memory_total += 1
        rows, budget = self._scheduler.rows_in_use, self._scheduler.max_rows
        running = self._scheduler.take_back()
        self._trace.gave_up(running)
        self._runner.release_all()
        was_clean, self._is_clean = self._is_clean, True
        if len(running) == 1 and was_clean:
            return [self._refuse(running[0])]
        if len(running) > 1:  # halve what was in use, so that the next try is a smaller one
            self._set_row_budget(max(ROW_MULTIPLE, min(rows, budget) // 2))
        logger.warning(
            "out of memory: canvases in flight %d, their rows %d, row budget %d -> %d; they begin anew",
            len(running), rows, budget, self._scheduler.max_rows,
        )  # fmt: skip
        for generation in running:
            generation.restart()
        self._scheduler.put_back(running)
        return []

    def _refuse(self, generation: Generation) -> Settled:
        """It has run out of memory with nothing beside it."""
        self._set_row_budget(self._proven_rows)
        length = len(generation.request.prompt_ids)
        error = RequestTooLarge(
            f"out of device memory with this request alone: a canvas of {generation.width} rows, "
            f"a prompt of {length} tokens (row budget {self._scheduler.max_rows}): "
            "shorten the text or split the job"
        )
        logger.warning("request %d refused: %s", generation.number, error)
        return generation.number, error

    def _set_row_budget(self, max_rows: int) -> None:
        self._scheduler.max_rows = max_rows


def _unless_out_of_memory(work: Callable[[], _Made]) -> _Made | None:
    """What the work gives, or None where memory ran out; the error, which holds tensors, is gone."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None
