"""The body of ``dgq retry``."""

from itertools import chain

from .. import exit_codes
from ..client.client import Batch, Client
from ..client.resuming import Plan, plan_resume, without
from ..guard import say
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


def _without_results(client: Client, batch: Batch, new: NewBatch, wanted: Wanted) -> int:
    entries = batch.failed_entries()
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
        lacking = without(batch.failed_entries(), plan.base)
        if (first := next(lacking, None)) is None:
            return report_nothing(plan.base, out, as_json=wanted.as_json, quiet=wanted.quiet)
        sink = Sink(writer, plan)
        delivery = Delivery(client, new, wanted, sink)
        info = delivery.run(chain([first], lacking))
        sink.finish(info.id)
        return delivery.report(info)
