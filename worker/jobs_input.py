"""Where jobs come from: a file or standard input, opened with every refusal in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import CommandError, UsageFault

STDIN = "-"


@contextmanager
def open_jobs(jobs: str) -> Iterator[BinaryIO]:
    """The bytes of a file of jobs; ``-`` is standard input. Raises UsageFault or CommandError."""
    if jobs == STDIN:
        if sys.stdin is None:
            raise UsageFault("standard input is closed")
        yield sys.stdin.buffer
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
    with stream:
        yield stream
