"""``dgq run --trace FILE``: written beside the results, and nothing else is lost to it."""

import json

import pytest

from dgq.worker import exit_codes
from dgq.worker.local import run


def test_the_trace_is_of_the_requests_that_the_results_report(tmp_path, rewrite):
    jobs = [rewrite(f"job-{n}", text=f"The color of house {n} is grey.") for n in range(3)]
    results = list(run(jobs, trace=tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())
    begun = [e for e in events if e["ph"] == "B" and e["name"].startswith("request")]
    assert len(begun) == sum(result.stats.requests for result in results) >= 3
    denoised = [e["args"]["canvases"] for e in events if e["name"] == "step"]
    assert sum(denoised) == sum(result.stats.steps for result in results)


def test_the_command_writes_and_replaces_a_trace(dgq, tmp_path, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    for _ in range(2):
        done = dgq("run", "jobs.jsonl", "--trace", "trace.json", "-q")
        assert (done.code, done.err, len(done.rows)) == (exit_codes.OK, "", 1)
        assert isinstance(json.loads((tmp_path / "trace.json").read_text()), list)


@pytest.mark.parametrize(
    ("trace", "says"),
    [
        ("jobs.jsonl", "jobs.jsonl holds the jobs or the results; the trace needs another file"),
        ("out.jsonl", "out.jsonl holds the jobs or the results; the trace needs another file"),
        ("notes.txt", "notes.txt exists and is no trace; name another file for the trace"),
        (".", ". is a folder; --trace needs a file"),
        ("missing/trace.json", "the folder missing for the trace does not exist"),
    ],
)
def test_what_is_no_trace_is_not_replaced(dgq, engine, tmp_path, jobs_file, rewrite, trace, says):
    jobs_file(rewrite("a"))
    (tmp_path / "notes.txt").write_text("mine")
    done = dgq("run", "jobs.jsonl", "-o", "out.jsonl", "--trace", trace)
    assert (done.code, done.err) == (exit_codes.USAGE, f"dgq: {says}\n")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert engine.num_requests == 0 and not (tmp_path / "out.jsonl").exists()
