"""Jobs into the ledger, shard by shard, so that breaking off and starting again repeats nothing.

Shards are numbered and the ledger keeps a digest of the input so far. To submit the same input again with
the same job key, or to the same batch, therefore skips what is there and goes on where it ended;
another input is noticed and refused.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import NoReturn

from dgq.pipelines.job import Job
from dgq.pipelines.reading import BadLine
from dgq.pipelines.run import bad_line_result

from ..errors import BatchCancelled, BatchUnknown, CommandError, OtherInput, ServerError
from ..ledger.ledger import Ledger
from ..ledger.shard import JobLine, Row, Shard
from ..ledger.types import BatchInfo
from .memory import MemoryGuard

Entry = tuple[Job | BadLine, bytes]
"""A job with the line it was read from, or a bad line with nothing."""

FIRST_TICKETS = 64
"""Tickets sent while submitting; from then on workers are awake, and their janitor rings."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """shard_jobs, shard_bytes: of one shard, the first to be reached. max_jobs: of a batch.
    max_memory_percent: of the server's maxmemory, above which a submission waits."""

    shard_jobs: int
    shard_bytes: int
    max_jobs: int
    max_memory_percent: float


@dataclass(slots=True)
class Submitted:
    """What has been handed over so far. num_new: shards that the ledger did not have yet."""

    num_jobs: int = 0
    num_bad: int = 0
    num_new_shards: int = 0


def submit_entries(
    ledger: Ledger,
    batch: BatchInfo,
    entries: Iterable[Entry],
    bounds: Bounds,
    *,
    ring: Callable[[], None],
    on_progress: Callable[[Submitted], None] = lambda so_far: None,
    on_wait: Callable[[str], None] = lambda why: None,
) -> Submitted:
    """Hand over all entries and seal the batch; the bad ones become ``error`` rows at once.

    ring: wakes one slot of a worker. on_wait: told why the submission waits. Raises OtherInput
    where the batch was submitted with another input, CommandError where there are too many jobs, BatchCancelled, BatchUnknown where the server has
    lost it, ServerError where it stays full or has lost a part, and redis.RedisError.
    """
    so_far = Submitted()
    guard = MemoryGuard(ledger, bounds.max_memory_percent, on_wait)
    digest, num_shards = "", 0
    for shard in cut(entries, bounds):
        rows = [
            Row(index, bad_line_result(bad).to_json_line().encode()) for index, bad in shard.bad
        ]
        outcome = guard.call(partial(ledger.add_shard, batch, shard, digest, rows))
        if outcome not in ("ADDED", "HAVE"):
            _refuse(batch, outcome)
        digest, num_shards = shard.digest_after(digest), shard.number + 1
        so_far.num_jobs += len(shard.jobs)
        so_far.num_bad += len(shard.bad)
        if outcome == "ADDED":
            so_far.num_new_shards += 1
            guard.added(shard.num_bytes)
            if shard.jobs and so_far.num_new_shards <= FIRST_TICKETS:
                ring()
        on_progress(so_far)
    outcome = ledger.seal(batch, digest, num_shards)
    if outcome != "SEALED":
        _refuse(batch, outcome)
    return so_far


def cut(entries: Iterable[Entry], bounds: Bounds) -> Iterator[Shard]:
    """Entries into shards. Raises CommandError above max_jobs; what came before stands."""
    numbers = count()
    shard = Shard(next(numbers), 0)
    for index, (entry, text) in enumerate(entries):
        if index >= bounds.max_jobs:
            raise CommandError(
                f"the input has more than {bounds.max_jobs:,} jobs; split it, or raise max_batch_jobs"
            )
        full = shard.count >= bounds.shard_jobs or (
            shard.count and shard.num_bytes + len(text) > bounds.shard_bytes
        )
        if full:
            yield shard
            shard = Shard(next(numbers), index)
        if isinstance(entry, BadLine):
            shard.bad.append((index, entry))
        else:
            shard.jobs.append(JobLine(index, entry.line or index + 1, text))
            shard.num_bytes += len(text)
    if shard.count:
        yield shard


def _refuse(batch: BatchInfo, outcome: str) -> NoReturn:
    what = f"batch {batch.id}" + (f" (job key {batch.job_key!r})" if batch.job_key else "")
    if outcome == "CANCELLED":
        raise BatchCancelled(f"{what} was cancelled and takes no jobs")
    if outcome == "UNKNOWN":
        raise BatchUnknown(f"the server has lost {what}; submit again, with --resume")
    if outcome == "BEHIND":
        raise ServerError(f"the server was restarted and has lost the last moments of {what}")
    raise OtherInput(
        f"{what} belongs to another input; give another --job-key, or the input it was given first"
    )
