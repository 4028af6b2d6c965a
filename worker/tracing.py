"""``--trace FILE``: a file that may hold a trace, so that a slip of the pen replaces nothing else."""

import os
from collections.abc import Iterable
from pathlib import Path

from dgq.engine.trace import BEGINNING

from .errors import OutputError, UsageFault


def check_trace(path: Path, others: Iterable[str]) -> None:
    """Raise UsageFault where something other than an earlier trace would be lost.

    others: what this run reads and writes beside it, as on the command line.
    """
    if path.is_dir():
        raise UsageFault(f"{path} is a folder; --trace needs a file")
    if not path.parent.is_dir():
        raise UsageFault(f"the folder {path.parent} for the trace does not exist")
    for other in others:
        same = path.exists() and Path(other).exists() and os.path.samefile(other, path)
        if same or Path(other) == path:
            raise UsageFault(f"{path} holds the jobs or the results; the trace needs another file")
    if path.is_file() and path.stat().st_size > 0 and not _is_trace(path):
        raise UsageFault(f"{path} exists and is no trace; name another file for the trace")


def _is_trace(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(BEGINNING)) == BEGINNING
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
