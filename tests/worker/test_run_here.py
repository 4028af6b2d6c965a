"""``dgq run`` with a scripted engine: rows, order, resuming, summaries, and being stopped."""

import json
import os
import resource
import signal
import subprocess
import time

import pytest

from dgq.worker import exit_codes
from dgq.worker.host import EngineOptions


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_go_to_stdout_and_all_else_to_stderr(dgq, jobs_file, rewrite):
    jobs_file(rewrite("a"), rewrite("b", text="No change."))
    done = dgq("run", "jobs.jsonl", "--ordered")
    assert done.code == exit_codes.OK
    assert [(row["id"], row["status"], row["output"]) for row in done.rows] == [
        ("a", "ok", "The colour."),
        ("b", "ok", "No change."),
    ]
    lines = done.err.splitlines()
    assert all(line.startswith("dgq: ") for line in lines)
    assert "2 jobs in" in lines[0] and ": 2 ok, 0 invalid_output, 0 error" in lines[0]
    assert "21 tokens" in lines[1] and "4.0 steps per canvas" in lines[1]
    assert lines[-1] == "dgq: results: standard output"


def test_jobs_come_from_stdin(dgq, rewrite):
    done = dgq("run", "-", "-o", "-", "-q", stdin=json.dumps(rewrite("a")).encode())
    assert (done.code, done.err, len(done.rows)) == (exit_codes.OK, "", 1)


def test_results_go_to_a_file_that_the_summary_names(dgq, tmp_path, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    done = dgq("run", "jobs.jsonl", "-o", "out.jsonl")
    assert (done.code, done.out) == (exit_codes.OK, "")
    assert read_rows(tmp_path / "out.jsonl")[0]["output"] == "The colour."
    assert done.err.splitlines()[-1] == "dgq: results: out.jsonl"


def test_each_bad_line_is_a_row_and_stops_nothing(dgq, jobs_file, rewrite):
    jobs_file(
        b"{not json",
        rewrite("a"),
        rewrite("a"),
        {"id": "c", "kind": "juggle"},
        b"\xff",
        b"",
        rewrite("b"),
    )
    done = dgq("run", "jobs.jsonl", "--ordered")
    assert done.code == exit_codes.FAILED_ROWS
    assert [(row["id"], row["line"], row["status"]) for row in done.rows] == [
        (None, 1, "error"),
        ("a", 2, "ok"),
        (None, 3, "error"),
        ("c", 4, "error"),
        (None, 5, "error"),
        ("b", 7, "ok"),
    ]
    assert "6 jobs in" in done.err and ": 2 ok, 0 invalid_output, 4 error" in done.err


def test_an_engine_that_refuses_a_request_fails_only_that_job(dgq, jobs_file, rewrite):
    jobs_file(rewrite("a", instruction="Fail."), rewrite("b"))
    done = dgq("run", "jobs.jsonl", "--ordered")
    assert done.code == exit_codes.FAILED_ROWS
    assert [row["status"] for row in done.rows] == ["error", "ok"]


def test_attempts_are_bounded(dgq, engine, jobs_file, rewrite):
    jobs_file(rewrite("a", instruction="Never converge."))
    done = dgq("run", "jobs.jsonl", "--max-attempts", "2")
    assert done.code == exit_codes.FAILED_ROWS
    assert done.rows[0]["status"] == "invalid_output"
    assert engine.num_requests == 2


def test_order_is_that_of_the_input_only_when_asked(dgq, jobs_file, rewrite):
    jobs_file(rewrite("slow", instruction="Be slow."), rewrite("fast"))
    assert [row["id"] for row in dgq("run", "jobs.jsonl").rows] == ["fast", "slow"]
    assert [row["id"] for row in dgq("run", "jobs.jsonl", "--ordered").rows] == ["slow", "fast"]


def test_the_engine_is_closed(dgq, engine, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    dgq("run", "jobs.jsonl")
    assert engine.closed


def test_overwrite_replaces_and_resume_keeps(dgq, tmp_path, jobs_file, rewrite):
    jobs_file(rewrite("a"), rewrite("b"))
    old = json.dumps({"id": "a", "status": "ok", "output": "kept"}) + "\n"
    (tmp_path / "out").write_text(old)
    assert dgq("run", "jobs.jsonl", "-o", "out", "--resume").code == exit_codes.OK
    assert [row["output"] for row in read_rows(tmp_path / "out")] == ["kept", "The colour."]
    assert dgq("run", "jobs.jsonl", "-o", "out", "--overwrite").code == exit_codes.OK
    assert [row["output"] for row in read_rows(tmp_path / "out")] == ["The colour."] * 2


def test_a_broken_checkpoint_costs_no_old_results(dgq, engine, tmp_path, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    engine.model_path = tmp_path
    (tmp_path / "out").write_text("old\n")
    (tmp_path / "dgq.json").write_text("{")
    done = dgq("run", "jobs.jsonl", "-o", "out", "--overwrite")
    assert done.code == exit_codes.CANNOT_RUN and "dgq.json is not JSON" in done.err
    assert (tmp_path / "out").read_text() == "old\n"


@pytest.mark.parametrize("num_kept_bytes", [0, 1, 30, -1, -2, -40])
def test_a_file_cut_anywhere_is_completed(
    dgq, engine, tmp_path, jobs_file, rewrite, num_kept_bytes
):
    jobs_file(rewrite("a"), b"{bad", rewrite("b"), rewrite("b"), rewrite("c"))
    dgq("run", "jobs.jsonl", "-o", "out", "--ordered")
    whole = (tmp_path / "out").read_bytes()
    (tmp_path / "out").write_bytes(whole[:num_kept_bytes])
    done = dgq("run", "jobs.jsonl", "-o", "out", "--ordered", "--resume")
    assert done.code == exit_codes.FAILED_ROWS
    rows = read_rows(tmp_path / "out")
    assert [(row["id"], row["line"]) for row in rows] == [
        ("a", 1),
        (None, 2),
        ("b", 3),
        (None, 4),
        ("c", 5),
    ]
    assert ("torn line" in done.err) == (num_kept_bytes != 0)


def test_resuming_what_is_complete_asks_no_model(dgq, engine, tmp_path, jobs_file, rewrite):
    jobs_file(rewrite("a"), b"{bad")
    dgq("run", "jobs.jsonl", "-o", "out")
    asked = engine.num_requests
    done = dgq("run", "jobs.jsonl", "-o", "out", "--resume")
    assert (done.code, engine.num_requests) == (exit_codes.FAILED_ROWS, asked)
    assert "0 jobs in" in done.err and "2 rows were there before, 1 of them not ok" in done.err


def test_the_seed_reaches_the_rows(dgq, jobs_file, rewrite):
    jobs_file(rewrite("a"), {**rewrite("b"), "seed": 5})
    seeds = [row["stats"]["seed"] for row in dgq("run", "jobs.jsonl", "--ordered").rows]
    others = [
        row["stats"]["seed"] for row in dgq("run", "jobs.jsonl", "--ordered", "--seed", "9").rows
    ]
    assert seeds[0] != others[0] and seeds[1] == others[1]


def test_flags_and_settings_say_how_the_engine_runs(dgq, engine, jobs_file, rewrite, monkeypatch):
    given = []

    def load(model_path, *, options, **_):
        given.append(options)
        return engine

    monkeypatch.setattr("dgq.worker.local.load_engine", load)
    monkeypatch.setenv("DGQ_KERNELS", "torch")
    monkeypatch.setenv("DGQ_DTYPE", "bfloat16")
    jobs_file(rewrite("a"))
    assert dgq("run", "jobs.jsonl").code == exit_codes.OK
    flags = "--device cuda:1 --dtype float32 --kernels auto --quantize nf4 --vram 1GB".split()
    assert dgq("run", "jobs.jsonl", *flags).code == exit_codes.OK
    assert given == [
        EngineOptions(dtype="bfloat16", kernels="torch"),
        EngineOptions("cuda:1", "float32", "auto", "nf4", 10**9),
    ]
    assert "'--kernels': 'cuda' is not one of" in dgq("run", "jobs.jsonl", "--kernels", "cuda").err


def test_an_internal_error_is_one_line_with_a_hint(dgq, jobs_file, rewrite, monkeypatch):
    def broken(model_path, **options):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("dgq.worker.local.load_engine", broken)
    jobs_file(rewrite("a"))
    done = dgq("run", "jobs.jsonl", "-o", "out")
    assert done.code == exit_codes.CANNOT_RUN
    assert done.err.splitlines()[-1] == (
        "dgq: internal error: ZeroDivisionError: a bug (add --traceback to see where)"
    )
    assert "Traceback" in dgq("run", "jobs.jsonl", "-o", "out", "--traceback").err


def test_interrupted_work_is_kept_and_resumed(dgq, dgq_process, tmp_path, jobs_file, rewrite):
    jobs_file(*(rewrite(f"fast-{n}") for n in range(3)), rewrite("slow", instruction="Be slow."))
    process = dgq_process("run", "jobs.jsonl", "-o", "out")
    wait_for_rows(tmp_path / "out", 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.INTERRUPTED
    assert err.decode() == (
        "dgq: interrupted; 3 results were written to out; "
        "to go on: the same command with --resume\n"
    )
    assert dgq("run", "jobs.jsonl", "-o", "out", "--resume").code == exit_codes.OK
    assert sorted(row["id"] for row in read_rows(tmp_path / "out")) == [
        "fast-0",
        "fast-1",
        "fast-2",
        "slow",
    ]


@pytest.mark.parametrize("jobs", ["-", "pipe"])
def test_an_interruption_does_not_wait_for_a_slow_pipe(dgq_process, tmp_path, rewrite, jobs):
    os.mkfifo(tmp_path / "pipe")
    process = dgq_process("run", jobs, "-o", "out", stdin=subprocess.PIPE)
    with process.stdin if jobs == "-" else (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(json.dumps(rewrite("a")).encode() + b"\n")
        pipe.flush()
        wait_for_rows(tmp_path / "out", 1)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
    assert process.returncode == exit_codes.INTERRUPTED
    err = process.stderr.read()
    assert (
        err.startswith(b"dgq: interrupted; 1 results were written to out") and b"Fatal" not in err
    )


def wait_for_rows(path, number, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.read_bytes().count(b"\n") >= number:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} did not get {number} rows in {seconds} s")


def test_a_full_disk_loses_no_row_and_resuming_completes(
    dgq, dgq_process, tmp_path, jobs_file, rewrite
):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    jobs_file(*(rewrite(f"job-{n}") for n in range(20)))
    process = dgq_process("run", "jobs.jsonl", "-o", "out", preexec_fn=small_files)
    _, err = process.communicate(timeout=60)
    rows = read_rows(tmp_path / "out")
    assert process.returncode == exit_codes.CANNOT_RUN
    assert err.decode() == (
        f"dgq: cannot write out: File too large; the {len(rows)} results of this run that are in "
        "it are whole, and the same command with --resume adds the rest\n"
    )
    assert 0 < len(rows) < 20
    assert dgq("run", "jobs.jsonl", "-o", "out", "--resume").code == exit_codes.OK
    assert sorted(row["id"] for row in read_rows(tmp_path / "out")) == sorted(
        f"job-{n}" for n in range(20)
    )


def test_a_killed_run_is_completed(dgq, dgq_process, tmp_path, jobs_file, rewrite):
    jobs_file(rewrite("a"), rewrite("slow", instruction="Be slow."))
    process = dgq_process("run", "jobs.jsonl", "-o", "out")
    wait_for_rows(tmp_path / "out", 1)
    process.kill()
    process.wait(timeout=60)
    assert dgq("run", "jobs.jsonl", "-o", "out", "--resume").code == exit_codes.OK
    assert [row["id"] for row in read_rows(tmp_path / "out")] == ["a", "slow"]


def test_a_reader_that_goes_away_ends_the_run_quietly(dgq_process, jobs_file, rewrite):
    jobs_file(rewrite("a"), *(rewrite(f"slow-{n}", instruction="Be slow.") for n in range(3)))
    process = dgq_process("run", "jobs.jsonl", "-q")
    assert json.loads(process.stdout.readline())["id"] == "a"
    process.stdout.close()
    process.wait(timeout=60)
    assert (process.returncode, process.stderr.read()) == (exit_codes.CANNOT_RUN, b"")


def test_progress_is_a_plain_line_now_and_then(dgq_process, jobs_file, rewrite):
    jobs_file(rewrite("a"), rewrite("b", instruction="Be slow."))
    environment = {**os.environ, "DGQ_PROGRESS_INTERVAL_S": "0.1"}
    process = dgq_process("run", "jobs.jsonl", "-o", "out", env=environment)
    _, err = process.communicate(timeout=60)
    assert any(line.startswith("dgq: 1 of 2 jobs, ") for line in err.decode().splitlines())


@pytest.mark.parametrize(
    ("closed", "args", "code"),
    [(2, ["-o", "out"], exit_codes.OK), (1, [], exit_codes.USAGE), (0, [], exit_codes.OK)],
)
def test_closed_standard_streams(dgq_process, tmp_path, jobs_file, rewrite, closed, args, code):
    jobs_file(rewrite("a"))
    process = dgq_process("run", "jobs.jsonl", *args, preexec_fn=lambda: os.close(closed))
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"internal error" not in err
    if closed == 2:
        assert [row["id"] for row in read_rows(tmp_path / "out")] == ["a"]


def test_a_summary_that_cannot_be_written_changes_nothing(dgq_process, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    with open("/dev/full", "wb") as full:
        process = dgq_process("run", "jobs.jsonl", stderr=full)
        process.communicate(timeout=60)
    assert process.returncode == exit_codes.OK
