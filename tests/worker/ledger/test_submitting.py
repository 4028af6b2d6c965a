"""Batches and their input: create, add_shard, seal, expiry."""

import pytest
from redis.exceptions import ResponseError

from dgq.pipelines.reading import BadLine
from dgq.worker.errors import BatchUnknown
from dgq.worker.ledger.keys import ABANDONED_S
from dgq.worker.ledger.shard import JobLine, Row, Shard
from dgq.worker.ledger.types import JobOptions, NewBatch
from tests.worker.fresh import all_rows, claim, commit, line, shard, snapshot, submit


def created(ledger, **new):
    return ledger.info(ledger.create(NewBatch(**new))[0])


def ttls(ledger, batch_id):
    """What the batch's keys have left, in seconds; -1 for ever; those that exist."""
    redis = ledger.redis
    keys = [key for key in ledger.keys.batch(batch_id).all() if redis.exists(key)]
    if job_key := ledger.info(batch_id).job_key:
        keys.append(ledger.keys.job_key(job_key))
    left = {redis.pttl(key) for key in keys}
    assert max(left) - min(left) < 1000, "they do not expire together"
    return max(left) if max(left) < 0 else round(max(left) / 1000)


def test_a_new_batch_is_as_it_was_asked_for(ledger):
    new = NewBatch("big", 7, "a.jsonl", "night", "b-old", JobOptions(5, 2), 10, 1000)
    batch_id, fresh = ledger.create(new)
    assert fresh
    info = ledger.info(batch_id)
    assert (info.label, info.priority, info.source, info.job_key) == ("big", 7, "a.jsonl", "night")
    assert (info.retry_of, info.options) == ("b-old", JobOptions(5, 2))
    assert (info.shard_jobs, info.shard_bytes) == (10, 1000)
    assert (info.state, info.sealed, info.finished, info.num_jobs) == ("active", False, False, 0)
    assert [batch.id for batch in ledger.batches()] == [batch_id]
    assert ledger.labels() == ["big"]
    assert ledger.backlog("big") == 0


def test_the_same_job_key_is_the_same_batch(ledger):
    first, _ = ledger.create(NewBatch(job_key="k"))
    before = snapshot(ledger)
    assert ledger.create(NewBatch(job_key="k", priority=9)) == (first, False)
    assert snapshot(ledger) == before
    assert ledger.create(NewBatch(job_key="other"))[0] != first


def test_a_job_key_whose_batch_is_gone_is_free_again(ledger):
    first, _ = ledger.create(NewBatch(job_key="k"))
    ledger.redis.delete(ledger.keys.batch(first).meta)
    second, fresh = ledger.create(NewBatch(job_key="k"))
    assert fresh and second != first
    assert ledger.create(NewBatch(job_key="k")) == (second, False)
    assert [batch.id for batch in ledger.batches()] == [second]


def test_creating_once_more_after_a_lost_reply_changes_nothing(ledger, monkeypatch):
    monkeypatch.setattr("os.urandom", lambda count: b"\7" * count)
    first = ledger.create(NewBatch(job_key="k"))
    before = snapshot(ledger)
    assert ledger.create(NewBatch(job_key="k")) == first == (first[0], True)
    assert snapshot(ledger) == before


@pytest.mark.parametrize("name", ["b-aaaaaaaaaaaa", "b-1", "", "*", "b-\udcff", "b-aaaaaaaaaaaa\n"])
def test_an_unknown_batch(ledger, name):
    with pytest.raises(BatchUnknown, match="knows no batch"):
        ledger.info(name)
    with pytest.raises(BatchUnknown):
        ledger.control(name, "cancel")


def test_adding_shards_counts_and_repeats_change_nothing(ledger):
    batch = created(ledger)
    jobs = [JobLine(0, 1, line(0)), JobLine(2, 4, line(2))]
    bad = BadLine(2, "no job")
    first = Shard(0, 0, jobs, [(1, bad)])
    rows = [Row(1, b'{"status":"error"}')]
    assert ledger.add_shard(batch, first, "", rows) == "ADDED"
    before = snapshot(ledger)
    assert ledger.add_shard(batch, first, "", rows) == "HAVE"
    assert snapshot(ledger) == before
    info = ledger.info(batch.id)
    assert (info.num_jobs, info.num_done, info.num_shards) == (3, 1, 1)
    assert info.num_by_status["error"] == info.num_failed == 1
    assert info.digest == first.digest_after("")
    assert ledger.backlog("default") == 2
    assert all_rows(ledger, batch.id) == rows
    assert ledger.candidates(["default"]) == [(batch.id, "default")]
    assert claim(ledger, batch.id).jobs == tuple(jobs)


def test_a_shard_of_bad_lines_alone(ledger):
    batch = created(ledger)
    one = Shard(0, 0, [], [(0, BadLine(1, "x")), (1, BadLine(2, "y"))])
    assert ledger.add_shard(batch, one, "", [Row(0, b"x"), Row(1, b"y")]) == "ADDED"
    assert claim(ledger, batch.id) is None
    assert ledger.candidates(["default"]) == []
    assert ledger.seal(batch, one.digest_after(""), 1) == "SEALED"
    info = ledger.info(batch.id)
    assert (info.state, info.num_jobs, info.num_done, info.finished) == ("done", 2, 2, True)


def test_another_input_is_refused_and_changes_nothing(ledger):
    batch = created(ledger)
    one, two = shard(0, 0, 2), shard(1, 2, 2)
    assert ledger.add_shard(batch, one, "", []) == "ADDED"
    before = snapshot(ledger)
    assert ledger.add_shard(batch, two, "wrong", []) == "DIFFERENT"
    assert ledger.seal(batch, "wrong", 1) == "DIFFERENT"
    assert ledger.add_shard(batch, shard(2, 4, 2), "any", []) == "BEHIND"
    assert ledger.seal(batch, "any", 2) == "BEHIND"
    assert snapshot(ledger) == before
    assert ledger.seal(batch, one.digest_after(""), 1) == "SEALED"
    assert ledger.add_shard(batch, two, one.digest_after(""), []) == "DIFFERENT"  # it has ended
    assert ledger.add_shard(batch, one, "", []) == "HAVE"
    assert ledger.info(batch.id).num_jobs == 2


def test_a_cancelled_batch_and_an_unknown_one_take_nothing(ledger):
    batch = created(ledger)
    ledger.control(batch.id, "cancel")
    before = snapshot(ledger)
    assert ledger.add_shard(batch, shard(0, 0, 1), "", []) == "CANCELLED"
    assert ledger.seal(batch, "", 0) == "CANCELLED"
    assert snapshot(ledger) == before
    ledger.redis.flushall()
    assert ledger.add_shard(batch, shard(0, 0, 1), "", []) == "UNKNOWN"
    assert ledger.seal(batch, "", 0) == "UNKNOWN"
    assert snapshot(ledger) == {}


def test_sealing_twice_and_after_the_last_row(ledger):
    batch_id = submit(ledger, [2], seal=False)
    batch = ledger.info(batch_id)
    assert commit(ledger, claim(ledger, batch_id)) == "written"
    assert not ledger.info(batch_id).finished
    assert ledger.seal(batch, batch.digest, 1) == "SEALED"
    before = snapshot(ledger)
    assert ledger.info(batch_id).state == "done"
    assert ledger.seal(batch, batch.digest, 1) == "SEALED"
    assert snapshot(ledger) == before


def test_an_abandoned_batch_expires_unless_it_moves(ledger):
    batch_id = submit(ledger, [2, 2], seal=False, job_key="k")
    redis, keys = ledger.redis, ledger.keys.batch(batch_id)
    assert ttls(ledger, batch_id) == ABANDONED_S

    def age():
        for key in [*keys.all(), ledger.keys.job_key("k")]:
            redis.expire(key, 100)

    age()
    lease = claim(ledger, batch_id)
    commit(ledger, lease, lease.jobs[:1])  # makes keys that were not there
    assert ttls(ledger, batch_id) == ABANDONED_S
    age()
    batch = ledger.info(batch_id)
    next_one = shard(2, 4, 2)
    ledger.add_shard(batch, next_one, batch.digest, [])
    assert ttls(ledger, batch_id) == ABANDONED_S
    ledger.seal(batch, next_one.digest_after(batch.digest), 3)
    assert ttls(ledger, batch_id) == -1  # its jobs wait for their rows for as long as it takes
    commit(ledger, lease, lease.jobs[1:], release=True, status="error")
    while lease := claim(ledger, batch_id):
        assert ttls(ledger, batch_id) == -1
        commit(ledger, lease)
    assert ledger.info(batch_id).finished
    assert ttls(ledger, batch_id) == 3600


def test_a_cancelled_submission_expires_like_a_finished_one(ledger):
    batch_id = submit(ledger, [2], seal=False)
    ledger.control(batch_id, "cancel")
    assert ttls(ledger, batch_id) == -1
    commit(ledger, claim(ledger, batch_id), status="cancelled")
    assert ttls(ledger, batch_id) == 3600


def test_what_has_expired_is_forgotten(ledger):
    gone = [submit(ledger, label=f"model-{number}") for number in range(40)]
    for batch_id in gone:
        ledger.redis.delete(*ledger.keys.batch(batch_id).all())
    for _ in range(100):
        ledger.create(NewBatch())
    assert ledger.redis.zcard(ledger.keys.batches) < 110  # swept while others were made
    assert len(list(ledger.batches())) == 100
    assert ledger.redis.zcard(ledger.keys.batches) == 100
    assert ledger.backlog("model-3") == 0
    assert ledger.claim(gone[3], "model-3", "w", 60) is None
    assert ledger.candidates(["model-3"]) == []
    assert ledger.num_waiting(gone[3], 60) == 0


def test_labels_that_nobody_asks_for_are_forgotten(ledger):
    submit(ledger, label="idle", sizes=[])
    submit(ledger, label="busy")
    for label in ("idle", "busy"):
        ledger.redis.zincrby(ledger.keys.labels, -(ABANDONED_S + 1) * 1000, label)
    submit(ledger, label="new")
    assert ledger.labels() == ["busy", "new"]


def test_a_full_server_refuses_a_shard_whole_but_lets_the_input_end(ledger):
    batch_id = submit(ledger, [2], seal=False)
    batch = ledger.info(batch_id)
    one = Shard(1, 2, [JobLine(2, 3, line(2))], [(3, BadLine(4, "x"))])
    bad = Shard(1, 2, [], [(2, BadLine(3, "x"))])
    before = snapshot(ledger)
    ledger.redis.config_set("maxmemory", 1)
    for given in (one, bad):
        with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
            ledger.add_shard(batch, given, batch.digest, [Row(3, b"x")])
    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        ledger.create(NewBatch(job_key="k"))
    assert snapshot(ledger) == before
    assert ledger.seal(batch, batch.digest, 1) == "SEALED"
