"""Promises: the server may be killed and come back, with its data or without; it may be full. Workers
wait and go on. What the server has kept is neither lost nor done twice."""

import time

import pytest
from redis.exceptions import RedisError

from dgq.worker.errors import BatchUnknown
from tests.worker.faults.fleet import make_jobs, wait_for


def assert_serves(fleet, worker):
    assert worker.process.poll() is None, worker.err
    jobs = make_jobs(30)
    fleet.finish(fleet.submit(jobs), jobs)


def test_killed_and_restarted_with_its_data(fleet, server):
    """In the middle of a batch, and once more while nobody works."""
    fleet = fleet(shard_jobs=16)
    worker = fleet.start(1, "--stub-seconds", "0.02")
    jobs = make_jobs(300)
    batch = fleet.submit(jobs)
    before = fleet.wait_for_rows(batch, 30)
    server.kill()
    wait_for(lambda: "waiting for the server" in worker.err)
    server.start()
    assert fleet.finish(batch, jobs)[: len(before)] == before
    server.restart()
    assert_serves(fleet, worker)


def test_it_has_lost_everything(fleet, server):
    """The batch is gone, and whoever asks for it is told; the worker drops its shards."""
    fleet = fleet(shard_jobs=16)
    worker = fleet.start(1, "--stub-seconds", "0.02")
    lost = fleet.submit(make_jobs(300))
    fleet.wait_for_rows(lost, 20)
    server.kill()
    server.wipe()
    server.start()
    wait_for(lambda: "no longer this worker's" in worker.err)
    with pytest.raises(BatchUnknown):
        lost.status()
    assert_serves(fleet, worker)


def test_it_is_emptied_while_it_runs(fleet, server):
    fleet = fleet(shard_jobs=16)
    worker = fleet.start(1, "--stub-seconds", "0.02")
    fleet.wait_for_rows(fleet.submit(make_jobs(300)), 20)
    server.client().flushall()
    assert_serves(fleet, worker)


def test_a_batch_is_deleted_by_hand(fleet, server):
    """Only its keys: the list of batches still names it, and others must be served all the same."""
    fleet = fleet(shard_jobs=16)
    fleet.client.redis.ping()
    batch = fleet.submit(make_jobs(30))
    admin = server.client()
    admin.delete(*fleet.ledger.keys.batch(batch.id).all())
    admin.delete("dgq:dgq.v1.default")
    assert_serves(fleet, fleet.start())


def test_it_is_full(fleet, server):
    """In the middle of a batch; the worker waits, is not taken for wedged, and goes on."""
    fleet = fleet(shard_jobs=16, stall_timeout_s=3)
    worker = fleet.start(1, "--stub-seconds", "0.02")
    jobs = make_jobs(300)
    batch = fleet.submit(jobs)
    before = fleet.wait_for_rows(batch, 20)
    admin = server.client()
    admin.config_set("maxmemory", 1_000_000)
    wait_for(lambda: "waiting for the server" in worker.err)
    with pytest.raises(RedisError):
        admin.set("x", 1)
    with pytest.raises(AssertionError):
        wait_for(lambda: worker.process.poll() is not None, timeout_s=5)
    admin.config_set("maxmemory", 0)
    assert fleet.finish(batch, jobs)[: len(before)] == before
    assert_serves(fleet, worker)


def test_it_is_away_for_longer_than_a_lease(fleet, server):
    """Nobody could renew: that is no death, and who comes back first robs nobody."""
    fleet = fleet(shard_jobs=1, shards_per_worker=1, lease_s=6)
    workers = fleet.start(4, "--stub-seconds", "0.2")
    jobs = make_jobs(60)
    for job in jobs[:3]:
        job["text"] += " stub:wait 12"
    batch = fleet.submit(jobs)
    fleet.wait_for_rows(batch, 10)
    server.kill()
    time.sleep(7)
    server.start()
    fleet.finish(batch, jobs)
    assert [worker.name for worker in workers if "no longer this worker's" in worker.err] == []
