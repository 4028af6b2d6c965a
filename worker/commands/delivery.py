"""What ``dgq submit`` and ``dgq retry`` do once they know their jobs: hand over, watch, collect."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import click
from redis.exceptions import RedisError

from .. import exit_codes
from ..client.client import Batch, Client
from ..client.collecting import Collector, collect
from ..client.handover import Handover, patient
from ..client.hints import command
from ..client.watching import BatchProgress, ServerPatience, Waiter
from ..errors import BatchCancelled, BatchUnknown, OtherInput, ServerError
from ..guard import say
from ..interrupt import DelayedInterrupt
from ..jobs_input import Entry
from ..ledger.connection import server_error
from ..ledger.types import BatchInfo, NewBatch
from .options import batch_fields, print_json
from .showing import HandedOver, report, show, uninterrupted
from .wanted import Sink, Wanted

OWN_WORKERS_GRACE_S = 60.0
"""How long workers of our own may take to load their model before it is said that there are none."""


PIPE_GRACE_S = 0.3
"""Between the end of a piped input and saying that it has ended; see Handover."""


class Detached(BaseException):
    """Ctrl-C has ended the waiting, and all has been said."""


def hand_over(
    client: Client, entries: Iterable[Entry], new: NewBatch, total: int | None, wanted: Wanted
) -> int:
    """Hand over all jobs and print the batch's id; returns the exit code."""
    patience = patient(client, say)
    handed = HandedOver()
    created: list[Batch] = []
    try:
        with show(handed, total, client.settings, quiet=wanted.quiet):
            client.submit_entries(
                entries, new, on_created=created.append, on_progress=handed.update, on_wait=say
            )
    except BaseException as error:
        if created and not isinstance(error, BatchCancelled | BatchUnknown | OtherInput):
            say(_in_part(created[0], handed, new))
        if isinstance(error, KeyboardInterrupt) and created:
            raise Detached from None
        raise
    batch = created[0]
    if wanted.as_json:
        print_json(batch_fields(patience.call(batch.status)))
    else:
        click.echo(batch.id)
    if not wanted.quiet:
        watch = command(client.settings, "watch", batch.id)
        say(f"{batch.id} has its {handed.in_words()}; to watch it: {watch}")
    return exit_codes.OK


def _in_part(batch: Batch, handed: HandedOver, new: NewBatch) -> str:
    text = f"{batch.id} was handed over in part ({handed.in_words()}); "
    if new.job_key:
        return text + "the same command goes on where this one ended"
    cancel = command(batch.client.settings, "cancel", batch.id)
    return text + f"{cancel} ends it (with --job-key one can go on instead)"


@dataclass(slots=True)
class Delivery:
    """A batch that is handed over and waited for; its rows are collected if there is a sink.

    own_workers: the server and the workers are ours, and end with us. piped: the jobs come from
    another program, which Ctrl-C may end as well.
    """

    client: Client
    new: NewBatch
    wanted: Wanted
    sink: Sink | None
    own_workers: bool = False
    piped: bool = False

    def run(self, entries: Iterable[Entry]) -> BatchInfo:
        """Do it; returns the finished batch.

        Raises CommandError, and Detached after Ctrl-C, when it has said how to come back.
        """
        handover = Handover(
            self.sink.begin if self.sink else lambda batch: None,
            end_grace_s=PIPE_GRACE_S if self.piped else 0.0,
        )
        patience = patient(self.client, say)
        batch: Batch | None = None
        try:
            batch = handover.start(
                self.client,
                entries,
                self.new,
                batch_id=self.sink.plan.batch_id if self.sink else None,
                on_wait=say,
            )
            self._announce(batch)
            handover.wait_begun()
            return self._wait(batch, handover, patience)
        except KeyboardInterrupt:
            handover.stop()
            say(self._detached(batch, handover))
            raise Detached from None
        except BatchCancelled as error:
            what = f"what it has: {self._results(batch)}" if batch else "it has nothing"
            raise BatchCancelled(f"{error}; {what}") from error
        except BatchUnknown as error:
            if batch is None:
                raise
            raise BatchUnknown(
                f"the server has lost {batch.id}; to go on: {self._again()}"
            ) from error
        except (ServerError, RedisError) as error:
            if isinstance(error, RedisError):
                error = server_error(error, self.client.settings)
            if batch is None:
                raise error from None
            raise ServerError(f"{error}; to go on: {self._go_on(batch, handover)}") from None
        finally:
            handover.stop()
            patience.end()

    def report(self, info: BatchInfo) -> int:
        """Say how it has ended; returns the exit code."""
        return report(
            info,
            where=self.sink.where if self.sink else "",
            earlier=self.sink.plan.base if self.sink else None,
            as_json=self.wanted.as_json,
            quiet=self.wanted.quiet,
        )

    def _announce(self, batch: Batch) -> None:
        if self.sink is None and not self.wanted.as_json:
            click.echo(batch.id)
        elif not self.wanted.quiet and not self.own_workers:
            say(f"batch {batch.id}")

    def _wait(self, batch: Batch, handover: Handover, patience: ServerPatience) -> BatchInfo:
        with ExitStack() as stack:
            collector = None
            if self.sink is not None:
                interrupt = stack.enter_context(DelayedInterrupt())
                collector = Collector(
                    self.client.ledger,
                    batch.id,
                    uninterrupted(self.sink.writer, interrupt),
                    have=self.sink.plan.have,
                    ordered=self.wanted.ordered,
                )
            growing = BatchProgress(collector)
            waiter = Waiter(
                batch,
                patience,
                growing,
                say=say,
                timeout_s=self.wanted.timeout_s,
                go_on=lambda info: self._go_on(batch, handover),
                worker_grace_s=OWN_WORKERS_GRACE_S if self.own_workers else 0.0,
                check=handover.check,
            )
            stack.enter_context(
                show(
                    growing,
                    growing.total,
                    self.client.settings,
                    quiet=self.wanted.quiet,
                    out=self.wanted.out,
                )
            )
            info = collect(waiter, collector) if collector else waiter.wait()
        if info.state != "cancelled":
            handover.join()
        return info

    def _detached(self, batch: Batch | None, handover: Handover) -> str:
        if batch is None:
            return "interrupted"
        rows = (
            f"; {self.sink.writer.num_rows} results were written to {self.sink.where}"
            if self.sink
            else ""
        )
        if self.own_workers:
            return f"interrupted{rows}; to go on: {self._again()}"
        how = "which goes on" if handover.complete else "which was handed over in part"
        return (
            f"detached from {batch.id}, {how}{rows}; to come back: {self._go_on(batch, handover)}"
        )

    def _go_on(self, batch: Batch, handover: Handover) -> str:
        """How to come back to the batch."""
        if self.own_workers or not handover.complete:
            return self._again()
        if self.sink is None:
            return command(self.client.settings, "watch", batch.id)
        return self._results(batch, "--follow")

    def _results(self, batch: Batch, *options: str) -> str:
        """How to collect the batch as this does; a file of results is gone on with."""
        path = self.sink.path if self.sink else None
        return command(
            self.client.settings,
            *("results", batch.id),
            *(() if path is None else ("-o", str(path), "--resume")),
            *(("--ordered",) if self.wanted.ordered else ()),
            *options,
        )

    def _again(self) -> str:
        """How to run this again so that nothing is done twice."""
        if self.sink is not None and self.sink.path is not None:
            return "the same command with --resume"
        return "the same command" + (
            "" if self.new.job_key else " (with --job-key nothing is done twice)"
        )
