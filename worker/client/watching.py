"""Waiting for a batch: patient with a server that restarts, and telling what a person should know."""

import time
from collections import deque
from collections.abc import Callable
from threading import Event
from typing import Protocol, TypeVar

from redis.exceptions import AuthenticationError, AuthorizationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..errors import BatchUnknown, WaitTimeout
from ..ledger.types import BatchInfo
from .client import Batch
from .hints import command
from .lookup import labels_of

T = TypeVar("T")
OUTAGE_S = 30.0
"""How long a server may be away before waiting for it ends."""

POLL_S = 0.5
WORKERS_S = 2.0
"""Between two looks at a batch, and at the workers."""

RATE_WINDOW_S = 10.0
UNSEALED_S = 30.0
"""How long a submission may stand still before that is said."""


class ServerPatience:
    """Calls a server that may be away for a moment. Threads may share it.

    say: told once when the server is away, and once when it is back.
    """

    def __init__(self, say: Callable[[str], None], *, outage_s: float | None = None) -> None:
        self._say = say
        self._outage_s = OUTAGE_S if outage_s is None else outage_s
        self._away = False
        self._ended = Event()

    def call(self, ask: Callable[[], T]) -> T:
        """What ``ask`` returns. Raises redis.RedisError for what waiting does not mend or did not."""
        since_s = time.monotonic()
        while True:
            try:
                value = ask()
            except RedisError as error:
                waited_s = time.monotonic() - since_s
                if not _may_pass(error) or waited_s > self._outage_s or self._ended.is_set():
                    raise
                if not self._away:
                    self._away = True
                    self._say(f"the server is away; waiting for it for up to {self._outage_s:g} s")
                self._ended.wait(0.5)
            else:
                if self._away:
                    self._away = False
                    self._say("the server answers again")
                return value

    def end(self) -> None:
        """Wait no more, in whatever thread."""
        self._ended.set()


def _may_pass(error: RedisError) -> bool:
    lost = isinstance(error, RedisConnectionError | RedisTimeoutError)
    return lost and not isinstance(error, AuthenticationError | AuthorizationError)


class Seeing(Protocol):
    """What a collector shows of itself."""

    num_seen: int


class BatchProgress:
    """How a batch grows, for the progress display; rates are those of the last seconds.

    collector: where its rows are collected, those count that were seen there.
    """

    def __init__(self, collector: "Seeing | None" = None) -> None:
        self.info: BatchInfo | None = None
        self.num_workers: int | None = None
        self._collector = collector
        self._points: deque[tuple[float, int, int]] = deque()

    def update(self, info: BatchInfo) -> None:
        """Take in how the batch stands now."""
        self.info = info
        now_s = time.monotonic()
        self._points.append((now_s, self.num_rows, info.num_tokens))
        while self._points[0][0] < now_s - RATE_WINDOW_S and len(self._points) > 2:
            self._points.popleft()

    @property
    def num_rows(self) -> int:
        """Rows that are there."""
        if self.info is None:
            return 0
        return self.info.num_done if self._collector is None else self._collector.num_seen

    def total(self) -> int | None:
        """The batch's jobs; None while they are still being submitted."""
        return self.info.num_jobs if self.info is not None and self.info.sealed else None

    def rates(self, now_s: float) -> str:
        """For example ``4.1 jobs/s, 130 tokens/s, 2 error, 1 worker``."""
        if self.info is None:
            return ""
        jobs_per_s, tokens_per_s = self._rates(now_s)
        words = [f"{jobs_per_s:.1f} jobs/s", f"{tokens_per_s:.0f} tokens/s"]
        words += [
            f"{count} {status}"
            for status, count in self.info.num_by_status.items()
            if count and status != "ok"
        ]
        if self.info.state == "paused":
            words.append("paused")
        if self.num_workers is not None:
            words.append(f"{self.num_workers} worker{'s' * (self.num_workers != 1)}")
        return ", ".join(words)

    def progress_line(self, total: int | None) -> str:
        """For example ``120 of 300 jobs, 4.1 jobs/s, 130 tokens/s, 3 workers, 44 s left``."""
        now_s = time.monotonic()
        of_total = "" if total is None else f" of {total}"
        jobs_per_s = self._rates(now_s)[0]
        left = ""
        if total is not None and jobs_per_s > 0:
            left = f", {duration((total - self.num_rows) / jobs_per_s)} left"
        return f"{self.num_rows}{of_total} jobs, {self.rates(now_s)}{left}"

    def _rates(self, now_s: float) -> tuple[float, float]:
        if not self._points:
            return 0.0, 0.0
        (first_s, rows_then, tokens_then), (_, rows, tokens) = self._points[0], self._points[-1]
        seconds = max(now_s - first_s, 0.1)
        # A server that has lost its latest rows counts fewer than before.
        return max(rows - rows_then, 0) / seconds, max(tokens - tokens_then, 0) / seconds


def duration(seconds: float) -> str:
    """In a unit that fits: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Waiter:
    """Looks at a batch again and again, and says each thing that keeps it from going on once.

    timeout_s: how long all looking may take. go_on: how to come back to the batch, for the
    message of the time-out. worker_grace_s: how long workers may take to appear before that is
    said. check: called at each look; what it raises ends the waiting.
    """

    def __init__(
        self,
        batch: Batch,
        patience: ServerPatience,
        progress: BatchProgress,
        *,
        say: Callable[[str], None],
        timeout_s: float | None = None,
        go_on: Callable[[BatchInfo], str] | None = None,
        worker_grace_s: float = 0.0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.batch = batch
        self.patience = patience
        self.progress = progress
        self._say = say
        self._said: set[str] = set()
        self._timeout_s = timeout_s
        self._go_on = go_on or (lambda info: self._command("watch", info.id))
        self._worker_grace_s = worker_grace_s
        self._check = check
        self._begin_s = time.monotonic()
        self._next_workers_s = self._begin_s
        self._grown: tuple[int, float] = (-1, self._begin_s)

    def look(self) -> BatchInfo:
        """The batch as it stands. Raises BatchUnknown, WaitTimeout, redis.RedisError, what check raises."""
        self._check()
        try:
            info = self.patience.call(self.batch.status)
        except BatchUnknown as error:
            raise BatchUnknown(
                f"the server has lost {self.batch.id}: its data is gone, or the batch has expired; "
                "submit its jobs again (with -o OUT --resume only those that OUT lacks)"
            ) from error
        now_s = time.monotonic()
        if not info.finished and now_s >= self._next_workers_s:
            self._next_workers_s = now_s + WORKERS_S
            self._count_workers(info)
        self.progress.update(info)
        self._tell(info, now_s)
        waited_s = now_s - self._begin_s
        if not info.finished and self._timeout_s is not None and waited_s >= self._timeout_s:
            raise WaitTimeout(
                f"{info.id} has not finished after {self._timeout_s:g} s: {info.num_done} of "
                f"{info.num_jobs} jobs have their rows; to go on: {self._go_on(info)}"
            )
        return info

    def wait(self) -> BatchInfo:
        """Look until the batch is finished."""
        while not (info := self.look()).finished:
            time.sleep(POLL_S)
        return info

    def _count_workers(self, info: BatchInfo) -> None:
        workers = self.patience.call(self.batch.client.ledger.workers)
        self.progress.num_workers = sum(info.label in labels_of(worker) for worker in workers)

    def _tell(self, info: BatchInfo, now_s: float) -> None:
        if info.finished:
            return
        if info.num_jobs > self._grown[0]:
            self._grown = (info.num_jobs, now_s)
        if info.state == "paused":
            again = self._command("resume", info.id)
            self._say_once(f"{info.id} is paused; to go on with it: {again}")
        elif info.num_done < info.num_jobs:
            waited_s = now_s - self._begin_s
            if self.progress.num_workers == 0 and waited_s >= self._worker_grace_s:
                self._say_once(self._no_worker(info.label))
        elif not info.sealed and now_s - self._grown[1] > UNSEALED_S:
            self._say_once(
                f"all jobs of {info.id} so far have their rows, but it has not been submitted "
                "to its end; if that was broken off, run the same dgq submit again"
            )

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def _no_worker(self, label: str) -> str:
        how = self._command("worker", *(() if label == "default" else ("--serve", label)))
        return f"no worker is alive that serves the model name {label!r}; start one with: {how}"

    def _command(self, *words: str) -> str:
        return command(self.batch.client.settings, *words)
