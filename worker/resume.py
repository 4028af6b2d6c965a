"""What an earlier run has left in its file of results, so that only the rest is run."""

import json
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

    ids: of the jobs. lines: input line numbers of the bad lines, which have no id.
    keep_bytes: the length of the whole rows; what follows is a torn line.
    """

    ids: set[str] = field(default_factory=set)
    lines: set[int] = field(default_factory=set)
    num_ok: int = 0
    num_rows: int = 0
    keep_bytes: int = 0
    torn_bytes: int = 0

    def has_id(self, job_id: str) -> bool:
        """Whether the job with this id has its row."""
        return job_id in self.ids

    def has_line(self, line: int) -> bool:
        """Whether the bad input line with this number has its row."""
        return line in self.lines


def read_earlier_rows(path: Path) -> EarlierRows:
    """Read a file of results; a missing one is empty, a torn last line is not counted.

    Raises CommandError, naming the line, where a whole line is not a row of results.
    """
    earlier = EarlierRows()
    if not path.is_file():
        return earlier
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    if not line.startswith(ROW_START[: len(line)]):
                        raise _not_a_row(path, number)
                    earlier.torn_bytes = len(line)
                    break
                _add(earlier, _parse(path, number, line))
                earlier.keep_bytes += len(line)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    return earlier


def _add(earlier: EarlierRows, row: dict[str, Any]) -> None:
    earlier.num_rows += 1
    earlier.num_ok += row["status"] == "ok"
    if row["id"] is None:
        earlier.lines.add(row["line"])
    else:
        earlier.ids.add(row["id"])


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not all(_is_row(row)):
        raise _not_a_row(path, number)
    return row


def _not_a_row(path: Path, number: int) -> CommandError:
    return CommandError(
        f"{path} line {number} is not a row of results; is this the right file for --resume?"
    )


def _is_row(row: dict[str, Any]) -> Iterator[bool]:
    yield isinstance(row.get("status"), str)
    yield isinstance(row.get("id"), str) or (
        row.get("id", "") is None and isinstance(row.get("line"), int)
    )
