"""The benchmark runs both sides on the same prompts."""

import json

import pytest

from benchmarks.against_transformers import (
    Setting,
    load_reference,
    run_dgq,
    run_reference,
    starting_canvases,
)

JOBS = [
    {"kind": "rewrite", "text": text, "instruction": "Use British spelling."}
    for text in ("The color of the center is gray.", "It is my favorite theater.")
]


@pytest.fixture(scope="module")
def run():
    """What run_dgq returns."""
    return run_dgq([json.dumps({"id": f"{i}"} | job).encode() for i, job in enumerate(JOBS)])


@pytest.fixture(scope="module")
def reference():
    return load_reference("eager")


def test_both_sides_run_on_the_same_prompts(run, reference) -> None:
    seconds, requests, facts = run
    assert seconds > 0 and facts["requests"] >= len(requests) == len(JOBS)
    setting = Setting(2, "eager", warm=True)
    assert run_reference(reference, requests, setting, max_denoising_steps=4) > 0


def test_starting_canvases_hold_the_drafts(run, reference) -> None:
    _, requests, _ = run
    canvases = starting_canvases(reference, requests)
    for canvas, request in zip(canvases.tolist(), requests, strict=True):
        assert request.draft_ids and len(canvas) == 256
        same = sum(a == b for a, b in zip(canvas, request.draft_ids, strict=False))
        assert same >= (1 - request.draft_noise) * len(request.draft_ids) * 0.6
