"""Rows: written once, by the holder of the lease, all or none; and the end of a batch."""

import pytest
from redis.exceptions import ResponseError

from dgq.worker.ledger.shard import JobLine
from tests.worker.fresh import all_rows, claim, commit, done, line, silence, snapshot, submit
from tests.worker.ledger.test_leases import twice


def test_rows_and_counters(ledger):
    batch_id = submit(ledger, [4])
    lease = claim(ledger, batch_id)
    assert ledger.backlog("default") == 4
    commit(ledger, lease, lease.jobs[2:3], tokens=8, canvases=2, steps=9)
    rows = [done(lease.jobs[0], "error", tokens=1), done(lease.jobs[3], "invalid_output", steps=1)]
    assert ledger.commit(lease, rows, release=False) == "written"
    info = ledger.info(batch_id)
    assert info.num_by_status == {"ok": 1, "invalid_output": 1, "error": 1, "cancelled": 0}
    assert (info.num_done, info.num_failed, info.finished) == (3, 2, False)
    assert (info.num_tokens, info.num_canvases, info.num_steps) == (9, 2, 10)
    assert ledger.backlog("default") == 1
    assert [row.index for row in all_rows(ledger, batch_id)] == [2, 0, 3]
    commit(ledger, lease, lease.jobs[1:2], release=True)
    info = ledger.info(batch_id)
    assert (info.state, info.finished, info.num_done) == ("done", True, 4)
    assert info.created_s <= info.finished_s
    assert ledger.backlog("default") == 0
    assert ledger.candidates(["default"]) == []
    assert ledger.redis.xlen(ledger.keys.batch(batch_id).shards) == 0


def test_a_shard_from_thousands_of_jobs_on(ledger):
    batch_id = submit(ledger, [4096])
    lease = claim(ledger, batch_id)
    commit(ledger, lease, lease.jobs[:4000])
    assert commit(ledger, lease, lease.jobs, release=True, by="late") == "written"
    rows = all_rows(ledger, batch_id)
    assert [row.index for row in rows] == list(range(4096))
    assert sum(b"late" in row.text for row in rows) == 96
    assert ledger.info(batch_id).finished


def test_a_commit_once_more_after_a_lost_reply(ledger, monkeypatch):
    batch_id = submit(ledger, [3])
    lease = claim(ledger, batch_id)
    twice(monkeypatch)
    assert commit(ledger, lease, lease.jobs[:2], tokens=5) == "written"
    assert commit(ledger, lease, lease.jobs[:2], release=False, tokens=5) == "written"
    info = ledger.info(batch_id)
    assert (info.num_done, info.num_tokens) == (2, 10)  # of the jobs, not of the commits
    assert commit(ledger, lease, lease.jobs[2:], release=True) == "lost"  # by itself
    assert ledger.info(batch_id).finished
    assert [row.index for row in all_rows(ledger, batch_id)] == [0, 1, 2]


def test_the_first_row_stays(ledger):
    batch_id = submit(ledger, [3])
    slow = claim(ledger, batch_id, "slow")
    commit(ledger, slow, slow.jobs[:1], by="slow")
    silence(ledger, slow)
    fast = claim(ledger, batch_id, "fast")
    commit(ledger, fast, fast.jobs[:1], by="fast")
    before = snapshot(ledger)
    assert commit(ledger, slow, slow.jobs[1:], release=True, by="slow") == "lost"
    assert snapshot(ledger) == before
    # Even a holder that gives rows for all jobs cannot replace one.
    every = [done(job, by="again") for job in slow.jobs]
    assert ledger.commit(fast, every, release=True) == "written"
    rows = all_rows(ledger, batch_id)
    assert [(row.index, row.text.split(b'"')[-2]) for row in rows] == [
        (0, b"slow"),
        (1, b"fast"),
        (2, b"again"),
    ]
    assert ledger.info(batch_id).num_by_status["ok"] == 3


def test_ending_a_shard_that_has_all_its_rows(ledger):
    batch_id = submit(ledger, [2], seal=False)
    lease = claim(ledger, batch_id)
    commit(ledger, lease, release=False)
    silence(ledger, lease)
    again = claim(ledger, batch_id)
    assert again.jobs == ()
    before = ledger.info(batch_id)
    assert ledger.commit(again, [], release=True) == "written"
    assert ledger.info(batch_id) == before
    assert claim(ledger, batch_id, lease_s=0) is None


def test_a_finished_batch_keeps_no_shards(ledger):
    batch_id = submit(ledger, [2])
    lease = claim(ledger, batch_id)
    commit(ledger, lease, release=False)
    assert ledger.info(batch_id).finished
    assert not ledger.redis.exists(ledger.keys.batch(batch_id).shards)
    assert ledger.renew(lease) == "lost" == ledger.commit(lease, [], release=True)
    assert claim(ledger, batch_id, lease_s=0) is None


def test_a_batch_that_is_gone_or_released(ledger):
    batch_id = submit(ledger, [2])
    lease = claim(ledger, batch_id)
    ledger.release(lease)
    assert commit(ledger, lease) == "lost"
    ledger.redis.delete(ledger.keys.batch(batch_id).shards)
    assert commit(ledger, lease) == "lost"
    ledger.redis.flushall()
    assert commit(ledger, lease) == "gone"
    assert snapshot(ledger) == {}


def test_the_lines_of_failed_jobs_are_kept_for_a_retry(ledger):
    batch_id = submit(ledger, [4])
    lease = claim(ledger, batch_id)
    rows = [done(job, "error", failed_line=job) for job in reversed(lease.jobs[1:3])]
    assert ledger.commit(lease, [*rows, done(lease.jobs[0])], release=False) == "written"
    assert list(ledger.failed_jobs(batch_id)) == [JobLine(1, 2, line(1)), JobLine(2, 3, line(2))]
    # What has a row already is no failure, whatever a late holder says.
    ledger.commit(lease, [done(lease.jobs[0], "error", failed_line=lease.jobs[0])], release=False)
    assert len(list(ledger.failed_jobs(batch_id))) == 2


def test_many_failed_jobs_come_in_the_order_of_the_input(ledger):
    batch_id = submit(ledger, [200])
    lease = claim(ledger, batch_id)
    rows = [done(job, "error", failed_line=job) for job in reversed(lease.jobs[:150])]
    assert ledger.commit(lease, rows, release=False) == "written"
    assert tuple(ledger.failed_jobs(batch_id)) == lease.jobs[:150]


def test_a_full_server_refuses_rows_whole(ledger):
    batch_id = submit(ledger, [3])
    lease = claim(ledger, batch_id)
    commit(ledger, lease, lease.jobs[:1])
    before = snapshot(ledger)
    ledger.redis.config_set("maxmemory", 1)
    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        commit(ledger, lease, lease.jobs[:2], status="error", tokens=7)
    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        ledger.claim(batch_id, "default", "w", 0)
    assert snapshot(ledger) == before
    assert ledger.renew(lease) == "active"  # and they can wait for room
    ledger.redis.config_set("maxmemory", 0)
    assert commit(ledger, lease, lease.jobs[1:2], tokens=7) == "written"


def test_a_full_server_takes_the_rows_that_end_a_shard(ledger):
    """They free more than they need; else a full server would never get emptier."""
    batch_id = submit(ledger, [100])
    lease = claim(ledger, batch_id)
    ledger.redis.config_set("maxmemory", 1)
    assert commit(ledger, lease) == "written"
    assert ledger.info(batch_id).state == "done"
    assert len(all_rows(ledger, batch_id)) == 100


def test_rows_can_be_read_from_any_cursor(ledger):
    batch_id = submit(ledger, [5])
    assert list(ledger.read_rows(batch_id)) == []
    lease = claim(ledger, batch_id)
    for job in lease.jobs:
        commit(ledger, lease, [job])
    pages = list(ledger.read_rows(batch_id, at_most=100))
    assert [row.index for _, rows in pages for row in rows] == list(range(5))
    for at, (cursor, _) in enumerate(pages):
        rest = [rows[0].index for _, rows in ledger.read_rows(batch_id, cursor)]
        assert rest == list(range(at + 1, 5))
    assert len(list(ledger.read_rows(batch_id, at_most=2))) == 2
    assert list(ledger.read_rows(batch_id, pages[-1][0], wait_s=0.01)) == []
