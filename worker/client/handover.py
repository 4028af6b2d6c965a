"""A submission in a thread of its own, so that results are collected while the input is still read."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..errors import BatchCancelled, CommandError
from ..ledger.ledger import Added, Ledger
from ..ledger.shard import Row, Shard
from ..ledger.types import BatchInfo, NewBatch
from .client import Batch, Client
from .submission import Entry, Submitted
from .watching import ServerPatience


class PatientLedger(Ledger):
    """A ledger to submit to: each call is repeated while the server is away for a moment."""

    def __init__(self, client: Client, patience: ServerPatience) -> None:
        settings = client.settings
        super().__init__(client.redis, settings.key_prefix, results_ttl_s=settings.results_ttl_s)
        self._patience = patience

    def add_shard(self, batch: BatchInfo, shard: Shard, before: str, rows: Sequence[Row]) -> Added:
        """Accept a shard; one that is there already is not added again."""
        add = super().add_shard
        return self._patience.call(lambda: add(batch, shard, before, rows))

    def seal(self, batch: BatchInfo, digest: str, num_shards: int) -> Added:
        """Say that the input has ended."""
        seal = super().seal
        return self._patience.call(lambda: seal(batch, digest, num_shards))

    def memory_percent(self) -> float:
        """The share of the server's maxmemory that is used; 0 where there is no limit."""
        return self._patience.call(super().memory_percent)


class Handover:
    """A submission and its thread.

    on_begin: called in the thread, once, when it is certain that the batch takes this input: for a
    new batch at once, for one with earlier shards when the first new one was accepted or the
    input has ended. end_grace_s: how long the end of the input is waited on. Ctrl-C ends the other
    programs of a pipeline too, and an input that was cut off by that must not pass for a whole one.
    """

    def __init__(self, on_begin: Callable[[Batch], None], *, end_grace_s: float = 0.0) -> None:
        self._on_begin = on_begin
        self._end_grace_s = end_grace_s
        self._stopped = threading.Event()
        self._submit: Callable[[], object] = lambda: None
        self._batch: Batch | None = None
        self._error: BaseException | None = None
        self._certain = False
        self._known = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dgq-submit", daemon=True)
        self.so_far = Submitted()

    def start(self, client: Client, entries: Iterable[Entry], new: NewBatch, **more: Any) -> Batch:
        """Begin, and return the batch once it exists. more: as Client.submit_entries takes it.

        Raises what prevented the batch.
        """
        self._submit = lambda: client.submit_entries(
            self._until_stopped(entries),
            new,
            on_created=self._on_created,
            on_progress=self._on_progress,
            **more,
        )
        self._thread.start()
        self._known.wait()
        if self._batch is None:
            assert self._error is not None
            raise self._error
        return self._batch

    def wait_begun(self) -> None:
        """Until it is certain that the batch takes this input. Raises what says that it does not."""
        self._begun.wait()
        if not self._certain:
            assert self._error is not None
            raise self._error

    def check(self) -> None:
        """Raise what has ended the submission, but not a cancellation: there are rows to collect."""
        if self._error is not None and not isinstance(self._error, BatchCancelled):
            raise self._error

    def join(self) -> None:
        """Wait for its end, and raise what was wrong. Not for a cancelled batch: its input may be slow."""
        if self._error is None:
            self._thread.join()
        self.check()

    def stop(self) -> None:
        """Hand over no more, and do not say that the input has ended."""
        self._stopped.set()

    @property
    def complete(self) -> bool:
        """Whether the input has been handed over to its end."""
        return not self._thread.is_alive() and self._error is None

    def _until_stopped(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            if self._stopped.is_set():
                break
            yield entry
        if self._stopped.wait(self._end_grace_s):
            raise CommandError("the submission was broken off")

    def _run(self) -> None:
        try:
            self._submit()
            self._begin()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        finally:
            self._known.set()
            self._begun.set()

    def _on_created(self, batch: Batch) -> None:
        self._batch = batch
        if batch.status().num_shards == 0:
            self._begin()
        self._known.set()

    def _on_progress(self, so_far: Submitted) -> None:
        self.so_far = so_far
        if so_far.num_new_shards:
            self._begin()

    def _begin(self) -> None:
        if not self._certain:
            assert self._batch is not None
            self._on_begin(self._batch)
            self._certain = True
            self._begun.set()


def patient(client: Client, say: Callable[[str], None]) -> ServerPatience:
    """Make the client's submissions patient; returns whom to call for all else, and to end it."""
    patience = ServerPatience(say)
    client.ledger = PatientLedger(client, patience)
    return patience
