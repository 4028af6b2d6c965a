"""A shard in this worker's hands, and what becomes of it."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from dgq.pipelines.job import Job
from dgq.pipelines.reading import BadLine, read_line
from dgq.pipelines.result import ErrorInfo, JobResult

from ..ledger.shard import JobLine
from ..ledger.types import Done, Lease
from ..local import RunSettings, with_settings
from .feed import Feed

RETRIABLE = frozenset({"invalid_output", "error"})


@dataclass(slots=True, eq=False)
class Holding:
    """A lease and the feed that runs it. progressed_s: time.monotonic() of the last sign of life."""

    lease: Lease
    feed: Feed
    progressed_s: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, lease: Lease) -> "Holding":
        """Read the jobs of a lease. They were checked when they were submitted, and are again."""
        settings = RunSettings(seed=lease.options.seed, max_attempts=lease.options.max_attempts)
        entries = [with_settings(_entry(job), settings) for job in lease.jobs]
        return cls(lease, Feed(entries))

    def progress(self) -> None:
        """Something has moved."""
        self.progressed_s = time.monotonic()


def _entry(job: JobLine) -> Job | BadLine:
    return read_line(job.text, job.line)


class RowMaker:
    """From a runner's results to the ledger's rows: finds the job that a result belongs to."""

    def __init__(self, jobs: Iterable[JobLine], entries: Iterable[Job | BadLine]) -> None:
        self._by_id: dict[str | int | None, JobLine] = {}
        for job, entry in zip(jobs, entries, strict=True):
            self._by_id[entry.id or job.line] = job

    def done(self, result: JobResult) -> Done:
        """The row of a result."""
        job = self._by_id[result.id or result.line]
        stats = result.stats
        return Done(
            index=job.index,
            text=result.to_json_line().encode(),
            status=result.status,
            tokens=stats.tokens,
            canvases=stats.canvases,
            steps=stats.steps,
            attempts=stats.attempts,
            failed_line=job if result.status in RETRIABLE else None,
        )


def cancelled_rows(lease: Lease) -> list[Done]:
    """Rows for the jobs of a cancelled batch."""
    return [_unrun(job, "cancelled", None) for job in lease.jobs]


def parked_rows(lease: Lease) -> list[Done]:
    """Rows for jobs that ended every worker they were given to."""
    error = ErrorInfo(
        type="WorkerDied",
        message=f"{lease.deaths} workers ended while they ran this job; it was given up",
    )
    return [_unrun(job, "error", error) for job in lease.jobs]


def _unrun(job: JobLine, status: str, error: ErrorInfo | None) -> Done:
    entry = read_line(job.text, job.line)
    kind = None if isinstance(entry, BadLine) else entry.kind
    result = JobResult.model_validate(
        {"id": entry.id, "line": job.line, "kind": kind, "status": status, "error": error}
    )
    return Done(
        index=job.index,
        text=result.to_json_line().encode(),
        status=status,
        failed_line=job if status in RETRIABLE else None,
    )
