"""The body of ``dgq retry``."""

from collections.abc import Iterator
from itertools import chain

from dgq.pipelines.job import Job

from .. import exit_codes
from ..client.client import Batch, Client
from ..client.resuming import Plan, plan_resume, without
from ..guard import say
from ..jobs_input import Entry
from ..ledger.types import NewBatch
from ..output import ResultWriter, check_output
from ..settings import Settings
from .delivery import Delivery, Detached, hand_over
from .options import connected, find
from .showing import report_nothing
from .wanted import Sink, Wanted, check_unfinished


def retry_command(batch_name: str, seed: int | None, wanted: Wanted, settings: Settings) -> int:
    """Do what the command line says; returns the exit code. Raises CommandError."""
    wanted.check()
    try:
        with connected(settings) as client:
            batch = find(client, batch_name)
            info = batch.status()
            if not info.finished:
                say(f"{info.id} is not finished; only what has failed so far is tried again")
            new = batch.as_retry(seed)
            if wanted.out is None:
                return _without_results(client, batch, new, wanted)
            return _with_results(client, batch, new, wanted, wanted.out)
    except Detached:
        return exit_codes.INTERRUPTED


def _failed(batch: Batch) -> Iterator[Entry]:
    """The failed jobs; after the last it is said how many of them a retry hardly helps."""
    num_kept = 0
    for entry, text in batch.failed_entries():
        num_kept += isinstance(entry, Job) and entry.seed is not None
        yield entry, text
    if num_kept:
        have = "has" if num_kept == 1 else "have"
        say(
            f"{num_kept} of these jobs {have} a seed of their own, which they keep: "
            "the same check fails again"
        )


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
