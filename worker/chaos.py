"""A drill: workers are killed, frozen and cut off while a batch runs, and then the promises are checked.

The workers are the drill's own, with a stub for a model, and serve a label of its own, so that real work
on the same server is left alone. Each worker that was killed is started anew.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from .client.client import Batch, Client
from .errors import CommandError
from .fleet.app import make_app, queue_name
from .fleet.runner import StubRunner
from .settings import Settings, environment_with

STUB_SECONDS_PER_JOB = 0.02
FAULT_PAUSE_S = (0.3, 1.5)
FROZEN_LEASES = 1.5
RECOVERY_PROMISE_S = 15.0
START_S = 60.0
WORKER = (sys.executable, "-m", "dgq.worker", "worker")


@dataclass(slots=True)
class Drill:
    """What was done, and what came of it. longest_pause_s: without a row, from first to last."""

    num_jobs: int
    faults: dict[str, int] = field(default_factory=dict)
    num_rows: int = 0
    num_lost: int = 0
    num_doubled: int = 0
    num_different: int = 0
    num_changed: int = 0
    longest_pause_s: float = 0.0
    seconds: float = 0.0

    def promises(self) -> dict[str, bool]:
        """Each promise, and whether it was kept."""
        return {
            "every job has exactly one row": self.num_lost == self.num_doubled == 0,
            "no committed row was changed": self.num_changed == 0,
            "the rows equal those of an undisturbed run": self.num_different == 0,
            f"work went on within {RECOVERY_PROMISE_S:g} s of whatever was done": (
                self.longest_pause_s <= RECOVERY_PROMISE_S
            ),
        }


def run_drill(
    settings: Settings,
    *,
    num_workers: int,
    num_jobs: int,
    timeout_s: float,
    on_event: Callable[[str], None],
) -> Drill:
    """Disturb a batch until it is finished. settings: with a redis_url. Raises ServerError,
    and CommandError where no worker comes up.

    on_event: told in words what is done. A batch that is not finished in time counts its
    missing rows as lost.
    """
    label = f"chaos-{uuid.uuid4().hex[:6]}"
    jobs = [_job(number) for number in range(num_jobs)]
    drill = Drill(num_jobs)
    with Client(settings=settings) as client, ExitStack() as stack:
        stack.callback(_remove_queue, settings, label)
        with _Workers(settings, label, num_workers) as workers:
            workers.wait_until_ready(client)
            started_s = time.monotonic()
            batch = client.submit(jobs, label=label, source="dgq chaos")
            stack.callback(_clean_up, client, batch)
            early = _disturb(client, batch, workers, drill, started_s + timeout_s, on_event)
            drill.seconds = time.monotonic() - started_s
            _judge(batch, jobs, early, drill)
    return drill


def _job(number: int) -> dict[str, Any]:
    return {
        "id": f"chaos-{number}",
        "kind": "rewrite",
        "text": f"Text number {number}.",
        "instruction": "Leave it as it is.",
    }


def _disturb(
    client: Client,
    batch: Batch,
    workers: "_Workers",
    drill: Drill,
    deadline_s: float,
    on_event: Callable[[str], None],
) -> dict[int, bytes]:
    """One fault after the other, until the batch is finished; the rows seen on the way."""
    rng = random.Random()
    seen: dict[int, bytes] = {}
    cursor = "0-0"
    faults = [workers.kill, workers.freeze, workers.tell_to_end, workers.cut_off]
    next_fault_s = time.monotonic() + 1
    last_row_s: float | None = None
    num_at_fault = 0
    while time.monotonic() < deadline_s:
        try:
            finished = batch.status().finished
            num_before = len(seen)
            for after, rows in client.ledger.read_rows(batch.id, cursor, wait_s=0.2):
                cursor = after
                seen |= {row.index: row.text for row in rows if row.index not in seen}
        except RedisError:
            continue  # it was the server's turn, perhaps; workers wait for it, and so does this
        if len(seen) > num_before:
            now_s = time.monotonic()
            pause_s = now_s - (last_row_s or now_s)
            drill.longest_pause_s = max(drill.longest_pause_s, pause_s)
            last_row_s = now_s
        if finished:
            break
        workers.keep_up()
        if time.monotonic() >= next_fault_s and (len(seen) > num_at_fault or not drill.faults):
            num_at_fault = len(seen)  # the next fault only once work has gone on
            name = rng.choice(faults)(client)
            drill.faults[name] = drill.faults.get(name, 0) + 1
            on_event(f"{name}; {len(seen)} of {drill.num_jobs} rows")
            next_fault_s = time.monotonic() + rng.uniform(*FAULT_PAUSE_S)
    return seen


def _judge(batch: Batch, jobs: list[dict[str, Any]], early: dict[int, bytes], drill: Drill) -> None:
    """Read all rows from the start, and compare."""
    wanted = _undisturbed(jobs)
    found: dict[int, bytes] = {}
    for _, rows in batch.rows(follow=False):
        for row in rows:
            drill.num_rows += 1
            drill.num_doubled += row.index in found
            found.setdefault(row.index, row.text)
    drill.num_lost = len(wanted.keys() - found.keys())
    drill.num_different = sum(found[i] != wanted.get(i) for i in found)
    drill.num_changed = sum(found.get(i) != text for i, text in early.items())


def _undisturbed(jobs: list[dict[str, Any]]) -> dict[int, bytes]:
    from dgq.pipelines.reading import read_line

    entries = [read_line(json.dumps(job).encode(), line) for line, job in enumerate(jobs, 1)]
    results = StubRunner().run(entries)
    return {i: result.to_json_line().encode() for i, result in enumerate(results)}


def _clean_up(client: Client, batch: Batch) -> None:
    """The drill leaves nothing on the server."""
    with suppress(RedisError):
        info = batch.cancel()
        keys = client.ledger.keys
        client.redis.delete(*keys.batch(batch.id).all(), keys.active(info.label))
        client.redis.zrem(keys.batches, batch.id)
        client.redis.zrem(keys.labels, info.label)


def _remove_queue(settings: Settings, label: str) -> None:
    """With the tickets that nobody has taken."""
    app = make_app(settings)
    with app.connection_for_write() as broker, suppress(OperationalError, OSError):
        queue = app.amqp.queues[queue_name(label)].bind(broker.default_channel)
        queue.declare()  # the broker's client removes only what it knows
        queue.delete()
    app.close()


class _Workers:
    """The drill's worker processes."""

    def __init__(self, settings: Settings, label: str, count: int) -> None:
        self._settings = settings
        # However often a shard is hit, it is the drill's doing and no job's fault.
        forgiving = settings.model_copy(update={"max_deaths": 1_000_000})
        self._environment = environment_with(forgiving)
        self._label = label
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._thaw_at_s: dict[int, float] = {}

    def __enter__(self) -> Self:
        """Start them."""
        self.keep_up()
        return self

    def __exit__(self, *_: object) -> None:
        """End them, however they are."""
        for process in self._processes:
            with process:  # waits, and closes its pipe
                process.kill()

    def wait_until_ready(self, client: Client) -> None:
        """Until each has said hello, or START_S have passed. Raises CommandError if none has."""
        deadline_s = time.monotonic() + START_S
        while (num_ready := len(list(self._infos(client)))) < self._count:
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.05)
        if not num_ready:
            raise CommandError(
                f"no worker of the drill has come up within {START_S:g} s; start one with dgq worker "
                "to see why"
            )

    def keep_up(self) -> None:
        """Start those that are missing, and thaw those whose time has come."""
        for pid, at_s in list(self._thaw_at_s.items()):
            if time.monotonic() >= at_s:
                del self._thaw_at_s[pid]
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        for process in [process for process in self._processes if process.poll() is not None]:
            with process:
                self._processes.remove(process)
        while len(self._processes) < self._count:
            self._processes.append(self._start())

    def kill(self, _: Client) -> str:
        """kill -9."""
        process = self._any()
        process.kill()
        process.wait()
        return "kill -9"

    def freeze(self, client: Client) -> str:
        """Stop one beyond its lease; it is thawed later, and finds its shards gone."""
        if len(self._processes) - len(self._thaw_at_s) < 2:
            return self.kill(client)  # one is always awake
        process = self._any()
        process.send_signal(signal.SIGSTOP)
        self._thaw_at_s[process.pid] = time.monotonic() + FROZEN_LEASES * self._settings.lease_s
        return "frozen beyond its lease"

    def tell_to_end(self, _: Client) -> str:
        """As a fleet that shrinks does."""
        self._any().terminate()
        return "told to end"

    def cut_off(self, client: Client) -> str:
        """Close the connections of all of them on the server's side."""
        with suppress(RedisError):
            ids = {info.id for info in self._infos(client)}
            clients: Any = client.redis.client_list()
            for entry in clients:
                if any(entry["name"].endswith(worker_id) for worker_id in ids):
                    client.redis.client_kill_filter(_id=entry["id"])
        return "connections cut"

    def _infos(self, client: Client) -> Iterator[Any]:
        for info in client.ledger.workers():
            if self._label in info.fields.get("labels", ""):
                yield info

    def _any(self) -> subprocess.Popen[bytes]:
        awake = [p for p in self._processes if p.pid not in self._thaw_at_s] or self._processes
        return random.choice(awake)

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--stub", "--stub-seconds", str(STUB_SECONDS_PER_JOB), "--until-stdin-ends"]
        return subprocess.Popen(
            [*WORKER, "--serve", self._label, *options],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
