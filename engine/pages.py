"""Who owns which page of the KV pool, and which pages hold beginnings that texts share. No tensors.

A page holds the keys and values of PAGE_TOKENS consecutive tokens of a text. A page whose tokens all
come from a prompt is found again by the page before it and its own tokens, so that requests that
begin alike share one encoding: the method of prefix caching in vLLM, with the chain of pages itself
in place of hashes. A page stays while somebody holds it. What nobody holds is kept until its room is
needed, the longest unused first: as whoever holds a page holds all before it, and gives the last back
first, no page goes before those that follow it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import EngineError

PAGE_TOKENS = 16
"""Tokens of one page; canvas widths are multiples of it too."""

SCRATCH_PAGE = 0
"""A page that nobody owns: padding is written there and read from there, masked."""

_ROOT = -1

_Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Holding:
    """pages: in the order of the text. num_shared: how many of the first ones others read before."""

    pages: list[int]
    num_shared: int


class PagePool:
    """Hands out pages, each to one holder or, where texts begin alike, to several."""

    def __init__(self, num_pages: int, share: bool = True) -> None:
        """num_pages: of the KV pool, the scratch page included. share: whether prefixes are."""
        self.num_pages = num_pages
        self._share = share
        self.clear()

    def clear(self) -> None:
        """Forget all pages and what they hold."""
        self._free = list(range(self.num_pages - 1, SCRATCH_PAGE, -1))
        self._holders = [0] * self.num_pages
        self._index: dict[_Key, int] = {}
        self._keys: dict[int, _Key] = {}
        self._unheld: OrderedDict[int, None] = OrderedDict()  # shared pages, longest unused first

    @property
    def num_available(self) -> int:
        """Pages that nobody holds."""
        return len(self._free) + len(self._unheld)

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
            self._hold(page)
        if num_pages - len(shared) > self.num_available:
            self._drop(shared)
            return None
        pages = shared + [self._take() for _ in range(num_pages - len(shared))]
        if self._share:
            self._publish(full, pages, len(shared))
        return Holding(pages, len(shared))

    def release(self, pages: Sequence[int]) -> None:
        """Give pages back; shared ones stay as long as there is room."""
        self._drop(pages)

    def undo(self, holding: Holding) -> None:
        """Give back what was just acquired: nobody has read it, so nobody may find it."""
        for page in holding.pages[holding.num_shared :]:
            self._unpublish(page)
        self._drop(holding.pages)

    def check(self, held: Sequence[Sequence[int]]) -> None:
        """Raise EngineError unless these holdings and the unheld pages are all pages, once each."""
        used = {page for pages in held for page in pages}
        holders = sum(map(len, held))
        free = set(self._free) | set(self._unheld)
        if (
            used & free
            or holders != sum(self._holders)
            or any(count < 0 for count in self._holders)
        ):
            raise EngineError("page accounting is off: a page is free and held")
        if (
            len(self._free) + len(self._unheld) + sum(map(bool, self._holders))
            != self.num_pages - 1
        ):
            raise EngineError("page accounting is off: pages got lost")

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
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._unheld.popitem(last=False)
            self._unpublish(page)
        self._holders[page] = 1
        return page

    def _hold(self, page: int) -> None:
        self._holders[page] += 1
        self._unheld.pop(page, None)

    def _drop(self, pages: Sequence[int]) -> None:
        for page in reversed(pages):  # the last page of a chain is the first to go
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if page in self._keys:
                    self._unheld[page] = None
                else:
                    self._free.append(page)
