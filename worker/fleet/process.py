"""A worker process from start to end: station, keeper, janitor, watchdog, and Celery in front.

SIGTERM (and Ctrl-C) drains: no new shards, what the engine has begun may finish within the drain
time, the rest is given back at once. A second one, or SIGQUIT, gives everything back at once.
"""

import logging
import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version

from celery import Celery
from kombu.exceptions import OperationalError

from dgq.engine.errors import EngineError

from .. import exit_codes
from ..ledger.connection import connect
from ..ledger.ledger import Ledger
from ..settings import Settings
from .app import make_app, ring
from .draining import GRACE_S, Drainer
from .janitor import Janitor
from .keeper import Keeper
from .listener import listen
from .metrics import WorkerMetrics
from .runner import Runner
from .station import Station
from .watchdog import Watchdog, stalled

logger = logging.getLogger("dgq.worker")

UNFETCHED_S = 30.0
"""How long shards may wait while this worker idles and tickets are sent: then it hears nothing.
Never longer than stall_timeout_s."""


@dataclass(slots=True)
class WorkerProcess:
    """One worker, one engine. name: of the worker; the host's if empty."""

    settings: Settings
    runner: Runner
    name: str = ""

    def run(self) -> int:
        """Work until told to end; the exit code. Raises ServerError if the server is not there."""
        settings = self.settings
        worker_id = f"{self.name or socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        redis = connect(settings, client_name=f"dgq-worker-{worker_id}")
        metrics = WorkerMetrics(alive=lambda: not self._wedged(station, keeper, janitor))
        station = Station(
            Ledger(redis, settings.key_prefix, results_ttl_s=settings.results_ttl_s),
            self.runner,
            metrics,
            worker_id=worker_id,
            labels=self._labels(),
            lease_s=settings.lease_s,
            max_deaths=settings.max_deaths,
            on_broken=lambda error: _end_broken(station, error),
        )
        app = make_app(settings, client_name=f"dgq-celery-{worker_id}")
        # Its heart must beat as often as the watchdog listens, though leases be long.
        beat_s = min(settings.lease_s, settings.stall_timeout_s) / 4
        keeper = Keeper(station, interval_s=beat_s)
        janitor = Janitor(
            station,
            interval_s=settings.janitor_interval_s,
            ring=lambda label, batch_id, count: _ring(app, label, batch_id, count),
            describe=lambda: self._describe(station),
        )
        watchdog = Watchdog(
            lambda: self._wedged(station, keeper, janitor), exit_code=exit_codes.WEDGED
        )
        with ExitStack() as stack:
            if settings.metrics_port is not None:
                stack.enter_context(metrics.serve(settings.metrics_port))
            for part in (keeper, janitor, watchdog):
                stack.enter_context(part)
            logger.info("%s serves %s", worker_id, ", ".join(station.labels))
            drainer = Drainer(station, settings.drain_timeout_s)
            num_slots = settings.shards_per_worker
            told = listen(app, station, drainer, num_slots, janitor.note_broker)
            station.give_up()
        logger.info("%s has ended", worker_id)
        return exit_codes.OK if told else exit_codes.WEDGED

    def _labels(self) -> list[str]:
        if self.settings.serve:
            return [label.strip() for label in self.settings.serve.split(",") if label.strip()]
        return list(dict.fromkeys(["default", self.runner.model_name]))

    def _wedged(self, station: Station, keeper: Keeper, janitor: Janitor) -> str | None:
        """Why this process is of no use any more, or None."""
        stall_s = self.settings.stall_timeout_s
        if stalled(keeper.beat_s, stall_s):
            return f"its heart has not beaten for {stall_s:g} s"
        if station.still_s() > stall_s:
            return f"a shard has made no progress for {stall_s:g} s"
        deaf_s = min(UNFETCHED_S, stall_s)
        since_s = janitor.waiting_since_s
        if since_s is not None and stalled(since_s, deaf_s):
            return f"shards have waited for {deaf_s:g} s and no ticket has come through"
        return None

    def _describe(self, station: Station) -> Mapping[str, str | int | float]:
        num_holdings = len(station.holdings())
        station.metrics.set_shards_held(num_holdings)
        station.metrics.engine(self.runner.stats())
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "model": self.runner.model_name,
            "labels": ",".join(station.labels),
            "version": version("dgq"),
            "python": platform.python_version(),
            "slots": self.settings.shards_per_worker,
            "busy": num_holdings,
            "rows": station.num_rows,
            "state": "draining" if station.draining.is_set() else "working",
        }


def _end_broken(station: Station, error: EngineError) -> None:
    """The engine is dead: give the shards back, as deaths, and let a supervisor start anew."""
    logger.critical("the engine is broken: %s", error)

    def end() -> None:
        station.draining.set()
        deadline_s = time.monotonic() + GRACE_S
        while station.holdings() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        os._exit(exit_codes.BROKEN_DEVICE)

    threading.Thread(target=end, name="dgq-end", daemon=True).start()


def _ring(app: Celery, label: str, batch_id: str, count: int) -> None:
    try:
        ring(app, label, batch_id, count)
    except OperationalError as error:
        logger.debug("no ticket sent: %s", error)
