"""The pages of texts in flight, for both kinds of layers. No tensors.

Full layers see all of a text: it takes all the pages that it may come to need as it is admitted
(pages.py). Sliding layers see a window: it takes and lets go as it is read (sliding_pages.py).

A beginning can be shared as far as both kinds have it: full layers all of it, sliding layers the last
window - 1 tokens of it. What the full layers have beyond that is read again for the sliding layers'
sake; its keys and values in full layers, which others may be looking at, stay as they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dgq.kernels.page import PAGE_TOKENS

from .engine_config import EngineConfig
from .errors import EngineError
from .pages import Holding, PagePool
from .sliding_pages import READ_ROOM_PAGES, SlidingPool, first_page_needed, steady_pages


@dataclass(frozen=True, slots=True)
class PageCounts:
    """Pages of the KV pool, for each kind of layers; a scratch page in each is included."""

    full: int
    sliding: int

    @classmethod
    def of(cls, config: EngineConfig, sliding_window: int, canvas_length: int) -> "PageCounts":
        """What an engine allocates; see EngineConfig. canvas_length: of the widest canvas."""
        full = sliding = config.max_kv_tokens // PAGE_TOKENS
        if config.max_sliding_tokens is not None:
            of_a_text = steady_pages(sliding_window) + canvas_length // PAGE_TOKENS
            sliding = min(full, max(config.max_sliding_tokens // PAGE_TOKENS, of_a_text))
        return cls(full + 1, sliding + READ_ROOM_PAGES + 1)


@dataclass(slots=True, eq=False)
class TextPages:
    """What one text in flight holds; empty while it waits.

    full, sliding: pages of the text; token i is in full[i // PAGE_TOKENS] and, while it is needed, in
        sliding[i // PAGE_TOKENS - first_sliding]. full_canvas, sliding_canvas: of its canvas.
    num_found: of the first pages in full, how many another text reads or has read. num_public: how
        many others may find.
    num_read: tokens; whether is_begun: from then on it holds pages in sliding.
    num_booked, first_kept: see sliding_pages.py; the pages from there on are kept.
    """

    full: list[int] = field(default_factory=list)
    full_canvas: list[int] = field(default_factory=list)
    sliding: list[int] = field(default_factory=list)
    sliding_canvas: list[int] = field(default_factory=list)
    first_sliding: int = 0
    num_found: int = 0
    num_public: int = 0
    num_read: int = 0
    is_begun: bool = False
    num_booked: int = 0
    first_kept: int = 0

    @property
    def end_sliding(self) -> int:
        """Number of the first page that is not held yet."""
        return self.first_sliding + len(self.sliding)


class KVPages:
    """Hands out pages of both kinds."""

    def __init__(self, counts: PageCounts, sliding_window: int, share: bool = True) -> None:
        """share: whether texts that begin alike share pages."""
        self._window = sliding_window
        self._share = share
        self.full = PagePool(counts.full, share)
        self.sliding = SlidingPool(counts.sliding)

    def clear(self) -> None:
        """Forget all pages and what they hold."""
        self.full.clear()
        self.sliding.clear()

    def admit(self, token_ids: Sequence[int], max_tokens: int, width: int) -> TextPages | None:
        """Pages for a text that begins with token_ids and may grow to max_tokens, and its canvas.

        None: no room. The first pages may be shared from now on, so texts must be read in the order
        of their admission.
        """
        num_text, num_canvas = -(-max_tokens // PAGE_TOKENS), width // PAGE_TOKENS
        num_booked = min(num_text, steady_pages(self._window)) + num_canvas
        if not self.sliding.has_room(num_booked):
            return None
        holding = self.full.acquire(token_ids, num_text + num_canvas)
        if holding is None:
            return None
        for page in holding.pages[holding.num_shared :]:
            self.sliding.forget(page)
        self.sliding.num_booked += num_booked
        return TextPages(
            full=holding.pages[:num_text],
            full_canvas=holding.pages[num_text:],
            sliding_canvas=[self.sliding.take(keep=True) for _ in range(num_canvas)],
            num_found=holding.num_shared,
            num_public=len(token_ids) // PAGE_TOKENS if self._share else 0,
            num_booked=num_booked,
            first_kept=first_page_needed(max_tokens, self._window),
        )

    def undo(self, text: TextPages) -> None:
        """Give back what was just admitted: nobody has read it, so nobody may find it."""
        self._release_sliding(text)
        self.full.undo(Holding(text.full + text.full_canvas, text.num_found))

    def release(self, text: TextPages) -> None:
        """Give all pages back; shared ones stay as long as there is room."""
        self._release_sliding(text)
        self.full.release(text.full + text.full_canvas)

    def begin(self, text: TextPages) -> int:
        """Find what others have read of a text; all before it must be read. Gives its tokens."""
        found = [self.sliding.find(page) for page in text.full[: text.num_found]]
        num_shared = num_in_a_row = 0
        for number, page in enumerate(found, start=1):
            num_in_a_row = 0 if page is None else num_in_a_row + 1
            if num_in_a_row >= number - self._first_needed(number * PAGE_TOKENS):
                num_shared = number
        text.is_begun = True
        text.num_read = num_shared * PAGE_TOKENS
        text.first_sliding = self._first_needed(text.num_read)
        for page in found[text.first_sliding : num_shared]:
            if page is not None:
                self.sliding.hold(page, keep=text.end_sliding >= text.first_kept)
                text.sliding.append(page)
        return text.num_read

    def num_readable(self, text: TextPages) -> int:
        """Tokens that there is room to read in this step; up to a page's end."""
        num_pages = text.end_sliding + self.sliding.num_available
        return num_pages * PAGE_TOKENS - text.num_read

    def read(self, text: TextPages, num_tokens: int) -> None:
        """Take pages for what is read in this step, at most num_readable."""
        text.num_read += num_tokens
        for number in range(text.end_sliding, -(-text.num_read // PAGE_TOKENS)):
            page = self.sliding.take(keep=number >= text.first_kept)
            if number < text.num_public:
                self.sliding.publish(page, text.full[number])
            text.sliding.append(page)

    def let_go(self, text: TextPages) -> None:
        """Give back what nothing that is still to come of this text sees."""
        num_past = self._first_needed(text.num_read) - text.first_sliding
        if num_past > 0:
            for page in text.sliding[:num_past]:
                self.sliding.drop(page, keep=False, is_past=True)
            del text.sliding[:num_past]
            text.first_sliding += num_past

    def check(self, texts: Iterable[TextPages]) -> None:
        """Raise EngineError unless these texts hold what is held, and no more than they booked."""
        texts = list(texts)
        self.full.check([text.full + text.full_canvas for text in texts])
        self.sliding.check([text.sliding + text.sliding_canvas for text in texts])
        kept = [_kept(text) for text in texts]
        num_booked = len(set().union(*kept)) + sum(
            text.num_booked - len(own) for text, own in zip(texts, kept, strict=True)
        )
        booked = self.sliding.num_booked
        if not num_booked == booked <= self.sliding.num_bookable:
            raise EngineError(f"page accounting is off: {booked} booked, and not {num_booked}")
        for text in texts:
            at_rest = text.end_sliding - max(text.first_sliding, self._first_needed(text.num_read))
            if at_rest + len(text.sliding_canvas) > text.num_booked:
                raise EngineError("page accounting is off: a text holds more than it booked")

    def _first_needed(self, num_tokens: int) -> int:
        return first_page_needed(num_tokens, self._window)

    def _release_sliding(self, text: TextPages) -> None:
        is_past = text.first_sliding > 0
        numbered = list(enumerate(text.sliding, text.first_sliding))
        for number, page in numbered if is_past else reversed(numbered):  # the last is to go first
            self.sliding.drop(page, number >= text.first_kept, is_past)
        for page in text.sliding_canvas:
            self.sliding.drop(page, keep=True)
        self.sliding.num_booked -= text.num_booked


def _kept(text: TextPages) -> set[int]:
    return {*text.sliding[max(text.first_kept - text.first_sliding, 0) :], *text.sliding_canvas}
