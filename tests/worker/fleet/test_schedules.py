"""Schedules in Redis: kept, claimed by one at a time, and when each is due."""

import json
from dataclasses import replace

import pytest

from dgq.worker.fleet.schedules import Firing, Known, Schedule
from tests.worker.fleet.scheduling import DAILY, DAY_S, DUE, DUE_S, Queue
from tests.worker.servers import RealServer


@pytest.fixture
def queue(tmp_path):
    with RealServer(tmp_path / "server") as server:
        made = Queue(server.url, tmp_path)
        yield made
        made.close()


def known(last=None, **options):
    """A schedule that was added an hour before DUE."""
    given = {"cron": DAILY, "timezone": "UTC", "files": ("/x",), "created_s": DUE_S - 3600.0}
    return Known(Schedule("nightly", **given | options), b"", last)


def test_a_schedule_is_kept_as_it_is(queue):
    schedule = queue.add(
        "nightly", "/data/é.jsonl", "/data/*.jsonl", timezone="Europe/Berlin", seed=7, priority=-3
    )
    assert not queue.schedules.add(replace(schedule, cron="@hourly"))
    snapshot = queue.schedules.read()
    assert [known.schedule for known in snapshot.schedules] == [schedule]
    assert snapshot.schedules[0].last is None
    assert schedule.batch(DUE_S).job_key == f"schedule:nightly@{DUE}"


def test_removing_forgets_the_last_firing_too(queue):
    queue.add("nightly", "/x")
    assert queue.schedules.claim(queue.known("nightly"), DUE_S, DUE_S, 60)
    assert queue.schedules.remove("nightly")
    assert not queue.schedules.remove("nightly")
    assert queue.client.redis.hgetall(queue.ledger.keys.schedules) == {}


def test_what_cannot_be_read_hides_nothing_else(queue):
    queue.add("good", "/x")
    fields = {"torn": b"{", "old": b'{"name": "old"}', "place": _definition("Mars/Base", DAILY)}
    fields["cron"] = _definition("UTC", "99 * * * *")
    queue.client.redis.hset(queue.ledger.keys.schedules, mapping=fields | {b"\xff": b"x"})
    snapshot = queue.schedules.read()
    assert [known.schedule.name for known in snapshot.schedules] == ["good"]
    assert set(snapshot.unreadable) == {"torn", "old", "place", "cron", "\ufffd"}
    assert "Mars/Base" in snapshot.unreadable["place"]


def _definition(timezone, cron):
    text = json.dumps({"name": "x", "cron": cron, "timezone": timezone, "files": ["/x"]})
    return text.encode()


def test_one_claims_a_firing(queue):
    queue.add("nightly", "/x")
    seen = queue.known("nightly")
    claim = queue.schedules.claim(seen, DUE_S, DUE_S + 1.0, 60)
    assert claim is not None
    assert queue.last("nightly") == Firing(DUE_S, "submitting", DUE_S + 1.0)
    assert queue.schedules.claim(seen, DUE_S, DUE_S, 60) is None, "it saw the past"
    assert queue.schedules.claim(queue.known("nightly"), DUE_S, DUE_S, 60) is None, "it is held"

    done = Firing(DUE_S, "submitted", DUE_S + 1.0, "b-x", 3)
    assert queue.schedules.hold(claim, 0, done)
    assert queue.last("nightly") == done
    assert not queue.schedules.hold(claim, 60), "it was given back"
    assert queue.schedules.claim(queue.known("nightly"), DUE_S + DAY_S, DUE_S, 60)


def test_the_script_may_be_repeated(queue):
    """As a client does whose first answer was cut off on its way."""
    queue.add("nightly", "/x")
    seen = queue.known("nightly")
    claim = queue.schedules.claim(seen, DUE_S, DUE_S, 60)
    assert queue.schedules._run(queue.schedules._claim, claim, 60, b"{}", seen.last_bytes)


def test_an_expired_claim_writes_nothing(queue):
    queue.add("nightly", "/x")
    slow = queue.schedules.claim(queue.known("nightly"), DUE_S, DUE_S, 60)
    queue.client.redis.delete(queue.ledger.keys.lock("schedule:nightly"))  # as if it had expired
    quick = queue.schedules.claim(queue.known("nightly"), DUE_S, DUE_S + 9.0, 60)
    assert quick is not None
    assert not queue.schedules.hold(slow, 0, Firing(DUE_S, "failed", DUE_S))
    assert queue.last("nightly").state == "submitting"
    assert queue.schedules.hold(quick, 60)


def test_a_claim_ends_with_its_schedule(queue):
    schedule = queue.add("nightly", "/x")
    claim = queue.schedules.claim(queue.known("nightly"), DUE_S, DUE_S, 60)
    queue.schedules.remove("nightly")
    queue.schedules.add(replace(schedule, files=("/y",)))
    assert not queue.schedules.hold(claim, 60, Firing(DUE_S, "submitted", DUE_S, "b-x"))
    assert queue.last("nightly") is None
    assert queue.schedules.claim(queue.known("nightly"), DUE_S, DUE_S, 60)


def test_is_due_from_its_time_on():
    assert known().due(DUE_S - 1) is None
    assert known().due(DUE_S) == DUE_S
    assert known().due(DUE_S + 3599) == DUE_S
    assert known().missed(DUE_S + 3599) is None


def test_is_not_due_when_it_is_too_late():
    assert known().due(DUE_S + 3601) is None
    assert known().missed(DUE_S + 3601) == DUE_S
    assert known(catch_up_s=7200).due(DUE_S + 3601) == DUE_S
    assert known(catch_up_s=0).due(DUE_S + 59) == DUE_S
    assert known(catch_up_s=0).due(DUE_S + 61) is None


def test_of_several_missed_firings_the_last_is_made():
    often = known(cron="*/10 * * * *", created_s=DUE_S - 30 * DAY_S)
    assert often.due(DUE_S + 1234) == DUE_S + 1200
    settled = Firing(DUE_S + 1200, "failed", DUE_S)
    assert replace(often, last=settled).due(DUE_S + 1234) is None


def test_does_not_fire_for_the_time_before_it_was_added():
    assert known(created_s=DUE_S + 0.5).due(DUE_S + 1) is None


def test_what_is_begun_comes_first_however_late():
    for state in ("submitting", "waiting"):
        begun = known(Firing(DUE_S, state, DUE_S))
        assert begun.due(DUE_S + 3 * DAY_S) == DUE_S


def test_a_clock_that_goes_back_fires_nothing_twice():
    made = known(Firing(DUE_S, "submitted", DUE_S, "b-x"))
    assert made.due(DUE_S - 10) is None
    assert made.due(DUE_S + 10) is None
    assert made.due(DUE_S + DAY_S) == DUE_S + DAY_S
