"""Decides what the next step holds; touches no tensors.

Continuous batching: every canvas in flight takes part in every step, each at its own step count,
and one that leaves makes room for a waiting request in the next step. First come, first served: a
wide canvas at the head of the queue waits for its rows and nothing overtakes it, so none starves.
One canvas may always run alone, however low the row budget has been set.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .canvas import Generation
from .errors import EngineError

MERGE_ROWS = 32
"""Padding rows that cost less than denoising one more group apart."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: who is read by the encoder, whose canvas starts, who is denoised with whom."""

    encode: list[Generation]
    start: list[Generation]
    groups: list[list[Generation]]


class Scheduler:
    """Moves generations from waiting to running, within a budget of canvases and rows."""

    def __init__(
        self,
        max_canvases: int,
        max_rows: int,
        may_start: Callable[[Generation], bool] = lambda generation: True,
    ) -> None:
        """may_start is asked as a generation leaves the queue, each time; False drops it."""
        self._max_canvases = max_canvases
        self.max_rows = max_rows
        self._may_start = may_start
        self._waiting: deque[Generation] = deque()
        self._running: dict[int, Generation] = {}
        self._rows: dict[int, int] = {}
        self.rows_in_use = 0

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._waiting and not self._running

    @property
    def num_waiting(self) -> int:
        """Generations in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Canvases in flight."""
        return len(self._running)

    def add(self, generation: Generation) -> None:
        """Append to the queue."""
        self._waiting.append(generation)

    def take_back(self) -> list[Generation]:
        """Stop all that runs; gives it, and holds none of it."""
        running = list(self._running.values())
        self._running.clear()
        self._rows.clear()
        self.rows_in_use = 0
        return running

    def put_back(self, generations: list[Generation]) -> None:
        """To the head of the queue, the largest first: one that fits nowhere is then soon alone."""
        largest_first = sorted(generations, key=_size, reverse=True)
        self._waiting.extendleft(reversed(largest_first))

    def schedule(self) -> Plan:
        """Admit what fits, and plan the next step."""
        self._admit()
        running = list(self._running.values())
        return Plan(
            encode=[generation for generation in running if generation.pending_ids],
            start=[generation for generation in running if generation.needs_start],
            groups=group_by_width(running),
        )

    def resize(self, generation: Generation) -> None:
        """Take back the rows that a generation's canvas no longer needs; all of them at its end."""
        self.rows_in_use += generation.width - self._rows[generation.number]
        self._rows[generation.number] = generation.width
        if generation.width == 0:
            del self._rows[generation.number], self._running[generation.number]

    def check(self) -> None:
        """Raise EngineError unless the rows in use are those of the running canvases."""
        rows = sum(generation.width for generation in self._running.values())
        fits = rows <= self.max_rows or len(self._running) == 1
        within = fits and len(self._running) <= self._max_canvases
        if rows != self.rows_in_use or not within:
            raise EngineError(f"row accounting is off: {self.rows_in_use} booked, {rows} in use")

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_canvases:
            generation = self._waiting[0]
            if self._running and self.rows_in_use + generation.width > self.max_rows:
                return
            self._waiting.popleft()
            if self._may_start(generation):
                self._running[generation.number] = generation
                self._rows[generation.number] = generation.width
                self.rows_in_use += generation.width


def _size(generation: Generation) -> int:
    """Tokens that it keeps in memory: what is read, what is to be read, and its canvas."""
    return generation.prefix_length + len(generation.pending_ids) + generation.width


def group_by_width(generations: Iterable[Generation]) -> list[list[Generation]]:
    """Canvases of one width together, widest first; a few narrow ones join the next wider.

    A group is padded to its widest canvas, so groups of one width waste nothing, and MERGE_ROWS
    of padding are accepted to save a group.
    """
    groups: list[list[Generation]] = []
    by_width: dict[int, list[Generation]] = {}
    for generation in generations:
        by_width.setdefault(generation.width, []).append(generation)
    for width in sorted(by_width, reverse=True):
        members = by_width[width]
        if groups and (groups[-1][0].width - width) * len(members) <= MERGE_ROWS:
            groups[-1].extend(members)
        else:
            groups.append(members)
    return groups
