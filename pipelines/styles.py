"""The styles that reformat knows by name: the words that the model is given, and the check.

Any other style is passed to the model as it stands and its layout is not checked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .json_layout import check_json_layout
from .python_layout import check_python_layout

Checker = Callable[[str], str | None]

LANGUAGES = {"py": "python", "python3": "python"}
DEFAULTS = {"python": "pep8", "json": "indent-2"}


@dataclass(frozen=True, slots=True)
class Style:
    """words: as the model is told. check: what is wrong with a text, or None; None = unchecked.

    indent: blanks of one level of Python, where the style says. json_layout: the layout of JSON by
    its name in json_layout.py, where it is one of those.
    """

    words: str
    check: Checker | None = None
    indent: int | None = None
    json_layout: str | None = None


def _python(words: str, indent: int, *, double_quotes: bool = False) -> Style:
    check = partial(check_python_layout, indent=indent, double_quotes=double_quotes)
    return Style(words, check, indent)


def _json(words: str, name: str) -> Style:
    return Style(words, partial(check_json_layout, style=name), json_layout=name)


KNOWN: dict[str, dict[str, Style]] = {
    "python": {
        "pep8": _python("4-space indent, spaced operators", 4),
        "black": _python("4-space indent, spaced operators, double quotes", 4, double_quotes=True),
        "two-space": _python("2-space indent, spaced operators", 2),
    },
    "json": {
        "indent-2": _json("indent 2", "indent-2"),
        "indent-4": _json("indent 4", "indent-4"),
        "compact": _json("compact", "compact"),
        "one-line": _json("one line", "one-line"),
    },
}


def language_of(name: str) -> str:
    """The language's name as everything else uses it: lower case, aliases resolved."""
    lower = name.strip().lower()
    return LANGUAGES.get(lower, lower)


def style_of(language: str, name: str | None) -> Style:
    """The style of that name (or of those words) for a language from ``language_of``."""
    known = KNOWN.get(language, {})
    if name is None:
        name = DEFAULTS.get(language, "the usual style of the language")
    wanted = " ".join(name.split())
    for short, style in known.items():
        if wanted.lower() in (short, style.words):
            return style
    return Style(wanted)
