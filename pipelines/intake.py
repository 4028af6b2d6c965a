"""Reads jobs in a thread of its own, one at a time and only when asked for one.

The input may be slow, a pipe that someone types into; finished results must not wait for its next
line. And it may be endless, so it is never read ahead.
"""

from collections.abc import Callable, Iterable
from threading import Semaphore, Thread
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class Intake(Generic[Entry]):
    """Ask for an entry with ``ask``; ``notify`` is called, in the thread, once ``take`` has it."""

    def __init__(self, entries: Iterable[Entry], notify: Callable[[], None]) -> None:
        self.asked = False
        self.exhausted = False
        self._source = iter(entries)
        self._notify = notify
        self._entry: Entry | None = None
        self._error: BaseException | None = None
        self._wanted = Semaphore(0)
        self._closed = False
        Thread(target=self._read, name="dgq-intake", daemon=True).start()

    def ask(self) -> None:
        """Have the next entry read, unless that is under way or there is none."""
        if not self.asked and not self.exhausted:
            self.asked = True
            self._wanted.release()

    def take(self) -> Entry | None:
        """The entry that was asked for, None at the end. Raises what the input raised."""
        self.asked = False
        if self._error is not None:
            raise self._error
        entry, self._entry = self._entry, None
        return entry

    def close(self) -> None:
        """Read no more. A read that is under way is left to itself."""
        self._closed = True
        self._wanted.release()

    def _read(self) -> None:
        while True:
            self._wanted.acquire()
            if self._closed:
                return
            try:
                self._entry = next(self._source)
            except StopIteration:
                self.exhausted = True
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                self._error = error
            self._notify()
