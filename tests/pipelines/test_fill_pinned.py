"""Pinned fills, over a model that is a function from a slot's rows to the text in them."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dgq.engine.request import Request, Result
from dgq.pipelines.asking import Context
from dgq.pipelines.decoding import DEFAULT_DECODINGS, SLOT_KINDS, Decodings
from dgq.pipelines.estimate import estimate_tokens
from dgq.pipelines.fill import run
from dgq.pipelines.job import FillJob

Fills = Callable[[int, Request], list[str]]
"""From the number of the request to the texts of its runs of free rows."""


@pytest.fixture
def pinned(blank_first) -> Context:
    fill = replace(DEFAULT_DECODINGS.fill, pinned=SLOT_KINDS)
    fill_pinned = replace(DEFAULT_DECODINGS.fill_pinned, slot_tokens=4)
    return Context(blank_first, decodings=replace(Decodings(), fill=fill, fill_pinned=fill_pinned))


def free_runs(request: Request) -> list[list[int]]:
    pinned_rows = {row for row, _ in request.pins}
    runs: list[list[int]] = []
    for row in range(request.canvas_length or 0):
        if row not in pinned_rows:
            if runs and runs[-1][-1] == row - 1:
                runs[-1].append(row)
            else:
                runs.append([row])
    return runs


def result_of(request: Request, texts: list[str], tokenizer, certainty: float) -> Result:
    """All rows of a canvas whose runs of free rows hold these texts, then filler."""
    ids = [tokenizer.pad_id] * (request.canvas_length or 0)
    for row, token in request.pins:
        ids[row] = token
    for run_rows, text in zip(free_runs(request), texts, strict=True):
        tokens = tokenizer.encode(text)
        assert len(tokens) <= len(run_rows), (text, run_rows)
        ids[run_rows[0] : run_rows[0] + len(tokens)] = tokens
    free = {row for rows in free_runs(request) for row in rows}
    log_probability = math.log(certainty)
    candidates = [
        ((token, log_probability),) if row in free else () for row, token in enumerate(ids)
    ]
    scores = [
        tuple(-0.01 if token == ids[row] else -9.0 for token in tokens)
        for row, tokens in request.scored
    ]
    return Result(
        tuple(ids), "stop", 1, 3, 0, 0.01, 0.001,
        scores=tuple(scores),
        candidates=tuple(candidates) if request.num_candidates else (),
    )  # fmt: skip


def fill(job: FillJob, context: Context, fills: Fills, certainty: float = 0.99) -> tuple[Any, list]:
    """The outcome of a job, and the requests that it asked."""
    steps = run(job, context)
    asked: list[Request] = []
    try:
        requests = next(steps)
        while True:
            results = []
            for request in requests:
                texts = fills(len(asked), request)
                results.append(result_of(request, texts, context.tokenizer, certainty))
                asked.append(request)
            requests = steps.send(results)
    except StopIteration as stop:
        return stop.value, asked


def test_one_request_for_all_slots_with_literals_pinned(pinned):
    job = FillJob(
        id="1",
        template="Dear {{ who }},\r\n{{id}} goes to {{town}} for {{ who }}.",
        record={"id": "A17", "name": "Ada", "place": "Oslo"},
    )
    outcome, (request,) = fill(job, pinned, lambda *_: [" Ada", " Oslo", " someone"])
    assert (outcome.status, outcome.output) == ("ok", "Dear Ada,\r\nA17 goes to Oslo for Ada.")
    assert [check.detail for check in outcome.checks] == [
        "answered, occurs in the record",
        "copied",
        "answered, occurs in the record",
    ]
    prompt = pinned.tokenizer.decode(request.prompt_ids)
    assert prompt.startswith(f"Template:\n{job.template}\n\nRecord:\n")
    assert prompt.endswith("Give the template with its values.")
    shown = "".join(pinned.tokenizer.decode([token]) for _, token in request.pins)
    assert shown == "Dear,\r\nA17 goes to for."
    assert request.max_new_tokens == request.canvas_length


def test_good_values_are_pinned_when_the_others_are_asked_again(pinned):
    job = FillJob(id="1", template="{{a}} and {{b}}.", record={"x": "Ada", "y": "Bo"})
    texts = [["Ada", " Boo"], [" Boo"], [" Bo"]]
    outcome, asked = fill(job, pinned, lambda number, _: texts[number])
    assert outcome.output == "Ada and Bo."
    first, second, _ = asked
    assert first.seed != second.seed
    assert pinned.tokenizer.decode(second.prompt_ids).endswith("values.")
    assert pinned.tokenizer.decode([token for _, token in second.pins]).startswith("Ada and")
    rows = [len(free_runs(request)[-1]) for request in asked]
    assert rows == [1, 2, 2]  # more where the last answer left none spare


def test_a_slot_without_a_good_value_fails_the_job_after_its_attempts(pinned):
    job = FillJob(id="1", template="{{a}} and {{b}}.", record={"x": "Ada"}, max_attempts=2)
    outcome, asked = fill(
        job, pinned, lambda number, _: ["Ada", " Eve"] if not number else [" Eve"]
    )
    assert (outcome.status, outcome.output, len(asked)) == ("invalid_output", None, 2)
    assert [check.passed for check in outcome.checks] == [True, False]
    assert "Eve" in outcome.checks[1].detail
    unsure, asked = fill(job, pinned, lambda *_: ["Ada", " Ada"], certainty=0.2)
    assert unsure.status == "invalid_output" and len(asked) == 2
    assert "unsure: 'Ada' has a token of 0.20" in unsure.checks[0].detail


def test_options_are_scored_and_named_once(pinned):
    rule = {"type": "enum", "values": ["yes", "no", "not yet"]}
    job = FillJob(
        id="1", template="{{a}}, {{b}}", instructions="Be brief.", slots={"a": rule, "b": rule}
    )
    outcome, (request,) = fill(job, pinned, lambda *_: ["no", " not yet"])
    assert outcome.output == "no, not yet"
    assert request.num_candidates == 0
    assert {row for row, _ in request.scored} == {r for run in free_runs(request) for r in run}
    prompt = pinned.tokenizer.decode(request.prompt_ids)
    assert "\nInstructions: Be brief. One of: yes, no, not yet.\n" in prompt


def test_rules_are_said_of_the_slots_that_have_them(pinned):
    job = FillJob(
        id="1",
        template="{{a}}, {{b}}, {{c}}",
        record="Five of A-1 for Ada.",
        slots={"a": {"type": "integer"}, "c": {"type": "regex", "pattern": "[A-Z]-[0-9]"}},
    )
    outcome, (request,) = fill(job, pinned, lambda *_: ["5", " Ada", " A-1"])
    assert outcome.output == "5, Ada, A-1"
    prompt = pinned.tokenizer.decode(request.prompt_ids)
    assert (
        "Instructions: {{a}}: A whole number. {{c}}: Matching the pattern [A-Z]-[0-9]\n" in prompt
    )


def test_a_slot_is_asked_for_after_those_that_it_depends_on(pinned):
    job = FillJob(
        id="1",
        template="{{b}} since {{a}}",
        instructions="x",
        slots={"b": {"depends_on": ["a"]}},
    )
    texts = [[" Monday"], ["late"]]
    outcome, asked = fill(job, pinned, lambda number, _: texts[number])
    assert outcome.output == "late since Monday"
    assert "Monday" in pinned.tokenizer.decode([token for _, token in asked[1].pins])


def test_windows_of_a_long_template_follow_each_other(pinned):
    middle = " " + "so it goes on " * 30
    job = FillJob(id="1", template="{{a}}" + middle + "{{b}}.", record={"x": "Ada", "y": "Bo"})
    texts = [["Ada"], [" Bo"]]
    outcome, asked = fill(job, pinned, lambda number, _: texts[number])
    assert outcome.output == f"Ada{middle}Bo."
    written = pinned.tokenizer.decode(asked[1].prompt_ids).rsplit("values.", 1)[1]
    assert written.startswith("Ada so it goes on")
    estimate = estimate_tokens(job, pinned.tokenizer, decodings=pinned.decodings)
    assert estimate.requests == 2 and estimate.answer_tokens > 0


def test_kinds_take_the_method_that_the_decoding_says(pinned, blank_first):
    context = Context(
        blank_first,
        decodings=replace(
            pinned.decodings, fill=replace(pinned.decodings.fill, pinned=("enum", "field"))
        ),
    )
    job = FillJob(
        id="1",
        template="{{who}}: {{mood}}, {{why}}.",
        record={"name": "Ada"},
        instructions={"why": "Say why."},
        slots={"mood": {"type": "enum", "values": ["good", "bad"]}},
    )
    steps = run(job, context)
    (by_value,) = next(steps)
    assert not by_value.pins
    answer = tuple(blank_first.encode("it rains"))
    (request,) = steps.send([Result(answer, "stop", 1, 3, 0, 0.01, 0.001)])
    assert "it rains" in blank_first.decode([token for _, token in request.pins])
    with pytest.raises(StopIteration) as stop:
        steps.send([result_of(request, ["Ada", " bad"], blank_first, 0.9)])
    assert stop.value.value.output == "Ada: bad, it rains."
