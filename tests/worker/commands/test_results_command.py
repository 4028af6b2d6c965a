"""``dgq results``: while the batch runs and after, in either order, broken off and gone on with."""

import json
import signal
import threading

import pytest

from dgq.worker import exit_codes
from dgq.worker.client.sidecar import Sidecar, read_sidecar
from tests.worker.looking import ids, read_rows, wait_until
from tests.worker.stub_worker import StubWorker, work

NAMES = [f"job-{n}" for n in range(10)]


@pytest.fixture
def batch_id(dgq, ledger, jobs_file, rewrite):
    """Ten jobs in shards of four; job 5 fails."""
    jobs_file(*(rewrite(name, text="stub:fail" if name == "job-5" else "x") for name in NAMES))
    return dgq("submit", "jobs.jsonl").out.strip()


def test_what_is_there_is_written_and_later_the_rest(dgq, ledger, batch_id, out):
    work(ledger, at_most=3, rows_at_once=1)
    done = dgq("results", batch_id, "-o", "out.jsonl")
    assert (done.code, ids(out)) == (exit_codes.OK, NAMES[:3])
    assert f"{batch_id} is not finished: 3 of 10 jobs have their rows" in done.err
    assert dgq("results", batch_id, "-o", "out.jsonl").code == exit_codes.USAGE
    work(ledger)
    done = dgq("results", batch_id, "-o", "out.jsonl", "--resume", "--json")
    assert done.code == exit_codes.FAILED_ROWS
    assert json.loads(done.out)["num_by_status"]["invalid_output"] == 1
    assert sorted(ids(out)) == NAMES
    assert done.err.splitlines()[-1] == "dgq: results: out.jsonl"


def test_to_stdout_there_are_rows_and_nothing_else(dgq, ledger, batch_id):
    work(ledger)
    done = dgq("results", "last", "-q")
    assert (done.code, done.err) == (exit_codes.FAILED_ROWS, "")
    assert sorted(row["id"] for row in done.rows) == NAMES


@pytest.mark.parametrize("rows_at_once", [1, 3])
def test_in_input_order_a_row_waits_for_those_before_it(dgq, ledger, batch_id, out, rows_at_once):
    first = ledger.claim(batch_id, "default", "slow", 10)
    work(ledger, rows_at_once=rows_at_once)
    done = dgq("results", batch_id, "-o", "out.jsonl", "--ordered")
    assert (done.code, out.read_bytes()) == (exit_codes.OK, b"")
    assert "6 rows wait for an earlier job's row" in done.err
    ledger.release(first)
    work(ledger)
    assert dgq("results", batch_id, "-o", "out.jsonl", "--ordered").code == 3
    assert ids(out) == NAMES


def test_following_ends_with_the_batch(dgq, ledger, batch_id, out):
    def work_later():
        wait_until(out.exists)
        with StubWorker(ledger, rows_at_once=1):
            wait_until(lambda: ledger.info(batch_id).finished)

    helper = threading.Thread(target=work_later)
    helper.start()
    done = dgq("results", batch_id, "-o", "out.jsonl", "--follow", "--timeout", "60")
    helper.join()
    assert done.code == exit_codes.FAILED_ROWS
    assert sorted(ids(out)) == NAMES


def test_a_collector_killed_in_a_line_and_gone_on_with_loses_and_doubles_nothing(
    dgq, dgq_process, ledger, batch_id, tmp_path, out
):
    process = dgq_process("results", batch_id, "-o", "out.jsonl", "--follow")
    work(ledger, at_most=5, rows_at_once=1)
    wait_until(lambda: out.exists() and len(out.read_bytes().splitlines()) == 5)
    process.kill()
    process.wait()
    out.write_bytes(out.read_bytes()[:-7])
    work(ledger, rows_at_once=1)
    done = dgq("results", batch_id, "-o", "out.jsonl", "--resume", "--follow")
    assert done.code == exit_codes.FAILED_ROWS and "ends in a torn line" in done.err
    dgq("results", batch_id, "-o", "undisturbed.jsonl")
    undisturbed = (tmp_path / "undisturbed.jsonl").read_bytes()
    assert out.read_bytes() == undisturbed
    assert len(set(undisturbed.splitlines())) == 10


def test_rows_of_other_batches_before_it_stay_and_do_not_matter(dgq, ledger, jobs_file, out):
    """OUT begins with a bad line 1 of another input; ours is another row."""
    jobs_file(b"{")
    batch_id = dgq("submit", "jobs.jsonl").out.strip()
    earlier = b'{"id":null,"line":1,"status":"error"}\n'
    out.write_bytes(earlier)
    Sidecar(batch_id, len(earlier)).write(out)
    assert dgq("results", batch_id, "-o", "out.jsonl", "--resume").code == 3
    assert len(read_rows(out)) == 2 and out.read_bytes().startswith(earlier)
    assert read_sidecar(out) is None


def test_ctrl_c_says_how_to_go_on(dgq, dgq_process, ledger, batch_id, out):
    process = dgq_process("results", batch_id, "-o", "out.jsonl", "--follow")
    work(ledger, at_most=2, rows_at_once=1)
    wait_until(lambda: out.exists() and len(out.read_bytes().splitlines()) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.INTERRUPTED
    said = err.decode().splitlines()[-1]
    assert said.startswith("dgq: interrupted; 2 results were written to out.jsonl; to go on: dgq ")
    work(ledger)
    assert dgq(*said.split("to go on: dgq ")[1].split()).code == exit_codes.FAILED_ROWS
    assert sorted(ids(out)) == NAMES


def test_time_out_and_what_makes_no_sense(dgq, ledger, batch_id, out):
    assert dgq("results", batch_id, "--follow", "--timeout", "0.1").code == 6
    assert dgq("results", batch_id, "--timeout", "1").code == exit_codes.USAGE
    assert dgq("results", batch_id, "--json").code == exit_codes.USAGE
    assert dgq("results", batch_id, "--resume").code == exit_codes.USAGE
    done = dgq("results", "b-aaaaaaaaaaaa", "-o", "out.jsonl")
    assert (done.code, out.exists()) == (exit_codes.BATCH_UNKNOWN, False)
    assert done.err.startswith("dgq: the server knows no batch b-aaaaaaaaaaaa; dgq list shows")
