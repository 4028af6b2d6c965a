"""The note beside a file of results that says which batch is being collected into it.

``OUT.dgq`` is written when the batch is created and removed once OUT has all of its rows, so that
``--resume`` goes on with that batch instead of computing its jobs a second time.
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import OutputError


@dataclass(frozen=True, slots=True)
class Sidecar:
    """batch: its id. base_bytes: what OUT held before this batch; its rows follow."""

    batch: str
    base_bytes: int

    def write(self, out: Path) -> None:
        """Put the note beside ``out``, whole or not at all. Raises OutputError."""
        path = sidecar_path(out)
        draft = path.with_name(path.name + ".new")
        try:
            with draft.open("w") as file:
                json.dump(asdict(self), file)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error

    def fits(self, out: Path) -> bool:
        """Whether ``out`` still begins with what it held then: a line begins after it."""
        try:
            with out.open("rb") as rows:
                if self.base_bytes == 0:
                    return True
                rows.seek(self.base_bytes - 1)
                return rows.read(1) == b"\n"
        except OSError:
            return False


def sidecar_path(out: Path) -> Path:
    """Where the note about ``out`` lies."""
    return out.with_name(out.name + ".dgq")


def read_sidecar(out: Path) -> Sidecar | None:
    """The note beside ``out``; None where there is none or it makes no sense."""
    try:
        fields = json.loads(sidecar_path(out).read_bytes())
        batch, base_bytes = fields["batch"], fields["base_bytes"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    good = isinstance(batch, str) and isinstance(base_bytes, int) and base_bytes >= 0
    return Sidecar(batch, base_bytes) if good else None


def remove_sidecar(out: Path, batch_id: str | None = None) -> None:
    """Take the note away; only if it is about this batch, where one is given."""
    noted = read_sidecar(out)
    if batch_id is None or (noted is not None and noted.batch == batch_id):
        with contextlib.suppress(OSError):
            sidecar_path(out).unlink()
