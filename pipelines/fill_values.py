"""Slots by their values: one request for each slot, whose answer is the value and nothing else."""

from .asking import Context, Question, chat
from .decoding import round_up
from .fill_prompts import slot_prompt
from .fill_slots import judged_value
from .job import FillJob

MOST_SLOT_ROWS = 64


def value_question(job: FillJob, slot: str, template: str, context: Context) -> Question:
    """The question for one slot. template: the job's, or with values of other slots in it."""
    rows, expected = _rows(job, slot, context)
    return Question(
        key=slot,
        prompt_ids=chat(context.tokenizer, slot_prompt(job, slot, template)),
        canvas_length=rows,
        max_new_tokens=max(4 * rows, round_up(job.rule(slot).max_length or 0)),
        expected_tokens=expected,
        judge=lambda answer: judged_value(job, slot, answer),
        decoding=context.decodings.fill,
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
