"""From parsed JSON to a job, or to one plain sentence that says what is wrong with it."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from .errors import JobError
from .job import KINDS, Job

MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """line_bytes: the longest input line. text_chars: the longest text inside a job."""

    line_bytes: int = 8 * 2**20
    text_chars: int = 1_000_000


DEFAULT_LIMITS = Limits()


def parse_job(data: object, limits: Limits = DEFAULT_LIMITS) -> Job:
    """The job that an object of JSON values describes. Raises JobError for any other object."""
    if not isinstance(data, dict):
        raise JobError(f"a job must be an object, not {_kind_of(data)}")
    _check_values(data, limits)
    if "kind" not in data:
        raise JobError(f"the field 'kind' is missing; it is one of {_known()}", "kind")
    kind = data["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise JobError(f"unknown kind {_shown(kind)}; it is one of {_known()}{_near(kind)}", "kind")
    try:
        return KINDS[kind].model_validate(data)
    except ValidationError as error:
        raise _plain(error, KINDS[kind].model_fields) from error


def _known() -> str:
    return ", ".join(KINDS)


def _near(word: object, choices: Iterable[str] = KINDS) -> str:
    if not isinstance(word, str):
        return ""
    near = difflib.get_close_matches(word[:50].lower(), list(choices), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "…")
    return _kind_of(value)


def _kind_of(value: object) -> str:
    for types, name in (
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "a text"),
        (dict, "an object"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, types):
            return name
    return "null" if value is None else type(value).__name__


def _check_values(data: dict[str, Any], limits: Limits) -> None:
    """Depth, lengths, and what JSON can spell but no text or number can hold."""
    pending: list[tuple[str, object, int]] = [("", data, 0)]
    while pending:
        path, value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise JobError(f"nested deeper than {MAX_DEPTH} levels", path.split(".")[0] or None)
        if isinstance(value, dict):
            for key, inner in value.items():
                inside = f"{path}.{key}" if path else str(key)
                _check_text(str(key), path or None, limits)
                pending.append((inside, inner, depth + 1))
        elif isinstance(value, (list, tuple)):
            pending.extend((path, inner, depth + 1) for inner in value)
        elif isinstance(value, str):
            _check_text(value, path, limits)
        elif isinstance(value, float) and not math.isfinite(value):
            raise JobError(f"'{path}' holds a number that is too large", path)


def _check_text(text: str, path: str | None, limits: Limits) -> None:
    where = f"'{path}'" if path else "a field's name"
    if len(text) > limits.text_chars:
        raise JobError(
            f"{where} has {len(text):,} characters; at most {limits.text_chars:,} are allowed", path
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise JobError(f"{where} holds half a character (\\u{code:04x} alone)", path) from error


def _plain(error: ValidationError, fields: Iterable[str]) -> JobError:
    """The first thing that pydantic found wrong, as a sentence."""
    errors = error.errors(include_url=False)
    field_errors = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    first = max(field_errors, key=lambda each: len(each["loc"]))  # of a union, the branch meant
    names = [str(part) for part in first["loc"] if not _is_tag(part)]
    field = ".".join(names) or None
    kind, given = first["type"], first["input"]
    context: dict[str, Any] = first.get("ctx", {})
    if kind == "missing":
        return JobError(f"the field '{field}' is missing", field)
    if kind == "extra_forbidden":
        near = _near(names[-1], fields) if len(names) == 1 else ""
        return JobError(f"unknown field '{field}'{near}", field)
    if kind == "value_error":
        message = str(context.get("error", first["msg"]))
        return JobError(f"'{field}': {message}" if field else message, field)
    wanted = _wanted(kind, context)
    if wanted is None:
        return JobError(f"'{field}': {first['msg'][:300]}", field)
    got = f", not {_kind_of(given)}" if kind.endswith(("_type", "_parsing")) else ""
    if kind == "literal_error":
        got = f", not {_shown(given)}"
    return JobError(f"'{field}' must be {wanted}{got}", field)


def _is_tag(part: int | str) -> bool:
    """Whether a part of pydantic's path names a branch of a union and no field."""
    return isinstance(part, str) and (part in ("str", "[key]") or "[" in part)


def _wanted(kind: str, context: dict[str, Any]) -> str | None:
    least, most = context.get("min_length"), context.get("max_length")
    return {
        "string_type": "a text",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "int_parsing_size": "a smaller whole number",
        "bool_type": "true or false",
        "dict_type": "an object",
        "model_type": "an object",
        "model_attributes_type": "an object",
        "list_type": "a list",
        "tuple_type": "a list",
        "string_too_short": "at least one character long" if least == 1 else f"{least} or longer",
        "string_too_long": f"at most {most} characters long",
        "literal_error": f"one of {context.get('expected')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than_equal": f"at most {context.get('le')}",
        "less_than": f"below {context.get('lt')}",
    }.get(kind)
