"""What Prometheus reads of a worker and of the queue, over real HTTP, from a real server."""

import dataclasses
import re
import socket
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dgq.engine.stats import EngineStats
from dgq.worker.errors import CommandError
from dgq.worker.fleet.metrics import ENGINE, QueueMetrics, WorkerMetrics
from dgq.worker.ledger.ledger import Ledger
from dgq.worker.ledger.shard import JobLine, Shard
from dgq.worker.ledger.types import STATUSES, Done, NewBatch
from tests.worker.servers import RealServer

STATS = EngineStats(
    rows_in_flight=768,
    canvases_in_flight=4,
    requests_waiting=9,
    row_budget=4096,
    block_fill=0.75,
    steps_total=120,
    out_of_memory_total=1,
    device_memory_bytes=2**34,
)


def get(port, path, **headers):
    """(status, content type, body), whatever the status."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def samples(metrics, **headers):
    """What a scrape gives: sample name and labels to value, as in ``name{status="ok"}``."""
    with metrics.serve(0) as port:
        status, content_type, text = get(port, "/metrics", **headers)
    assert status == 200
    assert content_type.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def row(status="ok", **stats):
    return Done(index=0, text=b"{}", status=status, **stats)


def test_a_worker_counts_what_it_is_told():
    metrics = WorkerMetrics(alive=lambda: True)
    metrics.shard_claimed()
    metrics.shard_claimed()
    metrics.shard_released()
    metrics.lease_lost()
    metrics.set_shards_held(2)
    metrics.set_backlog("default", 700)
    metrics.set_backlog("default", 600)
    metrics.set_backlog("large", 5)
    metrics.rows_committed([row(tokens=30, attempts=1), row(tokens=10, attempts=3)])
    metrics.rows_committed([row("error"), row("invalid_output", tokens=2, attempts=2)])
    found = samples(metrics)
    expected = {
        "dgq_shards_claimed_total": 2,
        "dgq_shards_released_total": 1,
        "dgq_leases_lost_total": 1,
        "dgq_shards_held": 2,
        'dgq_backlog_jobs{label="default"}': 600,
        'dgq_backlog_jobs{label="large"}': 5,
        'dgq_jobs_committed_total{status="ok"}': 2,
        'dgq_jobs_committed_total{status="error"}': 1,
        'dgq_jobs_committed_total{status="invalid_output"}': 1,
        'dgq_jobs_committed_total{status="cancelled"}': 0,
        "dgq_tokens_total": 42,
        "dgq_retries_total": 3,
        "dgq_server_reachable": 1,
    }
    assert expected.items() <= found.items()
    assert found["process_resident_memory_bytes"] > 0


def test_every_status_is_there_from_the_start():
    """Else the first failure is no increase that a rule could see."""
    found = samples(WorkerMetrics(alive=lambda: True))
    for status in STATUSES:
        assert found[f'dgq_jobs_committed_total{{status="{status}"}}'] == 0


def test_steps_per_canvas_are_weighted_by_canvases():
    metrics = WorkerMetrics(alive=lambda: True)
    metrics.rows_committed(
        [row(canvases=3, steps=30), row(canvases=1, steps=48), row(canvases=1, steps=100), row()]
    )
    found = samples(metrics)
    assert found['dgq_steps_per_canvas_bucket{le="8.0"}'] == 0
    assert found['dgq_steps_per_canvas_bucket{le="10.0"}'] == 3
    assert found['dgq_steps_per_canvas_bucket{le="48.0"}'] == 4
    assert found['dgq_steps_per_canvas_bucket{le="+Inf"}'] == 5
    assert found["dgq_steps_per_canvas_count"] == 5
    assert found["dgq_steps_per_canvas_sum"] == 178


def test_all_figures_of_the_engine_are_shown():
    assert {field.name for field in dataclasses.fields(EngineStats)} == set(ENGINE)
    metrics = WorkerMetrics(alive=lambda: True)
    metrics.engine(STATS)
    found = samples(metrics)
    assert found["dgq_rows_in_flight"] == 768
    assert found["dgq_block_fill_ratio"] == 0.75
    assert found["dgq_device_memory_bytes"] == 2**34
    assert found["dgq_engine_steps_total"] == 120
    assert found["dgq_out_of_memory_total"] == 1


def test_an_engine_without_figures_shows_none():
    metrics = WorkerMetrics(alive=lambda: True)
    metrics.engine(STATS)
    metrics.engine(None)
    assert "dgq_rows_in_flight" not in samples(metrics)


def test_names_follow_the_rules():
    """Snake case with a prefix; counters, and only they, end in _total; units in base form."""
    metrics = WorkerMetrics(alive=lambda: True)
    metrics.engine(STATS)
    for family in metrics.collect():
        assert re.fullmatch(r"dgq_[a-z]+(_[a-z]+)*", family.name)
        assert not re.search(r"_(total|count|sum|ms|kb|mb|percent)$", family.name)
        ends = {sample.name.endswith("_total") for sample in family.samples}
        assert ends <= {family.type == "counter"}


def test_openmetrics_is_spoken_to_those_who_ask():
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    with WorkerMetrics(alive=lambda: True).serve(0) as port:
        _, content_type, text = get(port, "/metrics", **accept)
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_health_is_what_the_worker_says():
    alive = True
    with WorkerMetrics(alive=lambda: alive).serve(0) as port:
        assert get(port, "/healthz")[0] == 200
        alive = False
        assert get(port, "/healthz?verbose=1")[0] == 503
        assert get(port, "/metrics")[0] == 200
        assert get(port, "/elsewhere")[0] == 404


def test_a_fault_in_the_callback_is_no_traceback(capfd):
    with (
        WorkerMetrics(alive=lambda: 1 / 0).serve(0) as port,
        pytest.raises((OSError, urllib.error.URLError)),
    ):
        get(port, "/healthz")
    assert capfd.readouterr() == ("", "")


def test_it_ends_cleanly_and_frees_its_port():
    metrics = WorkerMetrics(alive=lambda: True)
    before = threading.active_count()
    with metrics.serve(0) as port, socket.create_connection(("127.0.0.1", port)):
        pass  # a client that never asks anything holds nobody up
    with metrics.serve(port) as again:
        assert again == port
        assert get(port, "/healthz")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert "dgq-metrics" not in {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= before + 1  # that client's, until it times out


def test_a_port_in_use_is_one_line():
    metrics = WorkerMetrics(alive=lambda: True)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError) as caught, metrics.serve(port):
            pass
    assert str(caught.value) == (
        f"metrics cannot be served on port {port}: Address already in use; choose another with "
        "--metrics-port or DGQ_METRICS_PORT"
    )


def test_the_queue_is_asked_at_each_look(tmp_path):
    with RealServer(tmp_path, maxmemory="64mb") as server:
        ledger = Ledger(server.client())
        metrics = QueueMetrics(ledger, alive=lambda: True)
        found = samples(metrics)
        assert found['dgq_backlog_jobs{label="default"}'] == 0
        assert found['dgq_workers{label="default"}'] == 0

        ledger.heartbeat("w-1", {"labels": "default,large"}, 60)
        ledger.heartbeat("w-2", {"labels": "default"}, 60)
        batch = ledger.info(ledger.create(NewBatch(label="large"))[0])
        jobs = [JobLine(index, index + 1, b"{}") for index in range(3)]
        assert ledger.add_shard(batch, Shard(0, 0, jobs), batch.digest, []) == "ADDED"
        found = samples(metrics)
        assert found['dgq_backlog_jobs{label="large"}'] == 3
        assert found['dgq_backlog_jobs{label="default"}'] == 0
        assert found['dgq_workers{label="default"}'] == 2
        assert found['dgq_workers{label="large"}'] == 1
        assert 0 < found["dgq_server_memory_ratio"] < 1
        assert found["dgq_server_reachable"] == 1


def test_without_a_server_the_queue_has_no_figures(tmp_path):
    with RealServer(tmp_path) as server:
        metrics = QueueMetrics(Ledger(server.client(socket_timeout=1.0)), alive=lambda: True)
        server.kill()
        found = samples(metrics)
    assert found["dgq_server_reachable"] == 0
    assert not [name for name in found if name.startswith(("dgq_backlog", "dgq_workers"))]


def test_a_user_without_info_gets_all_but_the_memory(tmp_path):
    user = "bob on >secret ~dgq:* +@all -info"
    with RealServer(tmp_path, username="bob", password="secret", users=[user]) as server:
        found = samples(QueueMetrics(Ledger(server.client()), alive=lambda: True))
    assert found["dgq_server_reachable"] == 1
    assert found["dgq_server_memory_ratio"] == 0
