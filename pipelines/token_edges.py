"""Where literal text around slots may be cut into tokens, whatever the slots will hold.

A tokenizer may join the end of a literal with the beginning of a value: " Ada" is one token, so the
blank of "Dear {{name}}" cannot be pinned as a token of its own without forcing a cut that the
tokenizer never makes, which costs a model orders of magnitude of probability. So only the tokens that
stay the same beside every probe are literal; what is left over at an end is healed: it belongs to the
slot there, whose text must begin or end with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .ports import TextTokenizer

PROBES = ("a", "the", "King", "7", "ix")


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal text cut up: head + the text of token_ids + tail.

    head: the end of the slot before it. tail: the beginning of the slot after it.
    """

    head: str
    token_ids: tuple[int, ...]
    tail: str


def cut_literal(
    text: str, tokenizer: TextTokenizer, *, slot_before: bool, slot_after: bool
) -> Literal:
    """The tokens of a literal that do not depend on what a slot before or after it holds."""
    befores = PROBES if slot_before else ("",)
    afters = PROBES if slot_after else ("",)
    whole = befores[0] + text + afters[0]
    ids = tokenizer.encode(whole)
    first = len(ids) - min(
        _common(ids[::-1], tokenizer.encode(before + text + afters[0])[::-1]) for before in befores
    )
    last = min(_common(ids, tokenizer.encode(befores[0] + text + after)) for after in afters)
    while first < last and (left := _length(ids[:first], whole, tokenizer)) is None:
        first += 1
    while first < last and (right := _length(ids[:last], whole, tokenizer)) is None:
        last -= 1
    if first >= last:
        return Literal("", (), text) if slot_after else Literal(text, (), "")
    assert left is not None and right is not None
    start, end = len(befores[0]), len(befores[0]) + len(text)
    return Literal(whole[start:left], tuple(ids[first:last]), whole[right:end])


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _length(ids: Sequence[int], whole: str, tokenizer: TextTokenizer) -> int | None:
    """The length of the text of these first tokens; None if they end inside a character."""
    text = tokenizer.decode(ids)
    return len(text) if whole.startswith(text) else None
