"""The worker's pulse: renews the leases in hand, whatever else the worker is doing or waiting for."""

import threading
import time
from typing import Self

from .station import Station


class Keeper:
    """One thread. Use as a context manager around the worker's life.

    interval_s: between two renewals, a quarter of a lease or less. beat_s: time.monotonic() of the last.
    """

    def __init__(self, station: Station, *, interval_s: float) -> None:
        self.beat_s = time.monotonic()
        self._station = station
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dgq-keeper", daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._station.keep()
            self.beat_s = time.monotonic()
