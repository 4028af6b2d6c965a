"""What a worker does: claims shards, runs them, keeps their leases, and gives back what it cannot end.

A ticket from Celery calls ``work`` in one of the pool's threads, which then claims one shard after
the other, from any batch, until the ledger has none to give. Several threads do so at once and share one
engine, so that its rows stay full while one shard drains.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from dgq.engine.errors import EngineError

from ..ledger.ledger import Ledger
from ..ledger.refusals import explain_reply
from ..ledger.types import Done, Lease
from .committer import Committer
from .contact import Contact
from .feed import Interrupted
from .gate import Gate
from .holding import Holding, RowMaker, cancelled_rows, parked_rows
from .metrics import WorkerMetrics
from .patience import Patience
from .runner import Runner

logger = logging.getLogger("dgq.worker")


class Station:
    """One worker process's work. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        runner: Runner,
        metrics: WorkerMetrics,
        *,
        worker_id: str,
        labels: Sequence[str],
        lease_s: float,
        max_deaths: int,
        on_broken: Callable[[EngineError], None],
    ) -> None:
        """on_broken: told, once, when the engine is dead."""
        self.ledger = ledger
        self.runner = runner
        self.metrics = metrics
        self.worker_id = worker_id
        self.labels = tuple(labels)
        self.lease_s = lease_s
        self.draining = threading.Event()
        self.num_rows = 0
        self.num_working = 0
        """Threads that look for work or do it."""
        self._max_deaths = max(2, max_deaths)  # after the first it is not known which job it was
        self._on_broken = on_broken
        self._gate = Gate()
        self._holdings: set[Holding] = set()
        self._lock = threading.Lock()
        self._giving_up = threading.Event()
        self._contact = Contact(lease_s)
        self._waiting_for: RedisError | None = None
        self._broken = False
        self._pulse = -1
        self._alive_s = 0.0
        self.patience = Patience(self._giving_up.is_set, self._report)

    def work(self) -> None:
        """Claim and run shards until there are none, or this worker drains."""
        self._note_thread(1)
        try:
            alone, first = False, None
            while not self.draining.is_set():
                with self._gate.passing(alone=alone):
                    lease = self._claim(first)
                    if lease is None:
                        return
                    suspect = self._process(lease, alone=alone)
                    # What could not be run in company comes next, not after another batch's turn.
                    first = (lease.batch_id, lease.label) if suspect and not alone else None
                    alone = suspect
        finally:
            self._note_thread(-1)

    def holdings(self) -> list[Holding]:
        """The shards in hand."""
        with self._lock:
            return list(self._holdings)

    def drain(self) -> None:
        """Take nothing more; what the runner has begun may finish."""
        self.draining.set()
        for holding in self.holdings():
            holding.feed.close()

    def give_up(self) -> None:
        """Release what is in hand, finished or not."""
        self.draining.set()
        self._giving_up.set()
        for holding in self.holdings():
            holding.feed.interrupt("released")

    def abandon(self) -> None:
        """Release what is in hand even where its thread hangs; the ledger then refuses its rows."""
        for holding in self.holdings():
            self._release(holding.lease)

    def still_s(self) -> float:
        """Seconds since anything moved, for the shard that has stood still for longest.

        A model at work moves, and so does a worker that waits for its server.
        """
        now_s = time.monotonic()
        since_s = [max(holding.progressed_s, self._alive_s) for holding in self.holdings()]
        return max((now_s - at_s for at_s in since_s), default=0.0)

    def keep(self) -> None:
        """Renew the leases in hand, and do what the ledger says about their batches."""
        pulse = self.runner.pulse()
        if pulse != self._pulse:
            self._pulse, self._alive_s = pulse, time.monotonic()
        try:
            self._renew()
        except RedisError as error:
            self._report(error)

    def silence_s(self) -> float:
        """For how long the holder of a shard must have been silent to be taken for dead."""
        return self._contact.silence_s()

    def _renew(self) -> None:
        holdings = self.holdings()
        if not holdings:  # whoever idles learns it too when the server is away
            self._contact.asked()
            self.ledger.redis.ping()
            self._note_answer()
        for holding in holdings:
            self._contact.asked()
            state = self.ledger.renew(holding.lease)
            self._note_answer()
            if state == "cancelled":
                holding.feed.interrupt("cancelled")
            elif state == "paused":
                holding.feed.close()
            elif state in ("lost", "gone"):
                holding.feed.interrupt(state)

    def _claim(self, first: tuple[str, str] | None = None) -> Lease | None:
        """first: the batch, with its label, to be asked before those whose turn it is."""
        return self.patience.call(lambda: self._claim_once(first))

    def _claim_once(self, first: tuple[str, str] | None) -> Lease | None:
        if self._waiting_for is not None:
            self.keep()  # leases in hand may have run out meanwhile: before another claims
        before = [] if first is None else [first]
        self._contact.asked()
        candidates = before + self.ledger.candidates(self.labels)
        self._contact.heard()
        for batch_id, label in candidates:
            if self.draining.is_set():
                return None
            lease = self.ledger.claim(batch_id, label, self.worker_id, self.silence_s())
            if lease is not None:
                self.metrics.shard_claimed()
                return lease
        return None

    def _process(self, lease: Lease, *, alone: bool) -> bool:
        """See a shard to its end, or give it back; whether the next one shall be claimed alone.

        One that may be to blame for deaths is run alone, and is not even held by a thread that
        waits for others to end: it would share the blame for what they do.
        """
        suspect = lease.deaths >= self._max_deaths - 1
        if lease.cancelled:
            self._write(lease, cancelled_rows(lease))
        elif not lease.jobs:
            self._write(lease, [])
        elif suspect and len(lease.jobs) > 1:
            self.patience.call(lambda: self.ledger.split(lease))
        elif lease.deaths >= self._max_deaths:
            logger.warning("a job of %s has ended %d workers", lease.batch_id, lease.deaths)
            self._write(lease, parked_rows(lease))
        elif suspect and not alone:
            self._release(lease)
        else:
            holding = Holding.of(lease)
            with self._lock:
                self._holdings.add(holding)
            try:
                self._run(holding)
            finally:
                with self._lock:
                    self._holdings.remove(holding)
        return suspect

    def _run(self, holding: Holding) -> None:
        lease, feed = holding.lease, holding.feed
        rows = RowMaker(lease.jobs, feed.entries)
        if self.draining.is_set():
            feed.close()
        committer = Committer(
            self.ledger, lease, self.patience, on_refused=feed.interrupt, on_written=self._count
        )
        died = False
        with committer:
            try:
                for result in self.runner.run(feed):
                    holding.progress()
                    committer.put(rows.done(result))
                    feed.took_result()
            except Interrupted:
                pass
            except EngineError as error:
                died = True
                feed.interrupt("released")
                self._break(error)
            except Exception:
                died = True
                feed.interrupt("released")
                logger.exception("a shard of %s is given back", lease.batch_id)
        self._part(holding, committer, died=died or committer.failed)

    def _part(self, holding: Holding, committer: Committer, *, died: bool) -> None:
        """After the last row: the shard is done, or someone else's, or to be given back."""
        lease = holding.lease
        if committer.finished:  # whatever the keeper has found since: a shard that is done is gone
            return
        if committer.refused or holding.feed.interruption in ("lost", "gone"):
            self.metrics.lease_lost()
            logger.warning("a shard of %s is no longer this worker's", lease.batch_id)
        elif holding.feed.interruption == "cancelled":
            self._write(lease, cancelled_rows(replace(lease, jobs=committer.left)))
        else:
            self.metrics.shard_released()
            self._release(lease, died=died)

    def _write(self, lease: Lease, rows: Sequence[Done]) -> None:
        """Rows that no runner makes; those that a job has already are left out by the ledger."""
        outcome = self.patience.call(lambda: self.ledger.commit(lease, rows, release=True))
        if outcome == "written":
            self._count(rows)

    def _count(self, rows: Sequence[Done]) -> None:
        with self._lock:
            self.num_rows += len(rows)
        self.metrics.rows_committed(rows)

    def _release(self, lease: Lease, *, died: bool = False) -> None:
        try:
            self.ledger.release(lease, died=died)
        except RedisError as error:  # its lease will run out
            self._report(error)

    def _break(self, error: EngineError) -> None:
        with self._lock:
            told, self._broken = self._broken, True
        if not told:
            self._on_broken(error)

    def _note_thread(self, change: int) -> None:
        with self._lock:
            self.num_working += change

    def _note_answer(self) -> None:
        """The server has answered what it answers even when it is full."""
        self._contact.heard()
        if isinstance(self._waiting_for, RedisConnectionError | RedisTimeoutError):
            self._report(None)

    def _report(self, error: RedisError | None) -> None:
        """Say once that the server is waited for, and once that it is not any more."""
        if error is None:
            self._contact.heard()
        else:
            self._alive_s = time.monotonic()
        changed = (error is None) != (self._waiting_for is None)
        self._waiting_for = error
        if changed:
            self.metrics.server_reachable(error is None)
            if error is None:
                logger.info("the server answers again")
            else:
                meaning = explain_reply(error)
                why = f"it {meaning}" if meaning else error
                logger.warning("waiting for the server: %s", why)
