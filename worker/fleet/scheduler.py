"""The scheduler: a Celery beat that makes firings of schedules, each once, with any number running.

Beat's own entries live in one process and send tasks. Here a firing is a submission, and which
firings are settled stands in Redis, so the class below takes Celery's loop and crontabs and looks at
the hash of schedules once a second.

Who makes a firing. Its scheduled time follows from the expression, so all schedulers agree on it.
Whoever sees that it is due takes the schedule's claim: one script that checks that nobody holds it
and that nothing about the schedule has changed since it was looked at, and writes the firing down as
begun. The claim expires (lease_s) unless this process keeps it.

Why it is submitted once. The claim only saves work; what makes it safe is the batch's job key,
``schedule:NAME@TIME``. Two who submit under one key hand over to one batch, whose numbered shards and
digests let each shard in once, whoever brings it.

What a kill leaves behind:

    before the first shard    a firing that is begun; another claims it once the claim has expired
    between two shards        the same; the next submission skips what is there and goes on
    after the last shard      the same; the next one finds the batch sealed, and only says so

A firing that is begun is finished, however late, before its schedule's next one. Where the files
have changed in between, so that the rest would not fit, it fails, and what was submitted of it is
cancelled: no batch stays open for ever. A server that is full or away is waited for, unless nothing
was submitted yet and the firing gets later than its schedule's catch_up_s. Firings that nobody could
make in time are not made; of several, only the last is.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

from celery import Celery, beat
from redis.exceptions import RedisError

from .. import exit_codes
from ..client.client import Client
from ..ledger.connection import server_error
from ..settings import Settings
from .app import make_app
from .firing import Attempt
from .schedules import Claim, Known, Schedules, Snapshot, utc
from .watchdog import stalled

logger = logging.getLogger("dgq.scheduler")

TICK_S = 1.0
"""Time between two looks at the schedules; how late a firing may begin with nothing in its way."""

MAX_AT_ONCE = 8
"""Firings that one scheduler makes at the same time; the claims of others stay free."""

LAST_WORDS_S = 2.0
"""After the drain time: until submissions have noticed that they are stopped."""


@dataclass(frozen=True, slots=True)
class Hand:
    """A firing that is being made here."""

    claim: Claim
    thread: threading.Thread


class RedisScheduler(beat.Scheduler):  # type: ignore[misc]
    """Celery's service calls ``tick`` in a loop, and ``close`` at the end."""

    def __init__(
        self, app: Celery, *, client: Client, schedules: Schedules, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._client = client
        self._schedules = schedules
        self._settings: Settings = client.settings
        self._hands: dict[str, Hand] = {}
        self._stopping = threading.Event()
        self._looked_s = time.monotonic()
        self._away = False
        self._told: set[tuple[str, object]] = set()

    def setup_schedule(self) -> None:
        """Beat would take over what the app's configuration holds; there is nothing."""

    def is_alive(self) -> bool:
        """Whether it still looks, even if at a server that is away."""
        return not stalled(self._looked_s, self._settings.stall_timeout_s)

    def tick(self, *_: Any, **__: Any) -> float:
        """Begin what is due; the time until the next look, in seconds. A server away is waited for."""
        self._looked_s = time.monotonic()
        try:
            self._keep_claims()
            snapshot = self._schedules.read()
            self._begin_all(snapshot)
        except RedisError as error:
            if not self._away:
                logger.warning("%s; waiting for it", server_error(error, self._settings))
            self._away = True
            return TICK_S
        if self._away:
            logger.info("the server is back")
            self._away = False
        return min(TICK_S, self._settings.lease_s / 4)

    def close(self) -> None:
        """End: what is being submitted gets the drain time, then it is left to the next start."""
        if self._hands:
            names = ", ".join(sorted(self._hands))
            patience_s = self._settings.drain_timeout_s
            logger.info("ending; up to %g s for what is being submitted: %s", patience_s, names)
            self._wait_for_hands(patience_s)
            self._stopping.set()
            self._wait_for_hands(LAST_WORDS_S)

    def _begin_all(self, snapshot: Snapshot) -> None:
        for name, why in snapshot.unreadable.items():
            self._tell_once(name, why, f"schedule {name} is no use here: {why}")
        due: list[tuple[int, Known]] = []
        for known in snapshot.schedules:
            try:
                self._tell_of_missed(known, snapshot.now_s)
                time_s = known.due(snapshot.now_s)
            except Exception as error:  # noqa: BLE001 - one schedule must not stop the others
                name = known.schedule.name
                self._tell_once(name, str(error), f"schedule {name} cannot be computed: {error!r}")
                continue
            if time_s is not None and known.schedule.name not in self._hands:
                due.append((time_s, known))
        for time_s, known in sorted(due, key=lambda pair: pair[0]):
            if len(self._hands) < MAX_AT_ONCE:
                self._begin(known, time_s, snapshot.now_s)

    def _begin(self, known: Known, due_s: int, now_s: float) -> None:
        lease_s = self._settings.lease_s
        claim = self._schedules.claim(known, due_s, now_s, lease_s)
        if claim is None:
            return
        attempt = Attempt(self._client, self._schedules, claim, lease_s, self._stopping)
        name = known.schedule.name
        # Not a pool's thread, which the interpreter would wait for at its end.
        thread = threading.Thread(target=attempt.run, name=f"dgq-firing-{name}", daemon=True)
        self._hands[name] = Hand(claim, thread)
        thread.start()

    def _keep_claims(self) -> None:
        for name, hand in list(self._hands.items()):
            if hand.thread.is_alive():
                self._schedules.hold(hand.claim, self._settings.lease_s)
            else:
                del self._hands[name]

    def _wait_for_hands(self, patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        while self._hands and time.monotonic() < deadline_s:
            try:
                self._keep_claims()
            except RedisError as error:
                logger.debug("cannot keep claims: %s", error)
            time.sleep(0.05)

    def _tell_of_missed(self, known: Known, now_s: float) -> None:
        missed_s = known.missed(now_s)
        settled = known.last is None or known.last.settled
        if missed_s is not None and settled:
            name = known.schedule.name
            text = f"schedule {name}: missed the firing of {utc(missed_s)}, which is too late now"
            self._tell_once(name, missed_s, text)

    def _tell_once(self, name: str, what: object, text: str) -> None:
        if (name, what) not in self._told:
            self._told.add((name, what))
            logger.warning("%s", text)


def run_scheduler(settings: Settings) -> int:
    """Make firings until told to end; the exit code. Raises ServerError if the server is not there."""
    with Client(settings=settings) as client, make_app(settings) as app:
        make = partial(RedisScheduler, client=client, schedules=Schedules(client.ledger))
        service = beat.Service(app, max_interval=TICK_S, scheduler_cls=make)
        with _metrics(client, service.scheduler.is_alive):
            logger.info("the scheduler has started")
            with _ended_by_signals():
                service.start()
        logger.info("the scheduler has ended")
    return exit_codes.OK


def _metrics(client: Client, alive: Callable[[], bool]) -> AbstractContextManager[object]:
    """What tells Prometheus of the queue, where a port for it is set."""
    if client.settings.metrics_port is None:
        return nullcontext()
    from .metrics import QueueMetrics

    return QueueMetrics(client.ledger, alive).serve(client.settings.metrics_port)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C end Celery's service; a second one ends its waiting too."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(exit_codes.OK)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except SystemExit:
        logger.info("ended at once; what was being submitted is finished at the next start")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
