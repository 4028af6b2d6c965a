"""The body of ``dgq results``."""

from dataclasses import dataclass
from pathlib import Path

from .. import exit_codes
from ..client.client import Batch
from ..client.collecting import Collector, collect
from ..client.hints import command
from ..client.sidecar import read_sidecar, remove_sidecar
from ..client.watching import BatchProgress, ServerPatience, Waiter
from ..errors import UsageFault
from ..guard import say
from ..interrupt import DelayedInterrupt
from ..ledger.types import BatchInfo
from ..output import STDOUT, ResultWriter, check_output
from ..resume import EarlierRows, read_earlier_rows
from ..settings import Settings
from .options import batch_fields, connected, find, print_json
from .showing import report, show, uninterrupted


@dataclass(frozen=True, slots=True)
class ResultsOptions:
    """The command line of ``dgq results``. out: a path, or ``-`` for stdout."""

    batch_name: str
    out: str
    follow: bool
    ordered: bool
    resume: bool
    overwrite: bool
    timeout_s: float | None
    as_json: bool
    quiet: bool


def results_command(options: ResultsOptions, settings: Settings) -> int:
    """Do what the command line says; returns the exit code. Raises CommandError."""
    if options.out == STDOUT and options.as_json:
        raise UsageFault(
            "--json and the results cannot both go to standard output: add --output FILE"
        )
    if options.timeout_s is not None and not options.follow:
        raise UsageFault("--timeout is about waiting: add --follow")
    out = check_output((), options.out, resume=options.resume, overwrite=options.overwrite)
    with ResultWriter(out) as writer, connected(settings) as client:
        batch = find(client, options.batch_name)
        base, have = EarlierRows(), EarlierRows()
        if options.resume and out is not None:
            base, have = _earlier(out, batch.id)
            if torn_bytes := base.torn_bytes + have.torn_bytes:
                say(f"{out} ends in a torn line; its {torn_bytes} bytes are cut off")
        writer.start(keep_bytes=have.keep_bytes)
        return _collect(options, batch, writer, have)


def _earlier(out: Path, batch_id: str) -> tuple[EarlierRows, EarlierRows]:
    """The rows of other batches that ``out`` begins with, and those of this one, as far as known."""
    noted = read_sidecar(out)
    base = EarlierRows()
    if noted is not None and noted.batch == batch_id and noted.fits(out):
        base = read_earlier_rows(out, until_bytes=noted.base_bytes)
    return base, read_earlier_rows(out, after=base)


def _collect(options: ResultsOptions, batch: Batch, writer: ResultWriter, have: EarlierRows) -> int:
    client = batch.client
    path = writer.path if writer.regular else None
    where = "standard output" if writer.path is None else str(writer.path)
    again = command(
        client.settings,
        *("results", batch.id),
        *(() if path is None else ("-o", str(path), "--resume")),
        *(("--ordered",) if options.ordered else ()),
        "--follow",
    )
    with DelayedInterrupt() as interrupt:
        collector = Collector(
            client.ledger,
            batch.id,
            uninterrupted(writer, interrupt),
            have=have,
            ordered=options.ordered,
        )
        growing = BatchProgress(collector)
        waiter = Waiter(
            batch,
            ServerPatience(say),
            growing,
            say=say if options.follow else _say_nothing,
            timeout_s=options.timeout_s,
            go_on=lambda info: again,
        )
        try:
            shown = show(
                growing, growing.total, client.settings, quiet=options.quiet, out=options.out
            )
            with shown:
                info = collect(waiter, collector, follow=options.follow)
        except KeyboardInterrupt:
            say(
                f"interrupted; {writer.num_rows} results were written to {where}; to go on: {again}"
            )
            return exit_codes.INTERRUPTED
    writer.close()
    if not info.finished:
        return _report_so_far(options, info, collector, where)
    if path is not None:
        remove_sidecar(path, batch.id)
    return report(info, where=where, as_json=options.as_json, quiet=options.quiet)


def _report_so_far(
    options: ResultsOptions, info: BatchInfo, collector: Collector, where: str
) -> int:
    if not options.quiet:
        say(
            f"{info.id} is not finished: {info.num_done} of "
            f"{info.num_jobs}{'' if info.sealed else ' or more'} jobs have their rows; "
            "--follow waits for the others"
        )
        if collector.num_waiting:
            say(f"{collector.num_waiting} rows wait for an earlier job's row")
        say(f"{collector.num_written} rows were written; results: {where}")
    if options.as_json:
        print_json(batch_fields(info))
    return exit_codes.OK


def _say_nothing(_: str) -> None:
    """What keeps a batch from going on is no matter to who does not wait."""
