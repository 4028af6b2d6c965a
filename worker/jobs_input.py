"""Where jobs come from: a file or standard input, opened with every refusal in one line."""

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import CommandError, UsageFault

STDIN = "-"


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
    if path.is_dir():
        raise UsageFault(f"{jobs} is a folder, not a file of jobs")
    if not path.exists():
        raise UsageFault(f"{jobs} does not exist")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise CommandError(f"cannot read {jobs}: {error.strerror}") from error
    try:
        yield stream
    finally:
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.close()
