"""A document into segments: what the model may see, and what is kept as it is.

Kept: code fences, HTML comments over several lines, front matter, tables, link definitions,
indented code (in Markdown), lines without letters, and the marks at the start of a line (headings,
list items, quotes). Segments join to the document again, always.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .protect import find_spans, hide
from .sentences import Measure, split_paragraph

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(`{3,}|~{3,})([^\n]*)")
_MARKER = re.compile(
    r"[ \t]*(?:>[ \t]?|(?:[-*+]|\d{1,9}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?|#{1,6}[ \t]+)+"
)
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
    last_close = max((row for row, line in enumerate(lines) if "-->" in line), default=-1)
    paragraph: list[str] = []
    in_list = previous_blank = False
    while at < len(lines):
        line = lines[at]
        kept = _kept_lines(lines, at, last_close)
        blank = not line.strip()
        if not kept and _is_kept_line(line, markdown):
            kept = 1
        if not kept and markdown and not in_list and _INDENTED.match(line) and not paragraph:
            kept = int(previous_blank or at == 0)
        if kept:
            yield from _paragraph(paragraph)
            paragraph = []
            yield Segment("".join(lines[at : at + kept]), ask=False)
            at += kept
            previous_blank = blank
            continue
        marker = _MARKER.match(line) if markdown else None
        if marker:
            yield from _paragraph(paragraph)
            yield Segment(marker[0], ask=False)
            in_list = not marker[0].lstrip().startswith("#")
            paragraph = [line[marker.end() :]]
        else:
            in_list = in_list and (bool(paragraph) or line[:1] in " \t")
            paragraph.append(line)
        if _has_hard_break(line) or (marker and marker[0].lstrip().startswith("#")):
            yield from _paragraph(paragraph)
            paragraph = []
        previous_blank = False
        at += 1
    yield from _paragraph(paragraph)


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


def _kept_lines(lines: list[str], at: int, last_close: int) -> int:
    """How many lines a fence or a comment that opens on this line takes; 0 if none opens."""
    fence = _FENCE.match(lines[at])
    if fence and not (fence[1][0] == "`" and "`" in fence[2]):
        close = re.compile(rf"[ \t>]*{re.escape(fence[1][0])}{{{len(fence[1])},}}[ \t]*\r?\n?\Z")
        for row in range(at + 1, len(lines)):
            if close.match(lines[row]):
                return row - at + 1
        return len(lines) - at
    opened = lines[at].rfind("<!--")
    if opened >= 0 and at < last_close and "-->" not in lines[at][opened:]:
        return next(row for row in range(at + 1, len(lines)) if "-->" in lines[row]) - at + 1
    return 0


def _front_matter(lines: list[str]) -> int:
    if not lines or lines[0].rstrip() != "---":
        return 0
    for row in range(1, len(lines)):
        if lines[row].rstrip() in ("---", "..."):
            return row + 1
    return 0
