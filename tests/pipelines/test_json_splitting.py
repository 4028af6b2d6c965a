"""Pieces of JSON documents: each a document, together the whole, in every layout."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.pipelines.json_layout import lay_out
from dgq.pipelines.json_splitting import join_json, split_json

STYLES = ["indent-2", "indent-4", "compact", "one-line"]
DOCUMENT = {"name": "Lund", "rooms": [1, 2, 3], "guest": {"town": "Oslo", "tags": ["a", "b"]}}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(1.5e300),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


def reformatted(text, style, budget):
    """As a model that makes no mistakes would have it."""
    parts = split_json(text, style, budget, len)
    return parts, join_json(
        parts, [lay_out(part.text, style) if part.ask else part.text for part in parts]
    )


@settings(deadline=None)
@given(values, st.sampled_from(STYLES), st.sampled_from(STYLES), st.integers(1, 60))
def test_the_pieces_make_the_whole_in_every_layout(value, before, style, budget):
    text = lay_out(json.dumps(value, ensure_ascii=False), before)
    parts, joined = reformatted(text, style, budget)
    assert joined == lay_out(text, style)
    for part in parts:
        if part.ask:
            json.loads(part.text)


@pytest.mark.parametrize("style", STYLES)
def test_neighbours_share_a_piece_up_to_the_budget(style):
    parts, _ = reformatted(json.dumps(DOCUMENT), style, 40)
    assert [part.text for part in parts if part.ask] == [
        '{"name": "Lund", "rooms": [1, 2, 3]}',
        '{"town": "Oslo", "tags": ["a", "b"]}',
    ]


def test_a_document_that_fits_is_one_piece():
    parts, joined = reformatted(json.dumps(DOCUMENT), "indent-2", 1_000)
    assert len(parts) == 1
    assert joined == json.dumps(DOCUMENT, indent=2)


def test_what_has_no_border_stays_whole():
    parts, _ = reformatted('"a long text"', "indent-2", 3)
    assert [part.text for part in parts] == ['"a long text"']


def test_deep_nesting_is_followed():
    text = "[" * 90 + "1" + "]" * 90
    assert reformatted(text, "compact", 4)[1] == text
