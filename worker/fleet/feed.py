"""The jobs of a shard on their way into a runner, and the two ways to stop them.

A runner pulls jobs as it has room, in a thread of its own. The feed does not end with its last job
but with the last result: until then it can still interrupt the runner, by raising from where the
runner waits for more.
"""

from collections.abc import Iterator, Sequence
from threading import Condition
from typing import Literal

from dgq.pipelines.job import Job
from dgq.pipelines.reading import BadLine

Interruption = Literal["lost", "gone", "cancelled", "released"]


class Interrupted(Exception):
    """The shard is not to be worked on any more; caught where the shard is run."""


class Feed:
    """Iterate it once. The other methods may be called from any thread, at any time."""

    def __init__(self, entries: Sequence[Job | BadLine]) -> None:
        self.interruption: Interruption | None = None
        self.entries = entries
        self._closed = False
        self._num_out = 0
        self._changed = Condition()

    def __iter__(self) -> Iterator[Job | BadLine]:
        """The jobs. Raises Interrupted."""
        for entry in self.entries:
            with self._changed:
                if self._closed or self.interruption:
                    break
                self._num_out += 1
            yield entry
        with self._changed:
            self._changed.wait_for(lambda: self.interruption is not None or self._num_out == 0)
            if self.interruption is not None:
                raise Interrupted(self.interruption)

    def took_result(self) -> None:
        """A result has come out of the runner."""
        with self._changed:
            self._num_out -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out no more jobs; those that are out may finish."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def interrupt(self, reason: Interruption) -> None:
        """Give up what is out as well. The first reason stays."""
        with self._changed:
            self.interruption = self.interruption or reason
            self._changed.notify_all()
