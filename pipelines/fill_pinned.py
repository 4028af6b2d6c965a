"""Slots together, inside their text: the template on the canvas, its literals pinned.

One request holds as many slots as a canvas has room for. Literal rows stay what they are in every
step; slot rows alone are denoised, jointly, and decide when the canvas is done. A slot has spare
rows, which the model fills with a filler. Values are read out under their rules; those found good
become literals, and what is still open is asked again with another seed, around them, in more rows
where the answer left none spare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dgq.engine.request import Request, Result

from .asking import Answer, Asking, Context, attempts_of, chat, seed_of
from .errors import Rejected
from .fill_prompts import template_prompt
from .fill_slots import is_grounded_slot, judged_value
from .job import FillJob
from .ports import TextTokenizer
from .record import texts_of
from .slot_languages import prefix_test
from .slot_reading import SlotLanguage, option_ids, read_option, read_slot
from .slot_rows import enum_rows, extra_rows
from .template import Template
from .windows import SlotRows, Window, next_window

NUM_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class PlannedWindow:
    """What a window will cost. expected_tokens: the rows of its slots."""

    prompt_ids: tuple[int, ...]
    expected_tokens: int


@dataclass(slots=True)
class PinnedSlots:
    """The slots of a job that are asked for together, and what is known of the others.

    values: of all slots known so far; grows as slots are answered.
    """

    job: FillJob
    template: Template
    slots: tuple[str, ...]
    values: dict[str, str]
    context: Context
    _longest_text: int | None = None

    def ask(self) -> Asking:
        """Ask until every slot has a value, or one of them has been refused at all attempts.

        Returns an Answer for each slot that was asked for.
        """
        max_attempts = attempts_of(self.job, self.context.decodings.fill_pinned)
        answers: dict[str, Answer] = {}
        tries = dict.fromkeys(self.slots, 0)
        factors = dict.fromkeys(self.slots, 1)
        for number in range(max_attempts * len(self.slots)):
            open_slots = self.open_slots()
            if max((tries[slot] for slot in open_slots), default=max_attempts) >= max_attempts:
                break
            window = self.window(factors)
            request = self._request(window, number)
            (result,) = yield [request]
            reading = _Reading(self.job, request, result, self.context.tokenizer)
            for rows in asked_rows(window, open_slots):
                tries[rows.slot] += 1
                answers[rows.slot] = answer = reading.answer(rows)
                if answer.value is not None:
                    self.values[rows.slot] = answer.value
                elif not reading.has_spare_rows(rows):
                    factors[rows.slot] += 1
        return list(answers.values())

    def planned_windows(self) -> list[PlannedWindow]:
        """The windows of a first attempt; all its values are taken to be empty."""
        planned: list[PlannedWindow] = []
        while open_slots := self.open_slots():
            window = self.window({})
            rows = sum(rows.num_rows for rows in window.slots)
            planned.append(PlannedWindow(self.prompt_ids(window), rows))
            for asked in asked_rows(window, open_slots):
                self.values[asked.slot] = ""
        return planned

    def open_slots(self) -> list[str]:
        """The slots that are asked for and have no value yet."""
        return [slot for slot in self.slots if slot not in self.values]

    def window(self, factors: Mapping[str, int]) -> Window:
        """The next canvas. factors: how many times its first rows a slot gets, if not once."""

        def rows_of(slot: str, lead: str, trail: str) -> int:
            return self._rows_of(slot, lead, trail, factors.get(slot, 1))

        return next_window(
            self.template,
            self.values,
            frozenset(self.open_slots()),
            rows_of,
            self.context.tokenizer,
            self.context.canvas_length,
            full_width=self.context.decodings.fill_pinned.full_width,
        )

    def prompt_ids(self, window: Window) -> tuple[int, ...]:
        """What the model reads: what is asked, and the answer up to the canvas."""
        prompt = template_prompt(self.job, self.slots, window.slots[0].slot)
        return chat(self.context.tokenizer, prompt) + window.prefix_ids

    def _rows_of(self, slot: str, lead: str, trail: str, factor: int) -> int:
        rule, tokenizer = self.job.rule(slot), self.context.tokenizer
        if rule.values:
            return enum_rows(rule.values, lead, trail, tokenizer)
        most = self.context.decodings.fill_pinned.slot_tokens
        if rule.max_length:
            most = min(most, rule.max_length)
        if is_grounded_slot(self.job, slot) and isinstance(self.job.record, Mapping):
            most = min(most, self._longest_in_record())
        return most * factor + extra_rows(lead, trail, tokenizer)

    def _longest_in_record(self) -> int:
        """Tokens of the record's longest text."""
        if self._longest_text is None:
            texts = texts_of(self.job.record)
            self._longest_text = max(len(self.context.tokenizer.encode(text)) for text in texts)
        return self._longest_text

    def _request(self, window: Window, number: int) -> Request:
        scored: dict[int, set[int]] = {}
        for rows in window.slots:
            if options := self.job.rule(rows.slot).values:
                for ids in option_ids(rows, options, self.context.tokenizer):
                    for row, token in enumerate(ids, rows.first_row):
                        scored.setdefault(row, set()).add(token)
        are_all_scored = all(self.job.rule(rows.slot).values for rows in window.slots)
        return Request(
            prompt_ids=self.prompt_ids(window),
            max_new_tokens=window.num_rows,
            seed=seed_of(self.job, f"template from {window.slots[0].slot}", number),
            canvas_length=window.num_rows,
            pins=window.pins,
            scored=tuple((row, tuple(sorted(tokens))) for row, tokens in sorted(scored.items())),
            num_candidates=0 if are_all_scored else NUM_CANDIDATES,
            sampling=self.context.decodings.fill_pinned.sampling,
        )


def asked_rows(window: Window, slots: Sequence[str]) -> list[SlotRows]:
    """The rows of each of these slots in a window; the first ones of a slot that occurs twice."""
    first: dict[str, SlotRows] = {}
    for rows in window.slots:
        first.setdefault(rows.slot, rows)
    return [rows for slot, rows in first.items() if slot in slots]


class _Reading:
    """The values in one canvas."""

    def __init__(
        self, job: FillJob, request: Request, result: Result, tokenizer: TextTokenizer
    ) -> None:
        self._job, self._tokenizer = job, tokenizer
        self._candidates = result.candidates
        self._scores = {
            row: dict(zip(tokens, scores, strict=True))
            for (row, tokens), scores in zip(request.scored, result.scores, strict=True)
        }

    def answer(self, rows: SlotRows) -> Answer:
        """A slot's value, or why there is none."""
        try:
            return Answer(rows.slot, self._value(rows))
        except Rejected as rejected:
            return Answer(rows.slot, None, rejected.check, rejected.detail)

    def has_spare_rows(self, rows: SlotRows) -> bool:
        """Whether filler ends a slot, or its rows need no filler."""
        if self._job.rule(rows.slot).values:
            return True
        return self._candidates[rows.first_row + rows.num_rows - 1][0][0] == self._tokenizer.pad_id

    def _value(self, rows: SlotRows) -> str:
        numbers = range(rows.first_row, rows.first_row + rows.num_rows)
        if options := self._job.rule(rows.slot).values:
            scores = [self._scores[row] for row in numbers]
            return read_option(rows, options, scores, self._tokenizer)
        language = SlotLanguage(
            prefix_test(self._job, rows.slot),
            lambda value: judged_value(self._job, rows.slot, value),
        )
        candidates = [self._candidates[row] for row in numbers]
        return read_slot(rows, candidates, language, self._tokenizer)
