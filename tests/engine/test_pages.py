"""Who owns which page: conservation, sharing, eviction. No torch."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dgq.engine.errors import EngineError
from dgq.engine.pages import SCRATCH_PAGE, PagePool
from dgq.kernels.page import PAGE_TOKENS

NUM_PAGES = 13


def text(pages, rest=0):
    """A prompt of one page for each letter, every letter a content of its own, and a rest."""
    return [ord(letter) for letter in pages for _ in range(PAGE_TOKENS)] + [7] * rest


class Pool(RuleBasedStateMachine):
    """A pool beside a plain record of who holds what, and of what was written where."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(NUM_PAGES)
        self.held = []
        self.written = {}
        self.num_texts = 0

    @rule(
        pages=st.text("ab", max_size=5),
        rest=st.integers(0, PAGE_TOKENS - 1),
        more=st.integers(1, 4),
        keep=st.booleans(),
    )
    def acquire(self, pages, rest, more, keep):
        prompt = text(pages, rest)
        num_pages = len(pages) + more
        in_use = {page for holding, _ in self.held for page in holding.pages}
        found = max(
            (
                sum(1 for i in range(len(pages)) if other[: i + 1] == pages[: i + 1])
                for _, other in self.held
            ),
            default=0,
        )
        holding = self.pool.acquire(prompt, num_pages)
        if holding is None:
            assert num_pages > NUM_PAGES - 1 - len(in_use)
            return
        assert len(set(holding.pages)) == num_pages and SCRATCH_PAGE not in holding.pages
        assert found <= holding.num_shared <= len(pages)
        for i, page in enumerate(holding.pages):
            if i < holding.num_shared:  # nobody else has written there since
                assert self.written[page] == pages[: i + 1]
            else:
                assert page not in in_use
        if not keep:
            self.pool.undo(holding)
            return
        self.num_texts += 1
        for i in range(holding.num_shared, num_pages):
            own = f"the end of text {self.num_texts}"
            self.written[holding.pages[i]] = pages[: i + 1] if i < len(pages) else own
        self.held.append((holding, pages))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        holding, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release(holding.pages)

    @rule()
    def clear(self):
        self.pool.clear()
        self.held, self.written = [], {}

    @invariant()
    def every_page_is_accounted_for(self):
        holdings = [holding.pages for holding, _ in self.held]
        self.pool.check(holdings)
        in_use = {page for pages in holdings for page in pages}
        assert self.pool.num_available == NUM_PAGES - 1 - len(in_use)


Pool.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestPool = Pool.TestCase


def shared(pool, pages, num_pages=None):
    """How many pages of a text are found; looks without leaving a trace but the recency."""
    holding = pool.acquire(text(pages), num_pages or len(pages))
    pool.undo(holding)
    return holding.num_shared


def read(pool, pages):
    """Acquire and give back; the pages stay, as nobody needs their room."""
    holding = pool.acquire(text(pages), len(pages))
    pool.release(holding.pages)
    return holding


def test_beginnings_are_found_page_by_page():
    pool = PagePool(20)
    first = pool.acquire(text("abc", rest=5), 5)
    second = pool.acquire(text("abx", rest=3), 5)
    assert (first.num_shared, second.num_shared) == (0, 2)
    assert second.pages[:2] == first.pages[:2]
    assert not set(second.pages[2:]) & set(first.pages)
    assert shared(pool, "bc") == 0  # the same content behind another beginning is another page
    assert shared(pool, "abcabc") == 3


def test_a_part_of_a_page_is_not_shared():
    pool = PagePool(20)
    one = pool.acquire(text("a", rest=PAGE_TOKENS - 1), 2)
    other = pool.acquire(text("a", rest=PAGE_TOKENS - 1), 2)
    assert other.num_shared == 1 and one.pages[1] != other.pages[1]


def test_what_nobody_holds_is_found_again():
    pool = PagePool(20)
    pages = read(pool, "abc").pages
    again = pool.acquire(text("abc"), 3)
    assert (again.num_shared, again.pages) == (3, pages)
    pool.release(again.pages)
    assert pool.num_available == 19


def test_all_of_a_long_unused_text_makes_room_for_another():
    pool = PagePool(7)
    read(pool, "abcdef")
    assert pool.num_available == 6
    other = pool.acquire(text("uvwxyz"), 6)
    assert other is not None and other.num_shared == 0


def test_the_end_of_a_text_goes_before_its_beginning():
    pool = PagePool(5)
    read(pool, "abcd")
    pool.release(pool.acquire([1], 1).pages)
    assert shared(pool, "abcd") == 3
    pool = PagePool(5)
    read(pool, "abcd")
    pool.release(pool.acquire([1], 3).pages)
    assert shared(pool, "abcd") == 1


def test_the_longest_unused_text_goes_first():
    pool = PagePool(9)
    read(pool, "abcd")
    read(pool, "wxyz")
    pool.release(pool.acquire([1], 4).pages)
    assert shared(pool, "wxyz") == 4
    assert shared(pool, "abcd") == 0


def test_use_makes_young():
    pool = PagePool(9)
    read(pool, "abcd")
    read(pool, "wxyz")
    assert read(pool, "abcd").num_shared == 4
    pool.release(pool.acquire([1], 4).pages)
    assert shared(pool, "abcd") == 4


def test_what_is_held_is_never_evicted():
    pool = PagePool(6)
    held = pool.acquire(text("ab"), 2)
    read(pool, "abc")
    assert pool.acquire([1], 4) is None
    assert pool.acquire([1], 3) is not None
    assert not set(held.pages) & set(pool._store._kept)


def test_a_failed_acquire_changes_nothing():
    pool = PagePool(6)
    held = pool.acquire(text("abc"), 3)
    assert pool.acquire(text("abcd"), 7) is None
    pool.check([held.pages])
    assert pool.num_available == 2
    assert shared(pool, "abcd") == 3


def test_what_was_never_read_is_never_found():
    pool = PagePool(9)
    read(pool, "ab")
    pool.undo(pool.acquire(text("abcd"), 5))
    assert shared(pool, "abcd") == 2
    pool.check([])


def test_without_sharing_nothing_is_found_or_kept():
    pool = PagePool(9, share=False)
    first, second = pool.acquire(text("ab"), 2), pool.acquire(text("ab"), 2)
    assert first.num_shared == second.num_shared == 0
    pool.release(first.pages)
    assert shared(pool, "ab") == 0


def test_no_more_pages_than_there_are():
    pool = PagePool(5)
    assert pool.acquire(text("abc"), 5) is None
    assert len(pool.acquire(text("abc"), 4).pages) == 4


@pytest.mark.parametrize("held", [[], [[1, 2]], [[1, 2, 3], [3]]])
def test_check_finds_pages_that_are_not_accounted_for(held):
    pool = PagePool(9)
    pool.acquire(text("ab"), 3)
    with pytest.raises(EngineError, match="page accounting is off"):
        pool.check(held)
