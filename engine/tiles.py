"""A step's rows cut into tiles that attend together: for the torch backend of attention.

A tile is all rows of a canvas, or the encoder's rows of one READ_TILE of a text. It sees a range of
its text's pages and, if it is of a canvas, the canvas's own. Tiles of like shape are a *bucket*,
attended as one padded batch with masks.

A tile's shape follows from its own request alone (a canvas's width and prefix; a place in a text),
never from what else is in the step. As each row's result depends on the shapes that it is computed
in and on nothing else of the batch, a request gets the same numbers in any company, to the bit. So a
tile may reach over pages before its chunk that its text has let go of; what no row sees, is masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgq.kernels.page import PAGE_TOKENS

from .canvas import Generation
from .pages import SCRATCH_PAGE
from .scheduler import Chunk, Plan
from .segments import sliding_pages
from .sliding_pages import first_page_needed

READ_TILE = 32
"""Tokens of a text that attend together, at multiples of it."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KeyRange:
    """What a bucket's tiles see: pages int64 [B * N], and mask fp [B, 1, R or 1, N * PAGE_TOKENS].

    The mask is 0 where a key is seen and -inf where it is not.
    """

    pages: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Bucket:
    """B tiles of R rows each. rows int64 [B * R]: which rows of the step, padding being row 0.

    valid: places among B * R that are no padding; None where all are. full, sliding: the keys of
    the two kinds of layers.
    """

    num_tiles: int
    rows: Tensor
    valid: Tensor | None
    full: KeyRange
    sliding: KeyRange


@dataclass(frozen=True, slots=True)
class _Seen:
    """Pages that a tile sees in layers of one kind: of its text, from number ``first`` on, and of its
    canvas.
    """

    first: int
    text: list[int]
    canvas: list[int]

    @property
    def range(self) -> tuple[int, int]:
        """What part of the text it is."""
        return self.first, len(self.text)

    @property
    def num_pages(self) -> int:
        """Rounded up, so that many tiles share one number."""
        return _round_up_pages(len(self.text) + len(self.canvas))


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows [first_row, first_row + num_rows) of the step, standing from row ``offset`` of a tile on.

    position: of the tile's row 0 in its text. width: of a canvas; 0 for a tile of a text.
    """

    first_row: int
    num_rows: int
    offset: int
    position: int
    width: int
    full: _Seen
    sliding: _Seen

    @property
    def shape(self) -> tuple[bool, int, int, int]:
        """Is a canvas; rows; pages seen in full layers and in sliding ones, all rounded up."""
        rows = _round_up_width(self.width) if self.width else READ_TILE
        return self.width > 0, rows, self.full.num_pages, self.sliding.num_pages


class TileBuilder:
    """Cuts steps for one engine."""

    def __init__(self, sliding_window: int, dtype: torch.dtype, device: torch.device) -> None:
        """dtype: of the masks."""
        self._window = sliding_window
        self._dtype = dtype
        self._device = device

    def buckets(self, plan: Plan) -> list[Bucket]:
        """Of all rows of a step: the canvases', then those that are read."""
        tiles: list[_Tile] = []
        num_rows = 0
        for generation in plan.canvases:
            tiles.append(self._canvas_tile(generation, num_rows))
            num_rows += generation.width
        for chunk in plan.chunks:
            tiles += self._text_tiles(chunk, num_rows)
            num_rows += len(chunk.ids)
        by_shape: dict[tuple[bool, int, int, int], list[_Tile]] = {}
        for tile in tiles:
            by_shape.setdefault(tile.shape, []).append(tile)
        return [self._bucket(shape, members) for shape, members in by_shape.items()]

    def _text_tiles(self, chunk: Chunk, first_row: int) -> list[_Tile]:
        """The tiles of the tokens of a chunk."""
        tiles = []
        start, stop = chunk.start, chunk.start + len(chunk.ids)
        for position in range(start // READ_TILE * READ_TILE, stop, READ_TILE):
            begin, end = max(position, start), min(position + READ_TILE, stop)
            last = -(-end // PAGE_TOKENS)
            # From where a tile begins: the number of pages, rounded up, is then that of whole tiles.
            first = max(position - self._window + 1, 0) // READ_TILE * (READ_TILE // PAGE_TOKENS)
            tiles.append(
                _Tile(
                    first_row=first_row + begin - start,
                    num_rows=end - begin,
                    offset=begin - position,
                    position=position,
                    width=0,
                    full=_Seen(0, chunk.pages.full[:last], []),
                    sliding=_Seen(first, sliding_pages(chunk.pages, first, last), []),
                )
            )
        return tiles

    def _canvas_tile(self, generation: Generation, first_row: int) -> _Tile:
        length, width, pages = generation.prefix_length, generation.width, generation.pages
        last, num_canvas = -(-length // PAGE_TOKENS), width // PAGE_TOKENS
        first = first_page_needed(length, self._window)
        return _Tile(
            first_row=first_row,
            num_rows=width,
            offset=0,
            position=length,
            width=width,
            full=_Seen(0, pages.full[:last], pages.full_canvas[:num_canvas]),
            sliding=_Seen(
                first, sliding_pages(pages, first, last), pages.sliding_canvas[:num_canvas]
            ),
        )

    def _bucket(self, shape: tuple[bool, int, int, int], tiles: list[_Tile]) -> Bucket:
        is_canvas, num_rows, num_full, num_sliding = shape
        first = _column([tile.first_row - tile.offset for tile in tiles])
        begin = _column([tile.offset for tile in tiles])
        end = begin + _column([tile.num_rows for tile in tiles])
        columns = np.arange(num_rows)
        valid = (begin <= columns) & (columns < end)
        rows = np.where(valid, first + columns, 0)
        mask = self._canvas_mask if is_canvas else self._text_mask
        full_seen, sliding_seen = [tile.full for tile in tiles], [tile.sliding for tile in tiles]
        full_mask = sliding_mask = mask(tiles, full_seen, num_full, None)
        if (
            any(tile.full.range != tile.sliding.range for tile in tiles)
            or num_full * PAGE_TOKENS > self._window
        ):
            sliding_mask = mask(tiles, sliding_seen, num_sliding, self._window)
        return Bucket(
            num_tiles=len(tiles),
            rows=self._ints(rows.reshape(-1)),
            valid=None if valid.all() else self._ints(valid.reshape(-1).nonzero()[0]),
            full=KeyRange(self._pages(full_seen, num_full), full_mask),
            sliding=KeyRange(self._pages(sliding_seen, num_sliding), sliding_mask),
        )

    def _canvas_mask(
        self, tiles: list[_Tile], seen: list[_Seen], num_pages: int, window: int | None
    ) -> Tensor:
        """All rows of a canvas see the same: its text (the last window - 1 tokens), and itself."""
        length = _column([tile.position for tile in tiles])
        first = _column([own.first for own in seen]) * PAGE_TOKENS
        num_text = _column([len(own.text) for own in seen]) * PAGE_TOKENS
        num_canvas = _column([tile.width for tile in tiles])
        keys = np.arange(num_pages * PAGE_TOKENS)
        in_text = (keys < num_text) & (first + keys < length)
        if window is not None:
            in_text &= first + keys > length - window
        in_canvas = (keys >= num_text) & (keys < num_text + num_canvas)
        return self._mask((in_text | in_canvas)[:, None, None])

    def _text_mask(
        self, tiles: list[_Tile], seen: list[_Seen], num_pages: int, window: int | None
    ) -> Tensor:
        """Each row of a text sees itself and what comes before it, in a window or all."""
        queries = _column([tile.position for tile in tiles]) + np.arange(READ_TILE)
        first = _column([own.first for own in seen]) * PAGE_TOKENS
        keys = first + np.arange(num_pages * PAGE_TOKENS)
        mask = keys[:, None, :] <= queries[:, :, None]
        if window is not None:
            mask &= keys[:, None, :] > queries[:, :, None] - window
        return self._mask(mask[:, None])

    def _mask(self, seen: NDArray[np.bool_]) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=self._dtype)
        mask.masked_fill_(torch.from_numpy(~seen), -torch.inf)
        return mask.to(self._device)

    def _pages(self, seen: list[_Seen], num_pages: int) -> Tensor:
        padded = [
            own.text + own.canvas + [SCRATCH_PAGE] * (num_pages - len(own.text) - len(own.canvas))
            for own in seen
        ]
        return self._ints(padded).flatten()

    def _ints(self, values: Sequence[int] | Sequence[Sequence[int]] | Ints) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.int64)).to(self._device)


def _round_up_width(width: int) -> int:
    """Rows of a canvas's tile: few shapes, so that many canvases share one."""
    multiple = 16 if width <= 64 else 64
    return -(-width // multiple) * multiple


def _round_up_pages(num_pages: int) -> int:
    multiple = 4 if num_pages <= 16 else 16
    return -(-num_pages // multiple) * multiple


def _column(values: Sequence[int]) -> Ints:
    return np.asarray(values, np.int64)[:, None]
