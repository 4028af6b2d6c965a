"""Celery's part of a worker: it hears the tickets, and calls the station in a thread for each.

Its consumer is told to connect anew whatever goes wrong. Left to itself it would end the worker on a
message that is no JSON, and on a server that is full.
"""

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.app import trace
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer

from .app import TASK, queue_name
from .draining import SIGNALS, Drainer
from .station import Station

logger = logging.getLogger("dgq.worker")

LONGEST_PAUSE_S = 2.0
PAUSE_S = 0.25


def listen(
    app: Celery,
    station: Station,
    drainer: Drainer,
    num_slots: int,
    on_broker: Callable[[Exception | None], None],
) -> bool:
    """Work on tickets until told to end by a signal; False if Celery ends by itself.

    on_broker: told the error each time the broker cannot be reached, and None once it can.
    """

    @app.task(name=TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def work(*_: Any, **__: Any) -> None:
        try:
            station.work()
        except Exception:
            logger.exception("work broke off")

    controller = _Controller(
        app=app,
        hostname=f"{station.worker_id}@{socket.gethostname()}",
        pool_cls="threads",
        concurrency=num_slots,
        consumer_cls=_Consumer,
        queues=[queue_name(label) for label in station.labels],
        without_gossip=True,
        without_mingle=True,
    )
    controller.drain = drainer.begin
    controller.on_broker = on_broker
    if threading.current_thread() is threading.main_thread():
        _on_signals(drainer)
    controller.start()
    return not controller.exitcode


def _on_signals(drainer: Drainer) -> None:
    """Celery's own handlers wait, in the handler, for threads that nobody has told to end."""

    def end(number: int, _: object) -> None:
        drainer.begin(at_once=number == signal.SIGQUIT)
        state.should_stop = 0  # Celery's loop looks at it, and ends

    for number in SIGNALS:
        signal.signal(number, end)


class _Controller(WorkController):  # type: ignore[misc]
    """Celery's worker without its signal handlers, banner and log.

    drain: called when it ends. on_broker: see listen.
    """

    drain: Callable[[], None]
    on_broker: Callable[[Exception | None], None]

    def on_before_init(self, **_: Any) -> None:
        """What Celery's command does for its workers."""
        trace.setup_worker_optimizations(self.app, self.hostname)

    def on_close(self) -> None:
        """It will wait for its threads, which work until there is nothing left."""
        if state.should_stop is None:  # an end that no signal asked for
            self.drain()
        super().on_close()


class _Consumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, which takes every error for a lost connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection_errors = (Exception,)

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """As Celery's, but what cannot be handled is dropped: given back, it would come again."""
        handle = super().create_task_handler(*args, **options)

        def on_message(message: Any) -> None:
            try:
                handle(message)
            except Exception as error:  # noqa: BLE001 - a stranger's message ends no worker
                logger.warning("a message that is no ticket is dropped: %r", error)
                if not message.acknowledged:
                    message.ack()

        return on_message

    def ensure_connected(self, conn: Any) -> Any:
        """As Celery's, with shorter pauses."""
        conn.ensure_connection(
            lambda error, _: self.controller.on_broker(error),
            interval_start=PAUSE_S,
            interval_step=PAUSE_S,
            interval_max=LONGEST_PAUSE_S,
            callback=state.maybe_shutdown,
        )
        self.controller.on_broker(None)
        self.first_connection_attempt = False
        return conn

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Not at once again: what has failed may fail as fast as before."""
        logger.debug("connecting anew to the broker: %r", exc)
        try:
            super().on_connection_error_after_connected(exc)
        except Exception:  # closing what is half closed already
            logger.debug("the old connection is left as it is", exc_info=True)
        time.sleep(PAUSE_S)
