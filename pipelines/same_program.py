"""Is it the same program? Python by syntax tree, JSON by value, other languages by tokens."""

import ast
import json
import re
import tokenize
import warnings
from decimal import Decimal, InvalidOperation
from typing import Any

from .errors import JobError
from .python_layout import read_tokens
from .same_tokens import difference_of_tokens

_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)
_LAYOUT_TOKENS = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
_FOR_THE_SYSTEM = re.compile(r"#!|#.*?coding[:=]")


def check_parses(code: str, language: str) -> None:
    """Raise JobError, saying where, for Python or JSON that does not parse."""
    try:
        if language == "python":
            parse_python(code)
            read_tokens(code)
        elif language == "json":
            _load_json(code)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise JobError(f"the code is not JSON: {error.msg} at {where}", "code") from None
    except SyntaxError as error:
        at = "" if error.lineno is None else f" at line {error.lineno}, column {error.offset or 1}"
        raise JobError(f"the code is not Python: {error.msg}{at}", "code") from None
    except ValueError as error:
        raise JobError(f"the code cannot be read: {error}", "code") from None
    except (RecursionError, MemoryError):
        raise JobError("the code is nested too deeply", "code") from None


def difference(one: str, other: str, language: str) -> str | None:
    """What makes the second program another one than the first, in words; None if nothing does.

    one: parses. Comments belong to the program: their texts, order and places must be the same.
    """
    if language == "python":
        return _python_difference(one, other)
    if language == "json":
        return _json_difference(one, other)
    return difference_of_tokens(one, other, language)


def parse_python(code: str) -> ast.Module:
    """The syntax tree; raises what ast.parse raises, and never warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)


def _python_difference(one: str, other: str) -> str | None:
    try:
        same = same_tree(parse_python(one), parse_python(other))
    except _PARSE_ERRORS as error:
        return f"does not parse: {error}"
    if not same:
        return "another syntax tree"
    try:
        return None if _comments(one) == _comments(other) else "other comments"
    except SyntaxError as error:
        return f"does not parse: {error}"


def same_tree(one: ast.AST, other: ast.AST) -> bool:
    """Whether two trees are equal, positions aside, as ``ast.dump`` would show; any depth."""
    pending: list[tuple[Any, Any]] = [(one, other)]
    while pending:
        left, right = pending.pop()
        if type(left) is not type(right):
            return False
        if isinstance(left, ast.AST):
            if left._fields != right._fields:
                return False
            for name in left._fields:
                pending.append((getattr(left, name, None), getattr(right, name, None)))
        elif isinstance(left, list):
            if len(left) != len(right):
                return False
            pending.extend(zip(left, right, strict=True))
        elif left != right or (isinstance(left, float | complex) and repr(left) != repr(right)):
            return False
    return True


def _comments(code: str) -> list[tuple[str, int, bool, int]]:
    """Each comment and its place: how many words and strings stand before it, whether it has its
    line to itself, and for one that means something to the system in that row alone, the row.
    """
    comments: list[tuple[str, int, bool, int]] = []
    words = last_row = 0
    after_string = False
    for token in read_tokens(code):
        row, name = token.start[0], tokenize.tok_name[token.type]
        if token.type == tokenize.COMMENT:
            system_row = row if row <= 2 and _FOR_THE_SYSTEM.match(token.string) else 0
            comments.append((token.string.rstrip(), words, row != last_row, system_row))
        elif token.type not in _LAYOUT_TOKENS:
            begins_string = name == "STRING" or name.endswith("STRING_START")
            words += name in ("NAME", "NUMBER") or (begins_string and not after_string)
            after_string = name == "STRING" or name.endswith("STRING_END")
            last_row = token.end[0]
    return comments


def _json_difference(one: str, other: str) -> str | None:
    try:
        theirs = _load_json(other)
    except (ValueError, RecursionError) as error:
        return f"does not parse: {error}"
    try:
        return None if _load_json(one) == theirs else "another value"
    except RecursionError:
        return "nested too deeply to compare"


def _load_json(text: str) -> object:
    """The value, in a form in which equal means the same document.

    Objects keep order and repeated keys; an integer is no float; numbers are exact.
    """
    return json.loads(
        text,
        object_pairs_hook=lambda pairs: ("object", tuple(pairs)),
        parse_int=lambda spelled: ("integer", spelled),
        parse_float=_exact,
        parse_constant=_no_constant,
    )


def _exact(spelled: str) -> object:
    try:
        number = Decimal(spelled)
    except InvalidOperation:  # an exponent of more than eighteen digits
        return "float", spelled
    return "float", number, number.is_signed()


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")
