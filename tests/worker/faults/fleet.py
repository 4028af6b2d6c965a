"""Real workers on a real server, and what must hold of their rows whatever is done to them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

from dgq.pipelines.reading import read_line
from dgq.worker.client.client import Client
from dgq.worker.fleet.runner import StubRunner
from dgq.worker.settings import Settings

DEADLINE_S = 60.0
"""Of every wait: far more than is needed, also where other programs have the machine."""

QUICK = {
    "lease_s": 1.5,
    "janitor_interval_s": 0.3,
    "drain_timeout_s": 10.0,
    "max_deaths": 3,
    "connect_timeout_s": 10.0,
}
"""Settings with which recovery does not take as long as it may."""


def wait_for(what, timeout_s=DEADLINE_S):
    """Until ``what()`` is true; returns what it is."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline_s, f"waited in vain for {what.__qualname__}"
        time.sleep(0.02)
    return value


def make_jobs(count, text="The color {}."):
    """Job lines whose ids and texts differ."""
    return [
        {"id": f"job-{i}", "kind": "rewrite", "text": text.format(i), "instruction": "British."}
        for i in range(count)
    ]


def undisturbed(jobs):
    """Id to row, as a worker of stubs writes it when nothing happens to it."""
    entries = [read_line(json.dumps(job).encode(), line) for line, job in enumerate(jobs, 1)]
    harmless = StubRunner(obey=False)
    return {result.id: result.to_json_line() for result in harmless.run(entries)}


class Worker:
    """A ``dgq worker`` process. err: what it has said."""

    def __init__(self, fleet, number, options, settings):
        self.name = f"w{number}"
        self.log = fleet.folder / f"{self.name}.log"
        self.fleet = fleet
        environment = {f"DGQ_{key.upper()}": str(value) for key, value in settings.items()}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dgq.worker", "worker", "--name", self.name, *options],
                env=os.environ | environment,
                cwd=fleet.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def err(self):
        return self.log.read_text()

    @property
    def ready(self):
        """Whether it can be given work; fails if it has ended."""
        assert self.process.poll() is None, self.err
        return any(info.id.startswith(f"{self.name}-") for info in self.fleet.ledger.workers())

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def freeze(self):
        """SIGSTOP, and wait until it has stopped."""
        self.signal(signal.SIGSTOP)
        wait_for(lambda: self._state() == "T")

    def thaw(self):
        self.signal(signal.SIGCONT)

    def wait(self, timeout_s=DEADLINE_S):
        """Its exit code."""
        return self.process.wait(timeout_s)

    def _state(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]


class Fleet:
    """Workers and a client of one server. settings: of all of them, beside QUICK."""

    def __init__(self, server, folder, **settings):
        self.server = server
        self.folder = folder
        self.settings = QUICK | {"redis_url": server.url, "data_folder": folder} | settings
        self.client = Client(settings=Settings(**self.settings))
        self.ledger = self.client.ledger
        self.workers = []

    def start(self, count=1, *options, stub=True, wait=True, **settings):
        """Start workers of stubs, and wait until they can be given work."""
        options = ("--stub", *options) if stub else options
        new = [
            Worker(self, len(self.workers) + i, options, self.settings | settings)
            for i in range(count)
        ]
        self.workers += new
        for worker in new if wait else ():
            wait_for(lambda worker=worker: worker.ready)
        return new[0] if count == 1 else new

    def submit(self, jobs, **options):
        return self.client.submit(jobs, **options)

    def finish(self, batch, jobs, failed=None, timeout_s=DEADLINE_S, expected=None):
        """Wait for the end of a batch, and see that all promises were kept.

        Every job has one row, and but for ``failed`` (id to status) the rows are those of an
        undisturbed run, byte for byte.
        """
        wait_for(lambda: self.quiet(lambda: batch.status().finished), timeout_s)
        rows = self.rows(batch)
        ids = [json.loads(row)["id"] for row in rows]
        assert sorted(ids) == sorted(job["id"] for job in jobs), "a row is lost or doubled"
        failed = failed or {}
        expected = expected or undisturbed(jobs)
        found = dict(zip(ids, rows, strict=True))
        assert {i: row for i, row in found.items() if i not in failed} == {
            i: row for i, row in expected.items() if i not in failed
        }
        assert {i: json.loads(found[i])["status"] for i in failed} == failed
        info = batch.status()
        assert info.num_done == info.num_jobs == len(jobs)
        assert info.num_by_status["ok"] == len(jobs) - len(failed)
        assert self.ledger.backlog(info.label) == 0
        return rows

    def rows(self, batch):
        """All rows so far, in the order of their commits."""
        return [row.text.decode() for _, rows in batch.rows(follow=False) for row in rows]

    def wait_for_rows(self, batch, count):
        """Until so many rows are there; returns them."""
        wait_for(lambda: self.quiet(lambda: batch.status().num_done >= count))
        return self.rows(batch)

    def quiet(self, ask):
        """What ``ask`` returns, None where the server does not answer just now."""
        with contextlib.suppress(Exception):
            return ask()
        return None

    def close(self):
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
            print(f"--- {worker.name}\n{worker.err}")  # shown where a test fails
        self.client.close()


class Repeatedly:
    """Does something again and again in the background, for as long as a ``with`` block lasts."""

    def __init__(self, do, interval_s):
        self.do, self.interval_s = do, interval_s
        self.count = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        while not self.ended.wait(self.interval_s):
            with contextlib.suppress(Exception):
                self.do()
                self.count += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.ended.set()
        self.thread.join()
