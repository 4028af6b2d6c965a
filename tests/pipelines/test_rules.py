import pytest
from pydantic import ValidationError

from dgq.pipelines.rules import Rule, describe, problem


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Rule(), ["x", "Łódź", "a\nb"], ["", "a\x00", "\ufffd"]),
        (Rule(max_length=3), ["abc"], ["abcd"]),
        (Rule(type="enum", values=("yes", "no")), ["yes"], ["Yes", "maybe"]),
        (Rule(type="regex", pattern="[A-Z]{2}\\d+"), ["AB12"], ["AB12 ", "xAB12"]),
        (Rule(type="number"), ["1", "-2.5", "1,234.50", "1e9"], ["1,23", "one", "1.", "٣"]),
        (Rule(type="integer"), ["12", "1,000"], ["1.0", "1000,0"]),
        (Rule(type="date"), ["2025-02-28"], ["2025-02-30", "28 Feb 2025"]),
        (Rule(type="date", format="%d %B %Y"), ["3 May 2025"], ["2025-05-03"]),
    ],
)
def test_values(rule, good, bad):
    assert [problem(rule, value) for value in good] == [None] * len(good)
    assert all(problem(rule, value) for value in bad)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "enum"},
        {"type": "enum", "values": []},
        {"type": "enum", "values": [" a"]},
        {"type": "regex", "pattern": "("},
        {"type": "text", "pattern": "a"},
        {"type": "date", "format": "%Q"},
        {"type": "date", "format": "day"},
        {"max_length": 0},
        {"max_length": "5"},
        {"kind": "text"},
    ],
)
def test_senseless_rules_are_refused(fields):
    with pytest.raises(ValidationError):
        Rule.model_validate(fields)


def test_numbers_among_enum_values_are_their_spelling():
    assert Rule.model_validate({"type": "enum", "values": [1, 2.5, "x"]}).values == (
        "1",
        "2.5",
        "x",
    )


def test_descriptions():
    assert describe(Rule()) == ""
    assert describe(Rule(type="enum", values=("a", "b"))) == "One of: a, b."
    assert describe(Rule(type="integer", max_length=4)) == "A whole number. At most 4 characters."
    assert describe(Rule(type="date", format="%d.%m.%Y")) == "A date as 31.12.2025."
