"""Who rings for whom."""

import pytest

from dgq.worker.client.client import Client
from dgq.worker.fleet.janitor import Janitor
from dgq.worker.fleet.metrics import WorkerMetrics
from dgq.worker.fleet.runner import StubRunner
from dgq.worker.fleet.station import Station
from dgq.worker.settings import Settings
from tests.worker.faults.fleet import make_jobs
from tests.worker.servers import RealServer


@pytest.fixture
def client(tmp_path):
    with (
        RealServer(tmp_path / "server") as server,
        Client(settings=Settings(redis_url=server.url)) as client,
    ):
        yield client


def make_janitor(client, name, *labels):
    """An idle worker's, whose thread was not started, and the labels that it has rung for."""
    station = Station(
        client.ledger,
        StubRunner(),
        WorkerMetrics(alive=lambda: True),
        worker_id=name,
        labels=labels,
        lease_s=600,
        max_deaths=3,
        on_broken=lambda error: None,
    )
    rung = []
    janitor = Janitor(
        station,
        interval_s=600,
        ring=lambda label, batch_id, count: rung.append((label, batch_id, count)),
        describe=lambda: {"labels": ",".join(labels), "slots": 2, "busy": 0},
    )
    return janitor, rung


def test_a_label_has_a_turn_of_its_own(client):
    """Else whoever looks first each time would ring for its own label only, and never for others."""
    batches = [client.submit(make_jobs(1), label=label) for label in ("small", "large")]
    (first, first_rung), (second, second_rung) = (
        make_janitor(client, "one", "small"),
        make_janitor(client, "other", "large"),
    )
    first._do_chores()
    second._do_chores()
    assert first_rung == [("small", batches[0].id, 1)]
    assert second_rung == [("large", batches[1].id, 1)]


def test_one_rings_for_all_that_serve_a_label(client):
    client.submit(make_jobs(1))
    (first, first_rung), (second, second_rung) = (
        make_janitor(client, "one", "default"),
        make_janitor(client, "other", "default", "large"),
    )
    first._do_chores()
    second._do_chores()
    assert len(first_rung) == 1
    assert not second_rung


def test_it_rings_only_while_the_broker_is_there(client, caplog):
    """A try takes a second; heartbeats would be late. The turn is left to those who can ring."""
    client.submit(make_jobs(1))
    cut_off, rung = make_janitor(client, "one", "default")
    cut_off.note_broker(ConnectionError("refused"))
    for _ in range(3):
        cut_off._do_chores()
    assert not rung
    assert cut_off.waiting_since_s is None
    assert caplog.text.count("waiting for the broker: refused") == 1
    cut_off.note_broker(None)
    cut_off._do_chores()
    assert len(rung) == 1
    assert cut_off.waiting_since_s is not None


def test_no_more_tickets_than_idle_slots(client):
    """Whoever hears one takes work from any batch."""
    for _ in range(3):
        client.submit(make_jobs(300))
    janitor, rung = make_janitor(client, "one", "default")
    janitor._do_chores()
    assert sum(count for _, _, count in rung) == 2
