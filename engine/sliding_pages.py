"""Pages of sliding layers: a text holds those that it still looks back on. No tensors.

A row at position p of a text, or a canvas behind p tokens, sees the positions from p - window + 1 on.
So a text that has been read up to there needs no page before ``first_page_needed(p)``, and holds at
most ``steady_pages(window)`` at rest, that is between steps.

That nothing in flight ever runs out of room:

- A text is admitted only if it can *book* what it will hold at rest at most, its canvas included,
  and if all bookings together leave READ_ROOM_PAGES of the pool.
- While it is read it takes pages as it needs them, and holds those of one step's reading beside
  those before; what lies before the window it gives back as the next step is planned.
- So before each step the texts hold no more than they have booked, and READ_ROOM_PAGES or more are
  left: the first text that waits to be read can go on. Whoever is read waits for nobody's end, and
  a canvas's pages are held from its admission to its end, so every text comes to its end.

Texts that share pages need fewer than the sum of their needs. A page that a text *keeps*, that is
holds to its end (all of them, if the text is no longer than the window), is booked once for all who
keep it: num_booked is the number of different kept pages and, of each text, what it may hold beside
those that it keeps. Taking a page to keep leaves that sum as it is; finding one that somebody keeps
lowers it by one; giving one up that others still keep raises it by one, and the end of a text lowers
it by all that its kept pages have not taken of its booking. So it rises at an admission only.

A page is found by the page of the full layers that holds the same tokens.
"""

from dgq.kernels.page import PAGE_TOKENS

from .pages import PageStore

READ_ROOM_PAGES = 16
"""Beside what is booked: for what one step reads."""


def first_page_needed(num_tokens: int, window: int) -> int:
    """Number of the first page that whatever follows these tokens of a text may see."""
    return max(num_tokens - window + 1, 0) // PAGE_TOKENS


def steady_pages(window: int) -> int:
    """Pages of a text that one may need to look back on, at most."""
    return -(-(window - 2) // PAGE_TOKENS) + 1


class SlidingPool:
    """Hands out pages one by one, to texts that have booked how many they will hold at rest."""

    def __init__(self, num_pages: int) -> None:
        """num_pages: of the KV pool, the scratch page and READ_ROOM_PAGES included."""
        self._store = PageStore(num_pages)
        self.clear()

    def clear(self) -> None:
        """Forget all pages and what they hold, and all bookings."""
        self._store.clear()
        self._index: dict[int, int] = {}  # pages of full layers -> pages
        self._names: dict[int, int] = {}  # the other way round
        self._found: set[int] = set()  # what a second text has found
        self._keepers = [0] * self._store.num_pages
        self.num_booked = 0

    @property
    def num_pages(self) -> int:
        """Of the KV pool, the scratch page included."""
        return self._store.num_pages

    @property
    def num_available(self) -> int:
        """Pages that nobody holds."""
        return self._store.num_available

    @property
    def num_bookable(self) -> int:
        """Pages that may be booked in all."""
        return self.num_pages - 1 - READ_ROOM_PAGES

    def has_room(self, num_pages: int) -> bool:
        """Whether so many more may be booked."""
        return self.num_booked + num_pages <= self.num_bookable

    def take(self, keep: bool) -> int:
        """A page whose tokens the holder will read in this step; keep: it holds it to its end."""
        page = self._store.take()
        self._unpublish(page)
        self._keepers[page] = int(keep)
        return page

    def publish(self, page: int, full_page: int) -> None:
        """Let a page be found that its holder reads in this step."""
        if full_page not in self._index:
            self._index[full_page] = page
            self._names[page] = full_page

    def find(self, full_page: int) -> int | None:
        """The page with the same tokens, held or not."""
        return self._index.get(full_page)

    def forget(self, full_page: int) -> None:
        """This page of the full layers holds other tokens from now on."""
        page = self._index.get(full_page)
        if page is not None:
            self._unpublish(page)

    def hold(self, page: int, keep: bool) -> None:
        """Hold what was found."""
        self._store.hold(page)
        self._found.add(page)
        if keep:
            self.num_booked -= self._keepers[page] > 0
            self._keepers[page] += 1

    def drop(self, page: int, keep: bool, is_past: bool = False) -> None:
        """Give a page back that was taken or found to keep or not; others may still find it.

        is_past: it belongs to a text longer than the window. Such pages come in great numbers and
        few are looked for again, so they are the next to go, unless one has been found before.
        """
        if keep:
            self._keepers[page] -= 1
            self.num_booked += self._keepers[page] > 0
        self._store.drop(page, page in self._names, is_past and page not in self._found)

    def check(self, held: list[list[int]]) -> None:
        """Raise EngineError unless these holdings and what nobody holds are all pages, once each."""
        self._store.check(held)

    def _unpublish(self, page: int) -> None:
        full_page = self._names.pop(page, None)
        if full_page is not None:
            del self._index[full_page]
            self._found.discard(page)
