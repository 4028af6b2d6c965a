from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.pipelines.sentences import sentence_borders, split_paragraph


def words(text):
    return len(text.split())


def sentences(text):
    cuts = [0, *(cut for cut in sentence_borders(text) if cut < len(text)), len(text)]
    return [text[one:other].strip() for one, other in pairwise(cuts)]


@pytest.mark.parametrize(
    "wanted",
    [
        ["It is so.", "Is it?", "Yes!", "Well…", "No."],
        ["Dr. Smith met Mr. J. R. Ewing, e.g. on Monday.", "He paid 3.50 for it."],
        ["He said “Stop.”", "She did not.", "(Nobody did.)", "End"],
        ["It works at 5 p.m. in the U.S. Navy.", "And so on etc. as before."],
        ["See fig. 3 and no. 5.", "Done."],
        ["Then... it stopped.", "I went with I.", "Good."],
        ["Use a.b.c here.", "2 of them."],
        ["これは文です。", "次の文です。"],
    ],
)
def test_sentences(wanted):
    text = "".join(wanted) if "文" in wanted[0] else " ".join(wanted)
    assert sentences(text) == wanted


def test_packing():
    text = "One two. Three four five. Six."
    assert split_paragraph(text, [], 5, words) == ["One two. Three four five. ", "Six."]
    assert split_paragraph(text, [], 2, words) == ["One two. ", "Three four ", "five. ", "Six."]
    assert split_paragraph(text, [], 99, words) == [text]
    clauses = "one two three, four five six; seven eight"
    assert split_paragraph(clauses, [], 4, words) == [
        "one two three, ",
        "four five six; ",
        "seven eight",
    ]


def test_no_cut_goes_through_a_span():
    text = "Use `a. B c d e f g` here. Then go."
    units = split_paragraph(text, [(4, 21)], 2, words)
    assert "`a. B c d e f g` " in units or "`a. B c d e f g` here. " in units
    assert "".join(units) == text


def test_a_text_without_any_border_is_cut_all_the_same():
    units = split_paragraph("x" * 1000, [], 40, len)
    assert max(map(len, units)) <= 40 and "".join(units) == "x" * 1000


@given(st.text(alphabet="aB1 .,!?\n\"')。é", max_size=120), st.integers(1, 20), st.data())
def test_units_join_to_the_text_within_the_budget(text, budget, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 5, len(text))))
    spans = [(start, end)] if end > start else []
    units = split_paragraph(text, spans, budget, len)
    assert "".join(units) == text
    at = 0
    for unit in units:
        assert len(unit) <= budget or (spans and at < end and at + len(unit) > start)
        assert not (spans and start < at < end)
        at += len(unit)
