"""``dgq retry``: the failed jobs alone, with another seed."""

import json

import pytest

from dgq.worker import exit_codes
from dgq.worker.client.sidecar import read_sidecar
from tests.worker.looking import ids, read_rows
from tests.worker.stub_worker import StubWorker, work


@pytest.fixture
def batch_id(dgq, ledger, jobs_file, rewrite):
    """Ten jobs; the odd ones fail; line 1 is bad."""
    jobs_file(b"{", *(rewrite(f"job-{n}", text="stub:fail" if n % 2 else "x") for n in range(10)))
    batch_id = dgq(
        "submit", "jobs.jsonl", "--seed", "6", "--max-attempts", "2", "--priority", "3"
    ).out.strip()
    work(ledger)
    return batch_id


def test_the_failed_jobs_are_a_batch_with_another_seed(dgq, ledger, batch_id):
    done = dgq("retry", batch_id)
    assert done.code == exit_codes.OK
    info = ledger.info(done.out.strip())
    assert (info.retry_of, info.num_jobs, info.priority) == (batch_id, 5, 3)
    assert (info.options.seed, info.options.max_attempts) == (7, 2)
    assert info.source == "jobs.jsonl"
    given = json.loads(dgq("retry", batch_id, "--seed", "40", "--json").out)
    assert (given["seed"], given["retry_of"]) == (40, batch_id)


def test_its_results_have_their_lines_in_the_input(dgq, worker, batch_id, out):
    done = dgq("retry", batch_id, "-o", "out.jsonl", "--ordered")
    assert done.code == exit_codes.FAILED_ROWS
    assert ids(out) == [f"job-{n}" for n in range(1, 10, 2)]
    assert [row["line"] for row in read_rows(out)] == [3, 5, 7, 9, 11]
    assert read_sidecar(out) is None


def test_it_is_watched(dgq, worker, batch_id):
    done = dgq("retry", batch_id, "--watch")
    assert done.code == exit_codes.FAILED_ROWS and done.out.startswith("b-")


def test_broken_off_it_is_resumed(dgq, ledger, batch_id, out):
    assert dgq("retry", batch_id, "-o", "out.jsonl", "--timeout", "0.1").code == 6
    work(ledger, at_most=2, rows_at_once=1)
    with StubWorker(ledger):
        done = dgq("retry", batch_id, "-o", "out.jsonl", "--resume")
    assert done.code == exit_codes.FAILED_ROWS
    assert sorted(ids(out)) == [f"job-{n}" for n in range(1, 10, 2)]
    assert len(list(ledger.batches())) == 2


def test_without_a_seed_it_is_1(dgq, ledger, jobs_file, rewrite):
    jobs_file(rewrite("a", text="stub:fail"))
    batch_id = dgq("submit", "jobs.jsonl").out.strip()
    work(ledger)
    assert json.loads(dgq("retry", batch_id, "--json").out)["seed"] == 1


def test_jobs_that_keep_their_seed_are_told_of(dgq, ledger, jobs_file, rewrite):
    kept = [rewrite(f"job-{n}", text="stub:fail") | {"seed": n} for n in range(2)]
    jobs_file(rewrite("a", text="stub:fail"), *kept)
    batch_id = dgq("submit", "jobs.jsonl").out.strip()
    work(ledger)
    done = dgq("retry", batch_id)
    assert ledger.info(done.out.strip()).num_jobs == 3
    assert done.err.splitlines()[0] == (
        "dgq: 2 of these jobs have a seed of their own, which they keep: the same check fails again"
    )


def test_nothing_to_retry_is_one_line(dgq, ledger, jobs_file, rewrite, out):
    jobs_file(rewrite("a"), b"{")
    batch_id = dgq("submit", "jobs.jsonl").out.strip()
    work(ledger)
    for more in ([], ["--watch"], ["-o", "out.jsonl"]):
        done = dgq("retry", batch_id, *more)
        assert (done.code, done.out) == (exit_codes.USAGE, "")
        assert done.err == (
            f"dgq: {batch_id} has no job that a retry could help: nothing is submitted\n"
        )
    assert not out.exists()


def test_an_unfinished_batch_is_told_of(dgq, ledger, jobs_file, rewrite):
    jobs_file(rewrite("a", text="stub:fail"), *(rewrite(f"job-{n}") for n in range(6)))
    batch_id = dgq("submit", "jobs.jsonl").out.strip()
    work(ledger, at_most=4)
    done = dgq("retry", batch_id)
    assert done.code == exit_codes.OK
    assert f"{batch_id} is not finished; only what has failed so far is tried again" in done.err
