"""A worker in the test's own process: claims and commits with the ledger, no Celery and no model."""

import threading

from dgq.pipelines.reading import read_line
from dgq.worker.fleet.holding import RowMaker, cancelled_rows
from dgq.worker.fleet.runner import StubRunner
from dgq.worker.local import RunSettings, with_settings


def work(ledger, *, labels=("default",), at_most=None, rows_at_once=None, worker="stub"):
    """Run what there is to run; returns the number of shards that were finished.

    at_most: so many rows in all; the shard that is begun is given back. rows_at_once: of a commit.
    """
    num_shards = num_rows = 0
    while True:
        for batch_id, label in ledger.candidates(labels):
            lease = ledger.claim(batch_id, label, worker, 10)
            if lease is not None:
                break
        else:
            return num_shards
        rows = rows_of(lease)
        size = rows_at_once or max(len(rows), 1)
        for begin in range(0, max(len(rows), 1), size):
            group = rows[begin : begin + size]
            if at_most is not None and num_rows + len(group) > at_most:
                ledger.release(lease)
                return num_shards
            last = begin + size >= len(rows)
            assert ledger.commit(lease, group, release=last) == "written"
            num_rows += len(group)
        num_shards += 1


def rows_of(lease):
    """The rows of a shard's jobs, as any worker would make them."""
    if lease.cancelled:
        return cancelled_rows(lease)
    settings = RunSettings(seed=lease.options.seed, max_attempts=lease.options.max_attempts)
    entries = [with_settings(read_line(job.text, job.line), settings) for job in lease.jobs]
    rows = RowMaker(lease.jobs, entries)
    return [rows.done(result) for result in StubRunner().run(entries)]


class StubWorker:
    """Works in a thread, and says that it is alive, from ``with`` to its end."""

    def __init__(self, ledger, *, labels=("default",), rows_at_once=None):
        self.ledger, self.labels, self.rows_at_once = ledger, labels, rows_at_once
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.say_hello()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.ledger.forget_worker("stub")

    def say_hello(self):
        fields = {"labels": ",".join(self.labels), "slots": 1, "busy": 0, "state": "working"}
        self.ledger.heartbeat("stub", fields, 60)

    def run(self):
        while not self.ended.wait(0.02):
            self.say_hello()
            work(self.ledger, labels=self.labels, rows_at_once=self.rows_at_once)
