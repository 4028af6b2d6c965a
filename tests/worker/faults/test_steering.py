"""Promises: pausing lets no further job begin and loses none; cancelling ends a batch with a row for
each of its jobs, also in the middle of a shard; neither takes longer than the job that runs."""

from tests.worker.faults.fleet import make_jobs, wait_for


def holders(fleet, stream):
    """Who has shards of a batch."""
    pending = fleet.ledger.redis.xpending(stream, "workers")
    return {consumer["name"] for consumer in pending["consumers"]}


def test_pause_and_resume(fleet):
    fleet = fleet(shard_jobs=20)
    fleet.start(1, "--stub-seconds", "0.05")
    jobs = make_jobs(100)
    batch = fleet.submit(jobs)
    fleet.wait_for_rows(batch, 5)
    batch.pause()
    stream = fleet.ledger.keys.batch(batch.id).shards
    wait_for(lambda: holders(fleet, stream) == {b"released"})
    count = len(fleet.rows(batch))
    assert count < 100
    other = fleet.submit(make_jobs(5))
    fleet.finish(other, make_jobs(5))
    assert len(fleet.rows(batch)) == count
    batch.resume()
    fleet.finish(batch, jobs)


def test_cancel_in_the_middle_of_a_shard(fleet):
    fleet = fleet(shard_jobs=50)
    worker = fleet.start(1, "--stub-seconds", "0.05")
    jobs = make_jobs(100)
    batch = fleet.submit(jobs)
    before = fleet.wait_for_rows(batch, 5)
    batch.cancel()
    wait_for(lambda: batch.status().finished)
    rows = fleet.rows(batch)
    assert rows[: len(before)] == before
    info = batch.status()
    assert info.num_done == 100
    assert info.num_by_status["cancelled"] > 50
    assert info.num_by_status["ok"] + info.num_by_status["cancelled"] == 100
    fleet.finish(fleet.submit(jobs), jobs)
    assert worker.process.poll() is None
