"""``dgq submit``: what it hands over, where the rows go, and every way in which it is refused."""

import json
import shlex

import pytest

from dgq.worker import exit_codes
from dgq.worker.client.sidecar import Sidecar, read_sidecar
from tests.worker.looking import ids, read_rows
from tests.worker.servers import free_port
from tests.worker.stub_worker import work


def test_it_prints_the_id_once_all_jobs_are_handed_over(dgq, ledger, jobs_file, rewrite):
    jobs_file(*(rewrite(f"job-{n}") for n in range(10)))
    done = dgq("submit", "jobs.jsonl", "--priority", "7", "--model-name", "big", "--seed", "3")
    assert done.code == exit_codes.OK
    info = ledger.info(done.out.strip())
    assert (info.num_jobs, info.num_done, info.sealed, info.num_shards) == (10, 0, True, 3)
    assert (info.priority, info.label, info.source) == (7, "big", "jobs.jsonl")
    assert (info.options.seed, info.options.max_attempts) == (3, None)
    assert done.err == f"dgq: {info.id} has its 10 jobs; to watch it: dgq watch {info.id}\n"


def test_quiet_and_detached_it_prints_nothing_else(dgq, ledger, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    done = dgq("submit", "jobs.jsonl", "--detach", "-q")
    assert (done.code, done.err) == (exit_codes.OK, "")
    assert ledger.info(done.out.strip()).num_jobs == 1


def test_json_is_the_batch(dgq, ledger, jobs_file, rewrite):
    jobs_file(rewrite("a"), b"{")
    done = dgq("submit", "jobs.jsonl", "--json", "--job-key", "nightly")
    assert json.loads(done.out) == {
        "id": ledger.info(json.loads(done.out)["id"]).id,
        "state": "active",
        "sealed": True,
        "finished": False,
        "model_name": "default",
        "priority": 0,
        "source": "jobs.jsonl",
        "job_key": "nightly",
        "retry_of": None,
        "seed": None,
        "max_attempts": None,
        "created_s": json.loads(done.out)["created_s"],
        "finished_s": None,
        "num_jobs": 2,
        "num_done": 1,
        "num_by_status": {"ok": 0, "invalid_output": 0, "error": 1, "cancelled": 0},
        "num_tokens": 0,
        "num_canvases": 0,
        "num_steps": 0,
    }


def test_bad_lines_are_told_with_their_numbers_and_are_rows(dgq, worker, jobs_file, rewrite, out):
    jobs_file(b"{", rewrite("a"), b"", rewrite("a"), {"id": "c", "kind": "juggle"})
    done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--ordered")
    assert done.code == exit_codes.FAILED_ROWS
    lines = done.err.splitlines()
    assert lines[0].startswith("dgq: jobs.jsonl line 1: not JSON")
    assert lines[1] == "dgq: jobs.jsonl line 4: the id 'a' is already that of line 2"
    assert lines[2].startswith("dgq: jobs.jsonl line 5: unknown kind 'juggle'")
    assert [(row["id"], row["line"], row["status"]) for row in read_rows(out)] == [
        (None, 1, "error"),
        ("a", 2, "ok"),
        (None, 4, "error"),
        ("c", 5, "error"),
    ]


def test_of_many_bad_lines_the_first_are_told_and_the_rest_counted(dgq, ledger, jobs_file):
    jobs_file(*[b"{"] * 27)
    done = dgq("submit", "jobs.jsonl", "-q")
    assert done.code == exit_codes.OK
    assert len(done.err.splitlines()) == 21
    assert done.err.splitlines()[-1] == "dgq: and 7 more bad lines"
    assert ledger.info(done.out.strip()).finished


def test_results_come_into_a_file_while_it_waits(dgq, worker, jobs_file, rewrite, out):
    jobs_file(*(rewrite(f"job-{n}") for n in range(10)))
    done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl")
    assert (done.code, done.out) == (exit_codes.OK, "")
    assert sorted(ids(out)) == sorted(f"job-{n}" for n in range(10))
    lines = done.err.splitlines()
    assert lines[0].startswith("dgq: batch b-")
    assert lines[-3].startswith("dgq: 10 jobs in ") and ": 10 ok, 0 inv" in lines[-3]
    assert lines[-2].startswith("dgq: 80 tokens, ") and "4.0 steps per canvas" in lines[-2]
    assert lines[-1] == "dgq: results: out.jsonl"
    assert read_sidecar(out) is None


def test_results_go_to_stdout(dgq, worker, jobs_file, rewrite):
    jobs_file(rewrite("a"), rewrite("b", text="stub:fail"))
    done = dgq("submit", "jobs.jsonl", "-o", "-", "--ordered", "-q")
    assert (done.code, done.err) == (exit_codes.FAILED_ROWS, "")
    assert [(row["id"], row["status"]) for row in done.rows] == [
        ("a", "ok"),
        ("b", "invalid_output"),
    ]


def test_it_watches(dgq, worker, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    done = dgq("submit", "jobs.jsonl", "--watch")
    assert done.code == exit_codes.OK
    assert done.out.startswith("b-") and len(done.out.splitlines()) == 1
    assert done.err.splitlines()[0].startswith("dgq: 1 job in ")
    done = dgq("submit", "jobs.jsonl", "--watch", "--json", "-q")
    assert json.loads(done.out)["state"] == "done"


def test_globs_and_several_files_are_one_batch(dgq, worker, tmp_path, jobs_file, rewrite, out):
    jobs_file(rewrite("b1"), name="b.jsonl")
    jobs_file(rewrite("a1"), b"{", name="a.jsonl")
    jobs_file(rewrite("c1"), rewrite("a1"), name="c.txt")
    done = dgq("submit", "*.jsonl", "c.txt", "-o", "out.jsonl", "--ordered")
    assert done.code == exit_codes.FAILED_ROWS
    assert ids(out) == ["a1", None, "b1", "c1", None]
    assert [row["line"] for row in read_rows(out)] == [1, 2, 1, 1, 2]
    assert read_rows(out)[4]["error"]["message"] == (
        "c.txt: the id 'a1' is already that of line 1 of a.jsonl"
    )
    assert dgq("submit", "*.jsonl", "c.txt", "-o", "out.jsonl", "--resume").code == 3
    assert dgq("verify", "*.jsonl", "c.txt", "out.jsonl").code == exit_codes.OK


def test_jobs_come_from_stdin(dgq, worker, rewrite, out):
    lines = b"".join(json.dumps(rewrite(name)).encode() + b"\n" for name in "abc")
    assert dgq("submit", "-", "-o", "out.jsonl", "-q", stdin=lines).code == exit_codes.OK
    assert sorted(ids(out)) == ["a", "b", "c"]


def test_the_same_job_key_is_the_same_batch(dgq, ledger, jobs_file, rewrite, out):
    jobs_file(*(rewrite(f"job-{n}") for n in range(6)))
    first = dgq("submit", "jobs.jsonl", "--job-key", "k")
    again = dgq("submit", "jobs.jsonl", "--job-key", "k")
    assert first.out == again.out
    assert ledger.info(first.out.strip()).num_jobs == 6
    work(ledger)
    done = dgq("submit", "jobs.jsonl", "--job-key", "k", "-o", "out.jsonl")
    assert (done.code, len(ids(out))) == (exit_codes.OK, 6)
    assert len(list(ledger.batches())) == 1


@pytest.mark.parametrize("before", ["unsealed", "active", "finished"])
def test_a_job_key_with_another_input_is_refused(
    dgq, ledger, jobs_file, rewrite, out, before, tmp_path
):
    jobs_file(*(rewrite(f"job-{n}") for n in range(6)))
    batch_id = dgq("submit", "jobs.jsonl", "--job-key", "k").out.strip()
    if before == "finished":
        work(ledger)
    if before == "unsealed":
        ledger.redis.hset(ledger.keys.batch(batch_id).meta, "sealed", 0)
    jobs_file(*(rewrite(f"other-{n}") for n in range(9)), name="other.jsonl")
    out.write_text('{"id":"precious","status":"ok"}\n')
    before_rows = out.read_text()
    for more in ([], ["-o", "out.jsonl", "--overwrite"]):
        done = dgq("submit", "other.jsonl", "--job-key", "k", *more)
        assert (done.code, done.out) == (exit_codes.CANNOT_RUN, "")
        assert "(job key 'k') belongs to another input" in done.err
        assert "in part" not in done.err
        assert out.read_text() == before_rows
        assert read_sidecar(out) is None
    assert ledger.info(batch_id).num_jobs == 6


def test_a_cancelled_job_key_says_so(dgq, ledger, jobs_file, rewrite, out):
    jobs_file(rewrite("a"))
    dgq("submit", "jobs.jsonl", "--job-key", "k")
    assert dgq("cancel", "last").code == exit_codes.OK
    done = dgq("submit", "jobs.jsonl", "--job-key", "k", "-o", "out.jsonl")
    assert done.code == exit_codes.BATCH_CANCELLED
    assert "was cancelled and takes no jobs; what it has: dgq results b-" in done.err
    assert not out.exists()
    out.write_text('{"id":"b","status":"ok"}\n')
    Sidecar(next(ledger.batches()).id, 0).write(out)
    done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume")
    assert done.code == exit_codes.BATCH_CANCELLED
    assert dgq(*shlex.split(done.err.split("what it has: dgq ")[1])).code == done.code
    assert ids(out) == ["b", "a"]


def test_waiting_ends_in_time(dgq, ledger, jobs_file, rewrite, out):
    jobs_file(rewrite("a"))
    done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--timeout", "0.2")
    assert done.code == exit_codes.WAIT_TIMEOUT
    assert (
        "has not finished after 0.2 s: 0 of 1 jobs have their rows; to go on: dgq results b-"
        in (done.err)
    )
    assert (
        "no worker is alive that serves the model name 'default'; start one with: dgq worker"
        in (done.err)
    )
    assert done.err.count("no worker is alive") == 1
    work(ledger)
    again = done.err.split("to go on: dgq ")[1].split()
    assert dgq(*again).code == exit_codes.OK
    assert ids(out) == ["a"] and read_sidecar(out) is None


def test_the_way_back_can_be_typed_as_it_stands_and_keeps_the_order(
    dgq, server, ledger, jobs_file, rewrite, tmp_path, monkeypatch
):
    names = [f"job-{n}" for n in range(8)]
    jobs_file(*map(rewrite, names))
    monkeypatch.delenv("DGQ_REDIS_URL")
    given = ("--ordered", "--timeout", "0.2", "--redis-url", server.url)
    done = dgq("submit", "jobs.jsonl", "-o", "my out.jsonl", *given)
    held = ledger.claim(next(ledger.batches()).id, "default", "slow", 10)
    work(ledger)
    ledger.release(held)
    again = shlex.split(done.err.split("to go on: dgq ")[1])
    assert dgq(*again, "--timeout", "0.2").code == exit_codes.WAIT_TIMEOUT
    work(ledger)
    assert dgq(*again).code == exit_codes.OK
    assert ids(tmp_path / "my out.jsonl") == names


def test_a_batch_that_is_cancelled_meanwhile_keeps_its_rows(dgq, ledger, jobs_file, rewrite, out):
    jobs_file(*(rewrite(f"job-{n}") for n in range(8)))
    dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--timeout", "0.1")
    work(ledger, at_most=4)
    dgq("cancel", "last")
    done = dgq("results", "last", "-o", "out.jsonl", "--resume", "--follow")
    assert done.code == exit_codes.BATCH_CANCELLED
    statuses = [row["status"] for row in read_rows(out)]
    assert sorted(statuses) == ["cancelled"] * 4 + ["ok"] * 4


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["missing.jsonl"], exit_codes.USAGE, "missing.jsonl does not exist"),
        (["no*.jsonl"], exit_codes.USAGE, "no file matches no*.jsonl"),
        (["folder"], exit_codes.USAGE, "folder is a folder"),
        (["blank"], exit_codes.USAGE, "no jobs in blank"),
        (["blank", "-o", "new"], exit_codes.USAGE, "no jobs in blank"),
        (["-", "jobs"], exit_codes.USAGE, "exclude each other"),
        (["jobs", "--detach", "-o", "new"], exit_codes.USAGE, "--detach excludes"),
        (["jobs", "--detach", "--watch"], exit_codes.USAGE, "--detach excludes"),
        (["jobs", "--ordered"], exit_codes.USAGE, "--ordered is about results: add --output"),
        (["jobs", "--resume"], exit_codes.USAGE, "--resume is about results: add --output"),
        (["jobs", "--timeout", "1"], exit_codes.USAGE, "--timeout is about waiting"),
        (
            ["jobs", "-o", "-", "--json"],
            exit_codes.USAGE,
            "cannot both go to standard output: add --output",
        ),
        (["jobs", "-o", "-", "--resume"], exit_codes.USAGE, "--resume needs a file of results"),
        (["jobs", "-o", "jobs"], exit_codes.USAGE, "jobs holds the jobs"),
        (["jobs", "-o", "old"], exit_codes.USAGE, "old exists; add --resume"),
        (["jobs", "-o", "no/out"], exit_codes.USAGE, "the folder no for the results does not"),
        (["jobs", "-o", "old", "--resume"], exit_codes.CANNOT_RUN, "old line 1 is not a row"),
        (["jobs", "-o", "noted"], exit_codes.USAGE, "noted.dgq says that batch b-1 is being"),
        (["jobs", "--priority", "101"], exit_codes.USAGE, "101 is not in the range"),
        (["jobs", "--model-name", "a,b"], exit_codes.USAGE, "a,b"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    dgq, ledger, tmp_path, jobs_file, rewrite, args, code, message
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "blank").write_text("\n")
    (tmp_path / "old").write_text("precious\n")
    (tmp_path / "noted.dgq").write_text('{"batch": "b-1", "base_bytes": 0}')
    jobs_file(rewrite("a"), name="jobs")
    before = {path.name for path in tmp_path.iterdir()}
    done = dgq("submit", *args)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert (tmp_path / "old").read_text() == "precious\n"
    assert {path.name for path in tmp_path.iterdir()} == before
    assert not list(ledger.batches())


@pytest.mark.parametrize("more", [[], ["--watch"], ["-o", "out.jsonl"]])
def test_an_unreachable_server_is_one_line(
    dgq, clean_environment, monkeypatch, jobs_file, rewrite, more, out
):
    monkeypatch.setenv("DGQ_REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    jobs_file(rewrite("a"))
    done = dgq("submit", "jobs.jsonl", *more)
    assert (done.code, done.out) == (exit_codes.SERVER, "")
    assert done.err.count("\n") == 1 and "Connection refused" in done.err
    assert not out.exists()


def test_an_input_of_too_many_jobs_is_one_line(dgq, ledger, monkeypatch, jobs_file, rewrite):
    monkeypatch.setenv("DGQ_MAX_BATCH_JOBS", "5")
    jobs_file(*(rewrite(f"job-{n}") for n in range(9)))
    done = dgq("submit", "jobs.jsonl")
    assert (done.code, done.out) == (exit_codes.CANNOT_RUN, "")
    assert "the input has more than 5 jobs" in done.err
