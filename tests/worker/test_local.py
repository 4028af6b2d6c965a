"""From Python: a generator of jobs in, a generator of results out."""

import re
from pathlib import Path

from dgq.pipelines.job import RewriteJob
from dgq.worker.local import run


def test_jobs_and_mappings_give_results(engine, rewrite):
    jobs = [RewriteJob.model_validate(rewrite("a")), rewrite("b")]
    results = list(run(iter(jobs), ordered=True))
    assert [(result.id, result.status, result.output) for result in results] == [
        ("a", "ok", "The colour."),
        ("b", "ok", "The colour."),
    ]
    assert engine.closed


def test_a_bad_job_is_a_result_and_stops_nothing(engine, rewrite):
    jobs = [{"id": "a", "kind": "juggle"}, rewrite("b"), None, {"id": "\ud800"}]
    results = list(run(jobs, ordered=True))
    assert [(result.id, result.status) for result in results] == [
        ("a", "error"),
        ("b", "ok"),
        (None, "error"),
        (None, "error"),
    ]
    assert all(result.to_json_line().encode() for result in results)
    assert "juggle" in results[0].error.message


def test_an_endless_input_is_pulled_only_as_far_as_there_is_room(engine, rewrite):
    pulled = 0

    def endless():
        nonlocal pulled
        while True:
            pulled += 1
            yield rewrite(f"job-{pulled}")

    for ordered in (False, True):
        pulled = 0
        results = run(endless(), ordered=ordered)
        ids = {next(results).id for _ in range(200)}
        results.close()
        assert len(ids) == 200
        assert pulled < 1200
    assert engine.closed


def test_the_example_in_the_readme_runs(engine, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    example, _ = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - our own text, under test
    assert capsys.readouterr().out == "greeting-0 ok Hello Maria!\ngreeting-1 ok Hello Tom!\n"


def test_nothing_is_loaded_before_the_first_result(engine, rewrite):
    run([rewrite("a")])
    assert engine.num_requests == 0 and not engine.closed
