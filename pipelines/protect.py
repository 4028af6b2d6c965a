"""Protected spans inside a text: found, hidden behind marks from the model, put back.

A mark is ``<1>``, ``<2>``, ... in order. An answer must hold each mark once and in order; what it
says can then not touch a span, because spans are copied from the source.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import Rejected

Span = tuple[int, int]

_CODE = r"(?<!`)(?P<ticks>`{1,8})(?!`)(?:[^`]|(?!(?P=ticks)(?!`))`++){1,2000}?(?P=ticks)(?!`)"
_COMMENT = r"<!--(?s:.{0,4000}?)-->"
_PLACEHOLDER = r"\{\{[^{}\n]{0,200}\}\}"
_LABEL = r"\[(?:[^\[\]\n]|\[[^\[\]\n]{0,200}\]){0,500}\]"
_LINK = rf"!?{_LABEL}(?:\((?:[^()\n]|\([^()\n]{{0,500}}\)){{0,1000}}\)|{_LABEL})|\[\^[^\[\]\s]{{1,80}}\]"
_ANGLE = r"<[A-Za-z][A-Za-z0-9+.-]{1,31}:[^<>\s]{1,20000}>"
_RAW = r"(?i:<(?P<raw>code|kbd|pre|samp|script|style)\b[^<>]{0,500}>(?s:.{0,4000}?)</(?P=raw)>)"
_TAG = r"</?[A-Za-z][^<>\n]{0,500}>"
_URL = (
    r"(?P<url>(?:\b[A-Za-z][A-Za-z0-9+.-]{0,19}://|\b[Ww][Ww][Ww]\.)"
    r"[^\s<>\"`{}|\\^\[\]]{1,20000})|\bdata:[\w.+-]+/[\w.+-]+[;,][\w/+=%;,.:@!$&*?~-]*"
)
_EMAIL = r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,100}(?:\.[\w-]{1,100}){1,8}"
_NUMBER = r"(?<!\w)[+\u2212-]?\d+(?:[.,:/\u2019 -]\d+)*(?:[eE][+-]?\d+)?%?(?!\w)"

_ALWAYS = re.compile(
    f"{_CODE}|{_COMMENT}|{_PLACEHOLDER}|{_LINK}|{_ANGLE}|{_RAW}|{_TAG}|{_URL}|{_EMAIL}"
)
_WITH_NUMBERS = re.compile(f"{_ALWAYS.pattern}|(?P<number>{_NUMBER})")
_DIGITS = re.compile(r"\d+")
_MARK = re.compile(r"<(\d{1,9})>")


def find_spans(text: str, keep_numbers: bool) -> list[Span]:
    """The protected spans, in order, none overlapping: (start, end) in characters."""
    pattern = _WITH_NUMBERS if keep_numbers else _ALWAYS
    spans: list[Span] = []
    at = 0
    while match := pattern.search(text, at):
        start, end = match.span()
        if match["url"]:
            end = start + len(_trimmed_url(match[0]))
        spans.append((start, end))
        at = max(end, start + 1)
    return spans


def _trimmed_url(url: str) -> str:
    """A URL without the punctuation of the sentence around it."""
    trimmed = url.rstrip(".,;:!?'*_\u2019\u201d")
    while trimmed.endswith(")") and trimmed.count(")") > trimmed.count("("):
        trimmed = trimmed[:-1].rstrip(".,;:!?'*_\u2019\u201d")
    return trimmed


@dataclass(frozen=True, slots=True)
class Hidden:
    """text: with marks. originals: what the marks stand for. first: the first mark's number."""

    text: str
    originals: tuple[str, ...]
    first: int

    def restore(self, answer: str) -> str:
        """The answer with its marks replaced. Raises Rejected if they are not all there in order.

        A ``<n>`` that is none of our marks is the text's own and stays.
        """
        wanted = range(self.first, self.first + len(self.originals))
        found = [int(number) for number in _MARK.findall(answer) if int(number) in wanted]
        if found != list(wanted):
            raise Rejected("protected spans", "a protected span is missing, moved or repeated")

        def original(mark: re.Match[str]) -> str:
            number = int(mark[1])
            return self.originals[number - self.first] if number in wanted else mark[0]

        return _MARK.sub(original, answer)


def hide(text: str, spans: Sequence[Span]) -> Hidden:
    """Replace the spans by marks whose numbers the text itself does not use."""
    first = _free_numbers({int(number) for number in _MARK.findall(text)}, len(spans))
    parts: list[str] = []
    originals: list[str] = []
    at = 0
    for start, end in spans:
        parts += (text[at:start], f"<{first + len(originals)}>")
        originals.append(text[start:end])
        at = end
    parts.append(text[at:])
    return Hidden("".join(parts), tuple(originals), first)


def _free_numbers(used: set[int], count: int) -> int:
    """The first number of the lowest run of that length in which none is used."""
    first = 1
    while taken := [number for number in range(first, first + count) if number in used]:
        first = taken[-1] + 1
    return first


def numbers_of(text: str) -> list[str]:
    """Every run of digits: equal lists mean that no number was changed or moved."""
    return _DIGITS.findall(text)
