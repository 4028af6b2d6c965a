import time

from tests.worker.fresh import snapshot


def test_workers_come_live_and_go(ledger):
    ledger.heartbeat("w1", {"labels": "default", "slots": 2, "rate": 1.5}, 60)
    ledger.heartbeat("w2", {"labels": "big"}, 60)
    first, second = sorted(ledger.workers(), key=lambda worker: worker.id)
    assert (first.id, first.fields) == ("w1", {"labels": "default", "slots": "2", "rate": "1.5"})
    assert 0 <= second.heartbeat_age_s < 60
    ledger.forget_worker("w1")
    assert [worker.id for worker in ledger.workers()] == ["w2"]


def test_a_silent_worker_is_forgotten(ledger):
    ledger.heartbeat("short", {"labels": "default"}, 0.0001)  # at least a millisecond
    deadline_s = time.monotonic() + 30
    while ledger.workers():
        assert time.monotonic() < deadline_s
    assert snapshot(ledger) == {}


def test_a_turn_is_one_workers_until_it_ends(ledger):
    assert ledger.take_turn("chore", "a", 60)
    assert not ledger.take_turn("chore", "b", 60)
    assert ledger.take_turn("another", "b", 0.0001)
    deadline_s = time.monotonic() + 30
    while not ledger.take_turn("another", "a", 60):
        assert time.monotonic() < deadline_s
