"""The engine's steps: what is scheduled is run, what is finished is handed back.

When memory runs out, whatever is on the device is thrown away, the row budget is halved, and the
canvases in flight begin anew from what the host knows of them. There is no half-done step to be
understood, and draws are keyed by place and not by time, so every canvas goes the way it would have
gone. What it costs is the steps of the canvases in flight, and a second reading of their prefixes.
"""

import logging
from collections.abc import Callable

from .canvas import Generation, Verdict
from .engine_config import EngineConfig
from .errors import RequestError, RequestTooLarge
from .faults import is_out_of_memory
from .kv_pages import KVPages, PageCounts
from .model import DiffusionGemma
from .request import ROW_MULTIPLE, Result
from .runner import Runner
from .scheduler import Scheduler
from .stats import EngineStats, StepMeter
from .trace import Trace

logger = logging.getLogger("dgq.engine")

Settled = tuple[int, Result | RequestError]
"""A request's number, and its result or why it cannot have one."""


class Loop:
    """Runs generations to their ends. One thread only, but for ``stats``."""

    def __init__(
        self,
        model: DiffusionGemma,
        config: EngineConfig,
        may_start: Callable[[Generation], bool],
        trace: Trace,
    ) -> None:
        """may_start: see Scheduler. trace: told of every step."""
        window = model.config.sliding_window
        counts = PageCounts.of(config, window, model.config.canvas_length)
        max_rows = config.max_rows
        self._runner = Runner(
            model,
            config.max_canvases,
            counts,
            sparse=config.sparse_self_conditioning,
        )
        pages = KVPages(counts, window, share=config.share_prefixes)
        self._scheduler = Scheduler(config.max_canvases, max_rows, pages, may_start)
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
        """Do one step; gives what it settled. Raises whatever the device raises but out of memory.

        Out of memory halves the row budget, and the lowered budget stays. A request that does not
        fit alone gets RequestTooLarge; then lowering has not helped, and is taken back.
        """
        try:
            return self._step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return self._recover()  # here, where the error no longer holds the step's tensors

    def _step(self) -> list[Settled]:
        self._trace.step_began()
        plan = self._scheduler.schedule()
        step = self._runner.prepare(plan)
        self._trace.planned(plan, self._scheduler.running)
        outcomes = self._runner.run(step)
        self._trace.computed()
        if plan.canvases:  # reading alone takes less than what follows it, and proves nothing
            self._proven_rows = self._scheduler.max_rows
            self._is_clean = False
        self._meter.count(plan.num_read_rows, plan.num_canvas_rows)
        settled: list[Settled] = []
        for generation, outcome in outcomes:
            verdict = generation.finish_canvas(outcome)
            self._trace.judged(generation, outcome, verdict)
            self._scheduler.resize(generation)
            if verdict is Verdict.FINISHED and generation.result is not None:
                self._runner.release(generation)
                settled.append((generation.number, generation.result))
        self._trace.step_ended(self._scheduler.num_waiting)
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
