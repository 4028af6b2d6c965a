"""The most probable text of a slot that is allowed, read from the rows of one canvas.

The rows' tokens are taken as independent, as the canvas gives them: a text's probability is the
product of its tokens' in their rows and of the filler's in the rows behind. Among the most probable
tokens of each row the best allowed text is found exactly, by a best-first search (A*): a partial
text ranks by its own probability times the best that the rows behind could add, and one that begins
no allowed text is dropped. (A search over text prefixes in place of the dynamic programme over
automaton states of Suresh et al., "DINGO" (2025): it needs no automaton.) A set of given options is
scored outright.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from .errors import Rejected
from .ports import TextTokenizer
from .windows import SlotRows

LEAST_PROBABILITY = 0.3
"""A text with a less probable token than this is a guess, and asked for again."""

MOST_EXPANSIONS = 2_000

RowCandidates = Sequence[tuple[int, float]]
"""(token id, log-probability), most probable first."""


@dataclass(frozen=True, slots=True)
class SlotLanguage:
    """may_begin: of a prefix of a value. judge: from a value to what to keep, or Rejected."""

    may_begin: Callable[[str], bool]
    judge: Callable[[str], str]


def read_slot(
    rows: SlotRows,
    candidates: Sequence[RowCandidates],
    language: SlotLanguage,
    tokenizer: TextTokenizer,
) -> str:
    """The most probable value. candidates: of each of the slot's rows.

    Raises Rejected where no value is allowed or the best one is a guess.
    """
    return _Search(rows, candidates, language, tokenizer).run()


def read_option(
    rows: SlotRows,
    options: Sequence[str],
    scores: Sequence[dict[int, float]],
    tokenizer: TextTokenizer,
) -> str:
    """The most probable option. scores: of each of the slot's rows, by token id.

    Raises Rejected where even the best option is a guess among them.
    """
    totals = [
        sum(row[token] for row, token in zip(scores, ids, strict=True))
        for ids in option_ids(rows, options, tokenizer)
    ]
    best = max(totals)
    share = 1 / sum(math.exp(total - best) for total in totals)
    if share < LEAST_PROBABILITY:
        raise Rejected("unsure", f"the best option has a probability of {share:.2f} among them")
    return options[totals.index(best)]


def option_ids(
    rows: SlotRows, options: Sequence[str], tokenizer: TextTokenizer
) -> list[tuple[int, ...]]:
    """The slot's rows for each option: its tokens, then filler."""
    return [
        tuple(
            (
                tokenizer.encode(rows.lead + option + rows.trail)
                + [tokenizer.pad_id] * rows.num_rows
            )[: rows.num_rows]
        )
        for option in options
    ]


@dataclass(frozen=True, slots=True, order=True)
class _Partial:
    """A text of the first rows. cost: minus the log-probability, and the least that must follow."""

    cost: float
    number: int
    ids: tuple[int, ...]
    row: int
    log_probability: float
    weakest: float
    is_ended: bool


class _Search:
    def __init__(
        self,
        rows: SlotRows,
        candidates: Sequence[RowCandidates],
        language: SlotLanguage,
        tokenizer: TextTokenizer,
    ) -> None:
        self._rows, self._language, self._tokenizer = rows, language, tokenizer
        self._candidates = candidates
        self._rest = [0.0] * (len(candidates) + 1)
        for row in range(len(candidates) - 1, -1, -1):
            self._rest[row] = self._rest[row + 1] + candidates[row][0][1]
        self._numbers = count()
        self._heap: list[_Partial] = []
        self._refused: Rejected | None = None

    def run(self) -> str:
        self._push((), 0, 0.0, 0.0, is_ended=False)
        for _ in range(MOST_EXPANSIONS):
            if not self._heap:
                break
            best = heapq.heappop(self._heap)
            if best.row < len(self._candidates):
                self._extend(best)
            elif (value := self._value(best)) is not None:
                if best.weakest < math.log(LEAST_PROBABILITY):
                    probability = math.exp(best.weakest)
                    raise Rejected("unsure", f"{value[:80]!r} has a token of {probability:.2f}")
                return value
        if self._refused:
            raise self._refused
        said = self._tokenizer.decode([row[0][0] for row in self._candidates]).strip()
        raise Rejected("rule", f"{said[:80]!r} is not allowed, and no allowed text is likely")

    def _extend(self, partial: _Partial) -> None:
        filler = self._tokenizer.pad_id
        for token, log_probability in self._candidates[partial.row]:
            total = partial.log_probability + log_probability
            if token == filler:
                if partial.ids and (partial.is_ended or self._value(partial) is not None):
                    weakest = (
                        partial.weakest
                        if partial.is_ended
                        else min(partial.weakest, log_probability)
                    )
                    self._push(partial.ids, partial.row + 1, total, weakest, is_ended=True)
            elif not partial.is_ended and self._tokenizer.decode((token,)):
                ids = (*partial.ids, token)
                if self._may_begin(ids):
                    weakest = min(partial.weakest, log_probability)
                    self._push(ids, partial.row + 1, total, weakest, is_ended=False)

    def _push(
        self, ids: tuple[int, ...], row: int, total: float, weakest: float, *, is_ended: bool
    ) -> None:
        cost = -(total + self._rest[row])
        partial = _Partial(cost, next(self._numbers), ids, row, total, weakest, is_ended)
        heapq.heappush(self._heap, partial)

    def _may_begin(self, ids: tuple[int, ...]) -> bool:
        text = self._tokenizer.decode(ids).rstrip("\ufffd")
        lead, trail = self._rows.lead, self._rows.trail
        if len(text) <= len(lead):
            return lead.startswith(text)
        if not text.startswith(lead):
            return False
        value = text[len(lead) :]
        if self._language.may_begin(value):
            return True
        cuts = range(max(len(value) - len(trail), 0), len(value))
        return any(
            trail.startswith(value[cut:]) and self._language.may_begin(value[:cut]) for cut in cuts
        )

    def _value(self, partial: _Partial) -> str | None:
        """The value of a whole text; None if it is none, and the first reason is kept."""
        text = self._tokenizer.decode(partial.ids)
        lead, trail = self._rows.lead, self._rows.trail
        if len(text) < len(lead) + len(trail) or not text.startswith(lead):
            return None
        if not text.endswith(trail):
            return None
        value = text[len(lead) : len(text) - len(trail)]
        try:
            return self._language.judge(value) if value == value.strip() else None
        except Rejected as rejected:
            self._refused = self._refused or rejected
            return None
