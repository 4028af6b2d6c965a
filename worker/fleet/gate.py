"""Keeps a shard that may kill its worker away from innocent ones: it is claimed and run alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Gate:
    """Many may pass together, or one alone; who wants to be alone goes first."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._alone = False
        self._waiting = 0

    @contextmanager
    def passing(self, *, alone: bool) -> Iterator[None]:
        """Wait for the turn, and hold it for the block."""
        with self._changed:
            if alone:
                self._waiting += 1
                self._changed.wait_for(lambda: self._inside == 0)
                self._waiting -= 1
                self._alone = True
            else:
                self._changed.wait_for(lambda: not (self._alone or self._waiting))
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone = False
                self._changed.notify_all()
