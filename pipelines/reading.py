"""JSONL bytes in; jobs, or clear words about what is wrong with a line, out.

Content never raises: every line that is not blank gives exactly one Job or BadLine. Memory is
bounded by the longest line allowed and, for finding duplicate ids, by about 100 bytes a job.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from .errors import JobError
from .job import Job
from .parsing import DEFAULT_LIMITS, Limits, parse_job
from .record import Spelled

BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class BadLine:
    """An input line that is no job.

    line: counted from 1. id: where it could be read and no other line has it. field: the field
    that the message is about.
    """

    line: int
    message: str
    id: str | None = None
    field: str | None = None


def read_jobs(
    source: BinaryIO | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Job | BadLine]:
    """Read one job a line from a binary stream or from an iterable of lines.

    Blank lines are skipped but counted. Raises only what reading the source raises.
    """
    for entry, _ in read_job_lines(source, limits=limits):
        yield entry


def read_job_lines(
    source: BinaryIO | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS
) -> Iterator[tuple[Job | BadLine, bytes]]:
    """As read_jobs, each entry with the line it was read from: UTF-8, blanks around it cut off.

    The line of a bad entry is empty.
    """
    seen: dict[bytes, int] = {}
    for number, line in _lines(source, limits.line_bytes):
        if line is None:
            yield BadLine(number, f"the line is longer than {limits.line_bytes:,} bytes"), b""
            continue
        if number == 1:
            line = line.removeprefix(BOM)
        if line := line.strip(b" \t\r\n"):
            entry = _unique(read_line(line, number, limits), number, seen)
            yield entry, b"" if isinstance(entry, BadLine) else line


def _lines(source: BinaryIO | Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None stands for one over the limit, which is skipped and never held."""
    if not hasattr(source, "readline"):
        for number, line in enumerate(source, 1):
            yield number, line if len(line.rstrip(b"\r\n")) <= limit else None
        return
    number = 0
    while line := source.readline(limit + 2):
        number += 1
        if len(line.rstrip(b"\r\n")) <= limit:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = source.readline(CHUNK)
        yield number, None


def _unique(job: Job | BadLine, number: int, seen: dict[bytes, int]) -> Job | BadLine:
    """The job, or what is wrong if an earlier line has its id."""
    if job.id is None:
        return job
    key = hashlib.blake2b(job.id.encode(), digest_size=16).digest()
    first = seen.setdefault(key, number)
    if first == number:
        return job
    # No id: a row with it would pass for the first line's result.
    return BadLine(number, f"the id {job.id!r} is already that of line {first}", None, "id")


def read_line(line: bytes, number: int, limits: Limits = DEFAULT_LIMITS) -> Job | BadLine:
    """The job of one line, or what is wrong with it."""
    data: Any = None
    try:
        data = _load(line)
        return parse_job(data, limits).at_line(number)
    except JobError as error:
        return BadLine(number, error.message, id_of(data), error.field)


def _load(line: bytes) -> Any:
    """The line's JSON value. Raises JobError."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise JobError(
            f"not UTF-8: byte 0x{byte:02x} at byte {error.start + 1} of the line"
        ) from None
    text = text.rstrip("\r\n")
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_float=_float, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        what = _first_lower(error.msg.removesuffix(" at"))
        raise JobError(f"not JSON: {what} at column {error.pos + 1}") from None
    except RecursionError:
        raise JobError("nested too deeply") from None
    except ValueError:
        raise JobError("a whole number has too many digits") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise JobError(f"the field {twice[:60]!r} occurs twice in one object")
    return values


def _float(spelling: str) -> float:
    value = float(spelling)
    return value if repr(value) == spelling else Spelled(spelling)


def _no_constant(name: str) -> Any:
    raise JobError(f"{name} is not a JSON value")


def _first_lower(text: str) -> str:
    return re.sub(r"^[A-Z](?=[a-z])", lambda first: first[0].lower(), text)


def id_of(data: object) -> str | None:
    """The id of a job that is otherwise wrong, if it is a good one."""
    value = data.get("id") if isinstance(data, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value
