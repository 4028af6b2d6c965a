import pytest

from dgq.worker.ledger.keys import Keys
from dgq.worker.ledger.ledger import Ledger
from dgq.worker.ledger.types import NewBatch
from tests.worker.fresh import claim, commit, submit


def test_all_keys_begin_with_the_prefix_and_the_version():
    keys = Keys("mine")
    names = [
        *keys.batch("b-1").all(),
        keys.active("x"),
        keys.job_key("x"),
        keys.worker("x"),
        keys.lock("x"),
        *(keys.batches, keys.served, keys.workers, keys.labels, keys.schedules),
    ]
    assert len(set(names)) == len(names)
    assert all(name.startswith("mine:v1:") for name in names)


@pytest.mark.parametrize("prefix", ["dgq", "team:a"])
def test_the_server_gets_no_other_keys(ledger, prefix):
    mine = Ledger(ledger.redis, prefix)
    batch_id = submit(mine, [2], job_key="k", label="big")
    lease = mine.claim(batch_id, "big", "w", 60)
    commit(mine, lease, status="error")
    mine.heartbeat("w", {"x": 1}, 60)
    mine.take_turn("janitor", "w", 60)
    assert mine.info(batch_id).finished
    found = {key.decode() for key in ledger.redis.keys("*")}
    assert all(key.startswith(f"{prefix}:v1:") for key in found)


def test_two_installations_on_one_server_do_not_see_each_other(ledger):
    other = Ledger(ledger.redis, "other")
    batch_id = submit(ledger, [1], job_key="k")
    assert other.create(NewBatch(job_key="k"))[1]
    assert other.candidates(["default"]) == []
    assert other.backlog("default") == 0
    assert [batch.id for batch in ledger.batches()] == [batch_id]
    assert claim(ledger, batch_id)
