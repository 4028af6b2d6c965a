import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dgq.pipelines.job import FillJob
from dgq.pipelines.template import parse_template


def slot_of(prompt):
    return re.search(r"value of \{\{([^{}]+)\}\}\.\Z", prompt)[1]


def answers(**values):
    return lambda prompt: values[slot_of(prompt)]


def test_copied_and_asked_slots(run_one):
    job = FillJob(
        id="1",
        template="Dear {{ name }},\r\n{{order}} ships to {{city}}. {{name}}, {{order}}!",
        record={"name": "Ada", "number": "A-17", "town": "Oslo"},
    )
    result, engine = run_one(job, answers(order=" A-17\n", city="Oslo"))
    assert result.status == "ok"
    assert result.output == "Dear Ada,\r\nA-17 ships to Oslo. Ada, A-17!"
    assert [check.detail for check in result.checks] == [
        "copied",
        "answered, occurs in the record",
        "answered, occurs in the record",
    ]
    assert [slot_of(prompt) for prompt in engine.prompts] == ["order", "city"]
    assert engine.prompts[0].startswith(f"Template:\n{job.template}\n\nRecord:\n")
    assert (result.stats.requests, result.stats.attempts, result.stats.tokens) == (2, 1, 6)


def test_a_miscopied_name_is_asked_again_and_then_refused(run_one):
    job = FillJob(id="1", template="Dear {{who}}", record="Call from Maria Lopez.")
    tries = iter(["Maria Lopes", "Maria Lopez"])
    result, engine = run_one(job, lambda _: next(tries))
    assert (result.status, result.output) == ("ok", "Dear Maria Lopez")
    assert engine.requests[0].seed != engine.requests[1].seed
    assert engine.requests[0].prompt_ids == engine.requests[1].prompt_ids

    result, engine = run_one(job, lambda _: "Maria Lopes")
    assert (result.status, result.output) == ("invalid_output", None)
    assert result.checks[0].name == "slot who" and "Maria Lopes" in result.checks[0].detail
    assert len(engine.requests) == 3


def test_only_failed_slots_are_asked_again(run_one):
    job = FillJob(id="1", template="{{a}} {{b}}", instructions="say it", max_attempts=2)
    result, engine = run_one(job, answers(a="yes", b=""))
    assert result.status == "invalid_output"
    assert [slot_of(prompt) for prompt in engine.prompts] == ["a", "b", "b"]


def test_rules_instructions_and_rows(run_one):
    job = FillJob(
        id="1",
        template="{{mood}} on {{day}} {{note}}",
        record={"day": "2025-05-03", "x": "fine"},
        instructions={"note": "A short note."},
        slots={
            "mood": {"type": "enum", "values": ["good", "bad"]},
            "day": {"type": "date", "format": "%d %B %Y"},
            "note": {"max_length": 20},
        },
    )
    result, engine = run_one(job, answers(mood="good", day="03 May 2025", note="All is fine"))
    assert (result.status, result.output) == ("ok", "good on 03 May 2025 All is fine")
    assert "Instructions: One of: good, bad.\n" in engine.prompts[0]
    assert "Instructions: A date as 31 December 2025.\n" in engine.prompts[1]
    assert "Instructions: A short note. At most 20 characters.\n" in engine.prompts[2]
    assert [request.canvas_length for request in engine.requests] == [16, 48, 32]
    assert all(not request.draft_ids for request in engine.requests)


def test_a_slot_is_asked_for_with_the_values_that_it_depends_on(run_one):
    job = FillJob(
        id="1",
        template="{{why}}, {{who}}, since it is {{what}}",
        instructions="x",
        slots={"why": {"depends_on": ["what", "who"]}, "who": {"depends_on": ["what"]}},
    )
    result, engine = run_one(job, answers(why="so", who="Bo", what="cold"))
    assert result.output == "so, Bo, since it is cold"
    templates = [prompt.split("\n")[1] for prompt in engine.prompts]
    assert templates == [
        job.template,
        "{{why}}, {{who}}, since it is cold",
        "{{why}}, Bo, since it is cold",
    ]
    result, engine = run_one(job, answers(why="so", who="", what="cold"))
    assert [check.detail[:9] for check in result.checks] == ["not asked", "rule: no ", "answered"]


def test_a_cut_off_or_unconverged_value_does_not_do(run_one):
    job = FillJob(id="1", template="{{a}}", instructions="x", max_attempts=1)
    for reason, word in (("length", "cut off"), ("unconverged", "converge")):
        result, _ = run_one(job, lambda _, reason=reason: ("fine", reason))
        assert result.status == "invalid_output" and word in result.checks[0].detail


def test_a_template_without_slots_needs_no_model(run_one):
    result, engine = run_one(FillJob(id="1", template="{{ }} only text"), answers())
    assert (result.status, result.output, engine.requests) == ("ok", "{{ }} only text", [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "{{a}} {{b}}", "instructions": {"a": "x"}}, "slots without values: b"),
        ({"template": "{{a}}", "record": {}}, "slots without values: a"),
        ({"template": "{{a}}", "record": {"a": None, "b": "x"}}, "slots without values: a"),
        ({"template": "{{a}}", "record": {"a": "  "}}, "slots without values: a"),
        ({"template": "{{a}}", "record": "x", "slots": {"b": {}}}, "names 'b'"),
        ({"template": "{{a}}", "record": "x", "instructions": {"b": ""}}, "names 'b'"),
        (
            {"template": "{{a}}", "record": "x", "slots": {"a": {"depends_on": ["b"]}}},
            "'a' depends on 'b', but the template has no such slot",
        ),
        (
            {
                "template": "{{a}} {{b}} {{c}}",
                "record": "x",
                "slots": {"a": {"depends_on": ["b"]}, "b": {"depends_on": ["a", "c"]}},
            },
            "depend on each other in a circle: a, b",
        ),
    ],
)
def test_slots_that_cannot_be_filled_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        FillJob(id="1", **fields)


PARTS = st.one_of(
    st.text(max_size=10),
    st.sampled_from(["{{a}}", "{{ a }}", "{{b}}", "{{c.d}}", "{", "}}", "{{", "\r\n", "\n\n", "é"]),
)
ADVERSE = st.one_of(
    st.text(max_size=15),
    st.sampled_from(["{{a}}", "{{b}} {{c.d}}", "\n", "x\r\ny", "}}", "{{", "A"]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PARTS, max_size=8).map("".join),
    st.fixed_dictionaries({"a": ADVERSE, "b": ADVERSE, "c.d": ADVERSE}),
)
def test_literal_text_is_the_callers_whatever_the_model_says(run_one, template, said):
    """Either nothing comes out, or the caller's literal text, untouched, around stripped values."""
    job = FillJob(id="p", template=template, instructions="anything", max_attempts=1)
    result, _ = run_one(job, lambda prompt: said[slot_of(prompt)])
    taken = parse_template(template)
    if result.status == "invalid_output":
        assert result.output is None and taken.slots
        return
    assert result.status == "ok"
    rest = result.output
    for literal, slot in zip(taken.literals, (*taken.slots, None), strict=True):
        assert rest.startswith(literal)
        rest = rest[len(literal) :]
        if slot is not None:
            value = said[slot].strip()
            assert value and rest.startswith(value)
            rest = rest[len(value) :]
    assert rest == ""
