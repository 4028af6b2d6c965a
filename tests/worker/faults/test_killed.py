"""Promises: a worker that is killed with -9, at any moment, costs no job its row and doubles none;
what it had committed stays; the rest is another worker's within 15 seconds."""

import random
import time

from tests.worker.faults.fleet import make_jobs, wait_for


def test_before_it_claims(fleet):
    """The ticket is gone with it: somebody rings again."""
    fleet = fleet()
    victim, _ = fleet.start(2)
    jobs = make_jobs(20)
    victim.kill()
    batch = fleet.submit(jobs)
    fleet.finish(batch, jobs)


def test_in_the_middle_of_a_job(fleet):
    """Also between two commits of a shard: what is committed is not run again."""
    fleet = fleet(shard_jobs=50, shards_per_worker=1)
    victim = fleet.start(1, "--stub-seconds", "0.05")
    jobs = make_jobs(50)
    batch = fleet.submit(jobs)
    before = fleet.wait_for_rows(batch, 5)
    victim.kill()
    before = fleet.rows(batch)
    assert 0 < len(before) < len(jobs)
    fleet.start()
    assert fleet.finish(batch, jobs)[: len(before)] == before


def test_with_all_rows_but_the_last(fleet):
    fleet = fleet(shard_jobs=8, shards_per_worker=1)
    victim = fleet.start()
    jobs = make_jobs(8)
    jobs[-1]["text"] = "stub:wait 3"
    batch = fleet.submit(jobs)
    before = fleet.wait_for_rows(batch, 7)
    victim.kill()
    fleet.start()
    rows = fleet.finish(batch, jobs)
    assert rows[:7] == before


def test_again_and_again(fleet):
    """Five of them at random moments, each replaced by a new one."""
    fleet = fleet(shard_jobs=8, max_deaths=1000)
    fleet.start(3, "--stub-seconds", "0.05")
    jobs = make_jobs(1200)
    batch = fleet.submit(jobs)
    random.seed(1)
    before = []
    for _ in range(5):
        fleet.wait_for_rows(batch, len(before) + 100)
        random.choice([w for w in fleet.workers if w.process.poll() is None]).kill()
        rows = fleet.rows(batch)
        assert rows[: len(before)] == before, "a committed row has changed"
        before = rows
        fleet.start(1, "--stub-seconds", "0.05", wait=False)
    assert fleet.finish(batch, jobs)[: len(before)] == before


def test_within_15_seconds_with_the_settings_as_shipped(fleet):
    """The time from the kill to the next row of the shard that was in the killed worker's hands."""
    shipped = dict.fromkeys(["lease_s", "janitor_interval_s", "drain_timeout_s", "max_deaths"])
    fleet = fleet()
    for name in shipped:
        del fleet.settings[name]
    victim, heir = fleet.start(2, "--shards", "1", "--stub-seconds", "0.2")
    jobs = make_jobs(20)
    batch = fleet.submit(jobs)
    wait_for(lambda: any(i.fields["busy"] == "1" for i in fleet.ledger.workers()))
    holder = next(i.id for i in fleet.ledger.workers() if i.fields["busy"] == "1")
    if holder.startswith(heir.name):
        victim, heir = heir, victim
    fleet.wait_for_rows(batch, 2)
    victim.kill()
    killed_s = time.monotonic()
    fleet.wait_for_rows(batch, len(fleet.rows(batch)) + 1)
    assert time.monotonic() - killed_s < 15
    fleet.finish(batch, jobs)
