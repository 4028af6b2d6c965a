"""What a wait shows and how long it is patient; the commands' tests do the rest on real servers."""

import time
from dataclasses import replace

import pytest
from redis.exceptions import AuthenticationError, BusyLoadingError, OutOfMemoryError
from redis.exceptions import ConnectionError as RedisConnectionError

from dgq.worker.client.watching import BatchProgress, ServerPatience, duration
from dgq.worker.ledger.types import BatchInfo

INFO = BatchInfo.of(
    {
        "id": "b-aaaaaaaaaaaa",
        "state": "active",
        "sealed": "1",
        "label": "default",
        "priority": "0",
        "source": "x",
        "job_key": "",
        "retry_of": "",
        "options": "{}",
        "shard_jobs": "128",
        "shard_bytes": "1000",
        "created_ms": "0",
        "num_jobs": "300",
        "num_done": "0",
        "num_shards": "3",
        "digest": "",
    }
)


@pytest.fixture
def clock(monkeypatch):
    """time.monotonic as a list of one number."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_progress_tells_the_rates_of_the_last_seconds(clock):
    progress = BatchProgress()
    assert (progress.num_rows, progress.total(), progress.rates(0)) == (0, None, "")
    for second, done in [(0, 0), (50, 10), (55, 60), (60, 110)]:
        clock[0] = 1000.0 + second
        counts = {"ok": done - 2, "invalid_output": 2 if done else 0}
        progress.update(replace(INFO, num_done=done, num_by_status=counts, num_tokens=8 * done))
    progress.num_workers = 3
    assert progress.progress_line(progress.total()) == (
        "110 of 300 jobs, 10.0 jobs/s, 80 tokens/s, 2 invalid_output, 3 workers, 19 s left"
    )
    clock[0] += 10
    assert "110 jobs, 5.0 jobs/s" in progress.progress_line(None)


def test_the_total_is_known_when_the_input_has_ended(clock):
    progress = BatchProgress()
    progress.update(replace(INFO, sealed=False))
    assert progress.total() is None
    progress.update(INFO)
    assert progress.total() == 300


def test_a_server_that_has_lost_rows_makes_no_negative_rate(clock):
    progress = BatchProgress()
    progress.update(replace(INFO, num_done=50, num_tokens=9))
    clock[0] += 1
    progress.update(replace(INFO, num_done=20))
    assert progress.rates(clock[0]).startswith("0.0 jobs/s, 0 tokens/s")


def test_durations_are_in_a_unit_that_fits():
    assert [duration(s) for s in (0.4, 89, 90, 5399, 9000)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "2.5 h",
    ]


def asker(*errors):
    """A function that raises the errors, one at each call, and then returns."""
    left = list(errors)

    def ask():
        if left:
            raise left.pop(0)
        return "answer"

    return ask


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), BusyLoadingError("LOADING")])
def test_what_may_pass_is_waited_for_and_told_once(error):
    told = []
    patience = ServerPatience(told.append)
    assert patience.call(asker(error, error)) == "answer"
    assert told == [
        "the server is away; waiting for it for up to 30 s",
        "the server answers again",
    ]


@pytest.mark.parametrize("error", [AuthenticationError("WRONGPASS"), OutOfMemoryError("OOM")])
def test_what_does_not_pass_is_told_at_once(error):
    told = []
    with pytest.raises(type(error)):
        ServerPatience(told.append).call(asker(error))
    assert told == []


def test_patience_ends():
    patience = ServerPatience(lambda text: None, outage_s=0.2)
    with pytest.raises(RedisConnectionError, match="refused"):
        patience.call(asker(*[RedisConnectionError("Connection refused")] * 99))
    patience = ServerPatience(lambda text: None)
    patience.end()
    with pytest.raises(RedisConnectionError):
        patience.call(asker(RedisConnectionError("gone")))
