"""Promises: a worker that stands still for longer than its lease loses its shards to another one, and
when it goes on its rows are refused: none is doubled or changed, and it goes on to be of use."""

from tests.worker.faults.fleet import make_jobs, wait_for


def test_a_frozen_worker_that_thaws_is_fenced(fleet):
    fleet = fleet(shard_jobs=10, shards_per_worker=1)
    zombie = fleet.start(1, "--stub-seconds", "0.1")
    jobs = make_jobs(10)
    batch = fleet.submit(jobs)
    fleet.wait_for_rows(batch, 3)
    zombie.freeze()
    heir = fleet.start()
    rows = fleet.finish(batch, jobs)
    zombie.thaw()
    wait_for(lambda: "no longer this worker's" in zombie.err)
    assert fleet.finish(batch, jobs) == rows
    heir.kill()
    batch = fleet.submit(jobs)
    fleet.finish(batch, jobs)
    assert zombie.process.poll() is None


def test_both_write_at_the_same_time(fleet):
    """Thawed while the heir is still at work, so that both have rows for the same jobs."""
    fleet = fleet(shard_jobs=40, shards_per_worker=1)
    zombie = fleet.start(1, "--stub-seconds", "0.05")
    jobs = make_jobs(40)
    batch = fleet.submit(jobs)
    fleet.wait_for_rows(batch, 3)
    zombie.freeze()
    count = len(fleet.rows(batch))
    fleet.start(1, "--stub-seconds", "0.05")
    fleet.wait_for_rows(batch, count + 1)
    zombie.thaw()
    fleet.finish(batch, jobs)
    wait_for(lambda: "no longer this worker's" in zombie.err)


def test_a_ticket_lost_in_a_frozen_worker(fleet):
    """The only one that listens has the ticket in its socket, and is then killed."""
    fleet = fleet()
    victim = fleet.start()
    victim.freeze()
    jobs = make_jobs(20)
    batch = fleet.submit(jobs)
    victim.kill()
    fleet.start()
    fleet.finish(batch, jobs)
