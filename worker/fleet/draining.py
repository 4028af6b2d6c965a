"""How a worker ends when it is told to: what is begun may finish within the drain time, the rest is
given back; told a second time, or by SIGQUIT, it gives everything back at once."""

import logging
import os
import signal
import threading
import time

from .. import exit_codes
from .station import Station

logger = logging.getLogger("dgq.worker")

GRACE_S = 5.0
"""Beyond the drain time, until a process that does not end is ended."""

UNWIND_S = 1.0
"""For threads to notice that they are to give up; what still hangs then is given back over them."""


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def end_on_signals() -> None:
    """Until the worker has something in hand, a signal simply ends the process."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(exit_codes.OK))


def end_with_stdin() -> None:
    """Take the end of stdin, a parent's pipe, for SIGTERM: the parent may have died without one."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="dgq-parent", daemon=True).start()


class Drainer:
    """Every ``begin`` starts a thread, which sees to it that the process ends in time."""

    def __init__(self, station: Station, timeout_s: float) -> None:
        self._station = station
        self._timeout_s = timeout_s
        self._begun = False

    def begin(self, *, at_once: bool = False) -> None:
        """Drain; at_once, or a second time: give up what is in hand. May be called by a signal."""
        patience_s = 0.0 if at_once or self._begun else self._timeout_s
        self._begun = True
        threading.Thread(target=self._drain, args=(patience_s,), daemon=True).start()

    def _drain(self, patience_s: float) -> None:
        logger.info("draining for up to %g s", patience_s)
        self._station.drain()
        self._wait(patience_s)
        threading.Thread(target=_end, args=(GRACE_S,), daemon=True).start()
        self._station.give_up()
        if not self._wait(UNWIND_S):
            self._station.abandon()
            _end(0.0)

    def _wait(self, patience_s: float) -> bool:
        """Whether nobody works any more."""
        deadline_s = time.monotonic() + patience_s
        while self._station.num_working and time.monotonic() < deadline_s:
            time.sleep(0.02)
        return not self._station.num_working


def _end(after_s: float) -> None:
    time.sleep(after_s)
    logger.warning("something hangs: ended without waiting for it")
    os._exit(exit_codes.OK)
