from dgq.pipelines.result import JobResult, Stats
from dgq.worker import exit_codes
from dgq.worker.ledger.types import BatchInfo
from dgq.worker.resume import EarlierRows
from dgq.worker.summary import Tally, exit_code, summary_lines


def result(status):
    stats = Stats(tokens=50, canvases=2, steps=9)
    return JobResult(id="a", kind="fill", status=status, stats=stats)


def tally_of(*statuses):
    tally = Tally()
    for status in statuses:
        tally.add(result(status))
    return tally


def test_the_summary_counts_rows_tokens_and_steps():
    tally = tally_of("ok", "ok", "error")
    assert summary_lines(tally, EarlierRows(), "out.jsonl", 2.0) == [
        "3 jobs in 2.0 s: 2 ok, 0 invalid_output, 1 error",
        "150 tokens, 75 tokens/s, 4.5 steps per canvas",
        "results: out.jsonl",
    ]


def test_one_job_is_not_jobs():
    assert summary_lines(tally_of("ok"), EarlierRows(), "x", 1.0)[0].startswith("1 job in 1.0 s")


def test_earlier_rows_are_told_and_count_for_the_exit_code():
    earlier = EarlierRows(num_rows=4, num_ok=3)
    assert "4 rows were there before, 1 of them not ok" in summary_lines(Tally(), earlier, "x", 1.0)
    assert exit_code(tally_of("ok"), earlier) == exit_codes.FAILED_ROWS
    assert exit_code(tally_of("ok"), EarlierRows(num_rows=1, num_ok=1)) == exit_codes.OK


def test_any_row_that_is_not_ok_is_a_failed_one():
    for status in ("invalid_output", "error", "cancelled"):
        assert exit_code(tally_of("ok", status), EarlierRows()) == exit_codes.FAILED_ROWS


def test_the_progress_line_names_the_total_where_it_is_known():
    tally = tally_of("ok", "error")
    assert tally.progress_line(9).startswith("2 of 9 jobs, ")
    assert tally.progress_line(None).startswith("2 jobs, ")
    assert tally.progress_line(9).endswith(", 1 not ok")


def test_the_counts_of_a_batch_name_what_was_cancelled():
    fields = dict.fromkeys(("label", "source", "job_key", "retry_of", "digest"), "")
    fields |= {"id": "b-aaaaaaaaaaaa", "state": "cancelled", "sealed": "1", "options": "{}"}
    numbers = ("priority", "shard_jobs", "shard_bytes", "created_ms", "num_shards")
    fields |= dict.fromkeys(numbers, "0") | {"num_jobs": "5", "num_done": "5", "num_ok": "3"}
    fields |= {"num_cancelled": "2", "num_tokens": "60", "num_canvases": "4", "num_steps": "10"}
    tally = Tally.of_batch(BatchInfo.of(fields))
    assert tally.num_failed == 2
    assert summary_lines(tally, EarlierRows(), "", 2.0) == [
        "5 jobs in 2.0 s: 3 ok, 0 invalid_output, 0 error, 2 cancelled",
        "60 tokens, 30 tokens/s, 2.5 steps per canvas",
    ]
