"""Templates: the caller's text with {{slot}} marks, taken apart and put together.

A mark is ``{{name}}`` or ``{{ name }}``; any other ``{{`` is literal text. Values are written
between the literal parts and never looked at again, so whatever a value holds, the literal text
comes out as it came in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
MARK = re.compile(r"\{\{[ \t]*(" + NAME + r")[ \t]*\}\}")
EXCERPT_OVER = 2000
EXCERPT_SIDE = 900


@dataclass(frozen=True, slots=True)
class Template:
    """literals: the texts around the slots, one more than there are slots. slots: their names."""

    literals: tuple[str, ...]
    slots: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Each slot's name once, in order of first appearance."""
        return tuple(dict.fromkeys(self.slots))

    def assemble(self, values: Mapping[str, str]) -> str:
        """The text with every slot replaced by its value. Raises KeyError for a missing value."""
        parts = [self.literals[0]]
        for slot, literal in zip(self.slots, self.literals[1:], strict=True):
            parts += (values[slot], literal)
        return "".join(parts)

    def text_with(self, values: Mapping[str, str]) -> str:
        """The template's text with some of its slots replaced by values."""
        marks = {slot: "{{" + slot + "}}" for slot in self.slots}
        return self.assemble(marks | dict(values))


def parse_template(text: str) -> Template:
    """Take a template apart. Never fails: what is no mark is literal text."""
    parts = MARK.split(text)
    return Template(literals=tuple(parts[0::2]), slots=tuple(parts[1::2]))


def excerpt(text: str, slot: str) -> str:
    """The template as the model sees it: whole, or the part around the slot if it is long."""
    if len(text) <= EXCERPT_OVER:
        return text
    mark = next(match for match in MARK.finditer(text) if match[1] == slot)
    start, end = max(mark.start() - EXCERPT_SIDE, 0), min(mark.end() + EXCERPT_SIDE, len(text))
    before, after = text[start : mark.start()], text[mark.end() : end]
    if start > 0:
        before = after_border(before)
    if end < len(text):
        after = _before_border(after)
    return before + mark[0] + after


def after_border(text: str) -> str:
    """Drop a torn first line, or else a torn first word."""
    for border in ("\n", " "):
        at = text.find(border)
        if 0 <= at < len(text) // 2:
            return text[at + 1 :]
    return text


def _before_border(text: str) -> str:
    """Drop a torn last line, or else a torn last word."""
    for border in ("\n", " "):
        at = text.rfind(border)
        if at > len(text) // 2:
            return text[:at]
    return text
