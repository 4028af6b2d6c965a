"""Which texts may begin a slot's value: the rule and the record as a test of prefixes.

A search for the most probable value extends texts token by token and drops those that no value
begins with. Patterns are matched partially by the ``regex`` package, so that any pattern that Python
knows can be tested, without an automaton of our own. A test may be too kind, never too strict: a
whole value is judged by the rule itself.
"""

import re
from collections.abc import Callable
from typing import Any

import regex

from .fill_slots import is_grounded_slot
from .job import FillJob
from .record import may_begin_grounded
from .rules import CONTROL, DEFAULT_DATE, INTEGER, MAX_VALUE, NUMBER, Rule

MATCH_TIMEOUT_S = 0.05
MayBegin = Callable[[str], bool]

_DIRECTIVES = {
    "Y": "[0-9]{4}",
    "j": "[0-9]{1,3}",
    **dict.fromkeys("dmyHIMSUW", "[0-9]{1,2}"),
    **dict.fromkeys("bBaAp", r"\p{L}+"),
    "%": "%",
}


def prefix_test(job: FillJob, slot: str) -> MayBegin:
    """Whether a value of the slot may begin with a text."""
    rule = job.rule(slot)
    limit = min(rule.max_length or MAX_VALUE, MAX_VALUE)
    matches = _partial_match(_pattern_of(rule))
    grounded = is_grounded_slot(job, slot)

    def may_begin(text: str) -> bool:
        return (
            text[:1].strip() == text[:1]
            and len(text) <= limit
            and not CONTROL.search(text)
            and matches(text)
            and (not grounded or may_begin_grounded(text, job.record))
        )

    return may_begin


def _pattern_of(rule: Rule) -> str | None:
    if rule.type == "regex":
        return rule.pattern
    if rule.type == "number":
        return NUMBER.pattern
    if rule.type == "integer":
        return INTEGER.pattern
    if rule.type == "date":
        return _date_pattern(rule.format or DEFAULT_DATE)
    return None


def _date_pattern(form: str) -> str | None:
    """A pattern that every date of the format matches; None for a directive without one."""
    parts = re.split(r"%(.)", form)
    wanted = [_DIRECTIVES.get(name) for name in parts[1::2]]
    if None in wanted:
        return None
    pattern = re.escape(parts[0])
    for directive, literal in zip(wanted, parts[2::2], strict=True):
        pattern += f"{directive}{re.escape(literal)}"
    return pattern


def _partial_match(pattern: str | None) -> MayBegin:
    if pattern is None:
        return lambda text: True
    compiled: Any = regex.compile(pattern)

    def matches(text: str) -> bool:
        try:
            return compiled.fullmatch(text, partial=True, timeout=MATCH_TIMEOUT_S) is not None
        except TimeoutError:
            return True

    return matches
