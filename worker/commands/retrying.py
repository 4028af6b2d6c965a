"""The body of ``dgq retry``."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from dgq.pipelines.parsing import DEFAULT_LIMITS
from dgq.pipelines.reading import read_line

from .. import exit_codes
from ..client.client import Batch, Client
from ..client.resuming import Plan, plan_resume, without
from ..errors import UsageFault
from ..guard import say
from ..jobs_input import Entry
from ..ledger.types import BatchInfo, NewBatch
from ..output import ResultWriter, check_output
from .delivery import Delivery, Detached, Sink, Wanted, check_unfinished, hand_over
from .options import connected, find
from .showing import report_nothing


def retry_command(batch_name: str, seed: int | None, wanted: Wanted) -> int:
    """Do what the command line says; returns the exit code. Raises CommandError."""
    wanted.check()
    try:
        with connected() as client:
            batch = find(client, batch_name)
            info = batch.status()
            if not info.finished:
                say(f"{info.id} is not finished; only what has failed so far is tried again")
            new = _new_batch(info, seed)
            if wanted.out is None:
                return _without_results(client, batch, new, wanted)
            return _with_results(client, batch, new, wanted, wanted.out)
    except Detached:
        return exit_codes.INTERRUPTED


def _new_batch(info: BatchInfo, seed: int | None) -> NewBatch:
    """As the one before, but with another seed: the same one would give the same output."""
    options = replace(info.options, seed=(info.options.seed or 0) + 1 if seed is None else seed)
    return NewBatch(info.label, info.priority, info.source, retry_of=info.id, options=options)


def _failed(batch: Batch) -> Iterator[Entry]:
    """The jobs to try again, with their lines in the input. Raises UsageFault where there are none."""
    limits = replace(DEFAULT_LIMITS, line_bytes=batch.client.settings.max_job_bytes)
    jobs = batch.client.ledger.failed_jobs(batch.id)
    if (first := next(jobs, None)) is None:
        raise UsageFault(f"{batch.id} has no job that a retry could help: nothing is submitted")
    for job in chain([first], jobs):
        yield read_line(job.text, job.line, limits), job.text


def _without_results(client: Client, batch: Batch, new: NewBatch, wanted: Wanted) -> int:
    entries = _failed(batch)
    if not wanted.watch:
        return hand_over(client, entries, new, None, wanted)
    delivery = Delivery(client, new, wanted, None)
    return delivery.report(delivery.run(entries))


def _with_results(client: Client, batch: Batch, new: NewBatch, wanted: Wanted, out: str) -> int:
    path = check_output((), out, resume=wanted.resume, overwrite=wanted.overwrite)
    check_unfinished(path, wanted)
    with ResultWriter(path) as writer:
        plan = Plan()
        if wanted.resume and path is not None and writer.regular:
            plan = plan_resume(client, path, None)
        lacking = without(_failed(batch), plan.base)
        if (first := next(lacking, None)) is None:
            return report_nothing(plan.base, out, as_json=wanted.as_json, quiet=wanted.quiet)
        sink = Sink(writer, plan)
        delivery = Delivery(client, new, wanted, sink)
        info = delivery.run(chain([first], lacking))
        sink.finish(info.id)
        return delivery.report(info)
