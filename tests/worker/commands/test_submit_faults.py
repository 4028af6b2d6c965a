"""``dgq submit`` killed, its server gone, its file torn: run again, each job has exactly one row."""

import json
import signal
import subprocess
import threading
import time

import pytest

from dgq.worker import exit_codes
from dgq.worker.client.sidecar import Sidecar, read_sidecar
from dgq.worker.ledger.ledger import Ledger
from tests.worker.looking import ids, read_rows, wait_until
from tests.worker.servers import RealServer
from tests.worker.stub_worker import StubWorker, work

NAMES = [f"job-{n}" for n in range(22)]


@pytest.fixture
def jobs(jobs_file, rewrite):
    """22 jobs and a bad line, in shards of 4; lines 1 to 23."""
    return jobs_file(*(rewrite(name) for name in NAMES[:10]), b"{", *map(rewrite, NAMES[10:]))


def assert_complete(out):
    rows = ids(out)
    assert sorted(row for row in rows if row) == sorted(NAMES)
    assert len(rows) == 23 and read_sidecar(out) is None


def feed_half(process, jobs, num_lines=11):
    """Write the beginning of the jobs into a process that waits for more."""
    for line in jobs.read_bytes().splitlines(keepends=True)[:num_lines]:
        process.stdin.write(line)
    process.stdin.flush()


@pytest.mark.parametrize("more", [["--watch"], []])
def test_killed_half_way_and_run_again_with_its_job_key(dgq, dgq_process, ledger, jobs, out, more):
    process = dgq_process("submit", "-", "--job-key", "k", *more, stdin=subprocess.PIPE)
    feed_half(process, jobs)
    wait_until(lambda: [info.num_jobs for info in ledger.batches()] == [8])
    process.kill()
    process.wait()
    work(ledger)
    done = dgq("submit", "jobs.jsonl", "--job-key", "k")
    assert done.code == exit_codes.OK
    work(ledger)
    assert dgq("results", done.out.strip(), "-o", "out.jsonl").code == exit_codes.FAILED_ROWS
    assert_complete(out)
    assert len(list(ledger.batches())) == 1


@pytest.mark.parametrize("worked", [0, 3, 8])
def test_killed_half_way_and_resumed(dgq, dgq_process, ledger, jobs, out, worked):
    process = dgq_process("submit", "-", "-o", "out.jsonl", stdin=subprocess.PIPE)
    feed_half(process, jobs)
    wait_until(lambda: [info.num_jobs for info in ledger.batches()] == [8])
    work(ledger, at_most=worked, rows_at_once=1)
    wait_until(lambda: out.exists() and len(ids(out)) == worked)
    process.kill()
    process.wait()
    batch_id = read_sidecar(out).batch
    with StubWorker(ledger):
        done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume")
    assert done.code == exit_codes.FAILED_ROWS
    assert_complete(out)
    assert [info.id for info in ledger.batches()] == [batch_id]


def test_killed_before_the_first_job_was_handed_over(dgq, dgq_process, worker, ledger, jobs, out):
    process = dgq_process("submit", "-", "-o", "out.jsonl", stdin=subprocess.PIPE)
    feed_half(process, jobs, 1)
    wait_until(lambda: read_sidecar(out))
    process.kill()
    process.wait()
    assert dgq("submit", "jobs.jsonl", "-o", "out.jsonl").code == exit_codes.USAGE
    assert dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume").code == 3
    assert_complete(out)


@pytest.mark.parametrize("ordered", [[], ["--ordered"]])
@pytest.mark.parametrize("num_kept_bytes", [0, 1, 30, -1, -40, -900])
def test_a_file_cut_anywhere_gets_the_rows_of_an_undisturbed_run(
    dgq, ledger, jobs, out, num_kept_bytes, ordered
):
    batch_id = dgq("submit", "jobs.jsonl").out.strip()
    work(ledger, rows_at_once=3)
    assert dgq("results", batch_id, "-o", "out.jsonl", *ordered).code == exit_codes.FAILED_ROWS
    whole = out.read_bytes()
    out.write_bytes(whole[:num_kept_bytes])
    Sidecar(batch_id, 0).write(out)
    done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume", *ordered)
    assert done.code == exit_codes.FAILED_ROWS
    assert out.read_bytes() == whole
    assert_complete(out)
    assert ("torn line" in done.err) == (num_kept_bytes != 0)
    assert len(list(ledger.batches())) == 1


@pytest.mark.parametrize("key", [[], ["--job-key", "k"]])
def test_a_server_that_lost_everything_computes_only_what_is_missing(dgq, ledger, jobs, out, key):
    command = ["submit", "jobs.jsonl", "-o", "out.jsonl", "--timeout", "0.1", *key]
    assert dgq(*command).code == exit_codes.WAIT_TIMEOUT
    work(ledger, at_most=9, rows_at_once=1)
    assert dgq("results", "last", "-o", "out.jsonl", "--resume").code == exit_codes.OK
    assert len(ids(out)) == 9 + 1
    ledger.redis.flushall()
    with StubWorker(ledger):
        done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume", *key)
    assert done.code == exit_codes.FAILED_ROWS
    assert_complete(out)
    (info,) = ledger.batches()
    assert info.num_jobs == 13
    assert "10 rows were there before, 1 of them not ok" in done.err
    again = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume", *key)
    assert again.code == exit_codes.FAILED_ROWS and "0 jobs in" in again.err
    assert_complete(out)


def test_resumed_twice_after_a_loss_it_goes_on_with_the_second_batch(dgq, ledger, jobs, out):
    """The second batch has only a part of the input; its rows and those before it stay apart."""
    command = ["submit", "jobs.jsonl", "-o", "out.jsonl", "--timeout", "0.1"]
    dgq(*command)
    work(ledger, at_most=7)
    dgq("results", "last", "-o", "out.jsonl", "--resume")
    ledger.redis.flushall()
    assert dgq(*command, "--resume").code == exit_codes.WAIT_TIMEOUT
    work(ledger, at_most=8, rows_at_once=1)
    assert dgq(*command, "--resume").code == exit_codes.WAIT_TIMEOUT
    out.write_bytes(out.read_bytes()[:-5])
    (info,) = ledger.batches()
    work(ledger)
    assert dgq(*command, "--resume").code == exit_codes.FAILED_ROWS
    assert_complete(out)
    assert [one.id for one in ledger.batches()] == [info.id]


def test_lost_while_it_waits_it_says_how_to_go_on(dgq, ledger, jobs, out):
    dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--timeout", "0.1")
    wiper = threading.Timer(1.0, ledger.redis.flushall)
    wiper.start()
    done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume")
    wiper.join()
    assert done.code == exit_codes.BATCH_UNKNOWN
    assert "the server has lost b-" in done.err
    assert "to go on: the same command with --resume" in done.err


def test_what_is_complete_needs_no_server(dgq, worker, monkeypatch, jobs, out):
    assert dgq("submit", "jobs.jsonl", "-o", "out.jsonl").code == exit_codes.FAILED_ROWS
    whole = out.read_bytes()
    out.write_bytes(whole + b'{"id":"torn')
    monkeypatch.setenv("DGQ_REDIS_URL", "redis://127.0.0.1:1")
    done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume", "--json")
    assert done.code == exit_codes.FAILED_ROWS
    assert json.loads(done.out) == {"id": None, "finished": True, "num_jobs": 0, "num_done": 0}
    assert out.read_bytes() == whole


def test_overwriting_forgets_the_batch_before(dgq, ledger, jobs, out):
    dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--timeout", "0.1")
    first = read_sidecar(out).batch
    with StubWorker(ledger):
        assert dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--overwrite").code == 3
    assert_complete(out)
    assert len(list(ledger.batches())) == 2 and ledger.info(first)


def test_another_input_for_the_batch_that_is_noted_is_refused(
    dgq, ledger, jobs, out, jobs_file, rewrite
):
    dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--timeout", "0.1")
    before, noted = out.read_bytes(), read_sidecar(out)
    jobs_file(*(rewrite(f"other-{n}") for n in range(30)), name="other.jsonl")
    done = dgq("submit", "other.jsonl", "-o", "out.jsonl", "--resume")
    assert done.code == exit_codes.CANNOT_RUN and "belongs to another input" in done.err
    assert (out.read_bytes(), read_sidecar(out)) == (before, noted)


def test_results_come_before_the_input_has_ended(dgq_process, worker, jobs, out):
    process = dgq_process("submit", "-", "-o", "out.jsonl", stdin=subprocess.PIPE)
    feed_half(process, jobs)
    wait_until(lambda: out.exists() and len(ids(out)) == 8)
    for line in jobs.read_bytes().splitlines(keepends=True)[11:]:
        process.stdin.write(line)
    process.stdin.close()
    assert process.wait(60) == exit_codes.FAILED_ROWS
    assert_complete(out)


@pytest.mark.parametrize("handed_over", [True, False])
def test_ctrl_c_detaches_and_says_how_to_come_back(
    dgq, dgq_process, ledger, jobs, out, handed_over
):
    source = "jobs.jsonl" if handed_over else "-"
    process = dgq_process("submit", source, "-o", "out.jsonl", stdin=subprocess.PIPE)
    if not handed_over:
        feed_half(process, jobs)
    wait_until(lambda: [info.sealed for info in ledger.batches()] == [handed_over])
    wait_until(lambda: [info.num_shards for info in ledger.batches()] == [6 if handed_over else 2])
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.INTERRUPTED
    said = err.decode().splitlines()[-1]
    work(ledger)
    if handed_over:
        assert said.startswith("dgq: detached from b-") and ", which goes on; " in said
        again = said.split("to come back: dgq ")[1].split()
        assert dgq(*again).code == exit_codes.FAILED_ROWS
    else:
        assert "which was handed over in part" in said
        assert said.endswith("to come back: the same command with --resume")
        with StubWorker(ledger):
            done = dgq("submit", "-", "-o", "out.jsonl", "--resume", stdin=jobs.read_bytes())
        assert done.code == exit_codes.FAILED_ROWS
    assert_complete(out)


def test_a_server_that_restarts_is_waited_for(
    dgq, clean_environment, monkeypatch, tmp_path, jobs, out
):
    with RealServer(tmp_path / "server", appendonly="yes") as server:
        monkeypatch.setenv("DGQ_REDIS_URL", server.url)
        ledger = Ledger(server.client())
        ended = threading.Event()

        def restart():
            wait_until(lambda: out.exists() and read_sidecar(out))
            server.kill()
            time.sleep(4)
            server.start()
            with StubWorker(Ledger(server.client())):
                ended.wait(60)

        helper = threading.Thread(target=restart)
        helper.start()
        done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--timeout", "60")
        ended.set()
        helper.join()
        assert done.code == exit_codes.FAILED_ROWS
        assert_complete(out)
        assert done.err.count("the server is away; waiting for it for up to 30 s") == 1
        assert done.err.count("the server answers again") == 1
        assert len(list(ledger.batches())) == 1


def test_a_server_that_stays_away_is_one_line_and_resumed(
    dgq, clean_environment, monkeypatch, tmp_path, jobs, out
):
    monkeypatch.setattr("dgq.worker.client.watching.OUTAGE_S", 1.0)
    with RealServer(tmp_path / "server", appendonly="yes") as server:
        monkeypatch.setenv("DGQ_REDIS_URL", server.url)
        killer = threading.Thread(
            target=lambda: wait_until(lambda: read_sidecar(out)) and server.kill()
        )
        killer.start()
        done = dgq("submit", "jobs.jsonl", "-o", "out.jsonl")
        killer.join()
        assert done.code == exit_codes.SERVER
        assert "Connection refused" in done.err.splitlines()[-1]
        server.start()
        with StubWorker(Ledger(server.client())):
            assert dgq("submit", "jobs.jsonl", "-o", "out.jsonl", "--resume").code == 3
        assert_complete(out)
        assert read_rows(out)


@pytest.fixture
def tight_server(clean_environment, monkeypatch, tmp_path):
    with RealServer(tmp_path / "server", maxmemory_policy="noeviction") as server:
        monkeypatch.setenv("DGQ_REDIS_URL", server.url)
        yield server


@pytest.mark.parametrize("more", [["-o", "out.jsonl", "--timeout", "4"], []])
def test_a_server_that_is_too_full_is_waited_for(dgq, tight_server, monkeypatch, jobs, out, more):
    monkeypatch.setenv("DGQ_MAX_MEMORY_PERCENT", "50")
    client = tight_server.client()
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.6))
    helper = threading.Timer(2.0, lambda: client.config_set("maxmemory", 0))
    helper.start()
    done = dgq("submit", "jobs.jsonl", *more)
    helper.join()
    assert "% full; waiting for room" in done.err
    assert done.code == (exit_codes.WAIT_TIMEOUT if more else exit_codes.OK)
    (info,) = Ledger(client).batches()
    assert (info.sealed, info.num_jobs) == (True, 23)


@pytest.mark.parametrize(
    ("more", "way_on"),
    [
        ([], "dgq cancel b-"),
        (["--job-key", "k"], "the same command goes on where this one ended"),
        (["-o", "out.jsonl"], "; to go on: the same command with --resume"),
    ],
)
def test_a_server_that_stays_too_full_ends_it_and_the_way_on_is_told(
    dgq, tight_server, monkeypatch, jobs, more, way_on
):
    monkeypatch.setenv("DGQ_MAX_MEMORY_PERCENT", "50")
    monkeypatch.setattr("dgq.worker.client.memory.PATIENCE_S", 0.1)
    monkeypatch.setattr("dgq.worker.client.memory.PAUSE_S", 0.05)
    client = tight_server.client()
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.6))
    done = dgq("submit", "jobs.jsonl", *more)
    assert done.code == exit_codes.SERVER
    assert "% full; collect results, raise maxmemory, or submit less" in done.err
    assert way_on in done.err


@pytest.mark.parametrize("more", [["-o", "out.jsonl"], []])
def test_a_server_that_refuses_for_want_of_memory_is_waited_for(
    dgq_process, tight_server, jobs, out, more
):
    client = tight_server.client()
    ledger = Ledger(client)
    process = dgq_process("submit", "-", *more, stdin=subprocess.PIPE)
    feed_half(process, jobs)
    wait_until(lambda: [info.num_jobs for info in ledger.batches()] == [8])
    client.config_set("maxmemory", 1)
    for line in jobs.read_bytes().splitlines(keepends=True)[11:]:
        process.stdin.write(line)
    process.stdin.close()
    said = []
    while not said or b"waiting for room" not in said[-1]:
        said.append(process.stderr.readline())
        assert said[-1], said
    client.config_set("maxmemory", 0)
    with StubWorker(ledger):
        assert process.wait(60) == (exit_codes.FAILED_ROWS if more else exit_codes.OK)
    (info,) = ledger.batches()
    assert (info.sealed, info.num_jobs) == (True, 23)
    if more:
        assert_complete(out)
