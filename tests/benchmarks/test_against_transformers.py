"""The benchmark runs both sides on the same prompts."""

from benchmarks.against_transformers import (
    Setting,
    load_reference,
    run_dgq,
    run_reference,
    starting_canvases,
)
from training.evaluate import as_lines, held_out_jobs


def test_both_sides_run_on_the_same_prompts() -> None:
    lines = as_lines(held_out_jobs("rewrite", 2, 0), "rewrite")
    seconds, requests, facts = run_dgq(lines)
    assert seconds > 0 and facts["requests"] >= len(requests) == 2
    model = load_reference("eager")
    assert run_reference(model, requests, Setting(2, "eager", warm=True)) > 0


def test_starting_canvases_hold_the_drafts() -> None:
    lines = as_lines(held_out_jobs("rewrite", 2, 0), "rewrite")
    _, requests, _ = run_dgq(lines)
    canvases = starting_canvases(load_reference("eager"), requests)
    for canvas, request in zip(canvases.tolist(), requests, strict=True):
        assert len(canvas) == 256
        same = sum(a == b for a, b in zip(canvas, request.draft_ids, strict=False))
        assert same >= (1 - request.draft_noise) * len(request.draft_ids) * 0.6
