"""Promises: a worker that is told to end ends with 0 in the time that it has, and gives back what it
does not finish, so that nobody waits for a lease; told twice, or by SIGQUIT, it does so at once.

The leases here are far longer than the tests: work that was not given back would not be done in time.
"""

import signal
import time

import pytest

from tests.worker.faults.fleet import make_jobs, wait_for

LONG_S = 600.0


def slow_first(count, seconds):
    """Jobs of which the first is slow."""
    jobs = make_jobs(count)
    jobs[0]["text"] = f"stub:wait {seconds}"
    return jobs


def assert_given_back(fleet, batch, count):
    """So many jobs can be had at once, and nobody is blamed for a death."""
    claimed = fleet.ledger.claim(batch.id, "default", "me", LONG_S)
    assert claimed is not None
    assert claimed.deaths == 0
    assert len(claimed.jobs) == count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_finishes_what_is_begun_and_gives_back_the_rest(fleet, number):
    fleet = fleet(lease_s=LONG_S, shard_jobs=10, shards_per_worker=1, drain_timeout_s=30)
    first = fleet.start()
    jobs = slow_first(10, 2)
    batch = fleet.submit(jobs)
    wait_for(lambda: fleet.ledger.workers()[0].fields["busy"] == "1")
    first.signal(number)
    assert first.wait() == 0, first.err
    assert len(fleet.rows(batch)) == 1
    assert not fleet.ledger.workers()
    assert_given_back(fleet, batch, 9)


@pytest.mark.parametrize(
    "numbers", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGTERM], [signal.SIGQUIT]]
)
def test_it_gives_back_everything_at_once(fleet, numbers):
    """Even what hangs in a job."""
    fleet = fleet(lease_s=LONG_S, shard_jobs=10, shards_per_worker=1, drain_timeout_s=LONG_S)
    first = fleet.start()
    jobs = make_jobs(10)
    jobs[5]["text"] = "stub:hang"
    batch = fleet.submit(jobs)
    fleet.wait_for_rows(batch, 5)
    for number in numbers:
        first.signal(number)
        if len(numbers) == 2:
            wait_for(lambda: "draining" in first.err)
    assert first.wait() == 0, first.err
    assert len(fleet.rows(batch)) == 5
    assert_given_back(fleet, batch, 5)


def test_it_ends_in_time_when_something_hangs(fleet):
    """SIGTERM, and neither the job nor the server lets go."""
    fleet = fleet(lease_s=LONG_S, drain_timeout_s=1)
    first = fleet.start()
    batch = fleet.submit(slow_first(1, LONG_S))
    wait_for(lambda: fleet.ledger.workers()[0].fields["busy"] == "1")
    fleet.server.freeze()
    first.signal(signal.SIGTERM)
    told_s = time.monotonic()
    assert first.wait() == 0
    assert time.monotonic() - told_s < 20
    fleet.server.thaw()
    assert not batch.status().finished


def test_an_idle_worker_ends_at_once(fleet):
    fleet = fleet(drain_timeout_s=LONG_S)
    first = fleet.start()
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    assert "Traceback" not in first.err


def test_a_long_lease_is_no_standstill(fleet):
    """The watchdog must hear the keeper's heart, however seldom leases are to be renewed."""
    fleet = fleet(lease_s=LONG_S, stall_timeout_s=2)
    worker = fleet.start()
    time.sleep(4)
    assert worker.process.poll() is None, worker.err
    jobs = make_jobs(3)
    fleet.finish(fleet.submit(jobs), jobs)
