"""JSON layouts: a document's own tokens, laid out as a style wants them.

Scalars keep their spelling, so a text is in a style exactly if laying it out changes nothing.
"""

import re

TOKEN = re.compile(r'[ \t\r\n]*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+)[ \t\r\n]*', re.DOTALL)
OPENERS, CLOSERS = "{[", "}]"


def lay_out(text: str, style: str) -> str:
    """The document in ``indent-N`` (as ``json.dumps(indent=N)``), ``compact`` or ``one-line``.

    text: a document that parses. Raises ValueError for what has no tokens of JSON.
    """
    tokens = tokens_of(text)
    if style == "compact":
        return "".join(tokens)
    if style == "one-line":
        return "".join({",": ", ", ":": ": "}.get(token, token) for token in tokens)
    return _indented(tokens, int(style.removeprefix("indent-")))


def check_json_layout(text: str, style: str) -> str | None:
    """What is wrong with the layout of a document that parses; None if nothing."""
    try:
        wanted = lay_out(text, style)
    except ValueError as error:
        return str(error)
    if text == wanted:
        return None
    pairs = zip(text.splitlines(), wanted.splitlines(), strict=False)
    row = next((i for i, (one, other) in enumerate(pairs, 1) if one != other), 1)
    return f"line {row} is not laid out as {style}"


def tokens_of(text: str) -> list[str]:
    """The document's tokens, as they are spelled. Raises ValueError."""
    tokens: list[str] = []
    at = 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"no JSON at character {at + 1}")
        tokens.append(match[1])
        at = match.end()
    return tokens


def _indented(tokens: list[str], indent: int) -> str:
    parts: list[str] = []
    depth = 0
    for i, token in enumerate(tokens):
        previous = tokens[i - 1] if i else ""
        if token in CLOSERS and previous in OPENERS and previous:
            depth -= 1
        elif token in CLOSERS:
            depth -= 1
            parts.append("\n" + " " * (indent * depth))
        elif previous and previous in OPENERS:
            parts.append("\n" + " " * (indent * depth))
        parts.append(token)
        if token in OPENERS:
            depth += 1
        elif token == ",":
            parts.append("\n" + " " * (indent * depth))
        elif token == ":":
            parts.append(" ")
    return "".join(parts)
