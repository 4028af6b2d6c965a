"""How many rows of a pinned canvas a slot gets: for its value, its lead and its trail."""

from collections.abc import Sequence

from .ports import TextTokenizer


def enum_rows(options: Sequence[str], lead: str, trail: str, tokenizer: TextTokenizer) -> int:
    """Rows for the longest of the options."""
    return max(len(tokenizer.encode(lead + option + trail)) for option in options)


def extra_rows(lead: str, trail: str, tokenizer: TextTokenizer) -> int:
    """Rows that a lead and a trail add to those of a value."""
    return max(len(tokenizer.encode(lead + "a" + trail)) - 1, 0)
