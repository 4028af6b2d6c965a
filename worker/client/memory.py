"""Leaves room in the server: results must still fit when all jobs are in."""

import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import OutOfMemoryError, ResponseError

from ..errors import ServerError
from ..ledger.ledger import Ledger

T = TypeVar("T")

CHECK_BYTES = 8 * 2**20
"""Raw bytes of jobs between two looks at the server's memory."""

PATIENCE_S = 60.0
PAUSE_S = 0.5


class MemoryGuard:
    """Makes a submission wait while the server uses more than ``percent`` of its maxmemory.

    on_wait: told why, once for each wait.
    """

    def __init__(self, ledger: Ledger, percent: float, on_wait: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._percent = percent
        self._on_wait = on_wait
        self._unchecked_bytes = CHECK_BYTES

    def added(self, num_bytes: int) -> None:
        """So many more bytes are in the server."""
        self._unchecked_bytes += num_bytes

    def call(self, ask: Callable[[], T]) -> T:
        """What ``ask`` returns, once there is room. Raises ServerError if none comes."""
        since_s: float | None = None
        while True:
            used = self._used_percent()
            if used <= self._percent:
                try:
                    return ask()
                except ResponseError as error:
                    if not _is_full(error):
                        raise
                    used, self._unchecked_bytes = 100.0, CHECK_BYTES
            if since_s is None:
                since_s = time.monotonic()
                self._on_wait(f"the server's memory is {used:.0f} % full; waiting for room")
            elif time.monotonic() - since_s > PATIENCE_S:
                raise ServerError(
                    f"the server's memory is {used:.0f} % full; collect results, raise maxmemory, or "
                    "submit less"
                )
            time.sleep(PAUSE_S)

    def _used_percent(self) -> float:
        """Asked once in a while only; 0 in between."""
        if self._unchecked_bytes < CHECK_BYTES:
            return 0.0
        used = self._ledger.memory_percent()
        if used <= self._percent:
            self._unchecked_bytes = 0
        return used


def _is_full(error: ResponseError) -> bool:
    """Redis 6.2 wraps what a script was refused in words of its own."""
    return isinstance(error, OutOfMemoryError) or "-OOM " in str(error)
