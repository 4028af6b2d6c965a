"""Jobs in, results out, in this process: the same from Python as from the command line.

    from dgq.worker.local import run

    for result in run(jobs):
        print(result.id, result.status, result.output)

``jobs`` may be a generator of any length: it is pulled only as far as the engine has room.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgq.engine.trace import NO_TRACE, Trace, TraceRecorder
from dgq.pipelines.errors import JobError
from dgq.pipelines.job import Job
from dgq.pipelines.parsing import parse_job
from dgq.pipelines.reading import BadLine, id_of
from dgq.pipelines.result import JobResult
from dgq.pipelines.run import RunOptions, run_jobs

from .host import DEFAULT_ENGINE_OPTIONS, EngineOptions, load_engine


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What holds for all jobs of a run.

    ordered: results in input order. seed: for jobs without one of their own. max_attempts:
    likewise; None takes the checkpoint's. engine: where and how it runs. trace_path: a file for the
    engine's trace; replaced.
    """

    ordered: bool = False
    seed: int | None = None
    max_attempts: int | None = None
    engine: EngineOptions = DEFAULT_ENGINE_OPTIONS
    trace_path: Path | None = None


def run(
    jobs: Iterable[Job | Mapping[str, Any]],
    *,
    model: Path | str | None = None,
    ordered: bool = False,
    seed: int | None = None,
    max_attempts: int | None = None,
    trace: Path | str | None = None,
) -> Generator[JobResult, None, None]:
    """Yield one result for each job, as they finish; a bad job gives an ``error`` result.

    jobs: Job objects, or mappings as in the lines of a file of jobs; iterated in a thread of its
    own. model: a checkpoint folder, None for the shipped dgq-tiny; it is loaded at the first result
    and closed with the generator. trace: a file, created or replaced, for what the engine does.
    Raises CheckpointError for a folder that is no checkpoint, EngineError for a trace that cannot
    be written.
    """
    trace_path = None if trace is None else Path(trace)
    settings = RunSettings(
        ordered=ordered, seed=seed, max_attempts=max_attempts, trace_path=trace_path
    )
    path = None if model is None else Path(model)
    with results_of(_entries(jobs), path, settings) as results:
        yield from results


@contextmanager
def results_of(
    entries: Iterable[Job | BadLine], model_path: Path | None, settings: RunSettings
) -> Iterator[Iterator[JobResult]]:
    """Load the engine, hand out the results, and close both.

    Raises EngineError for a trace that cannot be written.
    """
    options = RunOptions(ordered=settings.ordered)
    jobs = (with_settings(entry, settings) for entry in entries)
    with (
        _trace(settings.trace_path) as trace,
        load_engine(model_path, options=settings.engine, trace=trace) as engine,
        closing(run_jobs(jobs, engine, options=options)) as results,
    ):
        yield results


def with_settings(entry: Job | BadLine, settings: RunSettings) -> Job | BadLine:
    """The job with the run's seed and attempts where it has none of its own."""
    if isinstance(entry, BadLine):
        return entry
    own = {"seed": settings.seed, "max_attempts": settings.max_attempts}
    update = {
        name: value
        for name, value in own.items()
        if value is not None and getattr(entry, name) is None
    }
    return entry.model_copy(update=update) if update else entry


def _trace(path: Path | None) -> AbstractContextManager[Trace]:
    return nullcontext(NO_TRACE) if path is None else TraceRecorder(path)


def _entries(jobs: Iterable[Job | Mapping[str, Any]]) -> Iterator[Job | BadLine]:
    for number, job in enumerate(jobs, start=1):
        if isinstance(job, Job):
            yield job
            continue
        data = dict(job) if isinstance(job, Mapping) else job
        try:
            yield parse_job(data)
        except JobError as error:
            yield BadLine(number, error.message, id_of(data), error.field)
