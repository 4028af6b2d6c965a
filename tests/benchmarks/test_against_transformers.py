"""The benchmark gives both sides the same jobs and judges them alike."""

import pytest

from benchmarks.against_transformers import WAYS, WidestRequest, decodings_for
from benchmarks.measuring import mixed_jobs, run_set, slot_values, useful_tokens
from benchmarks.reference_engine import ReferenceEngine, Setting, load_reference
from dgq.engine.engine import DEFAULT_MODEL_PATH, Engine
from dgq.engine.errors import RequestError
from dgq.engine.request import Request
from dgq.pipelines.decoding import load_decoding
from dgq.pipelines.job import FillJob
from dgq.pipelines.result import Check, JobResult
from dgq.pipelines.run import RunOptions


@pytest.fixture(scope="module")
def model():
    return load_reference()


def test_both_sides_do_the_same_jobs(model):
    jobs = mixed_jobs(["json", "rewrite"], 4, seed=0)
    assert [job.id for job in jobs] == ["json-0", "rewrite-0", "json-1", "rewrite-1"]
    ways = {"json": "whole", "rewrite": "pieces with drafts"}
    options = RunOptions(decodings=decodings_for(load_decoding(DEFAULT_MODEL_PATH), ways))
    with Engine.load() as engine:
        asked = WidestRequest(engine)
        ours = run_set(jobs, asked, options)
    with ReferenceEngine(model, Setting(2, "grouped_mm")) as reference:
        theirs = run_set(jobs, reference, options)
    assert ours.jobs == theirs.jobs == 4 and ours.requests == theirs.requests
    assert theirs.ok >= 0.5 and theirs.useful_tokens > 0
    assert 1 <= theirs.steps_per_canvas <= 24
    assert 16 <= asked.widest <= 256


def test_drafts_start_the_canvases(model):
    with ReferenceEngine(model, Setting(2, "eager")) as reference:
        draft = tuple(range(10, 60))
        warm = Request((5, 6), 64, seed=0, draft_ids=draft, draft_noise=0.3)
        canvases = reference._starting_canvases([warm, Request((5, 6), 64, seed=0)])
    assert canvases.shape == (2, 256)
    same = [sum(a == b for a, b in zip(row, draft, strict=False)) for row in canvases.tolist()]
    assert same[0] >= 0.4 * len(draft) and same[1] <= 5


def test_what_transformers_cannot_do_is_refused(model):
    with ReferenceEngine(model, Setting(1, "eager")) as reference:
        future = reference.submit(Request((5,), 16, seed=0, pins=((0, 7),)))
        with pytest.raises(RequestError, match="no pins"):
            future.result(timeout=60)


def test_each_way_asks_once_as_it_says():
    decodings = load_decoding(DEFAULT_MODEL_PATH)
    for way in WAYS:
        changed = decodings_for(decodings, {"rewrite": way}).rewrite
        assert changed.max_attempts == 1
        assert (changed.draft_noise == (1.0,)) == ("drafts" not in way)
        assert (changed.piece_tokens > decodings.rewrite.piece_tokens) == ("whole" in way)


def test_of_a_fill_only_what_was_asked_for_is_useful(model):
    template = "Dear {{name}},\n{{name}} owes {{sum}}{{unit}}."
    assert slot_values(template, "Dear Ann,\nAnn owes 5 EUR.") == {
        "name": "Ann",
        "sum": "",
        "unit": "5 EUR",
    }
    job = FillJob(id="a", template="Dear {{name}}, pay {{sum}}", instructions="Any.")
    checks = (
        Check(name="slot name", passed=True, detail="copied"),
        Check(name="slot sum", passed=True, detail="answered"),
    )
    result = JobResult(id="a", status="ok", output="Dear Ann, pay 5 EUR", checks=checks)
    with ReferenceEngine(model, Setting(1, "eager")) as reference:
        tokenizer = reference.tokenizer
        assert useful_tokens(job, result, tokenizer) == len(tokenizer.encode("5 EUR"))
