"""The body of ``dgq submit``: which server, which jobs, and what OUT has already."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from dgq.pipelines.parsing import DEFAULT_LIMITS

from .. import exit_codes
from ..client.checking import check_new
from ..client.resuming import Plan, may_be_complete, plan_resume, without
from ..client.sidecar import remove_sidecar
from ..errors import UsageFault
from ..guard import say
from ..host import SHIPPED_MODEL_PATH
from ..jobs_input import STDIN, Entry, find_inputs, name_inputs, read_inputs
from ..ledger.types import JobOptions, NewBatch
from ..output import STDOUT, ResultWriter, check_output
from ..private_server import running_private_server
from ..resume import EarlierRows, read_earlier_rows
from ..settings import Settings
from .delivery import Delivery, Detached, hand_over
from .options import connected
from .showing import BadLines, num_lines, report_nothing
from .wanted import Sink, Wanted, check_unfinished


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """The command line of ``dgq submit``, but for what becomes of the batch."""

    inputs: tuple[str, ...]
    detach: bool
    priority: int
    job_key: str | None
    label: str
    seed: int | None
    max_attempts: int | None
    num_workers: int | None

    def new_batch(self, names: list[str]) -> NewBatch:
        """The batch to be, of these inputs."""
        return NewBatch(
            label=self.label,
            priority=self.priority,
            source=name_inputs(names),
            job_key=self.job_key,
            options=JobOptions(self.seed, self.max_attempts),
        )


def submit_command(options: SubmitOptions, wanted: Wanted, settings: Settings) -> int:
    """Do what the command line says; returns the exit code. Raises CommandError."""
    try:
        return _submit(options, wanted, settings)
    except Detached:
        return exit_codes.INTERRUPTED


def _submit(options: SubmitOptions, wanted: Wanted, settings: Settings) -> int:
    if options.detach and (wanted.watch or wanted.out is not None):
        raise UsageFault("--detach excludes --watch and --output, which wait")
    private = settings.redis_url is None and running_private_server(settings) is None
    if private and options.detach:
        raise UsageFault(
            "--detach needs a server that stays: start one with 'dgq up', or set DGQ_REDIS_URL"
        )
    if options.num_workers is not None and not private:
        say("--workers is about a private server, and there is a server already: it has no effect")
    if private and wanted.out is None:
        wanted = replace(wanted, out=STDOUT)
    wanted.check()
    check_new(options.new_batch([STDIN]))
    if private:
        _check_served(options.label, settings)
    if wanted.out is None:
        return _without_results(options, wanted, find_inputs(options.inputs), settings)
    names = find_inputs(options.inputs, out=None if wanted.out == STDOUT else Path(wanted.out))
    out = check_output(names, wanted.out, resume=wanted.resume, overwrite=wanted.overwrite)
    check_unfinished(out, wanted)
    with ResultWriter(out) as writer:
        return _with_results(options, wanted, names, settings, writer, private=private)


def _check_served(label: str, settings: Settings) -> None:
    """Raises UsageFault where the workers that are about to be started would not run the batch."""
    model_path = settings.model_path or SHIPPED_MODEL_PATH
    served = settings.serve.split(",") if settings.serve else ["default", model_path.name]
    if label not in [name.strip() for name in served]:
        raise UsageFault(
            f"the workers of a private server serve {', '.join(served)}, not {label}; leave "
            "--model-name out, or set DGQ_SERVE or DGQ_MODEL"
        )


def _without_results(
    options: SubmitOptions, wanted: Wanted, names: list[str], settings: Settings
) -> int:
    bad = BadLines()
    entries = bad.told(_read(names, settings, bad))
    with connected(settings) as client:
        if not wanted.watch:
            total = None if wanted.quiet else num_lines(names)
            return hand_over(client, entries, options.new_batch(names), total, wanted)
        delivery = Delivery(client, options.new_batch(names), wanted, None, piped=names == [STDIN])
        return delivery.report(delivery.run(entries))


def _with_results(
    options: SubmitOptions,
    wanted: Wanted,
    names: list[str],
    settings: Settings,
    writer: ResultWriter,
    *,
    private: bool,
) -> int:
    out = writer.path if writer.regular else None
    if wanted.resume and out is not None and (rows := _complete(names, settings, out)):
        return _nothing_to_do(writer, rows, wanted)
    bad = BadLines()
    with ExitStack() as stack:
        client = None if private else stack.enter_context(connected(settings))
        read = _read(names, settings, bad)
        if (first := next(read, None)) is None:
            raise UsageFault(f"no jobs in {name_inputs(names)}")
        if client is None:
            from ..embedded import embedded

            own = stack.enter_context(embedded(settings, options.num_workers or 1))
            client = stack.enter_context(connected(own))
        plan = Plan()
        if wanted.resume and out is not None:
            plan = plan_resume(client, out, options.job_key)
            if plan.torn_bytes:
                say(f"{out} ends in a torn line; its {plan.torn_bytes} bytes are cut off")
        lacking = without(bad.told(chain([first], read)), plan.base)
        if (first := next(lacking, None)) is None:
            return _nothing_to_do(writer, plan.base, wanted)
        sink = Sink(writer, plan)
        delivery = Delivery(
            client,
            options.new_batch(names),
            wanted,
            sink,
            own_workers=private,
            piped=names == [STDIN],
        )
        info = delivery.run(chain([first], lacking))
        sink.finish(info.id)
        return delivery.report(info)


def _complete(names: list[str], settings: Settings, out: Path) -> EarlierRows | None:
    """The rows of ``out``, if it has one for each job: then no server is asked."""
    rows = read_earlier_rows(out)
    if may_be_complete(names, rows) and not any(without(_read(names, settings), rows)):
        return rows
    return None


def _nothing_to_do(writer: ResultWriter, rows: EarlierRows, wanted: Wanted) -> int:
    """OUT has a row for each job."""
    writer.start(keep_bytes=rows.keep_bytes)
    writer.close()
    assert writer.path is not None
    remove_sidecar(writer.path)
    return report_nothing(rows, str(writer.path), as_json=wanted.as_json, quiet=wanted.quiet)


def _read(names: list[str], settings: Settings, bad: BadLines | None = None) -> Iterator[Entry]:
    limits = replace(DEFAULT_LIMITS, line_bytes=settings.max_job_bytes)
    return read_inputs(names, limits=limits, on_bad=bad.add if bad else _ignore)


def _ignore(name: str, line: int, message: str) -> None:
    """Bad lines are told when the input is read for the batch."""
