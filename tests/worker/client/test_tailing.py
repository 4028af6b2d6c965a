"""Rows as they come, from any cursor on."""

import pytest

from dgq.worker.client.tailing import tail
from dgq.worker.errors import BatchUnknown, WaitTimeout
from tests.worker.fresh import claim, commit, submit


def indices(commits):
    return [row.index for _, rows in commits for row in rows]


def test_what_is_there_now_and_then_the_rest(ledger):
    batch_id = submit(ledger, [3, 3])
    first, second = claim(ledger, batch_id), claim(ledger, batch_id)
    commit(ledger, first)
    now = list(tail(ledger, batch_id, follow=False))
    assert indices(now) == [0, 1, 2]
    cursor = now[-1][0]
    commit(ledger, second, second.jobs[:2])
    assert indices(tail(ledger, batch_id, cursor, follow=False)) == [3, 4]
    commit(ledger, second, second.jobs[2:], release=True)
    assert indices(tail(ledger, batch_id, cursor)) == [3, 4, 5]
    assert indices(tail(ledger, batch_id)) == list(range(6))


def test_more_commits_than_one_read_gives(ledger):
    batch_id = submit(ledger, [200])
    lease = claim(ledger, batch_id)
    for job in lease.jobs:
        commit(ledger, lease, [job])
    commit(ledger, lease, [], release=True)
    assert indices(tail(ledger, batch_id, timeout_s=0)) == list(range(200))


def test_it_ends_with_the_batch_that_it_follows(ledger):
    batch_id = submit(ledger, [2])
    lease = claim(ledger, batch_id)
    commit(ledger, lease, lease.jobs[:1])
    seen = []
    for _, rows in tail(ledger, batch_id):
        seen += rows
        if len(seen) == 1:
            commit(ledger, lease, lease.jobs[1:], release=True)
    assert [row.index for row in seen] == [0, 1]


def test_a_batch_that_ends_without_rows(ledger):
    batch_id = submit(ledger, [], seal=False)
    ledger.control(batch_id, "cancel")
    assert list(tail(ledger, batch_id)) == []


def test_the_time_limit_is_for_waiting_not_for_the_reader(ledger, monkeypatch):
    batch_id = submit(ledger, [2])
    lease = claim(ledger, batch_id)
    commit(ledger, lease, lease.jobs[:1])
    now_s = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    rows = tail(ledger, batch_id, timeout_s=5)
    next(rows)
    now_s = 1000.0  # the reader is slow
    commit(ledger, lease, lease.jobs[1:], release=True)
    assert indices(rows) == [1]


def test_nothing_comes_in_time(ledger):
    batch_id = submit(ledger, [2])
    with pytest.raises(WaitTimeout, match=f"no rows of {batch_id} for 0.01 s; it goes on"):
        list(tail(ledger, batch_id, timeout_s=0.01))


def test_a_batch_that_is_lost_under_way(ledger):
    batch_id = submit(ledger, [2])
    lease = claim(ledger, batch_id)
    commit(ledger, lease, lease.jobs[:1])
    rows = tail(ledger, batch_id)
    next(rows)
    ledger.redis.flushall()
    with pytest.raises(BatchUnknown):
        next(rows)
