"""Many jobs at once over one engine: jobs in, results out as they finish, memory bounded.

Jobs are generators (asking.py). One thread, the caller's, advances them; the engine's futures and the
reader of the input only put notes into a queue. New jobs are taken while few requests are in flight,
so an endless input is read no faster than it is worked off.
"""

import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any

from dgq.engine.errors import DgqError, EngineError, RequestError
from dgq.engine.request import Result

from . import fill, reformat, rewrite
from .asking import Context, Outcome, Steps
from .decoding import Decodings, load_decoding
from .intake import Intake
from .job import Job
from .ports import TextEngine
from .reading import BadLine
from .result import Check, ErrorInfo, JobResult, Stats, Status

RUN: dict[str, Callable[[Any, Context], Steps]] = {
    "fill": fill.run,
    "reformat": reformat.run,
    "rewrite": rewrite.run,
}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How many jobs are worked on together, and in which order results come.

    max_jobs: the most jobs in flight or, when ordered, waiting for an earlier one's result.
    enough_requests: no new job is taken while this many requests are in flight.
    ordered: results in the order of the jobs. decodings: None takes the checkpoint's.
    """

    max_jobs: int = 256
    enough_requests: int = 192
    ordered: bool = False
    decodings: Decodings | None = None


def run_jobs(
    jobs: Iterable[Job | BadLine], engine: TextEngine, *, options: RunOptions = RunOptions()
) -> Generator[JobResult, None, None]:
    """One result for each job and each bad line, as they finish.

    ``jobs`` is iterated in a thread of its own, so that a slow input holds up no result. Whatever
    goes wrong in a job is a result with status "error". Raises what ``jobs`` raises, and
    EngineError when the engine itself is dead; a broken tokenizer or dgq.json is an error of the
    call itself, not of the first result. Closing the generator cancels what is in flight.
    """
    decodings = options.decodings or load_decoding(engine.model_path)
    context = Context(engine.tokenizer, engine.canvas_length, decodings)
    return _results(jobs, engine, context, options)


def _results(
    jobs: Iterable[Job | BadLine], engine: TextEngine, context: Context, options: RunOptions
) -> Generator[JobResult, None, None]:
    notes: SimpleQueue[int | None] = SimpleQueue()
    intake = Intake(jobs, partial(notes.put, None))
    driver = _Driver(engine, context, notes)
    waiting: dict[int, JobResult] = {}
    due = 0
    try:
        while True:
            window = len(driver.in_flight) + len(waiting)
            room = window < options.max_jobs and driver.requests < options.enough_requests
            if room:
                intake.ask()
            if not intake.asked and not driver.in_flight:
                return
            index = notes.get()
            if index is None:
                if (entry := intake.take()) is not None:
                    driver.start(entry)
            else:
                driver.note(index)
            for number, result in driver.take_done():
                if not options.ordered:
                    yield result
                    continue
                waiting[number] = result
                while due in waiting:
                    yield waiting.pop(due)
                    due += 1
    finally:
        intake.close()
        driver.cancel()


@dataclass(slots=True)
class _Flight:
    """A job in flight: its steps, and the futures of the requests that it waits for."""

    index: int
    job: Job
    steps: Steps
    started_s: float
    futures: list[Future[Result]] = field(default_factory=list)
    missing: int = 0
    costs: list[Result] = field(default_factory=list)
    attempts: int = 0


class _Driver:
    """Advances the jobs in flight. All methods are called by one thread."""

    def __init__(
        self, engine: TextEngine, context: Context, notes: SimpleQueue[int | None]
    ) -> None:
        """notes: where the number of a job is put when one of its requests is answered."""
        self.engine = engine
        self.context = context
        self.in_flight: dict[int, _Flight] = {}
        self.requests = 0
        self._notes = notes
        self._done: list[tuple[int, JobResult]] = []
        self._numbers = count()

    def start(self, job: Job | BadLine) -> None:
        """Ask a job's first requests; a bad line is done at once."""
        index = next(self._numbers)
        if isinstance(job, BadLine):
            self._done.append((index, bad_line_result(job)))
            return
        flight = _Flight(index, job, RUN[job.kind](job, self.context), time.monotonic())
        self.in_flight[index] = flight
        self._advance(flight, None)

    def take_done(self) -> list[tuple[int, JobResult]]:
        """What has finished since the last call, with the numbers of the jobs."""
        done, self._done = self._done, []
        return done

    def cancel(self) -> None:
        """Give up all jobs in flight."""
        for flight in self.in_flight.values():
            for future in flight.futures:
                future.cancel()
            flight.steps.close()
        self.in_flight.clear()

    def note(self, index: int) -> None:
        """One request of a job has been answered; after the last one the job goes on."""
        self.requests -= 1
        flight = self.in_flight[index]
        flight.missing -= 1
        if flight.missing:
            return
        try:
            results = [future.result() for future in flight.futures]
        except CancelledError:
            self._finish(flight, Outcome("cancelled", None, ()))
        except Exception as error:  # noqa: BLE001 - one job's failure must not stop the others
            self._fail(flight, error)
        else:
            flight.costs += results
            self._advance(flight, results)

    def _advance(self, flight: _Flight, results: list[Result] | None) -> None:
        """Let the job judge its results and ask its next requests, or end."""
        try:
            requests = next(flight.steps) if results is None else flight.steps.send(results)
            flight.attempts += 1
            flight.futures = []
            for request in requests:
                flight.futures.append(self.engine.submit(request))
        except StopIteration as stop:
            self._finish(flight, stop.value)
            return
        except Exception as error:  # noqa: BLE001 - one job's failure must not stop the others
            for future in flight.futures:
                future.cancel()
            self._fail(flight, error)
            return
        flight.missing = len(flight.futures)
        self.requests += flight.missing
        for future in flight.futures:
            future.add_done_callback(partial(self._put_note, flight.index))

    def _put_note(self, index: int, _: Future[Result]) -> None:
        """Runs in the engine's thread."""
        self._notes.put(index)

    def _fail(self, flight: _Flight, error: Exception) -> None:
        """An error row, unless the engine itself is dead."""
        if isinstance(error, EngineError) and not isinstance(error, RequestError):
            raise error
        flight.steps.close()
        message = str(error) if isinstance(error, DgqError) else f"{type(error).__name__}: {error}"
        info = ErrorInfo(
            type=type(error).__name__ if isinstance(error, DgqError) else "InternalError",
            message=message[:2000] or type(error).__name__,
            field=getattr(error, "field", None) if isinstance(error, DgqError) else None,
        )
        self._close(flight, "error", None, (), info)

    def _finish(self, flight: _Flight, outcome: Outcome) -> None:
        self._close(flight, outcome.status, outcome.output, outcome.checks, None)

    def _close(
        self,
        flight: _Flight,
        status: Status,
        output: str | None,
        checks: tuple[Check, ...],
        error: ErrorInfo | None,
    ) -> None:
        del self.in_flight[flight.index]
        result = JobResult(
            id=flight.job.id,
            line=flight.job.line,
            kind=flight.job.kind,
            status=status,
            output=output,
            checks=checks,
            error=error,
            stats=_stats(flight, self.engine.model_name),
        )
        self._done.append((flight.index, result))


def bad_line_result(bad: BadLine) -> JobResult:
    """The error row of a line that is no job."""
    info = ErrorInfo(type="BadLine", message=bad.message, field=bad.field)
    return JobResult(id=bad.id, line=bad.line, status="error", error=info)


def _stats(flight: _Flight, model: str) -> Stats:
    costs = flight.costs
    canvases = sum(cost.num_canvases for cost in costs)
    entropy = sum(cost.mean_entropy_nats * cost.num_canvases for cost in costs)
    return Stats(
        tokens=sum(len(cost.token_ids) for cost in costs),
        canvases=canvases,
        steps=sum(cost.num_steps for cost in costs),
        rerolls=sum(cost.num_rerolls for cost in costs),
        attempts=flight.attempts,
        requests=len(costs),
        mean_entropy=round(entropy / canvases, 6) if canvases else None,
        seconds=round(time.monotonic() - flight.started_s, 6),
        seed=flight.job.seed or 0,
        model=model,
    )
