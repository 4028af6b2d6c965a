"""Fills: one request for each slot that the record does not simply hold, then assembling.

The model supplies slot values and nothing else; the text around them is the caller's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .asking import Answer, Context, Outcome, Question, Steps, ask, attempts_of, chat
from .decoding import round_up
from .errors import Rejected
from .job import FillJob
from .prompts import fill_slot_prompt
from .record import field_value, is_grounded, record_text
from .result import Check
from .rules import describe, problem
from .template import Template, excerpt, parse_template

MOST_SLOT_ROWS = 64


@dataclass(frozen=True, slots=True)
class FillPlan:
    """copied: values that need no model, by slot. questions: one for each other slot."""

    template: Template
    copied: dict[str, str]
    questions: tuple[Question, ...]


def plan(job: FillJob, context: Context) -> FillPlan:
    """Decide which slots are copied, and word the questions for the others."""
    template = parse_template(job.template)
    copied: dict[str, str] = {}
    questions: list[Question] = []
    record = record_text(job.record)
    for slot in template.names:
        value = _copied(job, slot)
        if value is None:
            questions.append(_question(job, slot, record, context))
        else:
            copied[slot] = value
    return FillPlan(template, copied, tuple(questions))


def run(job: FillJob, context: Context) -> Steps:
    """Fill the template. A slot without a good value fails the whole job: output is None."""
    planned = plan(job, context)
    attempts = attempts_of(job, context.decodings.fill)
    answers = yield from ask(job, planned.questions, context, attempts)
    by_slot = {answer.key: answer for answer in answers}
    checks = tuple(_check(job, slot, by_slot.get(slot)) for slot in planned.template.names)
    if not all(check.passed for check in checks):
        return Outcome("invalid_output", None, checks)
    values = dict(planned.copied)
    values.update((a.key, a.value) for a in answers if a.value is not None)
    return Outcome("ok", planned.template.assemble(values), checks)


def _copied(job: FillJob, slot: str) -> str | None:
    """The record's own value for the slot, where it satisfies the rule and nothing else is said."""
    if job.own_instruction(slot):
        return None
    value = field_value(job.record, slot)
    if value is None or problem(job.rule(slot), value):
        return None
    return value


def _question(job: FillJob, slot: str, record: str, context: Context) -> Question:
    rule = job.rule(slot)
    said = job.instructions if isinstance(job.instructions, str) else job.own_instruction(slot)
    instructions = " ".join(part for part in ((said or "").strip(), describe(rule)) if part)
    prompt = fill_slot_prompt(excerpt(job.template, slot), record, instructions, slot)
    rows, expected = _rows(job, slot, context)
    return Question(
        key=slot,
        prompt_ids=chat(context.tokenizer, prompt),
        canvas_length=rows,
        max_new_tokens=max(4 * rows, round_up(rule.max_length or 0)),
        expected_tokens=expected,
        judge=_judge(job, slot),
    )


def _rows(job: FillJob, slot: str, context: Context) -> tuple[int, int]:
    """Rows for a slot's value, and the tokens that it will likely take."""
    rule, decoding = job.rule(slot), context.decodings.fill
    most = decoding.slot_tokens
    if rule.values:
        most = 1 + max(len(context.tokenizer.encode(value)) for value in rule.values)
    elif rule.max_length:
        most = min(most, rule.max_length + 1)
    cap = min(max(MOST_SLOT_ROWS, round_up(decoding.slot_tokens)), context.canvas_length)
    return min(round_up(most), cap), min(most, 8)


def _is_grounded_slot(job: FillJob, slot: str) -> bool:
    """Whether the slot's value must occur in the record: texts that nobody said more about."""
    rule = job.rule(slot)
    if rule.grounded is not None:
        return rule.grounded
    return bool(job.record) and rule.type == "text" and not job.own_instruction(slot)


def _judge(job: FillJob, slot: str) -> Callable[[str], str]:
    rule, grounded = job.rule(slot), _is_grounded_slot(job, slot)

    def judge(answer: str) -> str:
        value = answer.strip()
        wrong = problem(rule, value)
        if wrong:
            raise Rejected("rule", wrong)
        if grounded and not is_grounded(value, job.record):
            raise Rejected("grounded", f"{value[:80]!r} does not occur in the record")
        return value

    return judge


def _check(job: FillJob, slot: str, answer: Answer | None) -> Check:
    name = f"slot {slot}"
    if answer is None:
        return Check(name=name, passed=True, detail="copied")
    if answer.value is None:
        return Check(name=name, passed=False, detail=f"{answer.check}: {answer.detail}")
    detail = "answered, occurs in the record" if _is_grounded_slot(job, slot) else "answered"
    return Check(name=name, passed=True, detail=detail)
