"""A paragraph into units of at most a budget of tokens, at the best borders there are.

Units are sentences, packed together while they fit; a sentence over the budget is cut at clauses,
else at words, else between characters. Units join to the paragraph again, always.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from .protect import Span

Measure = Callable[[str], int]

_ABBREVIATION_LIST = (
    "mr mrs ms dr prof st jr sr rev gen col capt lt sgt hon vs etc eg ie e.g i.e cf al approx ca no "
    "nos fig figs eq sec ch vol ed eds pp p inc ltd co corp dept univ est min max jan feb mar apr jun "
    "jul aug sep sept oct nov dec mon tue wed thu fri sat sun a.m p.m u.s u.k e.u bzw usw z.b d.h "
    "u.a nr str ca m mme mlle sig sra av"
)
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
_SENTENCE_END = re.compile(
    r"[.!?\u2026]+[\"')\]\u2019\u201d\u00bb*_]*(?P<gap>\s+)(?=(?P<next>\S))"
    r"|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\u2019)]*(?P<wide>\s*)"
)
_CLAUSE_END = re.compile(
    r"[,;:\u2013\u2014\u3001\uff0c\uff1b](?:[\"')\]\u2019\u201d]*)\s+|[\uff0c\u3001\uff1b]"
)
_WORD_END = re.compile(r"\s+")
_LAST_WORD = re.compile(r"[\w.]*\Z")


def sentence_borders(text: str) -> Iterator[int]:
    """Where a new sentence begins, the blanks before it belonging to the last one."""
    for match in _SENTENCE_END.finditer(text):
        if match["wide"] is not None or not _goes_on(text, match):
            yield match.end()


def _goes_on(text: str, match: re.Match[str]) -> bool:
    """Whether the sentence goes on after the dots: an abbreviation, an initial, a small letter."""
    after = match["next"]
    if after.islower() or after in ",;:)":
        return True
    if text[match.start()] != "." or text[match.start() : match.start() + 2] == "..":
        return False
    word_match = _LAST_WORD.search(text, max(match.start() - 20, 0), match.start())
    word = word_match[0] if word_match else ""
    if len(word) == 1 and word.isalpha() and word.isupper() and word != "I":
        return True
    if word.isdigit() and (
        match.start() - len(word) == 0 or text[match.start() - len(word) - 1] == "\n"
    ):
        return True
    return word.lower().strip(".") in _ABBREVIATIONS


def split_paragraph(text: str, spans: Sequence[Span], budget: int, measure: Measure) -> list[str]:
    """Units of at most ``budget`` tokens that join to the text; no cut goes through a span.

    A span over the budget is a unit of its own, whatever its length.
    """
    borders = [list(sentence_borders(text))]
    borders += [[match.end() for match in end.finditer(text)] for end in (_CLAUSE_END, _WORD_END)]
    step = max(budget // 4, 1)  # a character may take four tokens
    borders.append(list(range(step, len(text), step)))
    levels = [_outside(cuts, spans) for cuts in borders]
    return _split(text, 0, len(text), levels, budget, measure) if text else []


def _outside(cuts: Sequence[int], spans: Sequence[Span]) -> list[int]:
    """The cuts that go through no span; both in order."""
    kept: list[int] = []
    at = 0
    for cut in cuts:
        while at < len(spans) and spans[at][1] <= cut:
            at += 1
        if at == len(spans) or cut <= spans[at][0]:
            kept.append(cut)
    return kept


def _split(
    text: str, start: int, end: int, levels: Sequence[Sequence[int]], budget: int, measure: Measure
) -> list[str]:
    """Cut text[start:end] at the first level's borders and pack; what is too long goes deeper."""
    inner = _between(levels[0], start, end)
    edges = [start, *inner, end]
    units: list[str] = []
    packed, used = start, 0
    for left, right in pairwise(edges):
        cost = measure(text[left:right])
        if packed < left and used + cost > budget:
            units.append(text[packed:left])
            packed, used = left, 0
        if cost <= budget or len(levels) == 1:
            used += cost
            continue
        units += _split(text, left, right, levels[1:], budget, measure)
        packed, used = right, 0
    return units + ([text[packed:end]] if packed < end else [])


def _between(cuts: Sequence[int], start: int, end: int) -> Sequence[int]:
    low, high = bisect_right(cuts, start), bisect_left(cuts, end)
    return cuts[low:high]
