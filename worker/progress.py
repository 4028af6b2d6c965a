"""Progress on stderr: a live bar on a terminal, one plain line now and then elsewhere."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from .guard import say

_CHUNK_BYTES = 1 << 20


class Growing(Protocol):
    """What progress is shown of; read by the progress thread while others write it."""

    @property
    def num_rows(self) -> int:
        """What the bar shows."""
        ...

    def rates(self, now_s: float) -> str:
        """What stands beside it. now_s: on the monotonic clock."""
        ...

    def progress_line(self, total: int | None) -> str:
        """All of it in one line."""
        ...


Total = int | None | Callable[[], int | None]
"""What there will be in the end; None where it is not known, a function where it may change."""


def progress(
    tally: Growing, *, total: Total, quiet: bool, live: bool, interval_s: float
) -> AbstractContextManager[object]:
    """Show how ``tally`` grows while the context is open."""
    if quiet:
        return nullcontext()
    known = total if callable(total) else lambda: total
    return LiveBar(tally, known) if live else PlainLines(tally, known, interval_s)


def count_lines(path: Path) -> int:
    """How many lines of the file are not blank, read in chunks."""
    num_lines, line_has_text = 0, False
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            first, *others = chunk.split(b"\n")
            line_has_text = line_has_text or bool(first.strip())
            for piece in others:
                num_lines += line_has_text
                line_has_text = bool(piece.strip())
    return num_lines + line_has_text


class PlainLines:
    """One line every ``interval_s`` seconds, from a thread: results may be far apart."""

    def __init__(self, tally: Growing, total: Callable[[], int | None], interval_s: float) -> None:
        self._tally = tally
        self._total = total
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dgq-progress", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop it."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._interval_s):
            say(self._tally.progress_line(self._total()))


class LiveBar:
    """A rich progress bar that reads the tally a few times a second."""

    def __init__(self, tally: Growing, total: Callable[[], int | None]) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._tally = tally
        self._total = total
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=total())
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dgq-progress", daemon=True)

    def __enter__(self) -> Self:
        """Draw the bar."""
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Draw it a last time and leave it there."""
        self._done.set()
        self._thread.join()
        self._draw()
        self._bar.stop()

    def _run(self) -> None:
        while not self._done.wait(0.2):
            self._draw()

    def _draw(self) -> None:
        tally = self._tally
        self._bar.update(
            self._task,
            total=self._total(),
            completed=tally.num_rows,
            description=tally.rates(time.monotonic()),
        )
        self._bar.refresh()
