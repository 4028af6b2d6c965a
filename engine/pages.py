"""Who owns which page of full layers, and which pages hold beginnings that texts share. No tensors.

A page holds the keys and values of PAGE_TOKENS consecutive tokens of a text. A page whose tokens all
come from a prompt is found again by the page before it and its own tokens, so that requests that
begin alike share one encoding: the method of prefix caching in vLLM, with the chain of pages itself
in place of hashes. A page stays while somebody holds it. What nobody holds is kept until its room is
needed, the longest unused first: as whoever holds a page holds all before it, and gives the last back
first, no page goes before those that follow it.

Sliding layers have pages of their own: sliding_pages.py.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from dgq.kernels.page import PAGE_TOKENS

from .errors import EngineError

SCRATCH_PAGE = 0
"""A page that nobody owns: padding is written there and read from there, masked."""

_ROOT = -1

_Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Holding:
    """pages: in the order of the text. num_shared: how many of the first ones others read before."""

    pages: list[int]
    num_shared: int


class PageStore:
    """Pages that are free, held, or kept: held by nobody, and worth finding until room is needed."""

    def __init__(self, num_pages: int) -> None:
        """num_pages: the scratch page included."""
        self.num_pages = num_pages
        self.clear()

    def clear(self) -> None:
        """All pages are free."""
        self._free = list(range(self.num_pages - 1, SCRATCH_PAGE, -1))
        self._holders = [0] * self.num_pages
        self._kept: OrderedDict[int, None] = OrderedDict()  # the next to go in front

    @property
    def num_available(self) -> int:
        """Pages that nobody holds."""
        return len(self._free) + len(self._kept)

    def take(self) -> int:
        """A page for one holder: a free one, or else what was kept the longest."""
        page = self._free.pop() if self._free else self._kept.popitem(last=False)[0]
        self._holders[page] = 1
        return page

    def hold(self, page: int) -> None:
        """One holder more, of a page that is held or kept."""
        self._holders[page] += 1
        self._kept.pop(page, None)

    def drop(self, page: int, keep: bool, next_to_go: bool = False) -> None:
        """One holder less; after the last one the page is kept or free."""
        self._holders[page] -= 1
        if self._holders[page] == 0:
            if keep:
                self._kept[page] = None
                self._kept.move_to_end(page, last=not next_to_go)
            else:
                self._free.append(page)

    def check(self, held: Sequence[Sequence[int]]) -> None:
        """Raise EngineError unless these holdings and what nobody holds are all pages, once each."""
        used = {page for pages in held for page in pages}
        holders = sum(map(len, held))
        available = set(self._free) | set(self._kept)
        if (
            used & available
            or holders != sum(self._holders)
            or any(count < 0 for count in self._holders)
        ):
            raise EngineError("page accounting is off: a page is free and held")
        if self.num_available + sum(map(bool, self._holders)) != self.num_pages - 1:
            raise EngineError("page accounting is off: pages got lost")


class PagePool:
    """Hands out pages, each to one holder or, where texts begin alike, to several."""

    def __init__(self, num_pages: int, share: bool = True) -> None:
        """num_pages: of the KV pool, the scratch page included. share: whether prefixes are."""
        self._store = PageStore(num_pages)
        self._share = share
        self.clear()

    def clear(self) -> None:
        """Forget all pages and what they hold."""
        self._store.clear()
        self._index: dict[_Key, int] = {}
        self._keys: dict[int, _Key] = {}

    @property
    def num_pages(self) -> int:
        """Of the KV pool, the scratch page included."""
        return self._store.num_pages

    @property
    def num_available(self) -> int:
        """Pages that nobody holds."""
        return self._store.num_available

    def acquire(self, prompt_ids: Sequence[int], num_pages: int) -> Holding | None:
        """Pages for a text that begins with prompt_ids and may grow to num_pages; None: no room.

        The full pages of the prompt may from now on be shared: whoever gets them here must read
        their tokens before anybody who acquires them later reads on.
        """
        full = [
            tuple(prompt_ids[start : start + PAGE_TOKENS])
            for start in range(0, len(prompt_ids) - PAGE_TOKENS + 1, PAGE_TOKENS)
        ]
        shared = self._find(full) if self._share else []
        for page in shared:
            self._store.hold(page)
        if num_pages - len(shared) > self.num_available:
            self.release(shared)
            return None
        pages = shared + [self._take() for _ in range(num_pages - len(shared))]
        if self._share:
            self._publish(full, pages, len(shared))
        return Holding(pages, len(shared))

    def release(self, pages: Sequence[int]) -> None:
        """Give pages back; shared ones stay as long as there is room."""
        for page in reversed(pages):  # the last page of a chain is the first to go
            self._store.drop(page, keep=page in self._keys)

    def undo(self, holding: Holding) -> None:
        """Give back what was just acquired: nobody has read it, so nobody may find it."""
        for page in holding.pages[holding.num_shared :]:
            self._unpublish(page)
        self.release(holding.pages)

    def check(self, held: Sequence[Sequence[int]]) -> None:
        """Raise EngineError unless these holdings and what nobody holds are all pages, once each."""
        self._store.check(held)

    def _find(self, full: list[tuple[int, ...]]) -> list[int]:
        pages: list[int] = []
        parent = _ROOT
        for tokens in full:
            page = self._index.get((parent, tokens))
            if page is None:
                break
            pages.append(page)
            parent = page
        return pages

    def _publish(self, full: list[tuple[int, ...]], pages: list[int], num_shared: int) -> None:
        for i in range(num_shared, len(full)):
            parent = pages[i - 1] if i else _ROOT
            self._keys[pages[i]] = parent, full[i]
            self._index[parent, full[i]] = pages[i]

    def _unpublish(self, page: int) -> None:
        key = self._keys.pop(page, None)
        if key is not None:
            del self._index[key]

    def _take(self) -> int:
        page = self._store.take()
        self._unpublish(page)
        return page
