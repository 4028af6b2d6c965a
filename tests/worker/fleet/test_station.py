"""What a station does that a fault from outside does not show; the rest is in tests/worker/faults."""

import logging
import threading
import time

import pytest

from dgq.engine.errors import DeviceError
from dgq.worker.client.client import Client
from dgq.worker.fleet import patience
from dgq.worker.fleet.metrics import WorkerMetrics
from dgq.worker.fleet.runner import StubRunner
from dgq.worker.fleet.station import Station
from dgq.worker.settings import Settings
from tests.worker.faults.fleet import make_jobs, wait_for
from tests.worker.servers import RealServer


@pytest.fixture
def client(tmp_path):
    with (
        RealServer(tmp_path / "server") as server,
        Client(settings=Settings(redis_url=server.url, shard_jobs=5)) as client,
    ):
        yield client


class Failing(StubRunner):
    """Yields one result, then raises an error each time it is run."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def run(self, jobs):
        for result in super().run(jobs):
            yield result
            raise self.error


def make_station(client, runner, broken=None, **options):
    return Station(
        client.ledger,
        runner,
        WorkerMetrics(alive=lambda: True),
        worker_id="me",
        labels=["default"],
        lease_s=600,
        max_deaths=options.pop("max_deaths", 3),
        on_broken=(broken if broken is not None else []).append,
    )


def test_a_bug_is_no_reason_to_stand_still(client, caplog):
    """An error that nobody foresaw counts as a death, so that its shard is not run for ever."""
    batch = client.submit(make_jobs(5))
    with caplog.at_level(logging.ERROR, "dgq.worker"):
        make_station(client, Failing(KeyError("bug"))).work()
    info = batch.status()
    assert info.finished
    assert info.num_by_status["ok"] == 5, "each job but the last ends before the next error"
    assert "is given back" in caplog.text


def test_a_dead_engine_is_told_once_and_its_shard_is_free(client):
    batch = client.submit(make_jobs(5))
    broken = []
    station = make_station(client, Failing(DeviceError("dead")), broken)
    station._process(station._claim(), alone=False)
    station._process(station._claim(), alone=False)
    assert len(broken) == 1
    lease = client.ledger.claim(batch.id, "default", "other", 600)
    assert (lease.deaths, len(lease.jobs)) == (2, 3)


def test_a_suspect_is_not_even_held_beside_others(client):
    """It is given back without a death, and the next claim is made alone."""
    client.submit(make_jobs(1))
    station = make_station(client, StubRunner())
    for _ in range(2):
        station.ledger.release(station._claim(), died=True)
    lease = station._claim()
    assert lease.deaths == 2
    assert station._process(lease, alone=False)
    again = station._claim()
    assert again.deaths == 2
    assert station._process(again, alone=True)
    assert station.num_rows == 1


def test_with_one_death_allowed_it_is_still_found_out_whose_fault_it_was(client):
    """A shard of several that died once is split, not given up."""
    batch = client.submit(make_jobs(5))
    station = make_station(client, StubRunner(), max_deaths=1)
    station.ledger.release(station._claim(), died=True)
    station.work()
    assert batch.status().num_by_status["ok"] == 5


def test_a_suspect_is_not_put_off_until_other_batches_are_done(client):
    """Batches take turns, but the claim that is made alone is for the one with the suspect."""
    poisoned = client.submit(make_jobs(1))
    station = make_station(client, StubRunner())
    for _ in range(2):
        station.ledger.release(station._claim(), died=True)
    other = client.submit(make_jobs(50))
    done_before = []
    station.runner = Telling(lambda: done_before.append(other.status().num_done))
    station.work()
    assert poisoned.status().finished
    assert other.status().finished
    assert done_before[0] < 10


class Telling(StubRunner):
    """Calls ``tell`` at each shard of a single job."""

    def __init__(self, tell):
        super().__init__()
        self.tell = tell

    def run(self, jobs):
        if len(jobs.entries) == 1:
            self.tell()
        return super().run(jobs)


def test_a_shard_whose_last_row_is_written_was_not_lost(client, caplog):
    """The keeper may look between the last commit and the end of the shard's thread."""
    client.submit(make_jobs(5))
    station = make_station(client, StubRunner())
    count = station._count

    def count_and_keep(rows):
        count(rows)
        station.keep()

    station._count = count_and_keep
    with caplog.at_level(logging.WARNING, "dgq.worker"):
        station.work()
    assert station.num_rows == 5
    assert not caplog.records


def test_a_row_is_counted_once_though_its_batch_is_cancelled(client):
    batch = client.submit(make_jobs(5))
    station = make_station(client, StubRunner())

    class Cancelling(StubRunner):
        def run(self, jobs):
            for number, result in enumerate(super().run(jobs)):
                yield result
                if number == 1:
                    while batch.status().num_done < 2:
                        pass
                    client.ledger.control(batch.id, "cancel")
                    station.keep()

    station.runner = Cancelling()
    station.work()
    counts = batch.status().num_by_status
    assert (counts["ok"], counts["cancelled"]) == (2, 3)
    assert station.num_rows == 5


def test_a_full_server_is_waited_for_and_said_once(client, caplog, monkeypatch):
    """It takes renewals but no rows: the keeper's success is no sign that the wait is over."""
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.05)
    batch = client.submit(make_jobs(5))
    station = make_station(client, StubRunner())
    client.redis.config_set("maxmemory", 1)
    with caplog.at_level(logging.INFO, "dgq.worker"):
        thread = threading.Thread(target=station.work)
        thread.start()
        wait_for(lambda: caplog.records)
        for _ in range(5):
            station.keep()
            time.sleep(0.1)
        client.redis.config_set("maxmemory", 0)
        thread.join()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "is full: raise its maxmemory" in caplog.text
    assert batch.status().finished
