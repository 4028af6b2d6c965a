"""The slots of a fill job: which are copied, of which kind the others are, what a value must be."""

from collections.abc import Mapping

from .decoding import SlotKind
from .errors import Rejected
from .job import FillJob
from .record import field_value, is_grounded
from .rules import describe, problem


def copied_values(job: FillJob, names: tuple[str, ...]) -> dict[str, str]:
    """The record's own values, by slot, where they satisfy the rules and nothing else is said."""
    values: dict[str, str] = {}
    for slot in names:
        value = None if job.own_instruction(slot) else field_value(job.record, slot)
        if value is not None and not problem(job.rule(slot), value):
            values[slot] = value
    return values


def slot_kind(job: FillJob, slot: str) -> SlotKind:
    """Of which kind a slot is."""
    rule = job.rule(slot)
    if rule.type == "enum":
        return "enum"
    if rule.type != "text":
        return "typed"
    if not is_grounded_slot(job, slot):
        return "free"
    return "field" if isinstance(job.record, Mapping) else "note"


def is_grounded_slot(job: FillJob, slot: str) -> bool:
    """Whether the slot's value must occur in the record: texts that nobody said more about."""
    rule = job.rule(slot)
    if rule.grounded is not None:
        return rule.grounded
    return bool(job.record) and rule.type == "text" and not job.own_instruction(slot)


def said_of(job: FillJob, slot: str) -> str:
    """What the caller said about this very slot and what its rule says, in words."""
    return " ".join(part for part in (job.own_instruction(slot), describe(job.rule(slot))) if part)


def judged_value(job: FillJob, slot: str, answer: str) -> str:
    """The value in an answer's text. Raises Rejected for one that the rule or the record refuses."""
    value = answer.strip()
    wrong = problem(job.rule(slot), value)
    if wrong:
        raise Rejected("rule", wrong)
    if is_grounded_slot(job, slot) and not is_grounded(value, job.record):
        raise Rejected("grounded", f"{value[:80]!r} does not occur in the record")
    return value
