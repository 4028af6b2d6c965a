"""Counting what a run has done, and saying it in a few lines."""

import time
from dataclasses import dataclass, field
from typing import Self

from dgq.pipelines.result import JobResult

from . import exit_codes
from .ledger.types import BatchInfo
from .resume import EarlierRows


@dataclass(slots=True)
class Tally:
    """Counts of one run. Written by one thread, read by the progress thread as well.

    num_tokens: generated tokens of all attempts. num_canvases, num_steps: likewise.
    started_s: time.monotonic() at the first job.
    """

    num_rows: int = 0
    num_by_status: dict[str, int] = field(
        default_factory=lambda: {"ok": 0, "invalid_output": 0, "error": 0}
    )
    num_tokens: int = 0
    num_canvases: int = 0
    num_steps: int = 0
    started_s: float = field(default_factory=time.monotonic)

    def add(self, result: JobResult) -> None:
        """Count one finished row."""
        self.num_by_status[result.status] = self.num_by_status.get(result.status, 0) + 1
        self.num_tokens += result.stats.tokens
        self.num_canvases += result.stats.canvases
        self.num_steps += result.stats.steps
        self.num_rows += 1

    @classmethod
    def of_batch(cls, info: BatchInfo) -> Self:
        """The counts of a batch."""
        tally = cls(info.num_done, num_tokens=info.num_tokens)
        tally.num_canvases, tally.num_steps = info.num_canvases, info.num_steps
        for status, count in info.num_by_status.items():
            if count or status in tally.num_by_status:
                tally.num_by_status[status] = count
        return tally

    @property
    def num_failed(self) -> int:
        """Rows that are not ok."""
        return self.num_rows - self.num_by_status["ok"]

    def rates(self, now_s: float) -> str:
        """Rows and tokens per second until ``now_s`` on the monotonic clock."""
        seconds = max(now_s - self.started_s, 1e-9)
        failed = f", {self.num_failed} not ok" if self.num_failed else ""
        return f"{self.num_rows / seconds:.1f} jobs/s, {self.num_tokens / seconds:.0f} tokens/s{failed}"

    def progress_line(self, total: int | None) -> str:
        """For example ``120 of 300 jobs, 4.1 jobs/s, 130 tokens/s, 2 not ok``."""
        of_total = "" if total is None else f" of {total}"
        return f"{self.num_rows}{of_total} jobs, {self.rates(time.monotonic())}"


def summary_lines(tally: Tally, earlier: EarlierRows, where: str, seconds: float) -> list[str]:
    """What is said at the end. where: the file of results, ``standard output``, or nowhere yet."""
    counts = ", ".join(f"{count} {status}" for status, count in tally.num_by_status.items())
    jobs = "job" if tally.num_rows == 1 else "jobs"
    lines = [f"{tally.num_rows} {jobs} in {seconds:.1f} s: {counts}"]
    if tally.num_canvases:
        lines.append(
            f"{tally.num_tokens} tokens, {tally.num_tokens / max(seconds, 1e-9):.0f} tokens/s, "
            f"{tally.num_steps / tally.num_canvases:.1f} steps per canvas"
        )
    if earlier.num_rows:
        failed = earlier.num_rows - earlier.num_ok
        lines.append(f"{earlier.num_rows} rows were there before, {failed} of them not ok")
    if where:
        lines.append(f"results: {where}")
    return lines


def exit_code(tally: Tally, earlier: EarlierRows) -> int:
    """Of a run that reached its end: whether every row that is now there is ok."""
    all_ok = tally.num_failed == 0 and earlier.num_ok == earlier.num_rows
    return exit_codes.OK if all_ok else exit_codes.FAILED_ROWS
