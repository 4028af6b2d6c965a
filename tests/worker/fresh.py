"""Fixtures: a ledger on a real server that was just emptied, and helpers to fill and empty it.

A conftest.py takes the fixtures: ``from tests.worker.fresh import ledger, server``.
"""

import json

import pytest

from dgq.worker.ledger.ledger import Ledger
from dgq.worker.ledger.shard import JobLine, Shard
from dgq.worker.ledger.types import Done, NewBatch
from tests.worker.servers import RealServer, binaries

LEASE_S = 60.0


@pytest.fixture(scope="module", params=binaries())
def server(request, tmp_path_factory):
    """One for each module, and each server program on this machine."""
    with RealServer(tmp_path_factory.mktemp("server"), binary=request.param) as running:
        yield running


@pytest.fixture
def ledger(server):
    """On an empty server, whose statistics begin at 0."""
    redis = server.client()
    redis.flushall()
    redis.config_set("maxmemory", 0)
    redis.config_resetstat()
    yield Ledger(redis, results_ttl_s=3600)
    redis.close()


def line(index, **fields):
    """A job's line."""
    job = {"id": f"job-{index}", "kind": "rewrite", "text": "Hello.", "instruction": "Shout."}
    return json.dumps(job | fields).encode()


def shard(number, first, num_jobs):
    """Jobs without a bad line among them."""
    indices = range(first, first + num_jobs)
    return Shard(number, first, [JobLine(index, index + 1, line(index)) for index in indices])


def submit(ledger, sizes=(3,), *, seal=True, **new):
    """The id of a batch with shards of these sizes."""
    batch = ledger.info(ledger.create(NewBatch(**new))[0])
    digest, first = "", 0
    for number, size in enumerate(sizes):
        one = shard(number, first, size)
        assert ledger.add_shard(batch, one, digest, []) == "ADDED"
        digest, first = one.digest_after(digest), first + size
    if seal:
        assert ledger.seal(batch, digest, len(sizes)) == "SEALED"
    return batch.id


def claim(ledger, batch_id, worker="w", lease_s=LEASE_S):
    """A lease; None if there is none to have."""
    return ledger.claim(batch_id, ledger.info(batch_id).label, worker, lease_s)


def done(job, status="ok", **more):
    """The row of a job; it tells by whom it was made, if ``by`` is given."""
    by = more.pop("by", "")
    return Done(job.index, json.dumps({"index": job.index, "by": by}).encode(), status, **more)


def commit(ledger, lease, jobs=None, *, release=None, **more):
    """Rows for some jobs, or for all that are left."""
    jobs = lease.jobs if jobs is None else jobs
    release = len(jobs) == len(lease.jobs) if release is None else release
    return ledger.commit(lease, [done(job, **more) for job in jobs], release=release)


def silence(ledger, lease):
    """Let a holder be silent for an hour."""
    stream = ledger.keys.batch(lease.batch_id).shards
    ledger.redis.xclaim(
        stream, "workers", lease.consumer, 0, [lease.entry], idle=3_600_000, justid=True
    )


def all_rows(ledger, batch_id):
    """The rows so far, in the order of their commits."""
    rows, cursor = [], "0-0"
    while page := list(ledger.read_rows(batch_id, cursor)):
        cursor = page[-1][0]
        rows += [row for _, commit_rows in page for row in commit_rows]
    return rows


def snapshot(ledger):
    """All that the server holds, times apart: two equal ones say that nothing was changed."""
    redis = ledger.redis
    return {key: redis.dump(key) for key in sorted(redis.keys("*"))}
