"""Pages of both kinds of one text and of several: windows, beginnings that are shared, and room. No torch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import EngineError
from dgq.engine.kv_pages import KVPages, PageCounts
from dgq.engine.sliding_pages import READ_ROOM_PAGES, first_page_needed, steady_pages
from dgq.kernels.page import PAGE_TOKENS

WIDTH = 32


def pages_of(num_bookable=1000, window=64, num_full=1000, **options):
    return KVPages(PageCounts(1 + num_full, 1 + READ_ROOM_PAGES + num_bookable), window, **options)


def text(letters, rest=0):
    """A prompt of one page for each letter, every letter a content of its own, and a rest."""
    return [ord(letter) for letter in letters for _ in range(PAGE_TOKENS)] + [7] * rest


def admit(pages, letters, rest=0, more=0):
    prompt = text(letters, rest)
    return pages.admit(prompt, len(prompt) + more, WIDTH)


def read(pages, text_pages, length, num_pages=4):
    """Read on up to a length, a few pages a step."""
    while text_pages.num_read < length:
        pages.let_go(text_pages)
        step = num_pages * PAGE_TOKENS - text_pages.num_read % PAGE_TOKENS
        step = min(step, length - text_pages.num_read, pages.num_readable(text_pages))
        assert step > 0
        pages.read(text_pages, step)
    pages.let_go(text_pages)


def read_whole(pages, letters, rest=0):
    """Admit a text, read what nobody has read, and give all back; how much was found."""
    admitted = admit(pages, letters, rest)
    found = pages.begin(admitted)
    read(pages, admitted, len(letters) * PAGE_TOKENS + rest)
    pages.release(admitted)
    pages.check([])
    return found // PAGE_TOKENS


def pages_found(pages, letters):
    """Pages of full layers that hold a text."""
    holding = pages.full.acquire(text(letters), len(letters))
    assert holding.num_shared == len(letters)
    pages.full.release(holding.pages)
    return holding.pages


@given(st.integers(0, 3000), st.sampled_from([1, 2, 15, 16, 17, 18, 33, 512, 1024]))
def test_a_text_looks_back_on_no_more_than_the_steady_pages(length, window):
    first, end = first_page_needed(length, window), -(-length // PAGE_TOKENS)
    assert end - first <= steady_pages(window)
    for position in (length, length + 1):  # what it or the row after it sees
        assert first * PAGE_TOKENS <= max(position - window + 1, 0)


@pytest.mark.parametrize(
    ("window", "pages"), [(1, 1), (2, 1), (17, 2), (18, 2), (19, 3), (1024, 65)]
)
def test_the_steady_pages_are_needed_at_some_length(window, pages):
    assert steady_pages(window) == pages
    assert pages == max(
        -(-length // PAGE_TOKENS) - first_page_needed(length, window) for length in range(1, 3000)
    )


def test_a_long_text_holds_its_window_and_nothing_else():
    pages = pages_of(window=64)
    admitted = admit(pages, "a" * 50, more=100)
    assert admitted.num_booked == 5 + 2
    pages.begin(admitted)
    most = 0
    for length in range(1, 900):
        read(pages, admitted, length, num_pages=1)
        assert admitted.first_sliding == max(length - 63, 0) // PAGE_TOKENS
        assert admitted.end_sliding == -(-length // PAGE_TOKENS)
        pages.check([admitted])
        most = max(most, len(admitted.sliding))
    assert most == 5
    pages.release(admitted)
    pages.check([])
    assert pages.sliding.num_booked == 0


def test_a_text_shorter_than_the_window_books_what_it_is():
    pages = pages_of(window=1024)
    assert admit(pages, "abc", rest=1).num_booked == 4 + 2


def test_what_short_texts_share_is_booked_once():
    """Six pages in common, one of its own and two for the canvas of each: 9 + 3 * 3, where one that
    is admitted needs room for its 9 for a moment.
    """
    pages = pages_of(num_bookable=15 + 9, window=1024)
    texts = []
    for _ in range(4):
        one = admit(pages, "abcdef", rest=5)
        assert pages.begin(one) == (96 if texts else 0)
        read(pages, one, 101)
        texts.append(one)
        pages.check(texts)
    assert pages.sliding.num_booked == 18
    assert admit(pages, "abcdef", rest=5) is None
    for one in list(texts):  # the first first: those that stay go on to pay for what they keep
        texts.remove(one)
        pages.release(one)
        pages.check(texts)
    assert pages.sliding.num_booked == 0


def test_what_long_texts_share_for_a_while_is_booked_by_each():
    pages = pages_of(num_bookable=15, window=64)
    first = admit(pages, "abcdefghij")
    assert first.num_booked == 7
    pages.begin(first)
    read(pages, first, 64)
    second = admit(pages, "abcdefghij")
    assert pages.begin(second) == 64
    assert pages.sliding.num_booked == 14
    assert admit(pages, "abcdefghij") is None
    for one in (first, second):
        read(pages, one, 160)
    pages.check([first, second])


def test_one_steps_reading_has_room_when_all_is_booked():
    pages = pages_of(num_bookable=14, window=64)
    texts = [admit(pages, letter * 40) for letter in "ab"]
    for one in texts:
        pages.begin(one)
        read(pages, one, 600)
    assert [len(one.sliding) for one in texts] == [5, 5]
    assert pages.sliding.num_booked == 14
    assert pages.num_readable(texts[0]) == READ_ROOM_PAGES * PAGE_TOKENS + 8


def test_a_beginning_is_shared_as_far_as_both_kinds_have_it():
    pages = pages_of(window=64)
    first = admit(pages, "abcdefgh")
    pages.begin(first)
    read(pages, first, 5 * PAGE_TOKENS)
    other = admit(pages, "abcdefgh")  # the first would have to be read to its end before this one
    assert other.num_found == 8
    assert pages.begin(other) == 5 * PAGE_TOKENS
    assert other.first_sliding == first.first_sliding == 1
    assert other.sliding == first.sliding


def test_the_longest_beginning_whose_window_exists_is_taken():
    pages = pages_of(window=33)  # the last 32 tokens: two pages
    assert read_whole(pages, "abcdefgh") == 0
    full = pages_found(pages, "abcdefgh")
    for missing, longest in ((7, 7), (5, 5), (4, 4), (2, 2), (0, 0)):
        pages.sliding.forget(full[missing])
        other = admit(pages, "abcdefgh", rest=3)
        assert other.num_found == 8
        assert pages.begin(other) == longest * PAGE_TOKENS
        assert len(other.sliding) == min(longest, 2)
        pages.release(other)


def test_what_is_read_again_for_sliding_layers_is_found_by_the_next():
    pages = pages_of(window=33)
    read_whole(pages, "abcdef")
    for page in pages_found(pages, "abcdef"):
        pages.sliding.forget(page)
    assert read_whole(pages, "abcdef") == 0
    assert read_whole(pages, "abcdef") == 6


def test_a_page_that_full_layers_have_given_away_is_not_found():
    pages = pages_of(window=1024, num_full=12)
    read_whole(pages, "abcdef")
    read_whole(pages, "uvwxyz")
    one = admit(pages, "abcdef")
    assert one.num_found < 6
    assert pages.begin(one) == one.num_found * PAGE_TOKENS


@pytest.mark.parametrize("num_bookable", [2 * 7, 2 * 7 + 20, 1000])
def test_an_instruction_is_shared_by_long_texts_in_turn(num_bookable):
    """Four pages of instruction and forty of each text's own, in little room and in much: pages that
    only one text has looked at go first.
    """
    pages = pages_of(num_bookable, window=64)
    found = [read_whole(pages, "abcd" + letter * 40) for letter in "qrstuvwxyz"]
    assert found == [0] + [4] * 9


def test_undo_leaves_nothing_behind():
    pages = pages_of(window=64)
    read_whole(pages, "ab")
    undone = admit(pages, "abcd")
    pages.undo(undone)
    pages.check([])
    assert pages.sliding.num_booked == 0
    assert admit(pages, "abcd").num_found == 2


def test_without_sharing_nothing_is_found():
    pages = pages_of(window=64, share=False)
    assert [read_whole(pages, "abcd") for _ in range(2)] == [0, 0]


@pytest.mark.parametrize(
    "lose",
    [
        lambda pages, text_pages: text_pages.sliding.pop(),
        lambda pages, text_pages: text_pages.sliding_canvas.append(text_pages.sliding_canvas[0]),
        lambda pages, text_pages: text_pages.full.pop(),
        lambda pages, text_pages: setattr(pages.sliding, "num_booked", 3),
        lambda pages, text_pages: setattr(text_pages, "num_booked", 6),
    ],
)
def test_check_finds_what_is_not_accounted_for(lose):
    pages = pages_of(window=64)
    admitted = admit(pages, "abcdefgh")
    pages.begin(admitted)
    read(pages, admitted, 128)
    pages.check([admitted])
    lose(pages, admitted)
    with pytest.raises(EngineError, match="page accounting is off"):
        pages.check([admitted])


def test_a_text_that_holds_more_than_it_booked_is_found():
    pages = pages_of(window=64)
    admitted = admit(pages, "abcdefgh")
    pages.begin(admitted)
    pages.read(admitted, 121)
    pages.check([admitted])  # what one step reads comes on top
    admitted.num_booked -= 1
    pages.sliding.num_booked -= 1
    with pytest.raises(EngineError, match="more than it booked"):
        pages.check([admitted])


@pytest.mark.parametrize(
    ("max_sliding_tokens", "sliding"), [(None, 256), (100_000, 256), (2000, 125), (1, 81)]
)
def test_sizes_of_the_pools(max_sliding_tokens, sliding):
    config = EngineConfig(max_kv_tokens=4096, max_sliding_tokens=max_sliding_tokens)
    counts = PageCounts.of(config, sliding_window=1024, canvas_length=256)
    assert counts == PageCounts(256 + 1, sliding + READ_ROOM_PAGES + 1)
