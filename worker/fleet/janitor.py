"""The worker's chores: it says that it is alive, and rings where work waits.

Ringing for a label is a chore that one of its workers at a time does for all: a ticket may have been
lost with the worker that had just taken it, and a lease may have run out, so tickets are topped up to
the number of slots that are idle while shards wait.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

from redis.exceptions import RedisError

from ..ledger.types import WorkerInfo
from .station import Station

logger = logging.getLogger("dgq.worker")

HEARTBEATS_TO_DEATH = 5
TURN = 0.8
"""The share of an interval for which a turn lasts: the next look must not find it still taken."""


class Janitor:
    """One thread, which may be held up by the server or by the broker. Use as a context manager.

    ring: (label, batch, count) sends tickets. describe: what `dgq workers` shows.
    """

    def __init__(
        self,
        station: Station,
        *,
        interval_s: float,
        ring: Callable[[str, str, int], None],
        describe: Callable[[], Mapping[str, str | int | float]],
    ) -> None:
        self.waiting_since_s: float | None = None
        """Since when shards wait while this worker idles and has a broker, as far as is known."""
        self._broker_error: Exception | None = None
        self._told = False
        self._station = station
        self._interval_s = interval_s
        self._ring = ring
        self._describe = describe
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dgq-janitor", daemon=True)

    def __enter__(self) -> Self:
        """Say hello, then go on in the background."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Say goodbye, if the server listens."""
        self._ended.set()
        self._thread.join()
        try:
            self._station.ledger.forget_worker(self._station.worker_id)
        except RedisError:
            logger.debug("could not say goodbye", exc_info=True)

    def note_broker(self, error: Exception | None) -> None:
        """Why the broker cannot be reached; None: it can."""
        self._broker_error = error

    def _run(self) -> None:
        while True:
            try:
                self._do_chores()
            except RedisError as error:
                self.waiting_since_s = None
                logger.debug("chores are put off: %s", error)
            except Exception:
                logger.exception("a chore failed")
            if self._ended.wait(self._interval_s):
                return

    def _do_chores(self) -> None:
        station, ledger = self._station, self._station.ledger
        ttl_s = max(1.0, HEARTBEATS_TO_DEATH * self._interval_s)
        ledger.heartbeat(station.worker_id, self._describe(), ttl_s)
        for label in station.labels:
            station.metrics.set_backlog(label, ledger.backlog(label))
        waiting = self._find_waiting()
        wanted = bool(waiting) and not station.num_working and not station.draining.is_set()
        self._tell_of_broker(self._broker_error if wanted else None)
        if not wanted or self._broker_error is not None:
            self.waiting_since_s = None
        elif self.waiting_since_s is None:
            self.waiting_since_s = time.monotonic()
        turns = [label for label in {label for label, _, _ in waiting} if self._has_turn(label)]
        workers = ledger.workers() if turns else []
        idle = {label: _idle_slots(workers, label) for label in turns}
        for label, batch_id, num_shards in waiting:
            if count := min(num_shards, idle.get(label, 0)):
                idle[label] -= count
                self._ring(label, batch_id, count)

    def _tell_of_broker(self, error: Exception | None) -> None:
        """Say once that nothing but the broker is missing."""
        if error is not None and not self._told:
            logger.warning("jobs are there, but no ticket: waiting for the broker: %s", error)
        self._told = error is not None

    def _has_turn(self, label: str) -> bool:
        if self._broker_error is not None:  # each try would take a second, and heartbeats be late
            return False
        station = self._station
        turn_s = self._interval_s * TURN
        return station.ledger.take_turn(f"janitor:{label}", station.worker_id, turn_s)

    def _find_waiting(self) -> list[tuple[str, str, int]]:
        """(label, batch, shards that could be claimed now)."""
        station, found = self._station, []
        for batch_id, label in station.ledger.candidates(station.labels):
            count = station.ledger.num_waiting(batch_id, station.silence_s())
            if count:
                found.append((label, batch_id, count))
        return found


def _idle_slots(workers: list[WorkerInfo], label: str) -> int:
    idle = 0
    for worker in workers:
        if label in worker.fields.get("labels", "").split(","):
            idle += int(worker.fields.get("slots", 0)) - int(worker.fields.get("busy", 0))
    return max(idle, 0)
