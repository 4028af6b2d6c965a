"""A document into segments: what the model may see, and what is kept as it is.

Kept: code fences, HTML comments and raw HTML over several lines, front matter, tables, link
definitions, indented code (in Markdown), lines without letters, and the marks at the start of a
line (headings, list items, quotes). Segments join to the document again, always.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .protect import find_spans, hide
from .sentences import Measure, split_paragraph

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r"([ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)(`{3,}|~{3,})([^\n]*)")
_RAW_BLOCKS = {"<!--": "-->", "<pre": "</pre", "<script": "</script", "<style": "</style"}
_MARKER = re.compile(
    r"[ \t]*(?:>[ \t]?|(?:[-*+]|\d{1,9}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?|#{1,6}[ \t]+)+"
)
_CHECKBOX = re.compile(r"\[[ xX]\][ \t]+\Z")
_DEFINITION = re.compile(r" {0,3}\[[^\]\n]{1,500}\]:")
_INDENTED = re.compile(r"(?: {4}|\t)")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the document. ask: whether the model sees it."""

    text: str
    ask: bool


def line_feeds(text: str) -> tuple[str, bool]:
    """The text with line feeds where all its line ends are CR LF, and whether they were.

    A text of mixed line ends stays as it is.
    """
    if "\r\n" not in text or re.search(r"(?<!\r)\n|\r(?!\n)", text):
        return text, False
    return text.replace("\r\n", "\n"), True


def with_line_ends_of(source: str, answer: str) -> str:
    """The answer with line feeds for line ends, unless the source has others as well."""
    return answer if "\r" in source else answer.replace("\r\n", "\n").replace("\r", "\n")


def split_document(
    text: str,
    form: Literal["text", "markdown"],
    budget: int,
    measure: Measure,
    keep_numbers: bool = False,
) -> list[Segment]:
    """Segments that join to the text. budget: the most tokens (by measure) of one to ask about."""
    segments: list[Segment] = []
    for block in _blocks(text, form):
        if block.ask:
            segments += _pieces(block.text, budget, measure, keep_numbers)
        else:
            segments.append(block)
    return segments


def _pieces(text: str, budget: int, measure: Measure, keep_numbers: bool) -> Iterator[Segment]:
    """A paragraph's units, the blanks around each apart; units without letters are kept."""
    spans = find_spans(text, keep_numbers)
    for unit in split_paragraph(text, spans, budget, measure):
        core = unit.strip()
        start = unit.find(core) if core else 0
        end = start + len(core)
        seen = hide(core, find_spans(core, keep_numbers)).text
        for part, ask in (
            (unit[:start], False),
            (core, bool(_LETTER.search(seen))),
            (unit[end:], False),
        ):
            if part:
                yield Segment(part, ask)


def _blocks(text: str, form: str) -> Iterator[Segment]:
    """Paragraphs (ask) and everything between them."""
    lines = _LINE.findall(text)
    markdown = form == "markdown"
    at = _front_matter(lines) if markdown else 0
    yield from (Segment(line, ask=False) for line in lines[:at])
    last_rows = {close: row for row, line in enumerate(lines) for close in _closers(line)}
    paragraph: list[str] = []
    in_text = False  # whether the line before is text that this one may go on with
    columns: list[int] = []  # where the texts of the list items begin that the line is in
    while at < len(lines):
        line = lines[at]
        marker = _MARKER.match(line) if markdown else None
        if line.strip() and (marker or not in_text):
            columns = [column for column in columns if column <= _width(line)]
        indented = markdown and _width(line) >= (columns[-1] if columns else 0) + 4
        kept = _fence_lines(lines, at, indented) or _raw_lines(lines, at, last_rows)
        if not kept and (_is_kept_line(line, markdown) or (indented and not in_text)):
            kept = 1
        if kept:
            yield from _paragraph(paragraph)
            paragraph = []
            yield Segment("".join(lines[at : at + kept]), ask=False)
            at += kept
            in_text = False
            continue
        in_text = True
        if marker:
            yield from _paragraph(paragraph)
            yield Segment(marker[0], ask=False)
            in_text = not marker[0].lstrip().startswith("#")
            if in_text and ">" not in marker[0]:
                columns.append(len(_CHECKBOX.sub("", marker[0]).expandtabs(4)))
            paragraph, line = [], line[marker.end() :]
        paragraph.append(line)
        if _has_hard_break(line) or not in_text:
            yield from _paragraph(paragraph)
            paragraph = []
        at += 1
    yield from _paragraph(paragraph)


def _width(line: str) -> int:
    """The columns of blanks that the line begins with."""
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    return len(indent.expandtabs(4))


def _paragraph(lines: list[str]) -> Iterator[Segment]:
    """The lines as one stretch to ask about, a hard line break at its end apart."""
    text = "".join(lines)
    stem = text.rstrip("\r\n")
    if _has_hard_break(text):
        stem = stem[:-1] if stem.endswith("\\") else stem.rstrip(" ")
    else:
        stem = text
    if stem:
        yield Segment(stem, ask=True)
    if stem != text:
        yield Segment(text[len(stem) :], ask=False)


def _has_hard_break(line: str) -> bool:
    """Whether Markdown breaks the line here: two blanks or a backslash before the line end."""
    return line.endswith("\n") and line.rstrip("\r\n").endswith(("  ", "\\"))


def _is_kept_line(line: str, markdown: bool) -> bool:
    if not _LETTER.search(line):
        return True
    return markdown and bool(line.lstrip().startswith("|") or _DEFINITION.match(line))


def _fence_lines(lines: list[str], at: int, indented: bool) -> int:
    """How many lines a code fence that opens on this line takes; 0 if none opens.

    indented: whether the line is no fence by the rules of Markdown, being indented code; a pair of
    such lines is taken for one all the same.
    """
    fence = _FENCE.match(lines[at])
    if not fence or (fence[2][0] == "`" and "`" in fence[3]):
        return 0
    quoted, width = ">" in fence[1], len(fence[1].expandtabs(4))
    close = re.compile(rf"([ \t>]*){re.escape(fence[2][0])}{{{len(fence[2])},}}[ \t]*\r?\n?\Z")
    for row in range(at + 1, len(lines)):
        if quoted and not lines[row].lstrip().startswith(">"):
            return row - at
        end = close.match(lines[row])
        if not end or (">" in end[1]) != quoted or (indented and not _INDENTED.match(end[1])):
            continue
        if len(end[1].expandtabs(4)) <= width + 3:
            return row - at + 1
    return 0 if indented else len(lines) - at


def _raw_lines(lines: list[str], at: int, last_rows: Mapping[str, int]) -> int:
    """How many lines a comment or raw HTML that opens on this line and goes on takes; or 0.

    last_rows: of each closer, so that what is never closed costs no search.
    """
    line = lines[at].lower()
    for opener, close in _RAW_BLOCKS.items():
        opened = line.rfind(opener)
        if opened >= 0 and at < last_rows.get(close, -1) and close not in line[opened:]:
            rows = range(at + 1, len(lines))
            return next(row for row in rows if close in lines[row].lower()) - at + 1
    return 0


def _closers(line: str) -> Iterator[str]:
    return (close for close in _RAW_BLOCKS.values() if close in line.lower())


def _front_matter(lines: list[str]) -> int:
    if not lines or lines[0].rstrip() != "---":
        return 0
    for row in range(1, len(lines)):
        if lines[row].rstrip() in ("---", "..."):
            return row + 1
    return 0
