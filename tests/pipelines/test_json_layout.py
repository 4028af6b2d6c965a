import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.pipelines.json_layout import check_json_layout, lay_out

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
STYLES = {
    "indent-2": {"indent": 2},
    "indent-4": {"indent": 4},
    "compact": {"separators": (",", ":")},
    "one-line": {},
}


@given(VALUES, st.sampled_from(list(STYLES)), st.booleans(), st.sampled_from(list(STYLES)))
def test_layout_is_that_of_json_dumps(value, style, ascii_only, other):
    wanted = json.dumps(value, ensure_ascii=ascii_only, **STYLES[style])
    assert lay_out(json.dumps(value, ensure_ascii=ascii_only, **STYLES[other]), style) == wanted
    assert check_json_layout(wanted, style) is None


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ('{"a":1}', "one-line"),
        ('{"a": 1}', "compact"),
        ('{\n    "a": 1\n}', "indent-2"),
        ('{\n  "a": [1, 2]\n}', "indent-2"),
        ("[\n]", "indent-4"),
        ('{"a": 1}\n', "one-line"),
        ('{"a"', "compact-not-json-either"[:7]),
    ],
)
def test_other_layouts_do_not_pass(text, style):
    if text == '{"a"':
        assert check_json_layout('{"a', style) == "no JSON at character 2"
    else:
        assert check_json_layout(text, style) is not None


def test_spelling_is_kept():
    assert lay_out('{ "\\u00e9" : 1.50E+2 , "x, y: {" :[ ] }', "one-line") == (
        '{"\\u00e9": 1.50E+2, "x, y: {": []}'
    )
