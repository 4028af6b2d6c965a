"""A queue with schedules to test with: a real server, a clock that tests set, jobs in files."""

import json
import threading
import time
from dataclasses import replace

from dgq.worker.client.client import Client
from dgq.worker.fleet.app import make_app
from dgq.worker.fleet.scheduler import RedisScheduler
from dgq.worker.fleet.schedules import Schedule, Schedules
from dgq.worker.settings import Settings

DAILY = "0 2 * * *"
DUE_S = 1_795_572_000
"""2026-11-25T02:00:00Z: DAILY is due."""

DUE = "2026-11-25T02:00:00Z"
DAY_S = 86_400
PATIENCE_S = 30.0


class SetClock(Schedules):
    """Schedules on a server whose time is what the test says."""

    time_s = DUE_S - 3600.0

    def read(self):
        return replace(super().read(), now_s=self.time_s)

    def now_s(self):
        return self.time_s


class Queue:
    """A client and schedules of one server. settings: further ones."""

    def __init__(self, url, folder, **settings):
        options = {"shard_jobs": 2, "lease_s": 2.0, "drain_timeout_s": 5.0} | settings
        self.settings = Settings(redis_url=url, data_folder=folder / "data", **options)
        self.folder = folder
        self.client = Client(settings=self.settings)
        self.ledger = self.client.ledger
        self.schedules = SetClock(self.ledger)
        self.schedulers = []

    def write_jobs(self, name, count, text="The color."):
        """A file of jobs, by its path."""
        path = self.folder / name
        path.write_bytes(b"".join(job_line(f"{name}-{number}", text) for number in range(count)))
        return str(path)

    def add(self, name, *files, cron=DAILY, **options):
        """Add a schedule, an hour before DUE unless it says when."""
        given = {"timezone": "UTC", "created_s": DUE_S - 3600.0} | options
        schedule = Schedule(name, cron, files=tuple(map(str, files)), **given)
        assert self.schedules.add(schedule)
        return schedule

    def known(self, name):
        found = {known.schedule.name: known for known in self.schedules.read().schedules}
        return found[name]

    def last(self, name):
        return self.known(name).last

    def batches(self, name=None):
        """All batches, or those of a schedule."""
        begin = f"schedule:{name}@" if name else ""
        return [batch for batch in self.ledger.batches() if (batch.job_key or "").startswith(begin)]

    def texts(self, batch_id):
        """The lines of the jobs that a batch has in the queue, in their order."""
        label = self.ledger.info(batch_id).label
        found = []
        while lease := self.ledger.claim(batch_id, label, "reader", 60):
            found += lease.jobs
        return [job.text for job in sorted(found, key=lambda job: job.index)]

    def scheduler(self):
        """Another scheduler, ticked by hand."""
        made = RedisScheduler(
            make_app(self.settings), client=self.client, schedules=self.schedules, max_interval=1
        )
        self.schedulers.append(made)
        return made

    def tick_until(self, scheduler, condition, patience_s=PATIENCE_S):
        """Tick until a condition holds, and the scheduler's hands are empty."""
        wait_for(lambda: (scheduler.tick() and condition()) or None, patience_s)
        wait_for(lambda: (scheduler.tick() and not busy(scheduler)) or None, patience_s)

    def fire(self, scheduler, *names):
        """Tick until the firings of these schedules are settled."""
        self.tick_until(scheduler, lambda: all(settled(self.last(name)) for name in names))

    def close(self):
        for scheduler in self.schedulers:
            scheduler._stopping.set()
        wait_for(lambda: not any(busy(scheduler) for scheduler in self.schedulers) or None)
        for scheduler in self.schedulers:
            scheduler.app.close()
        self.client.close()


def busy(scheduler):
    return any(hand.thread.is_alive() for hand in scheduler._hands.values())


def settled(firing):
    return firing is not None and firing.settled


def job_line(job_id, text="The color."):
    job = {"id": job_id, "kind": "rewrite", "text": text, "instruction": "Use British spelling."}
    return json.dumps(job).encode() + b"\n"


def wait_for(ask, patience_s=PATIENCE_S):
    """What ``ask`` returns, once it is not None or False."""
    deadline = time.monotonic() + patience_s
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def in_thread(run):
    """Run in a thread; the thread."""
    thread = threading.Thread(target=run)
    thread.start()
    return thread
