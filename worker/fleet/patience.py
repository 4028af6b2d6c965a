"""Calling a server that may be away, or full, for a while: a worker waits, it does not end."""

import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

T = TypeVar("T")
LONGEST_PAUSE_S = 1.0


class Patience:
    """Calls again what the server could not answer, until it can or ``give_up()`` is true.

    report: told of the error when a call fails, and None once one succeeds.
    """

    def __init__(
        self, give_up: Callable[[], bool], report: Callable[[RedisError | None], None]
    ) -> None:
        self._give_up = give_up
        self._report = report

    def call(self, ask: Callable[[], T]) -> T | None:
        """What ``ask`` returns; None when given up."""
        pause_s = 0.05
        while True:
            try:
                value = ask()
            except RedisError as error:
                self._report(error)
                if self._give_up():
                    return None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self._report(None)
                return value
