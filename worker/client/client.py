"""The queue from Python.

    from dgq.worker.client.client import Client

    with Client("redis://localhost") as client:
        batch = client.submit(jobs, job_key="nightly-2026-11-23")
        results = batch.results()
        for result in results:
            ...                        # results.cursor: where to go on after a break

``jobs`` may be a generator of any length; results come as they finish. Methods raise the errors of
dgq.worker.errors, and redis.RedisError where the server goes away in between.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Self

from redis import Redis

from dgq.pipelines.parsing import DEFAULT_LIMITS, Limits
from dgq.pipelines.reading import read_job_lines, read_line

from ..errors import UsageFault, WaitTimeout
from ..ledger.connection import connect
from ..ledger.ledger import START, Ledger
from ..ledger.shard import Row
from ..ledger.types import BatchInfo, JobOptions, NewBatch
from ..settings import Settings, load_settings
from .cancelling import write_cancelled_rows
from .checking import check_new
from .jobs import AnyJob, entries_of
from .submission import Bounds, Entry, Submitted, submit_entries
from .tailing import Results, tail

if TYPE_CHECKING:
    from celery import Celery

LONGEST_PAUSE_S = 1.0


class Client:
    """A connection to the queue; use it as a context manager, or close it. Thread-safe."""

    def __init__(self, redis_url: str | None = None, *, settings: Settings | None = None) -> None:
        """redis_url: wins over the settings, which are read from where they always are if absent.

        Raises ServerError where no server answers, or none that will do.
        """
        given = settings or load_settings(redis_url=redis_url)
        self.settings = given.model_copy(update={"redis_url": redis_url}) if redis_url else given
        self.redis: Redis = connect(self.settings)
        self.ledger = Ledger(
            self.redis, self.settings.key_prefix, results_ttl_s=self.settings.results_ttl_s
        )
        self._app: Celery | None = None
        self._broker_is_away = False

    def submit(
        self,
        jobs: Iterable[AnyJob],
        *,
        label: str = "default",
        priority: int = 0,
        job_key: str | None = None,
        seed: int | None = None,
        max_attempts: int | None = None,
        source: str = "",
    ) -> "Batch":
        """Hand over jobs: Job objects, mappings, or lines of JSON. A job that is none becomes an
        ``error`` row. Returns once all are in; workers begin earlier.

        label: of the workers that shall run them, the name of a model. priority: -100 to 100, higher
        first. seed, max_attempts: for jobs without their own. source: the input's name, for people.
        job_key: the same key gives the same batch for as long as the server keeps it, so a
        submission that broke off is repeated as it was and goes on where it ended; the batch keeps
        what else it was first given.

        Raises UsageFault for no jobs at all and for values out of bounds, CommandError where the job
        key belongs to another input or the jobs are too many, BatchCancelled, BatchUnknown where the
        server loses the batch, and ServerError where it stays full.
        """
        new = NewBatch(label, priority, source, job_key, None, JobOptions(seed, max_attempts))
        return self.submit_entries(entries_of(jobs, self._limits), new)

    def read(self, lines: Iterable[bytes]) -> Iterator[Entry]:
        """Lines of JSON as entries, checked."""
        return read_job_lines(lines, limits=self._limits)

    def submit_entries(
        self,
        entries: Iterable[Entry],
        new: NewBatch,
        *,
        batch_id: str | None = None,
        on_created: Callable[["Batch"], None] = lambda batch: None,
        on_progress: Callable[[Submitted], None] = lambda so_far: None,
        on_wait: Callable[[str], None] = lambda why: None,
    ) -> "Batch":
        """As submit, for entries that have been read. batch_id: goes on with this batch."""
        check_new(new)
        rest = iter(entries)
        first = next(rest, None)
        if first is None:
            raise UsageFault(f"no jobs in {new.source or 'the input'}")
        settings = self.settings
        new = replace(
            new,
            source=new.source.encode(errors="replace").decode(),  # a file's name may be any bytes
            shard_jobs=settings.shard_jobs,
            shard_bytes=settings.shard_bytes,
        )
        batch = Batch(self, batch_id or self.ledger.create(new)[0])
        info = batch.status()
        on_created(batch)
        submit_entries(
            self.ledger,
            info,
            chain([first], rest),
            Bounds(
                info.shard_jobs,
                info.shard_bytes,
                settings.max_batch_jobs,
                settings.max_memory_percent,
            ),
            ring=lambda: self.ring(info),
            on_progress=on_progress,
            on_wait=on_wait,
        )
        return batch

    def batch(self, batch_id: str) -> "Batch":
        """A batch by its id. Raises BatchUnknown."""
        batch = Batch(self, batch_id)
        batch.status()
        return batch

    def batches(self) -> Iterator[BatchInfo]:
        """All batches, the newest first."""
        return self.ledger.batches()

    def ring(self, batch: BatchInfo) -> None:
        """Wake a worker. Where the broker is away, the workers' janitor will do.

        A broker that was away once is not tried again: each try waits, and there is one per shard.
        """
        from kombu.exceptions import OperationalError

        from ..fleet.app import make_app, ring

        if self._broker_is_away:
            return
        try:
            self._app = self._app or make_app(self.settings)
            ring(self._app, batch.label, batch.id)
        except OperationalError:
            self._broker_is_away = True

    def close(self) -> None:
        """Close the connections. Batches of this client are of no more use."""
        if self._app is not None:
            self._app.close()
        self.redis.close()

    @property
    def _limits(self) -> Limits:
        return replace(DEFAULT_LIMITS, line_bytes=self.settings.max_job_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Batch:
    """A submitted batch, by its id. Every method asks the server; none keeps anything here."""

    def __init__(self, client: Client, batch_id: str) -> None:
        self.client = client
        self.id = batch_id

    def status(self) -> BatchInfo:
        """As it stands. Raises BatchUnknown, here as in all other methods."""
        return self.client.ledger.info(self.id)

    def rows(
        self, after: str = START, *, follow: bool = True, timeout_s: float | None = None
    ) -> Iterator[tuple[str, list[Row]]]:
        """(cursor, rows as they are stored) in the order of their commits; see tailing.tail."""
        return tail(self.client.ledger, self.id, after, follow=follow, timeout_s=timeout_s)

    def results(
        self, after: str = START, *, follow: bool = True, timeout_s: float | None = None
    ) -> Results:
        """Results as they finish, until the batch is finished; follow=False: those that are there.

        after: the ``cursor`` of earlier results, to go on right behind them. timeout_s: the longest
        wait for the next result. Raises WaitTimeout, and UsageFault for a wrong cursor.
        """
        return Results(self.client.ledger, self.id, after, follow=follow, timeout_s=timeout_s)

    def wait(self, timeout_s: float | None = None) -> BatchInfo:
        """Until the batch is finished. timeout_s: of the whole wait. Raises WaitTimeout."""
        started_s, pause_s = time.monotonic(), 0.02
        while not (info := self.status()).finished:
            if timeout_s is not None:
                left_s = started_s + timeout_s - time.monotonic()
                if left_s <= 0:
                    raise WaitTimeout(
                        f"{self.id} is not finished after {timeout_s:g} s; it goes on"
                    )
                pause_s = min(pause_s, left_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return info

    def cancel(self) -> BatchInfo:
        """Stop it: what has no row yet gets a ``cancelled`` one, whether or not a worker is there.

        A batch that is finished stays as it is.
        """
        self.client.ledger.control(self.id, "cancel")
        write_cancelled_rows(self.client.ledger, self.status())
        return self.status()

    def pause(self) -> BatchInfo:
        """Let no more of its jobs be begun; those that workers have begun finish."""
        self.client.ledger.control(self.id, "pause")
        return self.status()

    def resume(self) -> BatchInfo:
        """Go on after a pause."""
        self.client.ledger.control(self.id, "resume")
        info = self.status()
        self.client.ring(info)
        return info

    def retry(self, *, seed: int | None = None) -> "Batch":
        """A new batch of the jobs that have failed so far (``invalid_output``, ``error``), but not of
        the lines that are no jobs. They keep their line numbers.

        seed: for jobs without one of their own; by default the batch's, or 0, plus 1, since the same
        seed would give the same output. Raises UsageFault if there are none.
        """
        return self.client.submit_entries(self.failed_entries(), self.as_retry(seed))

    def failed_entries(self) -> Iterator[Entry]:
        """The jobs that a retry runs again. Raises UsageFault if there are none."""
        limits = self.client._limits
        failed = self.client.ledger.failed_jobs(self.id)
        if (first := next(failed, None)) is None:
            raise UsageFault(f"{self.id} has no job that a retry could help: nothing is submitted")
        for job in chain([first], failed):
            yield read_line(job.text, job.line, limits), job.text

    def as_retry(self, seed: int | None) -> NewBatch:
        """The batch that a retry makes: as this one, but for the seed."""
        info = self.status()
        options = replace(info.options, seed=(info.options.seed or 0) + 1 if seed is None else seed)
        return NewBatch(info.label, info.priority, info.source, retry_of=self.id, options=options)
