"""The made jobs: every right answer passes the checks that the product makes."""

import json
import random

import pytest

from dgq.pipelines.job import FillJob
from dgq.pipelines.record import is_grounded
from dgq.pipelines.rules import problem
from dgq.pipelines.same_program import difference
from dgq.pipelines.styles import style_of
from dgq.pipelines.template import parse_template
from training.case import Split
from training.choices import choice_job
from training.fills import fill_job
from training.json_documents import json_job
from training.python_functions import STYLES, python_job, python_piece, restyle
from training.rewrites import REPLACE, RULES, rewrite_case

SPLITS: list[Split] = ["train", "held_out"]


@pytest.mark.parametrize("split", SPLITS)
def test_fill_answers_are_in_the_record_under_other_names(split: Split) -> None:
    rng = random.Random(1)
    for _ in range(200):
        made = fill_job(rng, split)
        template = parse_template(str(made.job["template"]))
        assert len(template.names) == len(made.cases)
        record = made.job["record"]
        assert isinstance(record, str | dict)
        assert isinstance(record, str) or not record.keys() & set(template.names)
        values = {}
        for case in made.cases:
            assert is_grounded(case.answer, record)
            slot = case.prompt.rsplit("{{", 1)[1].removesuffix("}}.")
            values[slot] = case.answer
        assert template.assemble(values) == made.expected


@pytest.mark.parametrize("split", SPLITS)
def test_choices_satisfy_their_rules(split: Split) -> None:
    rng = random.Random(6)
    types = set()
    for _ in range(200):
        made = choice_job(rng, split)
        job = FillJob.model_validate({"id": "1"} | made.job)
        assert parse_template(job.template).assemble(made.values) == made.expected
        for slot, value in made.values.items():
            assert problem(job.rule(slot), value) is None
            assert is_grounded(value, job.record)
            types.add(job.rule(slot).type)
        assert job.slots
        assert len(made.cases) == len(made.values)
    assert types == {"text", "enum", "regex", "number", "integer"}


@pytest.mark.parametrize("split", SPLITS)
def test_json_answers_have_equal_values_and_the_wanted_layout(split: Split) -> None:
    rng = random.Random(2)
    for _ in range(200):
        made = json_job(rng, split)
        code, style = str(made.job["code"]), style_of("json", str(made.job["style"]))
        assert code != made.expected
        assert difference(code, made.expected, "json") is None
        assert style.check is not None and style.check(made.expected) is None
        json.loads(code)


@pytest.mark.parametrize("split", SPLITS)
def test_python_answers_are_the_same_program_in_the_wanted_layout(split: Split) -> None:
    rng = random.Random(3)
    untidy = 0
    for _ in range(150):
        made = python_job(rng, split)
        code, style = str(made.job["code"]), style_of("python", str(made.job["style"]))
        assert difference(code, made.expected, "python") is None
        assert style.check is not None and style.check(made.expected) is None, made.expected
        untidy += style.check(code) is not None
    assert untidy > 100  # the sources do need work


def test_python_pieces_are_the_same_program_in_the_wanted_layout() -> None:
    rng = random.Random(7)
    wrapped = 0
    for _ in range(60):
        case = python_piece(rng)
        assert difference(case.draft, case.answer, "python") is None
        assert case.prompt.endswith(f"\n\n{case.draft}")
        wrapped += case.draft.startswith("def f(self):\n")
    assert wrapped > 5


def test_a_style_is_described_to_the_model_as_the_product_does() -> None:
    for name, style in STYLES.items():
        assert style_of("python", name).words == style.words


def test_restyle_leaves_several_line_strings_alone() -> None:
    assert restyle('def f():\n    """Two\n    lines."""\n', STYLES["pep8"]) is None


@pytest.mark.parametrize(
    ("instruction", "text", "answer"),
    [
        ("Use British spelling.", "The Color of the center.", "The Colour of the centre."),
        ("Expand all contractions.", "It's late, I can't go.", "It is late, I cannot go."),
        ("Write the numbers one to twelve as digits.", "Two of ten.", "2 of 10."),
        ("Remove the filler words.", "It is really very good.", "It is good."),
        ("Use we instead of I.", "I was there. My cat and I.", "We were there. Our cat and we."),
    ],
)
def test_rules(instruction: str, text: str, answer: str) -> None:
    assert RULES[instruction](text) == answer


def test_rewrites_obey_their_instruction() -> None:
    rng = random.Random(4)
    seen = set()
    for _ in range(300):
        instruction, case = rewrite_case(rng, "held_out", [])
        if instruction in RULES:
            assert case.answer == RULES[instruction](case.draft)
            seen.add(instruction)
        else:
            old, new = instruction.split('"')[1::2]
            assert instruction == REPLACE.format(old, new)
            assert new in case.answer and old in case.draft
            seen.add("replace")
    assert seen == {*RULES, "replace"}
