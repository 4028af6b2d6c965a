import pytest

from dgq.pipelines.errors import JobError
from dgq.pipelines.same_program import check_parses, difference


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x=1", "x = 1"),
        ("if a:\n  b  # c\n", "if a:\n    b # c"),
        ("x = 'a'", 'x = "a"'),
        ("x = (1)", "x = 1"),
        ("f(a,\n  b)", "f(a, b)"),
        ("x = ('a'\n  'b')  # c", "x = 'ab'  # c"),
        ("x = 0x" + "f" * 5000, "x = 0x" + "F" * 5000),
        ("x = " + "+".join("a" * 600), "x = " + " + ".join("a" * 600)),
    ],
)
def test_the_same_python(one, other):
    assert difference(one, other, "python") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = True"),
        ("x = 1", "x = 1.0"),
        ("x = 'a'", "x = b'a'"),
        ("x = 'a'", "x = u'a'"),
        ("x = 1\ny = 2", "x = 1"),
        ("x = 1  # c", "x = 1"),
        ("x = 1  # c", "x = 1  # d"),
        ("x = 1  # c\ny = 2", "x = 1\ny = 2  # c"),
        ("# c\nx = 1", "x = 1  # c"),
        ("x = 1  # c", "x = 1\n# c"),
        ("x = [\n 'a',  # c\n 'b',\n]", "x = [\n 'a',\n 'b',  # c\n]"),
        ("# a\n\n# coding: latin-1\nx = 1", "# a\n# coding: latin-1\nx = 1"),
        ("x = -0.0", "x = 0.0"),
        ("x = 1", "x = (1"),
        ("x = 1", "x = 1\x00"),
        ("x = 1", "("*500),
        ("f(a)", "f(a=a)"),
        ('"""a\n  b"""', '"""a\n    b"""'),
    ],
)  # fmt: skip
def test_other_python(one, other):
    assert difference(one, other, "python") is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":[1,2.50]}', '{\n "a": [1, 2.5]}'),
        ('{"a":1,"a":2}', '{"a": 1, "a": 2}'),
        ('"\\u00e9"', '"é"'),
        ("1e400", "1E+400"),
        ("[1e99999999999999999999]", "[ 1e99999999999999999999 ]"),
        ("[true, null]", "[true,null]"),
    ],
)
def test_the_same_json(one, other):
    assert difference(one, other, "json") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1,"b":2}', '{"b":2,"a":1}'),
        ('{"a":1,"a":2}', '{"a":2}'),
        ("1", "1.0"),
        ("1", "true"),
        ("1", '"1"'),
        ("0.1", "0.10000000000000000001"),
        ("-0.0", "0.0"),
        ("[1]", "[1,]"),
        ("[1]", "[1] [2]"),
        ("[]", "{}"),
        ("[NaN]", "[NaN]"),
        ("[1]", "[" * 100_000),
    ],
)
def test_other_json(one, other):
    assert difference(one, other, "json") is not None


def test_code_that_does_not_parse_is_named_with_its_place():
    for code, language, words in (
        ("x = 1\ny = (\n", "python", "not Python: '(' was never closed at line 2, column 5"),
        ("def f():\nx", "python", "line 2, column"),
        ("x\x00", "python", "null bytes"),
        ('{"a": 1\n,}', "json", "line 2, column 2"),
        ("", "json", "line 1, column 1"),
        ("[NaN]", "json", "NaN"),
        ("[" * 100_000, "json", "nested too deeply"),
    ):
        with pytest.raises(JobError, match=r".") as caught:
            check_parses(code, language)
        assert words in caught.value.message and caught.value.field == "code"
    check_parses("(((", "javascript")
    check_parses("import re\nre.match('\\d', '1')\n", "python")
