"""Whether a file of results is what a file of jobs asks for: each job's row, once, and nothing else.

No server is asked. Memory: about 150 bytes a job; ids are compared by 64 bits of their digest.
"""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dgq.pipelines.parsing import DEFAULT_LIMITS, Limits
from dgq.pipelines.reading import BadLine

from ..errors import CommandError
from ..jobs_input import read_inputs
from ..resume import parse_row

MOST_SHOWN = 20


@dataclass(slots=True)
class Finding:
    """One kind of difference: how often it occurs, and the first of them, for people and for JSON."""

    count: int = 0
    shown: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **what: Any) -> None:
        """One more."""
        self.count += 1
        if len(self.shown) < MOST_SHOWN:
            self.shown.append(what)


@dataclass(slots=True)
class Verdict:
    """What a comparison has found.

    missing: jobs and bad lines without a row (file, line). doubled: rows whose job has one already
    (line of the output, first_line: that of the first row, id, input_line). foreign: rows of no job
    (line, id, input_line). broken: lines of the output that are no rows (line, why).
    """

    num_jobs: int = 0
    num_bad_lines: int = 0
    num_rows: int = 0
    num_by_status: Counter[str] = field(default_factory=Counter)
    missing: Finding = field(default_factory=Finding)
    doubled: Finding = field(default_factory=Finding)
    foreign: Finding = field(default_factory=Finding)
    broken: Finding = field(default_factory=Finding)

    @property
    def same(self) -> bool:
        """Whether the output is what the input asks for."""
        return not any(kind.count for kind in self.kinds().values())

    def kinds(self) -> dict[str, Finding]:
        """The findings by name."""
        return {
            "missing": self.missing,
            "doubled": self.doubled,
            "foreign": self.foreign,
            "broken": self.broken,
        }


def verify(names: Sequence[str], output: Path, *, limits: Limits = DEFAULT_LIMITS) -> Verdict:
    """Compare. Raises CommandError and UsageFault where a file cannot be read."""
    verdict = Verdict()
    expected = _Expected(names, limits, verdict)
    try:
        with output.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                _check_row(expected, verdict, number, line)
    except OSError as error:
        raise CommandError(f"cannot read {output}: {error.strerror}") from error
    for file, line_number in expected.missing():
        verdict.missing.add(file=file, line=line_number)
    return verdict


def _check_row(expected: "_Expected", verdict: Verdict, number: int, line: bytes) -> None:
    row = parse_row(line)
    if row is None or not line.endswith(b"\n"):
        why = "not a row of results" if line.endswith(b"\n") else "the last line is torn"
        verdict.broken.add(line=number, why=why)
        return
    verdict.num_rows += 1
    verdict.num_by_status[row["status"]] += 1
    first = expected.see(row["id"], row.get("line"), number)
    if first is None:
        verdict.foreign.add(line=number, id=row["id"], input_line=row.get("line"))
    elif first != number:
        verdict.doubled.add(line=number, first_line=first, id=row["id"], input_line=row.get("line"))


class _Expected:
    """What rows there must be, and on which line of the output each was seen first.

    A job or bad line has a position, counted from 0 over all files.
    """

    def __init__(self, names: Sequence[str], limits: Limits, verdict: Verdict) -> None:
        self._lines = array("Q")
        self._files: list[tuple[int, str]] = []
        self._bad: dict[int, list[int]] = {}
        digests = array("Q")
        entries = read_inputs(
            names, limits=limits, on_file=lambda name: self._files.append((len(digests), name))
        )
        for entry, _ in entries:
            bad = isinstance(entry, BadLine)
            verdict.num_bad_lines += bad
            verdict.num_jobs += not bad
            line = entry.line or 0
            if entry.id is None:
                self._bad.setdefault(line, []).append(len(digests))
            digests.append(0 if entry.id is None else _digest(entry.id))
            self._lines.append(line)
        # Only now, when the reader has let go of the ids that it has seen.
        self._positions = {digest: at for at, digest in enumerate(digests) if digest}
        self._seen = array("Q", bytes(8 * len(digests)))

    def see(self, job_id: str | None, line: int | None, number: int) -> int | None:
        """Note a row on line ``number`` of the output; the line of the first one of its job.

        None: no job or bad line asks for it. Of several files each may have a bad ``line``.
        """
        if job_id is not None:
            at = self._positions.get(_digest(job_id))
        else:
            places = self._bad.get(line or 0, [])
            at = next((at for at in places if not self._seen[at]), places[-1] if places else None)
        if at is None:
            return None
        if not self._seen[at]:
            self._seen[at] = number
        return self._seen[at]

    def missing(self) -> Iterator[tuple[str, int]]:
        """(file, line) of what has no row."""
        begins = [begin for begin, _ in self._files]
        for at, number in enumerate(self._seen):
            if not number:
                yield self._files[bisect_right(begins, at) - 1][1], self._lines[at]


def _digest(job_id: str) -> int:
    digest = blake2b(job_id.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) or 1
