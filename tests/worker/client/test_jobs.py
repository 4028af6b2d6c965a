"""Jobs from Python as entries."""

import datetime
import json

import pytest

from dgq.pipelines.job import FillJob, RewriteJob
from dgq.pipelines.parsing import DEFAULT_LIMITS, Limits, parse_job
from dgq.pipelines.reading import BadLine
from dgq.worker.client.jobs import entries_of
from dgq.worker.errors import UsageFault
from tests.worker.fresh import line


def entries(*jobs, limits=DEFAULT_LIMITS):
    return list(entries_of(jobs, limits))


def test_objects_mappings_and_lines_are_the_same_job():
    mapping = json.loads(line(1))
    given = [RewriteJob(**mapping), mapping, line(1), line(1).decode() + "\r\n"]
    jobs = [entries(one)[0] for one in given]
    assert [job for job, _ in jobs] == [RewriteJob(**mapping).at_line(1)] * 4
    for job, text in jobs:
        assert parse_job(json.loads(text)).at_line(1) == job


def test_nothing_is_lost_on_the_way_through_json():
    job = FillJob(
        id="ü\u2028",
        template="{{a}} {{b}}",
        record={"a": None, "b": "x\ty\n", "c": {"d": [None, 1.5]}},
        instructions="say",
        slots={"a": {"type": "number"}},
    )
    ((got, text),) = entries(job)
    assert got == job.at_line(1) and b"\n" not in text


def test_numbers_are_places_and_blank_lines_count():
    got = entries(line(0), b" \n", json.loads(line(1)), "", line(2))
    assert [job.line for job, _ in got] == [1, 3, 5]


def loop():
    job = {"id": "6"}
    job["text"] = job
    return job


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (5, "a job must be an object, not a number"),
        (None, "must be an object, not null"),
        ([{}], "must be an object, not a list"),
        ("x", "not JSON"),
        (b"\xff", "not UTF-8"),
        ({"id": "3"}, "'kind' is missing"),
        ({"id": "4", "record": {"day": datetime.date(2026, 11, 23)}}, "no JSON can be made of it"),
        ({"id": "5", ("a", "b"): 1}, "no JSON can be made of it"),
        (loop(), "no JSON can be made of it"),
        (object(), "no JSON can be made of it"),
        ({"id": "7", "seed": float("nan")}, "NaN"),
        ({"id": "8", "kind": "rewrite", "text": "\ud800", "instruction": "x"}, "half a character"),
        (line(9, text="x" * 500), "longer than 200 bytes"),
    ],
)
def test_what_is_no_job_becomes_a_bad_line_in_its_place(job, words):
    got = entries(line(0), job, line(1), limits=Limits(line_bytes=200))
    assert [type(entry) for entry, _ in got] == [RewriteJob, BadLine, RewriteJob]
    bad, text = got[1]
    assert words in bad.message and (bad.line, text) == (2, b"")
    if "no JSON" in words and isinstance(job, dict):
        assert bad.id == job["id"]


def test_an_id_can_be_used_once():
    (_, first), (bad, _) = entries(line(1), json.loads(line(1)))
    assert first == line(1)
    assert "already that of line 1" in bad.message


@pytest.mark.parametrize("jobs", ["jobs.jsonl", line(1), json.loads(line(1))])
def test_one_job_or_a_files_name_in_place_of_jobs(jobs):
    with pytest.raises(UsageFault, match="must be an iterable of jobs"):
        entries_of(jobs, DEFAULT_LIMITS)
