"""What the command line wants to become of a batch, and the file that it is collected into."""

from dataclasses import dataclass
from pathlib import Path

from ..client.client import Batch
from ..client.resuming import Plan
from ..client.sidecar import Sidecar, read_sidecar, remove_sidecar, sidecar_path
from ..errors import UsageFault
from ..output import STDOUT, ResultWriter


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line wants to become of the batch. out: a path, ``-``, or None."""

    out: str | None
    watch: bool
    ordered: bool
    resume: bool
    overwrite: bool
    timeout_s: float | None
    as_json: bool
    quiet: bool

    def check(self) -> None:
        """Raises UsageFault for options that make no sense together."""
        if self.out is None:
            for option in ("ordered", "resume", "overwrite"):
                if getattr(self, option):
                    raise UsageFault(f"--{option} is about results: add --output FILE")
            if self.timeout_s is not None and not self.watch:
                raise UsageFault("--timeout is about waiting: add --watch or --output FILE")
        if self.out == STDOUT and self.as_json:
            raise UsageFault(
                "--json and the results cannot both go to standard output: add --output FILE"
            )


@dataclass(frozen=True, slots=True)
class Sink:
    """Where rows go, and what is there already."""

    writer: ResultWriter
    plan: Plan

    def begin(self, batch: Batch) -> None:
        """From now on OUT is this batch's: cut off what does not stay, and note whose it is."""
        self.writer.start(keep_bytes=self.plan.keep_bytes)
        if self.path is not None:
            Sidecar(batch.id, self.plan.base_bytes).write(self.path)

    def finish(self, batch_id: str) -> None:
        """All rows are there: make them durable, and only then take the note away."""
        self.writer.close()
        if self.path is not None:
            remove_sidecar(self.path, batch_id)

    @property
    def path(self) -> Path | None:
        """The file of results, if it is one that can be resumed."""
        return self.writer.path if self.writer.regular else None

    @property
    def where(self) -> str:
        """In words."""
        return "standard output" if self.writer.path is None else str(self.writer.path)


def check_unfinished(out: Path | None, wanted: Wanted) -> None:
    """Refuse to start anew what is being collected already. Raises UsageFault."""
    if out is None or wanted.resume or wanted.overwrite:
        return
    if (noted := read_sidecar(out)) is not None:
        raise UsageFault(
            f"{sidecar_path(out)} says that batch {noted.batch} is being collected into {out}; "
            "add --resume to go on with it or --overwrite to start anew"
        )
