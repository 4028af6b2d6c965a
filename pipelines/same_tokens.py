"""Are two texts of some language the same tokens? Safe rather than clever.

Where blanks might mean something, they count; the answer may be "different" for texts that a
compiler would read alike, and must never be "the same" for texts that it would not.

- free: languages in which line ends are blanks (C, Java, Rust, ...).
- lines: languages in which a line end may end a statement (JavaScript, Go, ...).
- layout: every other language: lines, the nesting of indents, and where blanks stand all count;
  only their number does not.
"""

import re
from collections.abc import Iterator
from functools import cache

FREE = {"c", "c++", "cpp", "java", "c#", "csharp", "rust"}
LINES = {"javascript", "js", "typescript", "ts", "go", "kotlin", "dart"}
HAS_PREPROCESSOR = {"c", "c++", "cpp", "c#", "csharp"}
HAS_REGEXES = {"javascript", "js", "typescript", "ts"}

_OPERATOR_LIST = (
    ">>>= ... === !== >>> <<= >>= **= ??= &&= ||= <=> ->* ..= ..< &^= => == != <= >= && || ++ -- "
    "+= -= *= /= %= &= |= ^= << >> ** ?? ?. ?: :: := .. -> <- .* &^ !! ##"
)
OPERATORS = _OPERATOR_LIST.split()
_QUOTED = r'"""(?s:.*?)"""|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\''
_STRING = rf"\w*(?:{_QUOTED})\w*"
_NUMBER = r"\.?\d(?:[eEpP][+-]|[\w.])*"
_UNREADABLE = r"""\b\w*R"|\b[bc]?r\#*"|[@$]+"|`|<<<|\b\d\w*'|"(?:[^"\\\n]|\\.)*\$\{"""
"""Literals that this lexer cannot read: from there on, texts are compared letter by letter."""

_STRINGS_OF_LINE = re.compile(r"(\"[^\"]*\"|'[^']*'|`[^`]*`)")
_UNCLEAR = re.compile(r'"""|\'\'\'|<<|\|[0-9+-]*[ ]*$|>[0-9+-]*[ ]*$|\\$|\\["\'`]|\t', re.MULTILINE)
_BEFORE_FREE_END = ("{", "[", "(", ",", ";")


def difference_of_tokens(one: str, other: str, language: str) -> str | None:
    """ "other tokens" (or so) if the texts may be different programs; None if they are the same."""
    if language in FREE or language in LINES:
        same = list(_tokens(one.strip(), language)) == list(_tokens(other.strip(), language))
    else:
        same = list(_layout(one.strip("\n").rstrip())) == list(_layout(other.strip("\n").rstrip()))
    return None if same else "other tokens"


@cache
def _lexer(language: str) -> re.Pattern[str]:
    parts = [
        r"(?P<comment>//[^\n]*|/\*(?s:.*?)\*/)",
        rf"(?P<rest>(?:{_UNREADABLE})(?s:.*))",
        rf"(?P<string>{_STRING})",
        r"(?P<open>[\"'](?s:.*))",
        rf"(?P<number>{_NUMBER})",
        r"(?P<word>[\w$]+)",
        r"(?P<end>\n)",
        r"(?P<blank>[^\S\n]+)",
        rf"(?P<sign>{'|'.join(re.escape(sign) for sign in OPERATORS)}|.)",
    ]
    if language in HAS_REGEXES:
        parts.insert(1, r"(?P<regex>/[^\n]*)")
    if language in HAS_PREPROCESSOR:
        parts.insert(0, r"(?P<directive>(?m:^)[ \t]*\#(?:[^\n\\]|\\.|\\\n)*)")
    if language == "rust":
        parts.insert(1, r"(?P<lifetime>'[A-Za-z_]\w*\b(?!'))")
    return re.compile("|".join(parts))


def _tokens(text: str, language: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of each token. Line ends are tokens in LINES, but where they cannot matter."""
    keep_ends = language in LINES
    last = ""
    for match in _lexer(language).finditer(text):
        kind, token = match.lastgroup or "", match[0]
        if kind == "blank":
            continue
        if kind == "end":
            if keep_ends and last not in ("", "\n") and last not in _BEFORE_FREE_END:
                yield "end", "\n"
                last = "\n"
            continue
        if kind in ("comment", "directive"):
            token = "\n".join(line.strip() for line in token.splitlines())
        yield kind, token
        last = token


def _layout(text: str) -> Iterator[tuple[str, str]]:
    """Lines as words between blanks, with the changes of indent.

    A text in which strings cannot be told line by line is compared letter by letter.
    """
    if _has_unclear_strings(text):
        yield "text", text
        return
    depths = [0]
    for line in text.split("\n"):
        stripped = line.strip(" \r")
        width = len(line) - len(line.lstrip(" ")) if stripped else depths[-1]
        while width < depths[-1]:
            yield "dedent", ""
            depths.pop()
        if width > depths[-1]:
            yield "indent", ""
            depths.append(width)
        yield "line", _even_blanks(stripped)


def _even_blanks(line: str) -> str:
    """The line with each run of blanks outside of quotes as one."""
    parts = _STRINGS_OF_LINE.split(line)
    return "".join(part if i % 2 else re.sub(r" +", " ", part) for i, part in enumerate(parts))


def _has_unclear_strings(text: str) -> bool:
    """Whether a string may go over a line end, or quotes do not pair on some line."""
    if _UNCLEAR.search(text):
        return True
    return any(re.search(r"[\"'`]", _STRINGS_OF_LINE.sub("", line)) for line in text.split("\n"))
