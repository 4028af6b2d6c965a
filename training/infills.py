"""Infilling examples: a template's canvas, literals pinned, its slots anything between noise and right.

Values already known are literals, as copied slots, retries and later stages make them; short
canvases cut a template into windows, as long templates do.
"""

import random
from dataclasses import dataclass

from dgq.pipelines.fill_prompts import template_prompt
from dgq.pipelines.job import FillJob
from dgq.pipelines.ports import TextTokenizer
from dgq.pipelines.slot_rows import enum_rows, extra_rows
from dgq.pipelines.template import parse_template
from dgq.pipelines.windows import Window, next_window

from .canvases import noised
from .case import JobCase

MOST_SPARE_ROWS = 12
SHORT_CANVASES = (32, 48, 64, 96)


@dataclass(frozen=True, slots=True)
class Infill:
    """A prompt, and canvases with their right rows. is_free: whether a row belongs to a slot."""

    prompt: str
    prefix_ids: list[int]
    answer: list[int]
    canvases: list[list[int]]
    is_free: list[bool]


def make_infill(
    rng: random.Random, case: JobCase, tokenizer: TextTokenizer, vocab_size: int, num_canvases: int
) -> Infill:
    """One window of a fill, some of its values known; canvases of random noise levels."""
    job = FillJob.model_validate({"id": "1"} | case.job)
    template = parse_template(job.template)
    share_known = rng.choice([0.0, 0.0, 0.0, rng.random()])
    known = {slot: value for slot, value in case.values.items() if rng.random() < share_known}
    if len(known) == len(case.values):
        known.popitem()
    open_slots = [slot for slot in template.names if slot not in known]

    def rows_of(slot: str, lead: str, trail: str) -> int:
        options = job.rule(slot).values
        if options:
            return enum_rows(options, lead, trail, tokenizer)
        spare = rng.randint(0, MOST_SPARE_ROWS)
        length = len(tokenizer.encode(lead + case.values[slot] + trail))
        return max(length, spare + extra_rows(lead, trail, tokenizer))

    canvas_length = 256 if rng.random() < 0.8 else rng.choice(SHORT_CANVASES)
    window = next_window(template, known, set(open_slots), rows_of, tokenizer, canvas_length)
    named = open_slots if rng.random() < 0.5 else list(template.names)
    prompt = template_prompt(job, named, open_slots[0])
    answer, is_free = right_rows(window, case, tokenizer)
    canvases = []
    for _ in range(num_canvases):
        share = 1.0 if rng.random() < 0.4 else rng.random()
        noise = noised(rng, answer, share, vocab_size)
        canvases.append([n if f else a for n, a, f in zip(noise, answer, is_free, strict=True)])
    return Infill(prompt, list(window.prefix_ids), answer, canvases, is_free)


def right_rows(
    window: Window, case: JobCase, tokenizer: TextTokenizer
) -> tuple[list[int], list[bool]]:
    """A window's rows with the right values, filler behind each; and which rows are slots'."""
    answer = [tokenizer.pad_id] * window.num_rows
    is_free = [True] * window.num_rows
    for row, token in window.pins:
        answer[row], is_free[row] = token, False
    for slot in window.slots:
        ids = tokenizer.encode(slot.lead + case.values[slot.slot] + slot.trail)[: slot.num_rows]
        answer[slot.first_row : slot.first_row + len(ids)] = ids
    return answer, is_free
