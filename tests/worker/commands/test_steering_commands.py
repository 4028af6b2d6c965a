"""``dgq status``, ``list``, ``workers``, ``cancel``, ``pause``, ``resume``, and naming a batch."""

import json

import pytest

from dgq.worker import exit_codes
from tests.worker.servers import free_port
from tests.worker.stub_worker import StubWorker, work


@pytest.fixture
def batch_id(dgq, ledger, jobs_file, rewrite):
    """Eight jobs and a bad line; four jobs have their rows."""
    jobs_file(*(rewrite(f"job-{n}") for n in range(8)), b"{")
    batch_id = dgq("submit", "jobs.jsonl", "--job-key", "k").out.strip()
    work(ledger, at_most=4)
    return batch_id


def test_status_in_words_and_as_json(dgq, worker, ledger, jobs_file, rewrite):
    jobs_file(rewrite("a", text="stub:fail"), rewrite("b"))
    dgq("submit", "jobs.jsonl", "--watch", "--job-key", "nightly")
    done = dgq("status", "last")
    assert (done.code, done.err) == (exit_codes.OK, "")
    (info,) = ledger.batches()
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines() if line[:6] != "not ok")
    assert lines["batch"] == info.id and lines["state"] == "done"
    assert lines["jobs"] == "2 of 2 have their rows" and lines["tokens"] == "16"
    assert "not ok      1 invalid_output" in done.out
    assert "model name  default, served by 1 worker\n" in done.out
    fields = json.loads(dgq("status", "last", "--json").out)
    assert (fields["num_done"], fields["job_key"], fields["finished"]) == (2, "nightly", True)


def test_a_batch_whose_input_has_not_ended_is_being_submitted(dgq, ledger, batch_id):
    ledger.redis.hset(ledger.keys.batch(batch_id).meta, "sealed", 0)
    done = dgq("status", batch_id)
    assert "state       submitting" in done.out
    assert "5 of 9 have their rows (more are being submitted)" in done.out


def test_list_shows_the_newest_first(dgq, ledger, batch_id, jobs_file, rewrite):
    jobs_file(rewrite("a"), name="second.jsonl")
    second = dgq("submit", "second.jsonl", "--model-name", "big").out.strip()
    heads, *rows = dgq("list").out.splitlines()
    assert heads.split("  ")[0] == "BATCH"
    assert [row.split()[0] for row in rows] == [second, batch_id]
    assert "0/1" in rows[0] and "big" in rows[0] and rows[0].endswith("second.jsonl")
    assert "5/9" in rows[1] and "1 error" in rows[1]
    assert [one["id"] for one in json.loads(dgq("list", "--json").out)] == [second, batch_id]


def test_an_empty_server_has_nothing_to_list(dgq, ledger):
    assert (dgq("list").out, dgq("list").err) == ("", "dgq: the server has no batch\n")
    assert dgq("list", "--json").out == "[]\n"
    assert "no worker is alive" in dgq("workers").err
    assert dgq("workers", "--json").out == "[]\n"
    assert dgq("status", "last").code == exit_codes.BATCH_UNKNOWN


def test_workers_are_listed(dgq, ledger):
    fields = {
        "labels": "default,big",
        "slots": 2,
        "busy": 1,
        "rows": 7,
        "pid": 11,
        "state": "working",
    }
    ledger.heartbeat("gpu-1", fields | {"model": "big", "version": "0.1.0", "host": "h"}, 60)
    heads, row = dgq("workers").out.splitlines()
    assert heads.startswith("WORKER  STATE") and row.startswith(
        "gpu-1   working  default, big  1/2"
    )
    (worker,) = json.loads(dgq("workers", "--json").out)
    assert worker.pop("heartbeat_age_s") < 60
    assert worker == {
        "id": "gpu-1",
        "host": "h",
        "model": "big",
        "version": "0.1.0",
        "python": None,
        "state": "working",
        "labels": ["default", "big"],
        "pid": 11,
        "slots": 2,
        "busy": 1,
        "rows": 7,
    }


def test_cancelling_keeps_what_is_finished(dgq, ledger, batch_id, out):
    done = dgq("cancel", batch_id, "--json")
    assert done.code == exit_codes.OK
    assert json.loads(done.out)["num_by_status"] == {
        "ok": 4,
        "invalid_output": 0,
        "error": 1,
        "cancelled": 4,
    }
    assert done.err == (
        f"dgq: {batch_id} is cancelled: 5 of 9 jobs have their results, 4 were cancelled\n"
    )
    done = dgq("results", batch_id, "-o", "out.jsonl")
    assert done.code == exit_codes.BATCH_CANCELLED
    assert dgq("verify", "jobs.jsonl", "out.jsonl").code == exit_codes.OK
    again = dgq("cancel", batch_id)
    assert again.code == exit_codes.OK and "finished already; nothing was changed" in again.err


def test_pausing_and_going_on(dgq, ledger, batch_id):
    done = dgq("pause", batch_id)
    assert done.err == f"dgq: {batch_id} is paused: 5 of 9 jobs have their rows\n"
    assert work(ledger) == 0
    assert json.loads(dgq("resume", batch_id, "--json").out)["state"] == "active"
    assert work(ledger) == 1
    assert dgq("pause", batch_id).err == f"dgq: {batch_id} is finished already\n"
    assert dgq("resume", batch_id).code == exit_codes.OK


def test_a_batch_is_named_by_the_letters_of_its_beginning(dgq, ledger, batch_id):
    for name in (batch_id, batch_id[:4], batch_id[2:6], batch_id[2:6].upper(), "last"):
        assert json.loads(dgq("status", name, "--json").out)["id"] == batch_id


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("", exit_codes.USAGE, "'' is no batch: give its id, more of its letters, or last"),
        ("b-", exit_codes.USAGE, "'b-' is no batch"),
        ("b-a", exit_codes.USAGE, "'b-a' is no batch"),
        ("b-11", exit_codes.BATCH_UNKNOWN, "the server knows no batch b-11; dgq list shows"),
        ("b-aaaaaaaaaaaa", exit_codes.BATCH_UNKNOWN, "the server knows no batch b-aaaa"),
    ],
)
@pytest.mark.parametrize("command", ["status", "watch", "results", "cancel", "pause", "retry"])
def test_what_names_no_batch_is_one_line(dgq, ledger, batch_id, command, name, code, message):
    done = dgq(command, name)
    assert (done.code, done.out) == (code, "")
    assert message in done.err and done.err.count("\n") == 1
    assert ledger.info(batch_id).state == "active"


def test_letters_that_several_begin_with_are_refused(dgq, ledger, batch_id):
    meta = ledger.redis.hgetall(ledger.keys.batch(batch_id).meta)
    for name in ("b-zzaaaaaaaaaa", "b-zzbbbbbbbbbb"):
        ledger.redis.hset(ledger.keys.batch(name).meta, mapping=meta | {b"id": name})
        ledger.redis.zadd(ledger.keys.batches, {name: 1})
    done = dgq("status", "zz")
    assert done.code == exit_codes.USAGE
    assert "zz is the beginning of 2 batches: b-zz" in done.err


def test_a_source_cannot_draw_on_the_terminal(dgq, ledger, jobs_file, rewrite, monkeypatch):
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda stream, color: False)
    jobs_file(rewrite("a"), name="evil\x1b[2J\nname")
    dgq("submit", "evil*")
    for command in (["list"], ["status", "last"]):
        assert "evil\ufffd[2J name" in dgq(*command).out


@pytest.mark.parametrize(
    "command",
    ["list", "workers", "status x", "watch x", "results x", "cancel x", "pause x", "retry x"],
)
def test_an_unreachable_server_is_one_line(dgq, clean_environment, monkeypatch, command):
    monkeypatch.setenv("DGQ_REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    done = dgq(*command.split())
    assert (done.code, done.out) == (exit_codes.SERVER, "")
    assert done.err.count("\n") == 1 and "Connection refused" in done.err


def test_no_server_at_all_is_one_line(dgq, clean_environment):
    done = dgq("list")
    assert (done.code, done.out) == (exit_codes.SERVER, "")
    assert "DGQ_REDIS_URL" in done.err and "dgq up" in done.err


def test_the_label_of_a_living_worker_is_counted(dgq, ledger, batch_id):
    with StubWorker(ledger, labels=("other",)):
        assert "served by 0 workers" in dgq("status", batch_id).out
