"""Where result rows go: one JSON line each, whole or not at all.

A row is handed to the operating system at once, so that a reader sees it and a killed process
loses nothing that it had reported. On a regular file a row that could only be written in part
(a full disk) is taken back, so that the file always ends after a whole row.
"""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import OutputClosed, OutputError, UsageFault

STDOUT = "-"


class ResultWriter:
    """Writes rows to a file or to standard output.

    path: the file, or None for standard output. The file is opened (and locked) at once, so that
    an unwritable one is reported before the model is loaded, but not changed before ``start``.
    Raises OutputError where the file cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.num_rows = 0
        self._created = path is not None and not path.exists()
        self._fd = 1 if path is None else _open(path)
        self.regular = path is not None and stat.S_ISREG(os.fstat(self._fd).st_mode)
        if self.regular:
            self._lock()

    def start(self, *, keep_bytes: int = 0) -> None:
        """Cut an existing file back to its first ``keep_bytes``; rows are appended to them."""
        self._created = False
        if self.regular:
            os.ftruncate(self._fd, keep_bytes)
            os.lseek(self._fd, 0, os.SEEK_END)

    def write(self, row: bytes) -> None:
        """Write one row, given without its line end. Raises OutputError or OutputClosed."""
        self.write_rows([row])

    def write_rows(self, rows: Sequence[bytes]) -> None:
        """Write some rows at once: on a regular file all of them, or none where that fails."""
        if not rows:
            return
        rest = memoryview(b"\n".join(rows) + b"\n")
        begin = os.lseek(self._fd, 0, os.SEEK_CUR) if self.regular else 0
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BrokenPipeError as error:
            raise OutputClosed(str(error)) from error
        except OSError as error:
            if self.regular:
                os.ftruncate(self._fd, begin)
                os.lseek(self._fd, begin, os.SEEK_SET)
            raise OutputError(self._after_failure(error)) from error
        self.num_rows += len(rows)

    def close(self) -> None:
        """Make the rows durable and close; a file that was created and never started is removed."""
        if self.path is None or self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if self.regular:
                os.fsync(fd)
        except OSError as error:
            raise OutputError(self._after_failure(error)) from error
        finally:
            os.close(fd)
            if self._created and self.regular:
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return  # a file system without locks: go on as one would without this check
            os.close(self._fd)
            raise OutputError(f"another dgq run is writing {self.path}") from error

    def _after_failure(self, error: OSError) -> str:
        if self.path is None:
            return f"cannot write to standard output: {error.strerror}"
        text = f"cannot write {self.path}: {error.strerror}"
        if not self.regular:
            return text
        return (
            f"{text}; the {self.num_rows} results of this run that are in it are whole, "
            "and the same command with --resume adds the rest"
        )


def check_output(
    jobs: str | Sequence[str], out: str, *, resume: bool, overwrite: bool
) -> Path | None:
    """Decide where results go: a path, or None for standard output. jobs: one input, or several.

    Raises UsageFault for what would lose data or makes no sense.
    """
    if resume and overwrite:
        raise UsageFault("--resume and --overwrite exclude each other")
    if out == STDOUT:
        if resume:
            raise UsageFault("--resume needs a file of results: add --output FILE")
        if sys.stdout is None:
            raise UsageFault("standard output is closed")
        return None
    path = Path(out)
    if path.is_dir():
        raise UsageFault(f"{out} is a folder; --output needs a file")
    if not path.parent.is_dir():
        raise UsageFault(f"the folder {path.parent} for the results does not exist")
    inputs = [jobs] if isinstance(jobs, str) else jobs
    if path.exists() and any(os.path.samefile(name, path) for name in inputs if name != STDOUT):
        raise UsageFault(f"{out} holds the jobs; the results need another file")
    has_rows = path.is_file() and path.stat().st_size > 0
    if has_rows and not (resume or overwrite):
        raise UsageFault(f"{out} exists; add --resume to continue it or --overwrite to replace it")
    return path


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
