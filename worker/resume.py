"""What an earlier run has left in its file of results, so that only the rest is run."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CommandError

ROW_START = b'{"id":'
"""How every row begins: a last line that does not is no torn row but some other file's."""


@dataclass(slots=True)
class EarlierRows:
    """The rows that are there. A row counts as there whatever its status.

    ids: of the jobs. lines: input line numbers of the bad lines, which have no id; of several
    files each may have such a line, hence a count. keep_bytes: where the whole rows end; what
    follows is a torn line.
    """

    ids: set[str] = field(default_factory=set)
    lines: Counter[int] = field(default_factory=Counter)
    num_ok: int = 0
    num_rows: int = 0
    keep_bytes: int = 0
    torn_bytes: int = 0

    def has_id(self, job_id: str) -> bool:
        """Whether the job with this id has its row."""
        return job_id in self.ids

    def has_line(self, line: int) -> bool:
        """Whether the bad input line with this number has its row."""
        return self.lines[line] > 0


class Taker:
    """Matches jobs or rows with earlier rows, one by one: the earlier row of a bad line counts once."""

    def __init__(self, earlier: EarlierRows) -> None:
        self._ids = earlier.ids
        self._lines = Counter(earlier.lines)
        self.any = bool(self._ids or self._lines)

    def take(self, job_id: str | None, line: int | None) -> bool:
        """Whether there is an earlier row for this one."""
        if job_id is not None:
            return job_id in self._ids
        found = line is not None and self._lines[line] > 0
        if found:
            assert line is not None
            self._lines[line] -= 1
        return found


def read_earlier_rows(
    path: Path, *, after: EarlierRows | None = None, until_bytes: int | None = None
) -> EarlierRows:
    """Read a file of results; a missing one is empty, a torn last line is not counted.

    after: only the rows behind these, which were read before. until_bytes: only those before this
    byte, where a line must begin. Raises CommandError, naming the line, where a whole line is not a row of results.
    """
    before = after or EarlierRows()
    earlier = EarlierRows(keep_bytes=before.keep_bytes)
    if not path.is_file():
        return earlier
    try:
        with path.open("rb") as lines:
            lines.seek(before.keep_bytes)
            for number, line in enumerate(lines, start=before.num_rows + 1):
                if until_bytes is not None and earlier.keep_bytes >= until_bytes:
                    break
                if not line.endswith(b"\n"):
                    if not line.startswith(ROW_START[: len(line)]):
                        raise _not_a_row(path, number)
                    earlier.torn_bytes = len(line)
                    break
                if (row := parse_row(line)) is None:
                    raise _not_a_row(path, number)
                _add(earlier, row)
                earlier.keep_bytes += len(line)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    return earlier


def _add(earlier: EarlierRows, row: dict[str, Any]) -> None:
    earlier.num_rows += 1
    earlier.num_ok += row["status"] == "ok"
    if row["id"] is None:
        earlier.lines[row["line"]] += 1
    else:
        earlier.ids.add(row["id"])


def parse_row(line: bytes) -> dict[str, Any] | None:
    """The row that a line of results holds; None where it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and all(_is_row(row)) else None


def _not_a_row(path: Path, number: int) -> CommandError:
    return CommandError(
        f"{path} line {number} is not a row of results; is this the right file for --resume?"
    )


def _is_row(row: dict[str, Any]) -> Iterator[bool]:
    yield isinstance(row.get("status"), str)
    yield isinstance(row.get("id"), str) or (
        row.get("id", "") is None and isinstance(row.get("line"), int)
    )
