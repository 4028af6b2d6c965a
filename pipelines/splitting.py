"""Long Python files into pieces at their own borders, and back.

A function or class is a piece; consecutive other statements share pieces up to the budget. What is
over the budget is split inside, at the statements of its block, to any depth: the head keeps as many
of the first statements as fit, and at least one, so that it is a program of its own; the others
lose their indent on the way to the model. Statements wear a function's head, so that what the
model sees always begins as a definition, ``return x`` is a whole program, and a piece is told by
its beginning. Comments and decorators go with what follows them. Blank lines between pieces are
nobody's and are kept.
"""

import ast
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from .python_layout import read_tokens
from .same_program import parse_python

_BLANK_LINES = re.compile(r"(?:[ \t\f]*\n)*")
_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

WRAPPER = "def f(self):"
"""What statements outside of a definition wear; a method's, since most code is in methods."""

Measure = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the file. ask: whether the model sees it, or it is kept as it is.

    indent: what was taken from the start of each line, to be put back; depth: how many levels of
    indent that is. wrapped: the text wears brackets, or a function's head and its indent, that are not in
    the file, to come off again.
    """

    text: str
    ask: bool
    indent: str = ""
    depth: int = 0
    wrapped: bool = False


@dataclass(frozen=True, slots=True)
class _Unit:
    """Whole lines [start, end) from 0 and what is on them; definition: a function or class."""

    start: int
    end: int
    node: ast.stmt
    definition: bool


def split_python(code: str, budget: int, measure: Measure, *, inside: bool = True) -> list[Part]:
    """Parts that join to the code again (but for blanks at the ends of lines between pieces).

    code: parses, with line feeds for line ends. measure: a text's tokens; budget: the most of
    them in a piece, where the file has a border to split at. inside: whether functions and other
    blocks have such borders, not only the file and its classes, and statements wear a head.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", code)
    units = _units(parse_python(code).body, 0, len(lines))
    if "\r" in code or not units:
        return _with_edges(code) if units else [Part(code, ask=False)]
    splitter = _Splitter(lines, _rows_inside_strings(code), budget, measure, inside)
    return splitter.split(units, "", 0)


def join_parts(parts: Sequence[Part], texts: Sequence[str], indent: str | None = None) -> str:
    """The file from its parts and the texts that take their places.

    indent: one level of the new style; None puts back what was taken.
    """
    return "".join(
        indented(text, part.indent if indent is None else indent * part.depth)
        if part.indent
        else text
        for part, text in zip(parts, texts, strict=True)
    )


def unwrapped(text: str, indent: str) -> str | None:
    """What a function's head was put before, without it and its level; None where it is not there."""
    head, _, body = text.partition("\n")
    if head != WRAPPER or not body:
        return None
    return re.sub(rf"(?m)^{re.escape(indent)}", "", body).strip("\n")


def indented(text: str, indent: str) -> str:
    """The text with ``indent`` before each line that is not empty."""
    return re.sub(r"(?m)^(?=.)", indent, text)


def _units(body: Sequence[ast.stmt], first: int, last: int) -> list[_Unit]:
    """Statements as whole lines; lines before a statement are its own, the last takes the rest."""
    units: list[_Unit] = []
    for node in body:
        end = node.end_lineno or node.lineno
        decorators = getattr(node, "decorator_list", [])
        start = min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1
        if units and start < units[-1].end:
            units[-1] = _Unit(units[-1].start, end, units[-1].node, definition=False)
        else:
            border = units[-1].end if units else first
            units.append(_Unit(border, end, node, isinstance(node, _DEFINITIONS)))
    if units:
        units[-1] = _Unit(units[-1].start, last, units[-1].node, units[-1].definition)
    return units


@dataclass(frozen=True, slots=True)
class _Splitter:
    """lines: of the file. strings: the rows that begin inside a string. The rest: split_python's."""

    lines: list[str]
    strings: set[int]
    budget: int
    measure: Measure
    inside: bool

    def split(self, units: Sequence[_Unit], indent: str, depth: int) -> list[Part]:
        """The parts of consecutive units of one block, which stands ``depth`` levels deep."""
        parts: list[Part] = []
        for group in self._groups(units, indent):
            inside = self._split_inside(group[0], indent, depth) if len(group) == 1 else None
            start, end = group[0].start, group[-1].end
            parts += inside or self._parts(start, end, indent, depth, group[0].node)
        return parts

    def _parts(self, start: int, end: int, indent: str, depth: int, node: ast.stmt) -> list[Part]:
        """One part to ask, and its edges; statements that define nothing wear a function's head."""
        parts = _with_edges(self._text(start, end, indent))
        wrapped = (
            self.inside
            and not isinstance(node, _DEFINITIONS)
            and self.strings.isdisjoint(range(start, end))
        )
        level = indent[: len(indent) // depth] if depth else " " * 4
        return [
            replace(
                part,
                text=WRAPPER + "\n" + indented(part.text, level) if wrapped else part.text,
                indent=indent,
                depth=depth,
                wrapped=wrapped,
            )
            if part.ask
            else part
            for part in parts
        ]

    def _groups(self, units: Sequence[_Unit], indent: str) -> Iterator[list[_Unit]]:
        group: list[_Unit] = []
        used = 0
        for unit in units:
            cost = self.measure(self._text(unit.start, unit.end, indent))
            if group and (unit.definition or group[-1].definition or used + cost > self.budget):
                yield group
                group, used = [], 0
            group.append(unit)
            used += cost
        if group:
            yield group

    def _text(self, start: int, end: int, indent: str) -> str:
        """The rows [start, end) without the indent of their block."""
        text = "".join(self.lines[start:end])
        return re.sub(rf"(?m)^{re.escape(indent)}", "", text) if indent else text

    def _split_inside(self, unit: _Unit, indent: str, depth: int) -> list[Part] | None:
        """The head with its first statements, then the others; None where that is not safe."""
        if not (self.inside or isinstance(unit.node, ast.ClassDef)):
            return None
        if self._fits(unit.start, unit.end, indent):
            return None
        if (opened := self._open(unit, indent, depth)) is None:
            return None
        end, rest = opened
        return [*self._parts(unit.start, end, indent, depth, unit.node), *rest]

    def _open(self, unit: _Unit, indent: str, depth: int) -> tuple[int, list[Part]] | None:
        """The row at which the head of a block ends, and the parts of what follows it.

        A head whose first statement is too long is opened in its turn.
        """
        body = _only_block(unit.node)
        if not body or body[0].lineno <= unit.node.lineno:
            return None
        first, *rest = _units(body, unit.start, unit.end)
        inner = self.lines[body[0].lineno - 1][: body[0].col_offset]
        if inner.strip() or not all(self._can_dedent(each, inner) for each in rest):
            return None
        if not self._fits(unit.start, first.end, indent):
            opened = self._open(first, inner, depth + 1)
            if opened:
                return opened[0], [*opened[1], *self.split(rest, inner, depth + 1)]
        end = first.end
        while rest and not rest[0].definition and self._fits(unit.start, rest[0].end, indent):
            end = rest.pop(0).end
        return (end, self.split(rest, inner, depth + 1)) if rest else None

    def _fits(self, start: int, end: int, indent: str) -> bool:
        return self.measure(self._text(start, end, indent)) <= self.budget

    def _can_dedent(self, unit: _Unit, indent: str) -> bool:
        """Whether each line begins with the indent and none begins inside a string."""
        return all(
            row not in self.strings
            and (self.lines[row].startswith(indent) or not self.lines[row].strip())
            for row in range(unit.start, unit.end)
        )


def _only_block(node: ast.stmt) -> Sequence[ast.stmt]:
    """The statements inside a statement that has one block of them."""
    blocks = [getattr(node, name, None) for name in _BLOCKS]
    filled = [block for block in blocks if block]
    return filled[0] if len(filled) == 1 and isinstance(filled[0][0], ast.stmt) else ()


def _with_edges(text: str) -> list[Part]:
    """The text with its blank first lines and its blank end apart."""
    match = _BLANK_LINES.match(text)
    start = match.end() if match else 0
    end = max(len(text.rstrip()), start)
    before, core, after = text[:start], text[start:end], text[end:]
    parts = [Part(_bare(before), ask=False), Part(core, ask=True), Part(_bare(after), ask=False)]
    return [part for part in parts if part.text]


def _bare(blank: str) -> str:
    return re.sub(r"[ \t]+", "", blank)


def _rows_inside_strings(code: str) -> set[int]:
    """The rows, from 0, that begin inside a string."""
    rows: set[int] = set()
    starts: list[int] = []
    for token in read_tokens(code):
        name = tokenize.tok_name[token.type]
        if name == "STRING":
            rows.update(range(token.start[0], token.end[0]))
        elif name.endswith("STRING_START"):
            starts.append(token.start[0])
        elif name.endswith("STRING_END"):
            rows.update(range(starts.pop(), token.end[0]))
    return rows
