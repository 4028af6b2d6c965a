"""Long Python files into pieces at their own borders, and back.

A function or class is a piece; consecutive other statements share pieces up to the budget; a class
over the budget is split at its members, which lose their indent on the way to the model. Comments
and decorators go with what follows them. Blank lines between pieces are nobody's and are kept.
"""

import ast
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .python_layout import read_tokens
from .same_program import parse_python

_BLANK_LINES = re.compile(r"(?:[ \t\f]*\n)*")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

Measure = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the file. ask: whether the model sees it, or it is kept as it is.

    indent: what was taken from the start of each line, to be put back. wrapped: the text wears
    brackets that are not in the file, to come off again.
    """

    text: str
    ask: bool
    indent: str = ""
    wrapped: bool = False


@dataclass(frozen=True, slots=True)
class _Unit:
    """Whole lines [start, end) from 0 and what is on them; definition: a function or class."""

    start: int
    end: int
    node: ast.stmt
    definition: bool


def split_python(code: str, budget: int, measure: Measure) -> list[Part]:
    """Parts that join to the code again (but for blanks at the ends of lines between pieces).

    code: parses, with line feeds for line ends. measure: a text's tokens; budget: the most of
    them in a piece, where the file has a border to split at.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", code)
    units = _units(parse_python(code).body, 0, len(lines))
    if "\r" in code or not units:
        return _with_edges(code) if units else [Part(code, ask=False)]
    strings = _rows_inside_strings(code)
    parts: list[Part] = []
    for group in _groups(units, lines, budget, measure):
        text = "".join(lines[group[0].start : group[-1].end])
        node = group[0].node
        members = None
        if isinstance(node, ast.ClassDef) and measure(text) > budget:
            members = _split_class(group[0], node, lines, strings, budget, measure)
        parts += members or _with_edges(text)
    return parts


def join_parts(parts: Sequence[Part], texts: Sequence[str], indent: str | None = None) -> str:
    """The file from its parts and the texts that take their places.

    indent: one level of the new style; None puts back what was taken.
    """
    return "".join(
        indented(text, part.indent if indent is None else indent) if part.indent else text
        for part, text in zip(parts, texts, strict=True)
    )


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


def _groups(
    units: Sequence[_Unit], lines: Sequence[str], budget: int, measure: Measure
) -> Iterator[list[_Unit]]:
    group: list[_Unit] = []
    used = 0
    for unit in units:
        cost = measure("".join(lines[unit.start : unit.end]))
        if group and (unit.definition or group[-1].definition or used + cost > budget):
            yield group
            group, used = [], 0
        group.append(unit)
        used += cost
    if group:
        yield group


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


def _split_class(
    unit: _Unit,
    node: ast.ClassDef,
    lines: Sequence[str],
    strings: set[int],
    budget: int,
    measure: Measure,
) -> list[Part] | None:
    """The head with the first member, then the other members; None where that is not safe."""
    members = _units(node.body, unit.start, unit.end)
    first = node.body[0]
    if node.body[0].lineno <= node.lineno or len(members) < 2:
        return None
    indent = lines[first.lineno - 1][: first.col_offset]
    head, rest = members[0], members[1:]
    if indent.strip() or not all(_can_dedent(lines, unit, indent, strings) for unit in rest):
        return None
    parts = _with_edges("".join(lines[head.start : head.end]))
    for group in _groups(rest, lines, budget, measure):
        text = "".join(lines[group[0].start : group[-1].end])
        dedented = re.sub(rf"(?m)^{re.escape(indent)}", "", text)
        parts += [
            Part(part.text, part.ask, indent if part.ask else "") for part in _with_edges(dedented)
        ]
    return parts


def _can_dedent(lines: Sequence[str], unit: _Unit, indent: str, strings: set[int]) -> bool:
    """Whether each line begins with the indent and none begins inside a string."""
    return all(
        row not in strings and (lines[row].startswith(indent) or not lines[row].strip())
        for row in range(unit.start, unit.end)
    )


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
