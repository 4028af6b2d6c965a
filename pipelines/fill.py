"""Fills: the slots that the record does not simply hold are asked for, then all are assembled.

The model supplies slot values and nothing else; the text around them is the caller's own. There are
two methods, and the checkpoint's decoding says which kinds of slot take which: by value, a request for
each slot (fill_values.py), and pinned, one for many slots inside their text (fill_pinned.py). A slot
that depends on others is asked for when they have values, which then stand in the template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .asking import Answer, Context, Outcome, Question, Steps, ask, attempts_of
from .fill_pinned import PinnedSlots, PlannedWindow
from .fill_slots import copied_values, is_grounded_slot, slot_kind
from .fill_values import value_question
from .job import FillJob
from .result import Check
from .template import Template, parse_template


@dataclass(frozen=True, slots=True)
class FillPlan:
    """copied: values that need no model, by slot. questions: what a first attempt asks."""

    template: Template
    copied: dict[str, str]
    questions: tuple[Question | PlannedWindow, ...]


def plan(job: FillJob, context: Context) -> FillPlan:
    """Decide which slots are copied, and word the requests for the others.

    Values not known yet are taken to be empty, in the prompts and in the windows of a template.
    """
    template = parse_template(job.template)
    copied = copied_values(job, template.names)
    values = dict(copied)
    questions: list[Question | PlannedWindow] = []
    while ready := _ready(job, template, values):
        by_value, pinned = _by_method(job, ready, context)
        questions += (_value_question(job, slot, template, values, context) for slot in by_value)
        values.update(dict.fromkeys(by_value, ""))
        if pinned:
            questions += PinnedSlots(job, template, pinned, values, context).planned_windows()
    return FillPlan(template, copied, tuple(questions))


def run(job: FillJob, context: Context) -> Steps:
    """Fill the template. A slot without a good value fails the whole job: output is None."""
    template = parse_template(job.template)
    copied = copied_values(job, template.names)
    values = dict(copied)
    attempts = attempts_of(job, context.decodings.fill)
    answers: dict[str, Answer] = {}
    while ready := _ready(job, template, values):
        by_value, pinned = _by_method(job, ready, context)
        questions = [_value_question(job, slot, template, values, context) for slot in by_value]
        found = yield from ask(job, questions, context, attempts)
        values.update((answer.key, answer.value) for answer in found if answer.value is not None)
        if pinned:
            found += yield from PinnedSlots(job, template, pinned, values, context).ask()
        answers.update((answer.key, answer) for answer in found)
        if any(slot not in values for slot in ready):
            break
    checks = tuple(_check(job, slot, slot in copied, answers.get(slot)) for slot in template.names)
    if not all(check.passed for check in checks):
        return Outcome("invalid_output", None, checks)
    return Outcome("ok", template.assemble(values), checks)


def _ready(job: FillJob, template: Template, values: Mapping[str, str]) -> list[str]:
    """The slots without a value whose rules depend on none that has no value yet."""
    return [
        slot
        for slot in template.names
        if slot not in values and all(other in values for other in job.rule(slot).depends_on)
    ]


def _by_method(
    job: FillJob, slots: Sequence[str], context: Context
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The slots to be asked for by value, and those to be pinned."""
    pinned_kinds = context.decodings.fill.pinned
    pinned = tuple(slot for slot in slots if slot_kind(job, slot) in pinned_kinds)
    return tuple(slot for slot in slots if slot not in pinned), pinned


def _value_question(
    job: FillJob, slot: str, template: Template, values: Mapping[str, str], context: Context
) -> Question:
    """The question for a slot, the values that it depends on in the template's text."""
    known = {other: values[other] for other in job.rule(slot).depends_on}
    return value_question(job, slot, template.text_with(known) if known else job.template, context)


def _check(job: FillJob, slot: str, is_copied: bool, answer: Answer | None) -> Check:
    name = f"slot {slot}"
    if is_copied:
        return Check(name=name, passed=True, detail="copied")
    if answer is None:
        return Check(name=name, passed=False, detail="not asked for: another slot has no value")
    if answer.value is None:
        return Check(name=name, passed=False, detail=f"{answer.check}: {answer.detail}")
    detail = "answered, occurs in the record" if is_grounded_slot(job, slot) else "answered"
    return Check(name=name, passed=True, detail=detail)
