"""Rules for the values of slots: what a value must look like, and whether one does.

Patterns are the caller's and run by ``re`` on values of at most MAX_VALUE characters; a pattern
that backtracks exponentially can still take for ever, as in any program that uses ``re``.
"""

import re
from datetime import date, datetime
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_VALUE = 10_000
DEFAULT_DATE = "%Y-%m-%d"
NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
INTEGER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")
ONLY_FOR = {"values": "enum", "pattern": "regex", "format": "date"}


def _texts(values: object) -> object:
    """Numbers among an enum's values stand for their spelling."""
    if not isinstance(values, (list, tuple)):
        return values
    return tuple(
        str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        for value in values
    )


class Rule(BaseModel):
    """What the value of a slot must be.

    values: for enum, the values allowed, spelled exactly. pattern: for regex, matched whole.
    format: for date, in strptime's words; %Y-%m-%d unless given. max_length: in characters.
    grounded: whether the value must occur in the record; None lets the kind decide. depends_on:
    slots whose values must be known before this one is asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["text", "enum", "regex", "number", "integer", "date"] = "text"
    values: Annotated[tuple[str, ...] | None, BeforeValidator(_texts)] = None
    pattern: Annotated[str, Field(max_length=2000)] | None = None
    format: Annotated[str, Field(max_length=200)] | None = None
    max_length: Annotated[int, Field(ge=1)] | None = None
    grounded: bool | None = None
    depends_on: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, kind in ONLY_FOR.items():
            value = getattr(self, name)
            if value is not None and self.type != kind:
                raise ValueError(f"'{name}' goes with the type '{kind}', not '{self.type}'")
            if not value and self.type == kind and name != "format":
                raise ValueError(f"the type '{kind}' needs '{name}'")
        if self.values is not None and not all(v and v == v.strip() for v in self.values):
            raise ValueError("'values' must not be empty or begin or end with a blank")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"'pattern' is not a regular expression: {error}") from error
        if self.format is not None:
            _check_date_format(self.format)
        return self


def describe(rule: Rule) -> str:
    """The rule in words for the model; empty for a plain text of any length."""
    words = {
        "text": "",
        "enum": f"One of: {', '.join(rule.values or ())}.",
        "regex": f"Matching the pattern {rule.pattern}",
        "number": "A number.",
        "integer": "A whole number.",
        "date": f"A date as {_example(rule.format or DEFAULT_DATE)}.",
    }[rule.type]
    limit = f"At most {rule.max_length} characters." if rule.max_length else ""
    return f"{words} {limit}".strip()


def problem(rule: Rule, value: str) -> str | None:
    """What is wrong with a value by its rule, in words; None for a good one."""
    if not value:
        return "no value"
    if CONTROL.search(value):
        return "a control character"
    limit = min(rule.max_length or MAX_VALUE, MAX_VALUE)
    if len(value) > limit:
        return f"longer than {limit} characters"
    if rule.type == "enum" and value not in (rule.values or ()):
        return "not one of the values allowed"
    if rule.type == "regex" and not re.fullmatch(rule.pattern or "", value):
        return "does not match the pattern"
    if rule.type == "number" and not NUMBER.fullmatch(value):
        return "not a number"
    if rule.type == "integer" and not INTEGER.fullmatch(value):
        return "not a whole number"
    if rule.type == "date" and not _is_date(value, rule.format or DEFAULT_DATE):
        return f"not a date of the form {rule.format or DEFAULT_DATE}"
    return None


def _is_date(value: str, form: str) -> bool:
    try:
        datetime.strptime(value, form)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)
def _example(form: str) -> str:
    return date(2025, 12, 31).strftime(form)


def _check_date_format(form: str) -> None:
    """Raise ValueError for a format that cannot write a date and read it back."""
    try:
        datetime.strptime(datetime(2025, 12, 31).strftime(form), form)
    except (ValueError, re.error) as error:
        raise ValueError(f"'format' is not a date format: {error}") from error
    if "%" not in form.replace("%%", ""):
        raise ValueError("'format' has no % directive, for example %Y-%m-%d")
