"""Python reformat jobs: a function of the standard library, made untidy, wanted tidy again.

The right answer is laid out by ``restyle``, a rule over Python's own tokens. Only functions that
the rule leaves as their authors wrote them are used (quotes and indent aside), so that the answers
look like code that people write.
"""

import ast
import io
import keyword
import random
import re
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from dgq.pipelines.prompts import reformat_prompt
from dgq.pipelines.splitting import split_python

from .case import Case, JobCase, Split
from .standard_library import functions


@dataclass(frozen=True, slots=True)
class Style:
    """A layout: how the model is asked for it, spaces per level, and the quotes it wants."""

    words: str
    indent: int
    quote: str | None


STYLES = {
    "pep8": Style("4-space indent, spaced operators", 4, None),
    "black": Style("4-space indent, spaced operators, double quotes", 4, '"'),
    "two-space": Style("2-space indent, spaced operators", 2, None),
}
MOST_LINES, MOST_LINES_IN_PIECES = 9, 17
PIECE_BUDGETS = (24, 32, 48)
VALUE_WORDS = {"None", "True", "False"}
OPENERS, CLOSERS = "([{", ")]}"
Spacing = Callable[["Token", "Token", str], str]


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it stands: bracket depth kind, and whether it is a binary operator."""

    kind: int
    text: str
    binary: bool
    bracket: str
    in_lambda: bool
    annotated: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line: its depth, its tokens, and the blank lines before it."""

    depth: int
    tokens: tuple[Token, ...]
    blank_lines_before: int


@cache
def lines_of(source: str) -> tuple[Line, ...] | None:
    """Logical lines, each on one physical line; None when the source is not that simple."""
    lines: list[Line] = []
    current: list[tokenize.TokenInfo] = []
    depth, last_row = 0, 0
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source + "\n").readline))
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return None
    for token in tokens:
        if token.start[0] != token.end[0] and token.type not in (tokenize.NEWLINE, tokenize.NL):
            return None  # a string over several lines
        if token.type == tokenize.INDENT:
            depth += 1
        elif token.type == tokenize.DEDENT:
            depth -= 1
        elif token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER):
            if token.type == tokenize.NL and current and current[-1].type != tokenize.COMMENT:
                return None  # a bracket over several lines
            if current:
                row = current[0].start[0]
                if token.type == tokenize.NL:
                    return None  # a comment on a line of its own has no depth of its own
                lines.append(Line(depth, _marked(current), max(row - last_row - 1, 0)))
                last_row, current = row, []
        else:
            if current and token.start[0] != current[0].start[0]:
                return None  # continued by a backslash
            current.append(token)
    return tuple(lines)


def _marked(tokens: list[tokenize.TokenInfo]) -> tuple[Token, ...]:
    brackets: list[str] = []
    marked: list[Token] = []
    in_lambda = annotated = False
    for token in tokens:
        text = token.string
        before = marked[-1] if marked else None
        if text in CLOSERS and brackets:
            brackets.pop()
        operand_before = before is not None and (
            (
                before.kind in (tokenize.NAME, tokenize.NUMBER, tokenize.STRING)
                and (not keyword.iskeyword(before.text) or before.text in VALUE_WORDS)
            )
            or before.text in CLOSERS
            or before.text == "..."
        )
        binary = token.type == tokenize.OP and operand_before
        if text == "lambda":
            in_lambda = True
        elif text == ":" and in_lambda:
            in_lambda = False
        elif text == ":":
            annotated = bool(brackets) and brackets[-1] == "("
        elif text == "," or text in OPENERS or text in CLOSERS:
            annotated = False
        bracket = brackets[-1] if brackets else ""
        marked.append(Token(token.type, text, binary, bracket, in_lambda, annotated))
        if text in OPENERS:
            brackets.append(text)
    return tuple(marked)


def tidy(left: Token, right: Token, first: str) -> str:
    """The blanks that PEP 8 wants between two tokens of a line that starts with ``first``."""
    if right.kind == tokenize.COMMENT:
        return "  "
    if left.text in OPENERS or right.text in CLOSERS or right.text in ",;":
        return ""
    if left.text == "." or (right.text == "." and not keyword.iskeyword(left.text)):
        return "" if left.text != "." or first != "from" or right.text != "import" else " "
    if left.text in (",", ";"):
        return " "
    if right.text == ":" or left.text == ":":
        if left.bracket == "[" or (right.bracket == "[" and right.text == ":"):
            return ""
        return "" if right.text == ":" else " "
    if right.text in "([" and right.binary:
        return ""
    if left.text == "=" or right.text == "=":
        sign = left if left.text == "=" else right
        inside = (sign.bracket == "(" or sign.in_lambda) and not sign.annotated
        return "" if inside else " "
    if left.kind == tokenize.OP and not left.binary and left.text in "+-~*@**":
        return ""
    return " "


def is_blank_free(left: Token, right: Token) -> bool:
    """Whether the two tokens may touch without becoming another token."""
    words = (tokenize.NAME, tokenize.NUMBER, tokenize.STRING)
    if left.kind in words and right.kind in words:
        return False
    return not (left.kind == tokenize.OP and right.kind == tokenize.OP) or (
        left.text in OPENERS + CLOSERS + "," or right.text in OPENERS + CLOSERS + ","
    )


def lay_out(source: str, indent: str, quote: str | None, spacing: Spacing) -> str | None:
    """Write the lines anew. None when the source is not simple enough."""
    lines = lines_of(source)
    if not lines:
        return None
    written: list[str] = []
    for line in lines:
        text = indent * line.depth
        first = line.tokens[0].text
        for i, token in enumerate(line.tokens):
            if i:
                text += spacing(line.tokens[i - 1], token, first)
            text += in_quotes(token.text, quote) if token.kind == tokenize.STRING else token.text
        written += [""] * line.blank_lines_before + [text]
    return "\n".join(written).strip("\n")


def in_quotes(literal: str, quote: str | None) -> str:
    """The same string in other quotes, where that needs no escape."""
    match = re.fullmatch(r"([A-Za-z]*)('''|\"\"\"|'|\")(.*)\2", literal, re.DOTALL)
    if quote is None or match is None:
        return literal
    prefix, old, body = match.groups()
    if "'" in body or '"' in body or "\\" in body:
        return literal
    return f"{prefix}{quote * len(old)}{body}{quote * len(old)}"


def restyle(source: str, style: Style) -> str | None:
    """The right answer."""
    return lay_out(source, " " * style.indent, style.quote, tidy)


def untidy(rng: random.Random, source: str, requote: bool) -> str | None:
    """The same program, badly laid out, in other quotes only where the style will change them."""
    indent = rng.choice([" ", "  ", "   ", "    ", "    ", "        ", "\t"])
    quote = rng.choice(["'", "'", '"', None]) if requote else None
    tight, loose = rng.choice([(0.0, 0.0), (1.0, 0.0), (0.5, 0.1), (0.8, 0.0), (0.3, 0.3)])

    def spacing(left: Token, right: Token, first: str) -> str:
        wanted = tidy(left, right, first)
        if right.kind == tokenize.COMMENT:
            return rng.choice(["  ", " ", wanted])
        if wanted and is_blank_free(left, right) and rng.random() < tight:
            return ""
        if not wanted and right.kind == tokenize.OP and rng.random() < loose * 0.5:
            return " "
        return wanted

    return lay_out(source, indent, quote, spacing)


def same_program(one: str, other: str) -> bool:
    """Equal syntax trees."""
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    except (SyntaxError, ValueError):
        return False


@cache
def tidy_functions(split: Split, most_lines: int) -> tuple[str, ...]:
    """The functions of two lines to most_lines that ``restyle`` leaves as they are."""
    kept = []
    for source in functions(split):
        if restyle(source, STYLES["pep8"]) == source and 2 <= source.count("\n") + 1 <= most_lines:
            kept.append(source)
    return tuple(kept)


def python_piece(rng: random.Random) -> Case:
    """A piece of a training function, cut as the product cuts long ones."""
    while True:
        job = python_job(rng, "train", MOST_LINES_IN_PIECES)
        style = STYLES[str(job.job["style"])]
        budget = rng.choice(PIECE_BUDGETS)
        parts = split_python(str(job.job["code"]), budget, lambda text: len(text) // 3)
        piece = rng.choice([part.text for part in parts if part.ask])
        if answer := restyle(piece, style):
            return Case("python", reformat_prompt("python", style.words, piece), piece, answer)


def python_job(rng: random.Random, split: Split, most_lines: int = MOST_LINES) -> JobCase:
    """One function."""
    while True:
        source = rng.choice(tidy_functions(split, most_lines))
        style_name = rng.choice(list(STYLES))
        style = STYLES[style_name]
        given = untidy(rng, source, requote=style.quote is not None)
        expected = restyle(source, style)
        if given is None or expected is None or given == expected:
            continue
        if same_program(given, expected) and same_program(given, source):
            break
    prompt = reformat_prompt("python", style.words, given)
    job: dict[str, object] = {
        "kind": "reformat",
        "language": "python",
        "style": style_name,
        "code": given,
    }
    return JobCase(job, expected, (Case("python", prompt, given, expected),))
