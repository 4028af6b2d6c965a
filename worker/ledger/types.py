"""What the ledger takes and gives: plain values, no Redis in them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self, cast

from .shard import JobLine

State = Literal["active", "paused", "cancelled", "done"]
STATUSES = ("ok", "invalid_output", "error", "cancelled")


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What holds for all jobs of a batch that do not say otherwise."""

    seed: int | None = None
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch to be. label: which workers may run it. priority: -100 to 100, higher first.

    source: the input's name, for people. retry_of: the batch whose failed jobs these are.
    shard_jobs, shard_bytes: how the input is cut, the first to be reached; a broken submission is
    continued with the same.
    """

    label: str = "default"
    priority: int = 0
    source: str = ""
    job_key: str | None = None
    retry_of: str | None = None
    options: JobOptions = JobOptions()
    shard_jobs: int = 128
    shard_bytes: int = 262_144


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """A batch as it stands. Times are the server's, in seconds since 1970.

    sealed: all of its input is here. num_jobs: accepted so far, bad lines among them.
    num_shards, digest: of the input so far.
    """

    id: str
    state: State
    sealed: bool
    label: str
    priority: int
    source: str
    job_key: str | None
    retry_of: str | None
    options: JobOptions
    shard_jobs: int
    shard_bytes: int
    created_s: float
    finished_s: float | None
    num_jobs: int
    num_done: int
    num_shards: int
    digest: str
    num_by_status: Mapping[str, int] = field(default_factory=dict)
    num_tokens: int = 0
    num_canvases: int = 0
    num_steps: int = 0

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Self:
        """From the fields of the batch's hash."""
        finished_ms = fields.get("finished_ms")
        return cls(
            id=fields["id"],
            state=cast("State", fields["state"]),
            sealed=fields["sealed"] == "1",
            label=fields["label"],
            priority=int(fields["priority"]),
            source=fields["source"],
            job_key=fields["job_key"] or None,
            retry_of=fields["retry_of"] or None,
            options=JobOptions(**json.loads(fields["options"])),
            shard_jobs=int(fields["shard_jobs"]),
            shard_bytes=int(fields["shard_bytes"]),
            created_s=int(fields["created_ms"]) / 1000,
            finished_s=int(finished_ms) / 1000 if finished_ms else None,
            num_jobs=int(fields["num_jobs"]),
            num_done=int(fields["num_done"]),
            num_shards=int(fields["num_shards"]),
            digest=fields["digest"],
            num_by_status={status: int(fields.get(f"num_{status}", 0)) for status in STATUSES},
            num_tokens=int(fields.get("num_tokens", 0)),
            num_canvases=int(fields.get("num_canvases", 0)),
            num_steps=int(fields.get("num_steps", 0)),
        )

    @property
    def finished(self) -> bool:
        """Whether every job has its row, and no more will come."""
        return self.finished_s is not None

    @property
    def num_failed(self) -> int:
        """Rows that are not ok."""
        return self.num_done - self.num_by_status.get("ok", 0)


@dataclass(frozen=True, slots=True)
class Lease:
    """A shard in somebody's hands until the lease runs out.

    entry, consumer: the fence. The consumer's name is this lease's alone, so a commit is refused once
    the shard was given to anybody else, or to the same worker again.
    deaths: how often the shard was given to a worker that then fell silent.
    jobs: those without a row. cancelled: they get ``cancelled`` rows instead of being run.
    """

    batch_id: str
    label: str
    entry: bytes
    consumer: str
    deaths: int
    jobs: tuple[JobLine, ...]
    cancelled: bool
    options: JobOptions


@dataclass(frozen=True, slots=True)
class Done:
    """A job's end, as the ledger keeps it. failed_line: the job's line, where a retry may want it."""

    index: int
    text: bytes
    status: str
    tokens: int = 0
    canvases: int = 0
    steps: int = 0
    attempts: int = 0
    failed_line: JobLine | None = None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker that is alive, as it describes itself; seconds since its last heartbeat."""

    id: str
    heartbeat_age_s: float
    fields: Mapping[str, str]
