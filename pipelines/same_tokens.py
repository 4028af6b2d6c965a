r"""Are two texts of some language the same tokens? Safe rather than clever.

The answer may be "different" for texts that a compiler would read alike, and must never be "the
same" for texts that it would not.

- FREE: languages in which line ends are blanks (C, Java, Rust, ...).
- LINES: languages in which a line end may end a statement (JavaScript, Go, ...).
- INDENTED: languages in which the blanks before and after a line mean nothing. The lines, the
  nesting of their indents and the blanks inside them are compared.
- Every other language is compared letter by letter: blanks may mean anything there.
"""

import re
from collections.abc import Iterator
from functools import cache

FREE = {"c", "c++", "cpp", "java", "c#", "csharp", "rust"}
LINES = {"javascript", "js", "typescript", "ts", "go", "kotlin", "dart"}
INDENTED = {"bash", "sh", "shell", "zsh", "sql", "css", "scss", "less", "lua", "toml", "hcl"}
HAS_PREPROCESSOR = {"c", "c++", "cpp", "c#", "csharp"}
HAS_REGEXES = {"javascript", "js", "typescript", "ts"}

_OPERATOR_LIST = (
    ">>>= ... === !== >>> <<= >>= **= ??= &&= ||= <=> ->* ..= ..< &^= => == != <= >= && || ++ -- "
    "+= -= *= /= %= &= |= ^= << >> ** ?? ?. ?: :: := .. -> <- .* &^ !! ...? ?.. ~/= ~/ <!-- "
    "<: :> <% %> %:"
)
OPERATORS = sorted(_OPERATOR_LIST.split(), key=len, reverse=True)
_STRING = r'\w*(?:"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')\w*'
_NUMBER = r"\.?\d(?:[eEpP][+-]|\.\.=|[\w.])*"
_UNREADABLE = (
    r'"""|\'\'\'|`|<<<|[\w$@#]*[@$#R]"|[bc]?r"|\d\w*\''  # strings of other kinds
    r'|"(?:[^"\\\n]|\\.)*\$\{|\'(?:[^\'\\\n]|\\.)*\$\{'  # code inside strings
    r"|/\*(?:(?!\*/)(?s:.))*?/\*|//[^\n]*\\\n|(?m:^)[ \t]*\#[^\n]*/\*"  # comments that go on
    r"|[ \t]*(?!\r?\n)[^ -~\t\n\w]"  # letters' accents and line ends that are no line feeds
)
"""What this lexer cannot read: from there on, texts are compared letter by letter."""

_STRINGS_OF_LINE = re.compile(r"(\"[^\"]*\"|'[^']*'|`[^`]*`)")
_UNCLEAR = re.compile(r'"""|\'\'\'|<<|\$\w*\$|\[=*\[|\\$|\\["\'`]|\t', re.MULTILINE)
_BEFORE_FREE_END = ("{", "[", "(", ",", ";")


def difference_of_tokens(one: str, other: str, language: str) -> str | None:
    """ "other tokens" (or so) if the texts may be different programs; None if they are the same."""
    one, other = one.strip("\n").rstrip(), other.strip("\n").rstrip()
    if one == other:
        return None
    if language in FREE or language in LINES:
        has_markup = language in HAS_REGEXES and "</" in one  # JSX: text between tags
        same = not has_markup and list(_tokens(one, language)) == list(_tokens(other, language))
    elif language in INDENTED and not (_has_unclear_strings(one) or _has_unclear_strings(other)):
        same = list(_layout(one)) == list(_layout(other))
    else:
        same = False
    return None if same else "other tokens"


@cache
def _lexer(language: str) -> re.Pattern[str]:
    parts = [
        rf"(?P<rest>(?:{_UNREADABLE})(?s:.*))",
        r"(?P<comment>//[^\n]*|/\*(?s:.*?)\*/)",
        rf"(?P<string>{_STRING})",
        r"(?P<open>(?:[\"'\\]|/\*)(?s:.*))",
        rf"(?P<number>{_NUMBER})",
        r"(?P<pair>as\?|!i[ns]\b)",
        r"(?P<word>[\w$@#]+)",
        r"(?P<end>\n)",
        r"(?P<blank>[ \t]+|\r(?=\n))",
        rf"(?P<sign>{'|'.join(re.escape(sign) for sign in OPERATORS)}|[!-~])",
    ]
    if language in HAS_REGEXES:  # a division reads like one: the line as it stands
        parts.insert(2, r"(?P<regex>/(?![^\n]*(?:`|/\*|\\\n))[^\n]*)|(?P<far>/(?s:.*))")
    if language in HAS_PREPROCESSOR:
        parts.insert(1, r"(?P<directive>(?m:^)[ \t]*\#(?:[^\n\\]|\\.|\\\n)*)")
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
        if kind == "comment":
            token = "\n".join(line.strip(" \t\r") for line in token.split("\n"))
        if kind == "directive":
            token = token.strip(" \t\r")
        yield kind, token
        last = token


def _layout(text: str) -> Iterator[tuple[str, str]]:
    """Lines without the blanks around them, with the changes of indent."""
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
        yield "line", stripped


def _has_unclear_strings(text: str) -> bool:
    """Whether a string may go over a line end, or quotes do not pair on some line."""
    if _UNCLEAR.search(text):
        return True
    return any(re.search(r"[\"'`]", _STRINGS_OF_LINE.sub("", line)) for line in text.split("\n"))
