"""The scheduler: each firing is made once, whoever else tries, and whatever ends in the middle."""

import logging
import os
import time

import pytest

from dgq.worker.client import memory
from dgq.worker.fleet import firing
from dgq.worker.fleet.firing import Attempt
from tests.worker.fleet.scheduling import (
    DAY_S,
    DUE,
    DUE_S,
    Queue,
    in_thread,
    job_line,
    settled,
    wait_for,
)
from tests.worker.servers import RealServer

# A pipe of jobs is not closed, on purpose: see open_jobs.
through_a_pipe = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def server(tmp_path):
    with RealServer(tmp_path / "server", appendonly="yes", appendfsync="always") as started:
        yield started


@pytest.fixture
def queue(server, tmp_path):
    made = Queue(server.url, tmp_path)
    yield made
    made.close()


@pytest.fixture
def log(caplog):
    """What the scheduler says."""
    caplog.set_level(logging.INFO, "dgq.scheduler")
    return caplog


class Interrupted:
    """Stopping, from the n-th time on that somebody asks: a kill between two jobs."""

    def __init__(self, num_jobs):
        self.left = num_jobs

    def is_set(self):
        self.left -= 1
        return self.left < 0


def is_waiting(last):
    return last is not None and last.state == "waiting"


def submit_half(queue, name, num_jobs):
    """Begin a firing, hand over so many jobs, and die: the claim is nobody's any more."""
    known = queue.known(name)
    claim = queue.schedules.claim(known, DUE_S, DUE_S, 60)
    Attempt(queue.client, queue.schedules, claim, 60, Interrupted(num_jobs)).run()
    queue.client.redis.delete(queue.ledger.keys.lock(f"schedule:{name}"))
    return queue.last(name)


def test_submits_the_files_when_they_are_due(queue, log):
    queue.write_jobs("b.jsonl", 2)
    queue.write_jobs("a.jsonl", 3)
    queue.add("nightly", queue.folder / "*.jsonl", label="big", priority=5, seed=7, max_attempts=2)
    scheduler = queue.scheduler()
    scheduler.tick()
    assert queue.last("nightly") is None
    queue.schedules.time_s = DUE_S + 0.5
    queue.fire(scheduler, "nightly")
    (batch,) = queue.batches()
    assert (batch.sealed, batch.num_jobs, batch.label, batch.priority) == (True, 5, "big", 5)
    assert batch.job_key == f"schedule:nightly@{DUE}"
    last = queue.last("nightly")
    assert (last.state, last.batch_id, last.num_jobs) == ("submitted", batch.id, 5)
    assert f"firing of {DUE}: {batch.id}, 5 jobs" in log.text
    lease = queue.ledger.claim(batch.id, "big", "reader", 60)
    assert (lease.options.seed, lease.options.max_attempts) == (7, 2)
    assert [job.text for job in lease.jobs] == [
        job_line("a.jsonl-0")[:-1],
        job_line("a.jsonl-1")[:-1],
    ]

    scheduler.tick()
    queue.schedules.time_s = DUE_S + DAY_S
    queue.fire(scheduler, "nightly")
    wait_for(lambda: len(queue.batches("nightly")) == 2)


def test_sees_what_is_added_and_removed(queue):
    scheduler = queue.scheduler()
    scheduler.tick()
    queue.add("one", queue.write_jobs("a.jsonl", 1))
    queue.add("two", queue.write_jobs("b.jsonl", 1))
    queue.schedules.remove("two")
    queue.schedules.time_s = DUE_S
    queue.fire(scheduler, "one")
    assert len(queue.batches()) == 1


def test_what_was_missed_is_made_once_or_not_at_all(queue, log):
    queue.add("often", queue.write_jobs("a.jsonl", 1), cron="*/5 * * * *")
    queue.add("strict", queue.write_jobs("b.jsonl", 1), catch_up_s=60)
    queue.schedules.time_s = DUE_S + 1800 + 7.0
    scheduler = queue.scheduler()
    queue.fire(scheduler, "often")
    for _ in range(3):
        scheduler.tick()
    assert [batch.job_key for batch in queue.batches()] == ["schedule:often@2026-11-25T02:30:00Z"]
    assert queue.last("strict") is None
    assert log.text.count("schedule strict: missed the firing of 2026-11-25T02:00:00Z") == 1


def test_what_cannot_be_submitted_is_recorded_and_stops_nobody(queue, log):
    queue.add("missing", queue.folder / "nowhere.jsonl")
    queue.add("empty", queue.write_jobs("empty.jsonl", 0))
    queue.add("good", queue.write_jobs("a.jsonl", 1))
    torn = {"torn": b"{"}
    queue.client.redis.hset(queue.ledger.keys.schedules, mapping=torn)
    queue.schedules.time_s = DUE_S
    scheduler = queue.scheduler()
    queue.fire(scheduler, "missing", "empty", "good")
    scheduler.tick()
    assert queue.last("good").state == "submitted"
    assert queue.last("missing").state == queue.last("empty").state == "failed"
    assert "nowhere.jsonl does not exist" in queue.last("missing").message
    assert "no jobs in" in queue.last("empty").message
    assert len(queue.batches()) == 1
    lines = [record for record in log.records if "missing" in record.getMessage()]
    assert len(lines) == 1 and lines[0].exc_info is None
    assert log.text.count("schedule torn is no use here") == 1


@through_a_pipe
def test_a_slow_submission_delays_nobody(queue):
    pipe = queue.folder / "pipe"
    os.mkfifo(pipe)
    queue.add("a-slow", pipe)
    queue.add("b-quick", queue.write_jobs("a.jsonl", 1))
    queue.schedules.time_s = DUE_S
    scheduler = queue.scheduler()
    wait_for(lambda: scheduler.tick() and settled(queue.last("b-quick")))
    assert queue.last("a-slow").state == "submitting"
    # It is kept for longer than a claim holds, and nobody else gets it.
    other = queue.scheduler()
    key = queue.ledger.keys.lock("schedule:a-slow")
    queue.client.redis.pexpire(key, 300)
    assert scheduler.tick() and queue.client.redis.pttl(key) > 300
    other.tick()
    assert not other._hands
    pipe.write_bytes(job_line("late"))
    queue.fire(scheduler, "a-slow")
    assert queue.last("a-slow").num_jobs == 1


def test_many_schedulers_make_each_firing_once(queue):
    names = [f"s{number}" for number in range(12)]
    for name in names:
        queue.add(name, queue.write_jobs(f"{name}.jsonl", 5))
    queue.schedules.time_s = DUE_S
    schedulers = [queue.scheduler() for _ in range(3)]
    threads = [in_thread(lambda s=s: queue.fire(s, *names)) for s in schedulers]
    for thread in threads:
        thread.join()
    assert sorted(batch.job_key for batch in queue.batches()) == sorted(
        f"schedule:{name}@{DUE}" for name in names
    )
    assert all(batch.sealed and batch.num_jobs == 5 for batch in queue.batches())


def test_without_any_claim_two_who_submit_make_one_batch(queue):
    """What makes it safe is the job key; the claims only save work."""
    queue.add("nightly", queue.write_jobs("a.jsonl", 300))
    known = queue.known("nightly")
    claims = []
    for _ in range(3):
        claims.append(queue.schedules.claim(queue.known("nightly"), DUE_S, DUE_S, 60))
        queue.client.redis.delete(queue.ledger.keys.lock("schedule:nightly"))
    assert known.last is None
    never = Interrupted(10**9)
    attempts = [Attempt(queue.client, queue.schedules, claim, 60, never) for claim in claims]
    for thread in [in_thread(attempt.run) for attempt in attempts]:
        thread.join()
    (batch,) = queue.batches()
    assert (batch.sealed, batch.num_jobs, batch.num_shards) == (True, 300, 150)
    assert len(queue.texts(batch.id)) == 300


@pytest.mark.parametrize("num_jobs", [0, 1, 4, 8])
def test_a_firing_that_was_half_submitted_is_finished(queue, num_jobs):
    queue.add("nightly", queue.write_jobs("a.jsonl", 9))
    begun = submit_half(queue, "nightly", num_jobs)
    assert begun.state == "submitting"
    queue.schedules.time_s = DUE_S + (30.0 if num_jobs == 0 else 5 * DAY_S + 9000.0)
    queue.fire(queue.scheduler(), "nightly")
    (batch,) = queue.batches()
    assert (batch.sealed, batch.num_jobs) == (True, 9)
    assert begun.batch_id in (None, batch.id)
    assert queue.texts(batch.id) == [job_line(f"a.jsonl-{number}")[:-1] for number in range(9)]
    assert queue.last("nightly").state == "submitted"


def test_a_firing_that_was_submitted_but_not_recorded_is_not_submitted_again(queue):
    path = queue.write_jobs("a.jsonl", 3)
    queue.add("nightly", path)
    submit_half(queue, "nightly", 10**9)
    before = queue.known("nightly")
    (batch,) = queue.batches()
    begun = b'{"due_s": %d, "state": "submitting", "begun_s": 0}' % DUE_S
    queue.client.redis.hset(queue.ledger.keys.schedules, "nightly:last", begun)
    os.unlink(path)
    queue.schedules.time_s = DUE_S + 600.0
    queue.fire(queue.scheduler(), "nightly")
    after = queue.last("nightly")
    assert (after.state, after.batch_id, after.num_jobs) == ("submitted", batch.id, 3)
    assert before.last.batch_id == batch.id
    assert len(queue.batches()) == 1


@pytest.mark.parametrize("change", ["written anew", "removed"])
def test_files_that_changed_in_the_middle_end_the_batch(queue, change):
    path = queue.write_jobs("a.jsonl", 9)
    queue.add("nightly", path)
    batch_id = submit_half(queue, "nightly", 7).batch_id
    if change == "removed":
        os.unlink(path)
    else:
        queue.write_jobs("a.jsonl", 9, text="The flavor.")
    queue.schedules.time_s = DUE_S + 600.0
    queue.fire(queue.scheduler(), "nightly")
    last = queue.last("nightly")
    assert (last.state, last.batch_id) == ("failed", batch_id)
    assert f"batch {batch_id}, is cancelled; have its files changed" in last.message
    (batch,) = queue.batches()
    assert batch.state == "cancelled" and batch.finished
    assert batch.num_done == batch.num_jobs == 6


def test_lines_that_were_appended_in_the_middle_are_submitted_too(queue):
    path = queue.write_jobs("a.jsonl", 9)
    queue.add("nightly", path)
    submit_half(queue, "nightly", 7)
    with open(path, "ab") as file:
        file.write(job_line("more"))
    queue.schedules.time_s = DUE_S + 600.0
    queue.fire(queue.scheduler(), "nightly")
    assert queue.last("nightly").num_jobs == 10


def test_a_batch_that_was_cancelled_by_hand_stays_so(queue):
    queue.add("nightly", queue.write_jobs("a.jsonl", 9))
    batch_id = submit_half(queue, "nightly", 7).batch_id
    queue.client.batch(batch_id).cancel()
    queue.schedules.time_s = DUE_S + 600.0
    queue.fire(queue.scheduler(), "nightly")
    assert queue.last("nightly").state == "failed"
    assert "was cancelled" in queue.last("nightly").message
    assert len(queue.batches()) == 1


def test_a_full_server_is_waited_for_until_it_is_too_late(queue, monkeypatch, log):
    monkeypatch.setattr(memory, "PATIENCE_S", 0.0)
    monkeypatch.setattr(memory, "PAUSE_S", 0.01)
    monkeypatch.setattr(firing, "RETRY_S", 0.05)
    monkeypatch.setattr(queue.ledger, "memory_percent", lambda: 99.0)
    queue.add("nightly", queue.write_jobs("a.jsonl", 9))
    queue.add("other", queue.write_jobs("b.jsonl", 9))
    queue.schedules.time_s = DUE_S
    scheduler = queue.scheduler()
    names = ("nightly", "other")
    for name in names:
        wait_for(lambda name=name: scheduler.tick() and is_waiting(queue.last(name)))
    assert "99 % full" in queue.last("nightly").message
    assert "tried again in" in log.text
    monkeypatch.setattr(queue.ledger, "memory_percent", lambda: 1.0)
    queue.fire(scheduler, *names)
    assert {batch.num_jobs for batch in queue.batches()} == {9}
    assert len(queue.batches()) == 2


def test_what_was_refused_until_it_was_too_late_is_given_up(queue):
    queue.add("nightly", queue.write_jobs("a.jsonl", 9))
    waiting = b'{"due_s": %d, "state": "waiting", "begun_s": 0, "message": "it was full"}' % DUE_S
    queue.client.redis.hset(queue.ledger.keys.schedules, "nightly:last", waiting)
    queue.schedules.time_s = DUE_S + 3700.0
    queue.fire(queue.scheduler(), "nightly")
    assert queue.last("nightly").state == "failed"
    assert "too late by now, by 3700 s; it was full" in queue.last("nightly").message
    assert queue.batches() == []


@through_a_pipe
def test_a_schedule_that_is_removed_while_it_is_submitted(queue):
    pipe = queue.folder / "pipe"
    os.mkfifo(pipe)
    queue.add("nightly", pipe)
    queue.schedules.time_s = DUE_S
    scheduler = queue.scheduler()
    scheduler.tick()
    queue.schedules.remove("nightly")
    pipe.write_bytes(job_line("one"))
    wait_for(lambda: scheduler.tick() and not scheduler._hands)
    (batch,) = queue.batches()
    assert batch.sealed
    assert queue.client.redis.hgetall(queue.ledger.keys.schedules) == {}


def test_a_server_that_goes_and_comes_back(queue, server, log):
    queue.add("nightly", queue.write_jobs("a.jsonl", 3))
    scheduler = queue.scheduler()
    scheduler.tick()
    server.kill()
    assert scheduler.tick() > 0
    assert scheduler.tick() > 0
    server.start()
    queue.schedules.time_s = DUE_S
    queue.fire(scheduler, "nightly")
    assert len(queue.batches()) == 1
    assert log.text.count("cannot reach") == log.text.count("the server is back") == 1


def test_it_is_alive_as_long_as_it_looks(queue, monkeypatch):
    """What /healthz says."""
    scheduler = queue.scheduler()
    assert scheduler.is_alive()
    stood_still_s = time.monotonic() + queue.settings.stall_timeout_s + 1
    monkeypatch.setattr(time, "monotonic", lambda: stood_still_s)
    assert not scheduler.is_alive()
    scheduler.tick()
    assert scheduler.is_alive()
