import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.pipelines.documents import line_feeds, split_document

DOCUMENT = """\
---
title: x
---
# A *title* here

A paragraph of
two lines. With two sentences.

- item one
- [x] item two
  goes on here
1. first

> quoted words
> go on

```python
# not this
```
    ```
still code
    ```
| table | row |
|---|---|
[id]: https://x.y

<!-- a comment
over lines -->
Hard break here  
next line\\
last. `only_code()` {{slot}}

    indented code

***
End
"""


def words(text):
    return len(text.split())


def asked(text, form="markdown", budget=100, keep_numbers=False):
    segments = split_document(text, form, budget, words, keep_numbers)
    assert "".join(segment.text for segment in segments) == text
    return [segment.text for segment in segments if segment.ask]


def test_what_the_model_sees_of_a_markdown_document():
    assert asked(DOCUMENT) == [
        "A *title* here",
        "A paragraph of\ntwo lines. With two sentences.",
        "item one",
        "item two\n  goes on here",
        "first",
        "quoted words",
        "go on",
        "Hard break here",
        "next line",
        "last. `only_code()` {{slot}}",
        "End",
    ]


def test_plain_text_has_no_markers_but_fences():
    text = "# not a title\n- nor a list\n    deep\n\n```\ncode\n```\nend"
    assert asked(text, "text") == ["# not a title\n- nor a list\n    deep", "end"]


def test_pieces_without_letters_of_their_own_are_kept():
    assert asked("`code` {{x}}\n\n12 34\n\nhttps://a.b\n\nword") == ["word"]
    assert asked("In 2020", keep_numbers=True) == ["In 2020"]


def test_an_open_fence_goes_to_the_end_and_an_open_comment_is_text():
    assert asked("a\n~~~\nb\n```\nc") == ["a"]
    assert asked("a <!-- b\nc") == ["a <!-- b\nc"]
    assert asked("```x``` y") == ["```x``` y"]


@pytest.mark.parametrize(
    "text",
    [
        "```md\n    ```\ncode\n```\n",  # too deep for the end of the outer fence
        "```\n> ```\ncode\n```\n",  # quoted: no end either
        "> ```\n> code\n```\ncode\n```\n",  # the quote ends, and its fence with it
        "    ```\n\n```\ncode\n```\n",  # indented code that looks like a fence
        "- item\n\n  ```\n  code\n  ```\n\n```\ncode\n```\n\n    ```\n\n```\ncode\n```\n",
        "<pre>\ncode\n\ncode\n</pre>\n",
        "<SCRIPT>\n\ncode\n</SCRIPT>\n",
        "- ```\n  code\n  ```\n",
        "+ x\n\n  y\n\n      code\n",  # indented code in an item of a list
        "- x\n  - y\n\n  z\n\n      code\n",
        "  - x\n\n y\n\n    code\n",  # the list is over
        "# Title\n    code\n",
    ],
)
def test_code_is_never_seen(text):
    seen = asked("Words.\n\n" + text + "\nEnd.")
    assert not any("code" in piece for piece in seen) and seen[0] == "Words."


def test_long_paragraphs_are_split_at_sentences():
    text = "One two three. Four five six. Seven eight nine.\n\nTen."
    assert asked(text, budget=6) == ["One two three. Four five six.", "Seven eight nine.", "Ten."]


def test_line_feeds():
    assert line_feeds("a\r\nb\r\n") == ("a\nb\n", True)
    assert line_feeds("a\r\nb\n") == ("a\r\nb\n", False)
    assert line_feeds("a\rb\r\n") == ("a\rb\r\n", False)


LINES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [*DOCUMENT.splitlines(), "", "\t", "> > - a", "1) b", "```", "~~~~ x", "<!--", "-->"]
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(LINES, max_size=12),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.sampled_from(["text", "markdown"]),
    st.integers(1, 30),
    st.booleans(),
)
def test_segments_join_to_any_document(lines, end, form, budget, keep_numbers):
    text = end.join(lines)
    for piece in asked(text, form, budget, keep_numbers):
        assert piece == piece.strip() and piece


@pytest.mark.parametrize("text", ["`" * 30_000, "[" * 30_000, "<!--\n" * 20_000, "{{" * 20_000,
                                  "1" * 30_000, "a@" * 10_000, "<pre>\n" * 20_000, "<code>" * 5_000, "a://" * 8_000,
                                  "http://a" + ")" * 30_000, "    ```\n\n" * 3_000, "x. " * 10_000, "\n" * 30_000,
                                  " " * 30_000 + "x", "- " * 20_000, ">" * 20_000, ("a" + " " * 9000) * 9])  # fmt: skip
def test_strange_texts_take_no_strange_time(text):
    segments = split_document(text, "markdown", 50, words, keep_numbers=True)
    assert "".join(segment.text for segment in segments) == text
