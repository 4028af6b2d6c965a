"""What a token of a logical line of Python is, and how many blanks PEP 8 puts between two.

``classify`` tells the uses of one sign apart (a unary from a binary minus, the colon of a slice
from that of a dict, the ``=`` of an argument from that of an assignment); ``gap_wanted`` is then a
table.
"""

import keyword
from collections.abc import Sequence
from dataclasses import dataclass, replace

ANY_GAP = -1
"""None or one blank: PEP 8 leaves the choice."""

OPENERS, CLOSERS = ("(", "[", "{"), (")", "]", "}")
VALUES = ("None", "True", "False", "...")
SIGNS = ("+", "-", "~", "*", "**")
SOFT = ("match", "case", "type", "except")


@dataclass(frozen=True, slots=True)
class Word:
    """A token. kind: "op" or "atom" before ``classify``. start, end: (row, column)."""

    kind: str
    text: str
    start: tuple[int, int]
    end: tuple[int, int]


@dataclass(slots=True)
class _Frame:
    """One open bracket (or the line itself): what its colons and equal signs mean."""

    opener: str
    lambdas: int = 0
    annotated: bool = False


def classify(line: Sequence[Word]) -> list[Word]:
    """The line with each token's kind settled.

    Kinds: atom, keyword, soft (a word that may be a keyword), open, close, comma, dot, from_dot,
    colon, free (the colon of a slice, the star of ``except*``), argument (the ``=`` of one), unary,
    power, binary, decorator.
    """
    frames = [_Frame("")]
    words: list[Word] = []
    for word in line:
        kind = _kind(word, words, frames[-1])
        words.append(replace(word, kind=kind))
        _update(frames, word.text, kind)
    return words


def _update(frames: list[_Frame], text: str, kind: str) -> None:
    frame = frames[-1]
    if kind == "open":
        frames.append(_Frame(text))
    elif kind == "close" and len(frames) > 1:
        frames.pop()
    elif text == "lambda":
        frame.lambdas += 1
    elif kind == "comma":
        frame.annotated = frame.annotated and frame.lambdas > 0
    elif text == ":" and frame.lambdas:
        frame.lambdas -= 1
    elif text == ":":
        frame.annotated = True


def _kind(word: Word, before: Sequence[Word], frame: _Frame) -> str:
    text = word.text
    if word.kind == "atom":
        return _word_kind(text, before)
    if text in OPENERS:
        return "open"
    if text in CLOSERS:
        return "close"
    if text in (",", ";"):
        return "comma"
    if text in (".", "...") and _names_module(before):
        return "from_dot" if before[-1].kind in ("keyword", "from_dot") else "dot"
    if text == "...":
        return "atom"
    if text == ".":
        return "dot"
    if text == ":":
        return "free" if frame.opener == "[" and not frame.lambdas else "colon"
    if text == "=":
        return _equal_kind(frame)
    if text == "@" and not before:
        return "decorator"
    if text == "*" and len(before) == 1 and before[0].text == "except":
        return "free"
    if text in SIGNS and not _is_operand(before):
        return "unary"
    if text == "/" and before and before[-1].kind in ("comma", "open"):
        return "atom"  # the mark of positional-only parameters
    return "power" if text == "**" else "binary"


def _names_module(before: Sequence[Word]) -> bool:
    """Whether the place is between ``from`` and ``import``."""
    return bool(before) and before[0].text == "from" and all(w.text != "import" for w in before)


def _word_kind(text: str, before: Sequence[Word]) -> str:
    if text in SOFT and not before:
        return "soft"
    return "keyword" if keyword.iskeyword(text) and text not in VALUES else "atom"


def _equal_kind(frame: _Frame) -> str:
    if frame.lambdas or (frame.opener == "(" and not frame.annotated):
        return "argument"
    return "free" if frame.opener == "[" else "binary"


def _is_operand(before: Sequence[Word]) -> bool:
    return bool(before) and before[-1].kind in ("atom", "close")


def gap_wanted(left: Word, right: Word) -> int:
    """Blanks between two neighbours on one line: 0, 1 or ANY_GAP."""
    kinds = left.kind, right.kind
    if right.kind == "close" or left.kind in ("open", "decorator"):
        return 0
    if right.kind == "comma" or left.kind == "comma":
        return 0 if right.kind == "comma" else 1
    if "free" in kinds:
        return ANY_GAP
    if right.kind == "colon" or left.kind == "colon":
        return 0 if right.kind == "colon" and right.text == ":" else 1
    if left.kind == "soft" and right.text not in ("=", ".") and right.kind != "binary":
        return 1 if right.kind == "atom" else ANY_GAP
    if "dot" in kinds or "from_dot" in kinds:
        return _dot_gap(left, right)
    if "argument" in kinds or left.kind == "unary":
        return 0
    if "power" in kinds:
        return ANY_GAP
    if "binary" in kinds:
        return 1
    if right.kind == "open" and right.text != "{" and left.kind in ("atom", "close", "soft"):
        return 0
    return 1


def _dot_gap(left: Word, right: Word) -> int:
    if left.kind == "keyword" or right.kind == "keyword":
        return 1 if "from_dot" in (left.kind, right.kind) else 0
    return ANY_GAP if left.text[:1].isdigit() else 0
