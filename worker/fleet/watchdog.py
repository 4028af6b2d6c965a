"""Ends a process that no longer works but does not die either; its leases then run out.

Threads cannot be ended from outside, so the process is, with an exit code that a supervisor restarts.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Self

logger = logging.getLogger("dgq.worker")


class Watchdog:
    """Asks ``is_wedged`` once in a while; a reason ends the process."""

    def __init__(
        self,
        is_wedged: Callable[[], str | None],
        *,
        exit_code: int,
        interval_s: float = 1.0,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._is_wedged = is_wedged
        self._exit_code = exit_code
        self._interval_s = interval_s
        self._end = end
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dgq-watchdog", daemon=True)

    def __enter__(self) -> Self:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            reason = self._is_wedged()
            if reason:
                logger.critical("this worker ends itself: %s", reason)
                self._end(self._exit_code)
                return


def stalled(last_s: float, timeout_s: float) -> bool:
    """Whether the monotonic clock is more than a time-out past ``last_s``."""
    return time.monotonic() - last_s > timeout_s
