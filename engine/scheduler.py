"""Decides what the next step holds; touches no tensors.

Continuous batching: every canvas in flight takes part in every step, each at its own step count,
and one that leaves makes room for a waiting request in the next step. First come, first served: a
wide canvas at the head of the queue waits for its rows and nothing overtakes it, so none starves.
One canvas may always run alone, however low the row budget has been set.

Reading shares the steps: the tokens that the encoder must read (prompts, committed canvases) are
rows of the same forward, as many as the budget has left and as there are pages for, a long text over
several steps. A canvas is denoised from the step on in which the last token before it is read. Texts
are read in the order of their admission, so a shared beginning is read before, or together with, what
builds on it. Why every text gets its pages: sliding_pages.py.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from dgq.kernels.page import PAGE_TOKENS

from .canvas import Generation
from .errors import EngineError
from .kv_pages import KVPages, TextPages
from .sliding_pages import READ_ROOM_PAGES

LEAST_READ_ROWS = READ_ROOM_PAGES * PAGE_TOKENS
"""Rows that reading may always take, however full of canvases a step is. So a step has at most the row
budget, these, and one canvas that begins."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of a text that the encoder reads in one step.

    ids: int64 tokens at positions start, start + 1, ... pages: of the text, as they are in this step.
    """

    ids: tuple[int, ...]
    start: int
    pages: TextPages


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: what is read, whose canvas starts, whose canvas is denoised (the starting too)."""

    chunks: list[Chunk]
    start: list[Generation]
    canvases: list[Generation]

    @property
    def is_empty(self) -> bool:
        """There is nothing to do before a step in flight is judged."""
        return not self.chunks and not self.canvases

    @property
    def num_read_rows(self) -> int:
        """Rows of this step that the encoder reads."""
        return sum(len(chunk.ids) for chunk in self.chunks)

    @property
    def num_canvas_rows(self) -> int:
        """Rows of this step that are denoised."""
        return sum(generation.width for generation in self.canvases)


class Scheduler:
    """Moves generations from waiting to running, within budgets of canvases, rows and pages."""

    def __init__(
        self,
        max_canvases: int,
        max_rows: int,
        pages: KVPages,
        may_start: Callable[[Generation], bool] = lambda generation: True,
    ) -> None:
        """may_start is asked as a generation leaves the queue, each time; False drops it."""
        self._max_canvases = max_canvases
        self.max_rows = max_rows
        self._pages = pages
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

    @property
    def running(self) -> Collection[Generation]:
        """All in flight, in the order of their admission."""
        return self._running.values()

    def add(self, generation: Generation) -> None:
        """Append to the queue."""
        self._waiting.append(generation)

    def take_back(self) -> list[Generation]:
        """Stop all that runs, and forget what has been read; gives it, and holds none of it."""
        running = list(self._running.values())
        for generation in running:
            generation.let_go()
        self._pages.clear()
        self._running.clear()
        self._rows.clear()
        self.rows_in_use = 0
        return running

    def put_back(self, generations: list[Generation]) -> None:
        """To the head of the queue, the largest first: one that fits nowhere is then soon alone."""
        largest_first = sorted(generations, key=_size, reverse=True)
        self._waiting.extendleft(reversed(largest_first))

    def schedule(self) -> Plan:
        """Admit what fits, and plan the next step. What it plans to read counts as read."""
        for generation in self._running.values():
            self._pages.let_go(generation.pages)
        self._admit()
        chunks: list[Chunk] = []
        canvases: list[Generation] = []
        busy_rows = sum(g.width for g in self._running.values() if not g.pending_ids)
        budget = max(self.max_rows - busy_rows, min(self.max_rows, LEAST_READ_ROWS))
        complete = True  # all texts so far are read; a later one may share their pages
        for generation in self._running.values():
            if generation.pending_ids and complete and budget > 0:
                chunk = self._read(generation, budget)
                if chunk is not None:
                    budget -= len(chunk.ids)
                    chunks.append(chunk)
                if not generation.pending_ids:
                    budget -= generation.width  # its canvas begins in this step
            complete = complete and not generation.pending_ids
            is_read = complete or not (generation.pending_ids or generation.needs_start)
            if is_read and generation.has_steps_left:
                generation.plan_step()
                canvases.append(generation)
        return Plan(chunks, [g for g in canvases if g.needs_start], canvases)

    def resize(self, generation: Generation) -> None:
        """Take back the rows that a generation's canvas no longer needs; all of it at its end."""
        self.rows_in_use += generation.width - self._rows[generation.number]
        self._rows[generation.number] = generation.width
        if generation.width == 0:
            self._pages.release(generation.let_go())
            del self._rows[generation.number], self._running[generation.number]

    def check(self) -> None:
        """Raise EngineError unless the rows and pages in use are those of the running canvases."""
        running = self._running.values()
        rows = sum(generation.width for generation in running)
        fits = rows <= self.max_rows or len(running) == 1
        within = fits and len(running) <= self._max_canvases
        if rows != self.rows_in_use or not within:
            raise EngineError(f"row accounting is off: {self.rows_in_use} booked, {rows} in use")
        self._pages.check(generation.pages for generation in running)

    def _read(self, generation: Generation, budget: int) -> Chunk | None:
        """The next tokens to read, at most budget; all but the last chunk of a text end with a page.

        None where others have read all, or where there is no page to read into.
        """
        pages = generation.pages
        if not pages.is_begun:
            generation.find_read(self._pages.begin(pages))
        start, ids = generation.prefix_length, generation.pending_ids
        num_readable = self._pages.num_readable(pages)
        if not ids or num_readable == 0:
            return None
        budget = min(budget, num_readable)
        if len(ids) > budget:
            end = (start + budget) // PAGE_TOKENS * PAGE_TOKENS
            ids = ids[: max(end - start, PAGE_TOKENS - start % PAGE_TOKENS)]
        self._pages.read(pages, len(ids))
        generation.read(len(ids))
        return Chunk(ids, start, pages)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_canvases:
            generation = self._waiting[0]
            if self._running and self.rows_in_use + generation.width > self.max_rows:
                return
            pages = self._pages.admit(
                generation.pending_ids, generation.max_tokens, generation.width
            )
            if pages is None:
                return
            self._waiting.popleft()
            if not self._may_start(generation):
                self._pages.undo(pages)
                continue
            generation.pages = pages
            self._running[generation.number] = generation
            self._rows[generation.number] = generation.width
            self.rows_in_use += generation.width


def _size(generation: Generation) -> int:
    """Tokens that it keeps in memory: what is read, what is to be read, and its canvas."""
    return generation.prefix_length + len(generation.pending_ids) + generation.width
