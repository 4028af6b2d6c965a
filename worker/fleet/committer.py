"""Rows into the ledger as they finish: one thread for each shard in hand, one round trip for all rows
that have come meanwhile. A lone row is written at once; under load they go in groups."""

import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Literal, Self

from ..ledger.ledger import Ledger
from ..ledger.shard import JobLine
from ..ledger.types import Done, Lease
from .patience import Patience

logger = logging.getLogger("dgq.worker")

MAX_ROWS = 256


class Committer:
    """Use as a context manager; leaving it waits until everything is written.

    refused: the shard is no longer ours. failed: something is wrong with its rows, or with us.
    on_refused: told when the shard is no longer ours; on_written: told what was written; both are
    called in the committer's thread.
    """

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        patience: Patience,
        on_refused: Callable[[Literal["lost", "gone"]], None],
        on_written: Callable[[list[Done]], None],
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._patience = patience
        self._on_refused = on_refused
        self._on_written = on_written
        self._left = {job.index: job for job in lease.jobs}
        self.refused = False
        self.failed = False
        self._queue: SimpleQueue[Done | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="dgq-committer", daemon=True)

    @property
    def finished(self) -> bool:
        """Whether every job has its row, and the ledger has taken the shard off its list."""
        return not self._left

    @property
    def left(self) -> tuple[JobLine, ...]:
        """The jobs without a row; to be asked once everything is written."""
        return tuple(self._left.values())

    def put(self, done: Done) -> None:
        """A row to write."""
        self._queue.put(done)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            rows, ended = self._drain(first)
            try:
                self._commit(rows)
            except Exception:
                self.failed = True
                logger.exception("rows of %s cannot be written", self._lease.batch_id)
            if ended:
                return

    def _drain(self, first: Done) -> tuple[list[Done], bool]:
        rows = [first]
        while len(rows) < MAX_ROWS:
            try:
                row = self._queue.get_nowait()
            except Empty:
                break
            if row is None:
                return rows, True
            rows.append(row)
        return rows, False

    def _commit(self, rows: list[Done]) -> None:
        if self.refused or self.failed:
            return
        release = len(rows) == len(self._left)
        outcome = self._patience.call(
            lambda: self._ledger.commit(self._lease, rows, release=release)
        )
        if outcome == "written":
            for row in rows:
                del self._left[row.index]
            self._on_written(rows)
        elif outcome is not None:
            self.refused = True
            self._on_refused(outcome)
