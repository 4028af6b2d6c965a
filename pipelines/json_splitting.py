"""Large JSON documents into pieces at their own borders, and back.

Neighbouring members of an object or array share a piece up to the budget; the piece wears brackets of
the same kind, so that it is a document of its own, and loses them when it is put back. A member
over the budget that holds an object or array is split in its turn. Between the pieces stand
brackets, commas and keys, which are copied, in the layout of the style.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .json_layout import CLOSERS, OPENERS, tokens_of
from .splitting import Measure, Part, indented


@dataclass(frozen=True, slots=True)
class _Layout:
    """What stands between things: after a comma, after a colon, for one level of indent or None."""

    comma: str
    colon: str
    indent: str | None

    @classmethod
    def of(cls, style: str) -> "_Layout":
        if style == "compact":
            return cls(",", ":", None)
        if style == "one-line":
            return cls(", ", ": ", None)
        return cls(",", ": ", " " * int(style.removeprefix("indent-")))

    def new_line(self, depth: int) -> str:
        return "" if self.indent is None else "\n" + self.indent * depth


@dataclass(slots=True)
class _Value:
    """Tokens [start, end) of a value; members: of an object (key token and value) or an array."""

    start: int
    end: int = 0
    members: list[tuple[int | None, "_Value"]] = field(default_factory=list)


def split_json(text: str, style: str, budget: int, measure: Measure) -> list[Part]:
    """Parts that join_json makes the document of again, laid out in ``style``.

    text: a document that parses. measure: a text's tokens; budget: the most of them in a piece,
    where the document has a border to split at. One part if the whole fits.
    """
    if measure(text) <= budget:
        return [Part(text, ask=True)]
    tokens = tokens_of(text)
    value = _read(tokens, 0)
    if not value.members:
        return [Part(text, ask=True)]
    return _Splitter(tokens, _Layout.of(style), budget, measure).split(value, 0)


def join_json(parts: Sequence[Part], texts: Sequence[str]) -> str:
    """The document from split_json's parts and the texts that take their places."""
    return "".join(
        _unwrapped(text, part.indent) if part.wrapped else text
        for part, text in zip(parts, texts, strict=True)
    )


def _unwrapped(text: str, indent: str) -> str:
    inside = text[1:-1].strip("\n")
    return indented(inside, indent) if indent else inside


@dataclass(frozen=True, slots=True)
class _Splitter:
    tokens: list[str]
    layout: _Layout
    budget: int
    measure: Measure

    def split(self, value: _Value, depth: int) -> list[Part]:
        """The parts of an object or array with members."""
        opener, closer = self.tokens[value.start], self.tokens[value.end - 1]
        parts = [Part(opener + ("" if self.layout.indent is None else "\n"), ask=False)]
        for number, group in enumerate(self._groups(value)):
            if number:
                line_end = "" if self.layout.indent is None else "\n"
                parts.append(Part(self.layout.comma + line_end, ask=False))
            key, first = group[0]
            if len(group) == 1 and first.members and not self._fits(opener, closer, group):
                parts += self._nested(key, first, depth + 1)
            else:
                text = opener + self._source(group) + closer
                indent = (self.layout.indent or "") * depth
                parts.append(Part(text, ask=True, indent=indent, wrapped=True))
        return [*parts, Part(self.layout.new_line(depth) + closer, ask=False)]

    def _nested(self, key: int | None, value: _Value, depth: int) -> list[Part]:
        before = (self.layout.indent or "") * depth
        if key is not None:
            before += self.tokens[key] + self.layout.colon
        parts = self.split(value, depth)
        return [Part(before + parts[0].text, ask=False), *parts[1:]]

    def _groups(self, value: _Value) -> list[list[tuple[int | None, _Value]]]:
        """Neighbours together, as many as fit; one that does not fit is alone."""
        opener, closer = self.tokens[value.start], self.tokens[value.end - 1]
        groups: list[list[tuple[int | None, _Value]]] = []
        for member in value.members:
            if groups and self._fits(opener, closer, [*groups[-1], member]):
                groups[-1].append(member)
            else:
                groups.append([member])
        return groups

    def _fits(self, opener: str, closer: str, group: list[tuple[int | None, _Value]]) -> bool:
        return self.measure(opener + self._source(group) + closer) <= self.budget

    def _source(self, group: list[tuple[int | None, _Value]]) -> str:
        """Their tokens, one blank after commas and colons: the layout is the model's to make."""
        first, last = group[0], group[-1]
        start = first[1].start if first[0] is None else first[0]
        spaced = {",": ", ", ":": ": "}
        return "".join(spaced.get(token, token) for token in self.tokens[start : last[1].end])


def _read(tokens: Sequence[str], start: int) -> _Value:
    """The value that begins at a token; nesting is followed without recursion."""
    root = _Value(start)
    open_values = [root]
    key: int | None = None
    at = start
    while at < len(tokens):
        token = tokens[at]
        if token in CLOSERS:
            closed = open_values.pop()
            closed.end = at + 1
            if not open_values:
                break
        elif token not in (",", ":"):
            if at + 1 < len(tokens) and tokens[at + 1] == ":":
                key = at
            else:
                value = root if at == start else _Value(at, at + 1)
                if at != start:
                    open_values[-1].members.append((key, value))
                    key = None
                if token in OPENERS and at != start:
                    open_values.append(value)
        at += 1
    root.end = root.end or at
    return root
