"""What people see while jobs are handed over and rows come back, and at the end."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from .. import exit_codes
from ..client.submission import Submitted
from ..guard import one_line, say
from ..interrupt import DelayedInterrupt
from ..jobs_input import STDIN, Entry
from ..ledger.types import BatchInfo
from ..output import ResultWriter
from ..progress import Growing, Total, count_lines, progress
from ..resume import EarlierRows
from ..settings import Settings
from ..summary import Tally, summary_lines
from .options import batch_fields, print_json

MOST_BAD_LINES = 20


@dataclass(slots=True)
class BadLines:
    """Says which lines of the input are bad: the first ones, and how many more at the end."""

    count: int = 0

    def add(self, name: str, line: int, message: str) -> None:
        """One bad line."""
        self.count += 1
        if self.count <= MOST_BAD_LINES:
            say(f"{'standard input' if name == STDIN else name} line {line}: {one_line(message)}")

    def told(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The entries; after the last, the count of the bad lines that were not shown."""
        yield from entries
        if self.count > MOST_BAD_LINES:
            say(f"and {self.count - MOST_BAD_LINES} more bad lines")


@dataclass(slots=True)
class HandedOver:
    """How a submission grows, for the progress display."""

    so_far: Submitted = field(default_factory=Submitted)
    begin_s: float = field(default_factory=time.monotonic)

    def update(self, so_far: Submitted) -> None:
        """After each shard."""
        self.so_far = so_far

    @property
    def num_rows(self) -> int:
        """Jobs and bad lines that the server has."""
        return self.so_far.num_jobs + self.so_far.num_bad

    def rates(self, now_s: float) -> str:
        """Jobs per second."""
        return f"{self.num_rows / max(now_s - self.begin_s, 0.1):.0f} jobs/s handed over"

    def progress_line(self, total: int | None) -> str:
        """All of it in one line."""
        of_total = "" if total is None else f" of {total}"
        return f"{self.num_rows}{of_total} jobs, {self.rates(time.monotonic())}"

    def in_words(self) -> str:
        """For example ``300 jobs, 2 bad lines``."""
        jobs, bad = self.so_far.num_jobs, self.so_far.num_bad
        text = f"{jobs} job{'s' * (jobs != 1)}"
        return f"{text}, {bad} bad line{'s' * (bad != 1)}" if bad else text


def show(
    growing: Growing, total: Total, settings: Settings, *, quiet: bool, out: str | None = None
) -> AbstractContextManager[object]:
    """The progress display: a live bar on a terminal, but not over results. out: where they go."""
    results_on_terminal = out == "-" and sys.stdout.isatty()
    return progress(
        growing,
        total=total,
        quiet=quiet,
        live=sys.stderr.isatty() and not results_on_terminal,
        interval_s=settings.progress_interval_s,
    )


def num_lines(names: Sequence[str]) -> int | None:
    """The lines of the inputs that are not blank; None where that cannot be known beforehand."""
    paths = [Path(name) for name in names]
    if STDIN in names or not all(path.is_file() for path in paths):
        return None
    return sum(map(count_lines, paths))


def uninterrupted(
    writer: ResultWriter, interrupt: DelayedInterrupt
) -> Callable[[Sequence[bytes]], None]:
    """A function that writes rows, which Ctrl-C does not tear."""

    def write(rows: Sequence[bytes]) -> None:
        with interrupt.held():
            writer.write_rows(rows)

    return write


def report(
    info: BatchInfo,
    *,
    where: str = "",
    earlier: EarlierRows | None = None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Say how a finished batch has ended; returns the exit code.

    where: the results. earlier: rows that were there before this batch.
    """
    earlier = earlier or EarlierRows()
    seconds = max((info.finished_s or info.created_s) - info.created_s, 0.0)
    if not quiet:
        for line in summary_lines(Tally.of_batch(info), earlier, where, seconds):
            say(line)
        if info.state == "cancelled":
            say(f"{info.id} was cancelled")
    if as_json:
        print_json(batch_fields(info))
    if info.state == "cancelled":
        return exit_codes.BATCH_CANCELLED
    all_ok = info.num_failed == 0 and earlier.num_ok == earlier.num_rows
    return exit_codes.OK if all_ok else exit_codes.FAILED_ROWS


def report_nothing(earlier: EarlierRows, where: str, *, as_json: bool, quiet: bool) -> int:
    """Say that OUT has a row for each job already; returns the exit code."""
    if not quiet:
        for line in summary_lines(Tally(), earlier, where, 0.0):
            say(line)
    if as_json:
        print_json({"id": None, "finished": True, "num_jobs": 0, "num_done": 0})
    all_ok = earlier.num_ok == earlier.num_rows
    return exit_codes.OK if all_ok else exit_codes.FAILED_ROWS
