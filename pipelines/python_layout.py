"""Python layout: indentation and blanks as PEP 8 wants them, checked on Python's own tokens.

Strict where the words "4-space indent, spaced operators" are: indents, and the blanks between two
tokens on one line. Lenient where PEP 8 leaves a choice: blanks around ``**`` and around the colon
of a slice, how continued lines are aligned, blank lines, the gap before a comment. Line length is
not looked at.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise

from .python_tokens import ANY_GAP, Word, classify, gap_wanted

_MARKERS = (tokenize.ENCODING, tokenize.ENDMARKER, tokenize.NL, tokenize.NEWLINE, tokenize.DEDENT)
_STRING = re.compile(r"([A-Za-z]*)('''|\"\"\"|'|\")(.*)\2", re.DOTALL)


def read_tokens(code: str) -> list[tokenize.TokenInfo]:
    """Python's tokens. Raises SyntaxError (or its child IndentationError) for code that has none."""
    try:
        return list(tokenize.generate_tokens(io.StringIO(code).readline))
    except tokenize.TokenError as error:
        raise SyntaxError(str(error.args[0])) from error


def check_python_layout(code: str, indent: int, double_quotes: bool = False) -> str | None:
    """What is wrong with the layout of code that parses, with its line; None if nothing.

    double_quotes: whether string literals must use them where that needs no escape; f-strings and
    literals with a backslash or a quote inside may use either.
    """
    try:
        tokens = read_tokens(code)
    except SyntaxError as error:
        return str(error)
    wrong = next(_problems(code, tokens, indent, double_quotes), None)
    return None if wrong is None else f"line {wrong[0]}: {wrong[1]}"


def _problems(
    code: str, tokens: list[tokenize.TokenInfo], indent: int, double_quotes: bool
) -> Iterator[tuple[int, str]]:
    yield from _indents(tokens, indent)
    yield from _line_ends(code, tokens)
    if double_quotes:
        yield from _quotes(tokens)
    for line in _logical_lines(tokens):
        yield from _gaps(line)


def _indents(tokens: list[tokenize.TokenInfo], indent: int) -> Iterator[tuple[int, str]]:
    depths = [0]
    for token in tokens:
        if token.type == tokenize.INDENT:
            depths.append(len(token.string))
            if "\t" in token.string:
                yield token.start[0], "a tab in the indent"
            elif depths[-1] - depths[-2] != indent:
                yield token.start[0], f"an indent of {depths[-1] - depths[-2]} in place of {indent}"
        elif token.type == tokenize.DEDENT:
            depths.pop()


def _line_ends(code: str, tokens: list[tokenize.TokenInfo]) -> Iterator[tuple[int, str]]:
    """Blanks at line ends and tabs at line starts, unless inside a string."""
    inside: set[int] = set()
    starts: list[int] = []
    for token in tokens:
        name = tokenize.tok_name[token.type]
        if token.type == tokenize.STRING:
            inside.update(range(token.start[0], token.end[0]))
        elif name.endswith("STRING_START"):
            starts.append(token.start[0])
        elif name.endswith("STRING_END"):
            inside.update(range(starts.pop(), token.end[0]))
    for row, line in enumerate(io.StringIO(code), 1):
        text = line.rstrip("\r\n")
        if row not in inside and text != text.rstrip(" \t"):
            yield row, "blanks at the end of the line"
        if row - 1 not in inside and "\t" in text[: len(text) - len(text.lstrip())]:
            yield row, "a tab in the indent"


def _quotes(tokens: list[tokenize.TokenInfo]) -> Iterator[tuple[int, str]]:
    for token in tokens:
        match = _STRING.fullmatch(token.string) if token.type == tokenize.STRING else None
        if match is None or "f" in match[1].lower() or match[2][0] == '"':
            continue
        if not re.search(r"[\"'\\]", match[3]):
            yield token.start[0], "single quotes where double quotes do"


def _logical_lines(tokens: list[tokenize.TokenInfo]) -> Iterator[list[Word]]:
    """The tokens between two NEWLINEs, an f-string as one of them, layout tokens left out."""
    line: list[Word] = []
    depth = 0
    for token in tokens:
        name = tokenize.tok_name[token.type]
        if name.endswith("STRING_START"):
            depth += 1
            if depth == 1:
                start = token.start
        elif name.endswith("STRING_END"):
            depth -= 1
            if depth == 0:
                line.append(Word("atom", '""', start, token.end))
        elif depth or token.type == tokenize.COMMENT:
            continue
        elif token.type == tokenize.NEWLINE:
            yield line
            line = []
        elif token.type not in _MARKERS and token.type != tokenize.INDENT:
            kind = "op" if token.type == tokenize.OP else "atom"
            line.append(Word(kind, token.string, token.start, token.end))
    yield line


def _gaps(line: list[Word]) -> Iterator[tuple[int, str]]:
    words = classify(line)
    power_gap: int | None = None
    for left, right in pairwise(words):
        if left.end[0] != right.start[0]:
            power_gap = None
            continue
        gap = right.start[1] - left.end[1]
        wanted = gap_wanted(left, right)
        if left.kind == "power" and power_gap not in (None, gap):
            yield right.start[0], "uneven blanks around **"
        power_gap = gap if right.kind == "power" else None
        if (gap > 1) if wanted == ANY_GAP else (gap != wanted):
            fault = "a blank too few" if gap < wanted else "a blank too many"
            yield right.start[0], f"{fault} between {left.text!r} and {right.text!r}"
