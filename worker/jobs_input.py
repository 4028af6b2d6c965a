"""Where jobs come from: files or standard input, opened with every refusal in one line."""

import glob
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from dgq.pipelines.job import Job
from dgq.pipelines.parsing import DEFAULT_LIMITS, Limits
from dgq.pipelines.reading import BOM, BadLine, read_job_lines

from .errors import CommandError, UsageFault

STDIN = "-"
Entry = tuple[Job | BadLine, bytes]
"""A job with the line it was read from, or a bad line with nothing."""


@contextmanager
def open_jobs(jobs: str) -> Iterator[BinaryIO]:
    """The bytes of a file of jobs; ``-`` is standard input. Raises UsageFault or CommandError.

    A pipe is left open: a thread that waits for its next line holds the stream's lock, and to close
    it would wait as long. For the same reason the interpreter must find nothing to close at its end.
    """
    if jobs == STDIN:
        if not isinstance(sys.stdin, io.TextIOWrapper):
            raise UsageFault("standard input is closed")
        yield sys.stdin.detach()
        return
    path = Path(jobs)
    check_file(jobs)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise CommandError(f"cannot read {jobs}: {error.strerror}") from error
    try:
        yield stream
    finally:
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.close()


def check_file(jobs: str) -> None:
    """Raises UsageFault for a folder and for what does not exist."""
    if Path(jobs).is_dir():
        raise UsageFault(f"{jobs} is a folder, not a file of jobs")
    if not Path(jobs).exists():
        raise UsageFault(f"{jobs} does not exist")


def find_inputs(names: Sequence[str], *, out: Path | None = None) -> list[str]:
    """The files that names and glob patterns mean, sorted, each once; or ``-`` alone.

    out: the file of results, which no pattern means. Raises UsageFault.
    """
    if STDIN in names:
        if len(names) > 1:
            raise UsageFault("- (standard input) and files exclude each other")
        return [STDIN]
    found: dict[tuple[int, int], str] = {}
    for name in names:
        if Path(name).exists() or not glob.has_magic(name):
            check_file(name)
            matches = [name]
        else:
            matches = [path for path in glob.glob(name, recursive=True) if not Path(path).is_dir()]
            if out is not None and out.exists():
                matches = [path for path in matches if not os.path.samefile(path, out)]
            if not matches:
                raise UsageFault(f"no file matches {name}")
        for path in matches:
            status = os.stat(path)
            found.setdefault((status.st_dev, status.st_ino), path)
    return sorted(found.values())


def name_inputs(names: Sequence[str]) -> str:
    """The inputs in a few words, for people."""
    if list(names) == [STDIN]:
        return "standard input"
    return names[0] if len(names) == 1 else f"{len(names)} files ({names[0]} …)"


def read_inputs(
    names: Sequence[str],
    *,
    limits: Limits = DEFAULT_LIMITS,
    on_bad: Callable[[str, int, str], None] = lambda name, line, message: None,
    on_file: Callable[[str], None] = lambda name: None,
) -> Iterator[Entry]:
    """Jobs with their lines, and bad lines, of one or several files. No id comes twice.

    Lines are counted in each file; where there are several, the messages of bad lines begin with the
    file's name. on_bad: told of each bad line with its file, its line and what is wrong.
    on_file: told of each file before its first line. Raises UsageFault and CommandError where a file cannot be read.
    """
    with closing(_Files(names, on_file)) as files:
        for entry, text in read_job_lines(files, limits=limits):  # type: ignore[arg-type]
            name, line = files.place(entry.line or 0)
            if not isinstance(entry, BadLine):
                yield entry.at_line(line), text
                continue
            message = _TWIN.sub(lambda twin: files.describe(int(twin[1])), entry.message)
            on_bad(name, line, message)
            if len(names) > 1:
                message = f"{name}: {message}"
            yield replace(entry, line=line, message=message), text


_TWIN = re.compile(r"(?<=is already that of )line (\d+)$")


class _Files:
    """Files one after the other, as one stream of lines; it knows which line is whose."""

    def __init__(self, names: Sequence[str], on_file: Callable[[str], None]) -> None:
        self._on_file = on_file
        self._rest = list(names)
        self._begins: list[tuple[int, str]] = []
        self._opened: AbstractContextManager[BinaryIO] | None = None
        self._stream: BinaryIO | None = None
        self._num_lines = 0
        self._line_ended = True

    def readline(self, size: int) -> bytes:
        """Of the next file where one has ended. Every file's last line is given a line end."""
        while True:
            if self._stream is None:
                if not self._rest:
                    return b""
                self._open(self._rest.pop(0))
            assert self._stream is not None
            line = self._stream.readline(size)
            if not line and self._line_ended:
                self._end()
                continue
            if self._line_ended and self._begins[-1][0] == self._num_lines:
                line = line.removeprefix(BOM)
                if not line.endswith(b"\n"):
                    line += self._stream.readline(size - len(line))
            if not line.endswith(b"\n") and len(line) < size:
                line += b"\n"  # the file has ended without one
            self._line_ended = line.endswith(b"\n")
            self._num_lines += self._line_ended
            return line

    def place(self, number: int) -> tuple[str, int]:
        """The file of a line, and its number in it."""
        begin, name = next(x for x in reversed(self._begins) if x[0] < number)
        return name, number - begin

    def describe(self, number: int) -> str:
        """A line in words."""
        name, line = self.place(number)
        return f"line {line} of {name}" if len(self._begins) > 1 else f"line {line}"

    def close(self) -> None:
        """Close the file that is open."""
        self._end()
        self._rest = []

    def _open(self, name: str) -> None:
        self._opened = open_jobs(name)
        self._stream = self._opened.__enter__()
        self._begins.append((self._num_lines, name))
        self._on_file(name)

    def _end(self) -> None:
        opened, self._opened, self._stream = self._opened, None, None
        if opened is not None:
            opened.__exit__(None, None, None)
