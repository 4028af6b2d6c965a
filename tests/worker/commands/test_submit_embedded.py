"""``dgq submit`` where no server is configured: one of its own, and results on stdout or in a file."""

import json
from contextlib import contextmanager

import pytest

from dgq.worker import embedded as real
from dgq.worker import exit_codes
from dgq.worker.client.sidecar import read_sidecar
from dgq.worker.ledger.ledger import Ledger
from tests.worker.looking import ids
from tests.worker.stub_worker import StubWorker


@pytest.fixture
def calls():
    return []


@pytest.fixture
def own_server(shared_server, clean_environment, monkeypatch, calls):
    """In place of a private server and worker processes: the shared server and a stub."""
    shared_server.client().flushall()

    @contextmanager
    def embedded(settings, num_workers=1):
        calls.append(num_workers)
        with StubWorker(Ledger(shared_server.client())):
            yield settings.model_copy(update={"redis_url": shared_server.url})
        calls.append("ended")

    monkeypatch.setattr(real, "embedded", embedded)


def test_results_go_to_stdout(dgq, own_server, jobs_file, rewrite, calls):
    jobs_file(rewrite("a"), rewrite("b"))
    done = dgq("submit", "jobs.jsonl", "--ordered")
    assert (done.code, [row["id"] for row in done.rows]) == (exit_codes.OK, ["a", "b"])
    assert "2 jobs in" in done.err and "results: standard output" in done.err
    assert "batch b-" not in done.err
    assert calls == [1, "ended"]


def test_results_go_to_a_file(dgq, own_server, jobs_file, rewrite, out, calls):
    jobs_file(rewrite("a"))
    done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--workers", "2", "--json")
    assert (done.code, json.loads(done.out)["state"]) == (exit_codes.OK, "done")
    assert ids(out) == ["a"] and read_sidecar(out) is None
    assert calls == [2, "ended"]


def test_watching_writes_results_too_since_nothing_is_left(dgq, own_server, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    done = dgq("submit", "jobs.jsonl", "--watch")
    assert [row["id"] for row in done.rows] == ["a"]


def test_what_is_complete_or_empty_starts_nothing(dgq, own_server, jobs_file, rewrite, calls):
    jobs_file(rewrite("a"))
    assert dgq("submit", "jobs.jsonl", "-o", "out.jsonl").code == exit_codes.OK
    del calls[:]
    done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume")
    assert done.code == exit_codes.OK and "1 rows were there before" in done.err
    jobs_file(name="empty.jsonl")
    assert dgq("submit", "empty.jsonl").code == exit_codes.USAGE
    assert calls == []


def test_it_cannot_detach(dgq, own_server, jobs_file, rewrite, calls):
    jobs_file(rewrite("a"))
    done = dgq("submit", "jobs.jsonl", "--detach")
    assert (done.code, done.out, calls) == (exit_codes.USAGE, "", [])
    assert "start one with 'dgq up', or set DGQ_REDIS_URL" in done.err


def test_a_model_name_that_nobody_would_serve_is_refused(
    dgq, own_server, monkeypatch, jobs_file, rewrite, calls
):
    jobs_file(rewrite("a"))
    done = dgq("submit", "jobs.jsonl", "--model-name", "big")
    assert (done.code, calls) == (exit_codes.USAGE, [])
    assert "serve default, dgq-tiny, not big; leave --model-name out" in done.err
    assert dgq("submit", "jobs.jsonl", "--model-name", "a,b").code == exit_codes.USAGE
    monkeypatch.setenv("DGQ_SERVE", "default, big")
    dgq("submit", "jobs.jsonl", "--model-name", "big", "--timeout", "0.1")
    assert calls == [1]


def test_with_a_server_the_number_of_workers_has_no_effect(dgq, worker, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    done = dgq("submit", "jobs.jsonl", "--watch", "--workers", "2")
    assert done.code == exit_codes.OK and "--workers is about a private server" in done.err
