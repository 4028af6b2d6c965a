"""``dgq watch``: until the end, a time-out, Ctrl-C or the loss of the batch."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

from dgq.worker import exit_codes
from tests.worker.looking import wait_until
from tests.worker.stub_worker import StubWorker, work


@pytest.fixture
def batch_id(dgq, ledger, jobs_file, rewrite):
    jobs_file(*(rewrite(f"job-{n}") for n in range(6)), b"{")
    return dgq("submit", "jobs.jsonl").out.strip()


def test_a_finished_batch_is_summed_up(dgq, ledger, batch_id):
    work(ledger)
    done = dgq("watch", batch_id)
    assert (done.code, done.out) == (exit_codes.FAILED_ROWS, "")
    assert done.err.splitlines()[0].endswith("s: 6 ok, 0 invalid_output, 1 error")
    done = dgq("watch", batch_id, "--json", "-q")
    assert (done.err, json.loads(done.out)["finished"]) == ("", True)


def test_it_waits_for_the_end(dgq, ledger, batch_id, monkeypatch):
    monkeypatch.setenv("DGQ_PROGRESS_INTERVAL_S", "0.1")
    begin = threading.Event()

    def work_later():
        begin.wait()
        with StubWorker(ledger):
            wait_until(lambda: ledger.info(batch_id).finished)

    helper = threading.Thread(target=work_later)
    helper.start()
    threading.Timer(1.0, begin.set).start()
    done = dgq("watch", "last", "--timeout", "60")
    helper.join()
    assert done.code == exit_codes.FAILED_ROWS
    assert "dgq: 1 of 7 jobs, 0.0 jobs/s, 0 tokens/s, 1 error, 0 workers" in done.err


def test_without_a_worker_it_says_once_which_one_it_wants(dgq, ledger, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    dgq("submit", "jobs.jsonl", "--model-name", "big")
    with StubWorker(ledger):
        done = dgq("watch", "last", "--timeout", "3")
    assert done.code == exit_codes.WAIT_TIMEOUT
    assert done.err.count("no worker is alive") == 1
    assert "'big'; start one with: dgq worker --serve big" in done.err


def test_a_paused_batch_is_told_of(dgq, ledger, batch_id):
    dgq("pause", batch_id)
    with StubWorker(ledger):
        done = dgq("watch", batch_id, "--timeout", "0.2")
    assert f"{batch_id} is paused; to go on with it: dgq resume {batch_id}" in done.err


def test_a_cancelled_batch_is_told_by_the_exit_code(dgq, ledger, batch_id):
    dgq("cancel", batch_id)
    done = dgq("watch", batch_id)
    assert done.code == exit_codes.BATCH_CANCELLED
    assert done.err.splitlines()[-1] == f"dgq: {batch_id} was cancelled"


def test_a_lost_batch_is_told_by_the_exit_code(dgq, ledger, batch_id):
    threading.Timer(1.0, ledger.redis.flushall).start()
    done = dgq("watch", batch_id)
    assert done.code == exit_codes.BATCH_UNKNOWN
    assert f"the server has lost {batch_id}" in done.err


def test_ctrl_c_detaches(dgq_process, ledger, batch_id):
    process = dgq_process("watch", batch_id)
    err = process.stderr
    assert b"no worker is alive" in err.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == exit_codes.INTERRUPTED
    assert err.read().decode() == (
        f"dgq: detached from {batch_id}, which goes on; to watch it: dgq watch {batch_id}\n"
    )
    assert ledger.info(batch_id).state == "active"


def test_on_a_terminal_there_is_a_live_bar(ledger, batch_id, tmp_path):
    terminal, stderr = pty.openpty()
    shown = b""
    with StubWorker(ledger):
        process = subprocess.Popen(
            [sys.executable, "-m", "dgq.worker", "watch", batch_id],
            cwd=tmp_path,
            stderr=stderr,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "160"},
        )
        os.close(stderr)
        try:  # read as it goes: a terminal that nobody reads is full after a few redraws
            while data := os.read(terminal, 1 << 16):
                shown += data
        except OSError:  # how a terminal says that its last writer is gone
            pass
        finally:
            os.close(terminal)
            process.wait(60)
    assert b"7/7" in shown and b"jobs/s" in shown and b"1 error" in shown


def test_a_submission_that_was_broken_off_is_told_of(dgq, ledger, batch_id, monkeypatch):
    monkeypatch.setattr("dgq.worker.client.watching.UNSEALED_S", 0.0)
    ledger.redis.hset(ledger.keys.batch(batch_id).meta, "sealed", 0)
    work(ledger)
    done = dgq("watch", batch_id, "--timeout", "1")
    assert done.code == exit_codes.WAIT_TIMEOUT
    assert done.err.count("it has not been submitted to its end") == 1
