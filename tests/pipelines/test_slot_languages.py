import pytest

from dgq.pipelines.job import FillJob
from dgq.pipelines.slot_languages import prefix_test


def prefix_test_of(rule, record=None):
    job = FillJob(
        id="1", template="{{a}}", record=record, instructions={"a": "x"}, slots={"a": rule}
    )
    return prefix_test(job, "a")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (
            {"type": "regex", "pattern": r"[A-Z]{2}-\d+"},
            ["", "A", "AB", "AB-", "AB-1"],
            ["a", "ABC"],
        ),
        ({"type": "regex", "pattern": r"(a|b)\1."}, ["a", "aa", "aac"], ["c", "ab"]),
        ({"type": "number"}, ["-", "1", "1,", "1,234", "1.5", "2e-"], ["x", "1.5.", "1,2x"]),
        ({"type": "integer"}, ["+", "12"], ["1.", "a"]),
        ({"type": "date", "format": "%d %B %Y"}, ["0", "03 M", "03 May 20"], ["May", "03-", "003"]),
        ({"type": "date", "format": "%c"}, ["anything"], []),
        ({"max_length": 3}, ["abc"], ["abcd", " a", "a\x00"]),
    ],
)
def test_prefixes_of_values(rule, good, bad):
    may_begin = prefix_test_of(rule)
    assert [text for text in good if not may_begin(text)] == []
    assert [text for text in bad if may_begin(text)] == []


def test_a_grounded_value_begins_where_a_word_of_the_record_does():
    job = FillJob(id="1", template="{{a}}", record={"x": "Anna  Berg", "n": 129.5})
    may_begin = prefix_test(job, "a")
    for text in ("", "An", "Anna ", "Anna Be", "Berg", "129.", "x"):
        assert may_begin(text), text
    for text in ("nna", "Annb", "29", "Anna Berg "):
        assert not may_begin(text), text
