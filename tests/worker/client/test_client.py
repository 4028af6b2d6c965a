"""The queue from Python, with a worker in the test's own thread."""

import subprocess
import sys
import threading
import time

import pytest
from kombu.exceptions import OperationalError

from dgq.pipelines.job import RewriteJob
from dgq.worker.client.client import Client
from dgq.worker.errors import (
    BatchCancelled,
    BatchUnknown,
    CommandError,
    ServerError,
    UsageFault,
    WaitTimeout,
)
from dgq.worker.ledger.types import JobOptions, NewBatch
from dgq.worker.settings import Settings
from tests.worker.fresh import line
from tests.worker.servers import free_port
from tests.worker.stub_worker import work


def jobs(count, **fields):
    for number in range(count):
        yield {
            "id": f"job-{number}",
            "kind": "rewrite",
            "text": "Hello.",
            "instruction": "Shout.",
        } | fields


def test_jobs_in_results_out(client):
    batch = client.submit(jobs(10), priority=3, source="ten", seed=7, max_attempts=2)
    info = batch.status()
    assert (info.num_jobs, info.sealed, info.priority, info.source) == (10, True, 3, "ten")
    assert (info.options, info.shard_jobs, info.num_shards) == (JobOptions(7, 2), 4, 3)
    work(client.ledger)
    results = list(batch.results())
    assert sorted(result.id for result in results) == sorted(f"job-{n}" for n in range(10))
    assert {result.status for result in results} == {"ok"}
    assert batch.wait().finished
    assert [one.id for one in client.batches()] == [batch.id]
    assert client.batch(batch.id).status() == batch.status()


def test_its_url_is_stronger_than_that_of_the_settings(server):
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}", shard_jobs=4)
    with Client(server.url, settings=settings) as client:
        assert client.submit(jobs(5)).status().num_shards == 2


def test_bad_jobs_are_error_rows(client):
    good = RewriteJob(id="good", text="x", instruction="y")
    batch = client.submit([{"id": "bad"}, good, 5])
    work(client.ledger)
    rows = {result.line: result for result in batch.results()}
    assert [rows[number].status for number in (1, 2, 3)] == ["error", "ok", "error"]
    assert rows[1].id == "bad" and "'kind' is missing" in rows[1].error.message


def test_input_is_pulled_only_as_it_is_handed_over(client, monkeypatch):
    pulled, at_hand_over = 0, []

    def counted():
        nonlocal pulled
        for job in jobs(20):
            pulled += 1
            yield job

    add_shard = client.ledger.add_shard
    monkeypatch.setattr(
        client.ledger,
        "add_shard",
        lambda *args: (at_hand_over.append(pulled), add_shard(*args))[1],
    )
    client.submit(counted())
    assert at_hand_over == [5, 9, 13, 17, 20]


def test_the_same_job_key_goes_on_where_it_ended(client):
    def breaking():
        yield from jobs(9)
        raise KeyError

    with pytest.raises(KeyError):
        client.submit(breaking(), job_key="night")
    (info,) = client.batches()
    assert (info.num_jobs, info.sealed) == (8, False)
    # Other settings than the first time cut the input as before.
    settings = client.settings.model_copy(update={"shard_jobs": 100})
    with Client(settings=settings) as other:
        batch = other.submit(jobs(9), job_key="night")
    assert batch.id == info.id
    info = client.batch(batch.id).status()
    assert (info.num_jobs, info.sealed, info.num_shards) == (9, True, 3)
    with pytest.raises(CommandError, match="belongs to another input"):
        client.submit(jobs(9, text="Bye."), job_key="night")
    client.batch(batch.id).cancel()
    with pytest.raises(BatchCancelled, match=f"{batch.id} .job key 'night'. was cancelled"):
        client.submit(jobs(9), job_key="night")


def test_results_go_on_behind_any_result(client):
    batch = client.submit(jobs(10))
    work(client.ledger, rows_at_once=3)
    everything = list(batch.results())
    cursors = []
    results = batch.results()
    assert results.cursor == "0-0"
    for number, result in enumerate(results, 1):
        assert result == everything[number - 1]
        cursors.append(results.cursor)
    assert len(set(cursors)) == 10
    for number, cursor in enumerate(cursors, 1):
        assert list(batch.results(after=cursor)) == everything[number:]
        second = batch.results(after=cursor)
        if number < 9:
            next(second)
            assert list(batch.results(after=second.cursor)) == everything[number + 1 :]


@pytest.mark.parametrize("cursor", ["", "x", "0", "-1-0", "$", "1-1+", "1-1+x", "0-0+1 "])
def test_a_cursor_that_is_none(client, cursor):
    batch = client.submit(jobs(1))
    with pytest.raises(UsageFault, match="is no cursor"):
        batch.results(after=cursor)


def test_results_come_while_the_batch_runs(client):
    batch = client.submit(jobs(8))
    results = batch.results(timeout_s=30)
    work(client.ledger, at_most=4)
    assert len([next(results) for _ in range(4)]) == 4
    assert list(batch.results(after=results.cursor, follow=False)) == []
    worker = threading.Timer(0.1, work, [client.ledger])
    worker.start()
    assert len(list(results)) == 4
    worker.join()


def test_waiting_has_an_end(client):
    batch = client.submit(jobs(8))
    with pytest.raises(WaitTimeout, match=f"{batch.id} is not finished after 0.02 s; it goes on"):
        batch.wait(timeout_s=0.02)
    with pytest.raises(WaitTimeout):
        batch.wait(timeout_s=0)
    with pytest.raises(WaitTimeout, match=r"no rows of .* for 0.02 s"):
        list(batch.results(timeout_s=0.02))
    worker = threading.Timer(0.1, work, [client.ledger])
    worker.start()
    assert batch.wait(timeout_s=60).state == "done"
    worker.join()
    assert batch.wait(timeout_s=0).finished


def test_cancelling_keeps_what_is_done(client):
    batch = client.submit(jobs(10))
    work(client.ledger, at_most=4)
    info = batch.cancel()
    assert (info.state, info.finished) == ("cancelled", True)
    by_status = [result.status for result in batch.results()]
    assert by_status == ["ok"] * 4 + ["cancelled"] * 6
    assert batch.cancel() == info
    assert batch.pause() == batch.resume() == info
    done = client.submit(jobs(1))
    work(client.ledger)
    assert done.cancel().state == "done"


def test_pausing(client):
    batch = client.submit(jobs(5))
    assert batch.pause().state == "paused"
    assert work(client.ledger) == 0
    assert batch.resume().state == "active"
    assert work(client.ledger) == 2


@pytest.mark.parametrize(
    ("own", "given", "seed"), [(None, None, 1), (0, None, 1), (5, None, 6), (5, 40, 40), (5, 0, 0)]
)
def test_retrying_what_failed(client, own, given, seed):
    lines = [line(number, text="stub:fail" if number % 3 else "fine") for number in range(6)]
    lines.insert(1, b"no job")
    batch = client.submit(lines, seed=own, max_attempts=2, label="big", priority=4, source="six")
    work(client.ledger, labels=["big"])
    assert batch.status().num_by_status["invalid_output"] == 4
    again = batch.retry(seed=given)
    info = again.status()
    assert (info.retry_of, info.num_jobs, info.sealed) == (batch.id, 4, True)
    assert (info.label, info.priority, info.source) == ("big", 4, "six")
    assert info.options == JobOptions(seed, 2)
    work(client.ledger, labels=["big"])
    assert sorted((row.line, row.id) for row in again.results()) == [
        (3, "job-1"),
        (4, "job-2"),
        (6, "job-4"),
        (7, "job-5"),
    ]


def test_nothing_to_retry(client):
    batch = client.submit(jobs(1, seed=3))
    with pytest.raises(UsageFault, match="no job that a retry could help"):
        batch.retry()
    with pytest.raises(UsageFault, match="no jobs in the input"):
        client.submit([])
    assert len(list(client.batches())) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"priority": 101}, "from -100 to 100, not 101"),
        ({"priority": -101}, "from -100 to 100"),
        ({"label": ""}, "1 to 100 letters"),
        ({"label": "a b"}, "not 'a b'"),
        ({"label": "a\n"}, "letters"),
        ({"label": "x" * 101}, "letters"),
        ({"job_key": ""}, "1 to 200 printable characters"),
        ({"job_key": "x" * 201}, "printable"),
        ({"job_key": "a\nb"}, "printable"),
        ({"job_key": "\udcff"}, "printable"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"max_attempts": 0}, "max_attempts must be from 1 to 100, not 0"),
    ],
)
def test_values_out_of_bounds_are_refused_before_anything_is_made(client, fields, words):
    with pytest.raises(UsageFault, match=words):
        client.submit(jobs(1), **fields)
    assert list(client.batches()) == []


def test_values_at_the_bounds(client):
    batch = client.submit(
        jobs(1), priority=-100, label="A.b_c-9", job_key="ü x", seed=2**64 - 1, source="a\udcff"
    )
    info = batch.status()
    assert (info.priority, info.label, info.job_key, info.source) == (-100, "A.b_c-9", "ü x", "a?")


def test_a_batch_that_nobody_knows(client):
    with pytest.raises(BatchUnknown):
        client.batch("b-aaaaaaaaaaaa")
    batch = client.submit(jobs(4))
    client.redis.flushall()
    for ask in (batch.status, batch.wait, batch.cancel, batch.pause, batch.resume, batch.retry):
        with pytest.raises(BatchUnknown):
            ask()
    with pytest.raises(BatchUnknown):
        list(batch.results())
    entries = client.read([line(0)])
    with pytest.raises(BatchUnknown):
        client.submit_entries(entries, NewBatch(), batch_id=batch.id)


def test_going_on_with_a_batch_by_its_id(client):
    created = []
    new = NewBatch(source="x")
    batch = client.submit_entries(client.read([line(0)]), new, on_created=created.append)
    again = client.submit_entries(client.read([line(0)]), new, batch_id=batch.id)
    assert again.id == batch.id == created[0].id
    assert batch.status().num_jobs == 1


def test_leaving_closes_the_connections(server, ledger):
    def connections(name):
        return sum(one["name"] == name for one in ledger.redis.client_list())

    for _ in range(5):
        with Client(server.url) as client:
            client.submit(jobs(1))  # speaks to the broker as well
            assert connections("dgq")
        deadline_s = time.monotonic() + 30
        while connections("dgq"):  # the server notices a moment later
            assert time.monotonic() < deadline_s
    assert connections("dgq-celery") <= 2  # one pool for the process, Celery's own


def test_no_server():
    with pytest.raises(ServerError, match="Connection refused"):
        Client(settings=Settings(redis_url=f"redis://127.0.0.1:{free_port()}"))


def test_a_broker_that_is_away_is_tried_once(server, ledger, monkeypatch):
    tried = []

    def away(app, label, batch_id):
        tried.append(batch_id)
        raise OperationalError("nobody listens")

    monkeypatch.setattr("dgq.worker.fleet.app.ring", away)
    with Client(settings=Settings(redis_url=server.url, shard_jobs=1)) as client:
        batch = client.submit(jobs(5))
        assert tried == [batch.id] and batch.status().num_jobs == 5


def test_a_broker_that_is_away_stops_no_submission(server, ledger):
    settings = Settings(
        redis_url=server.url,
        broker_url=f"redis://127.0.0.1:{free_port()}",
        connect_timeout_s=0.5,
    )
    with Client(settings=settings) as client:
        assert client.submit(jobs(2)).status().sealed


def test_asking_imports_no_celery():
    code = "import sys, dgq.worker.client.client; print(sorted({'celery', 'kombu', 'torch'} & {*sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]", out.stdout
