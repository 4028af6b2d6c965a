"""Where everything of one step stands: rows, pages, masks, as index tensors. No policy, no model.

A step is one flat batch of rows: first the tokens that the encoder reads, then the rows of all
canvases, each canvas as wide as it is, packed without padding. Only attention needs to know what
belongs together. It works on *tiles*: all rows of a canvas, or the encoder's rows of one READ_TILE
of a text; each tile sees a range of its text's pages and, for a canvas, the canvas's own. Tiles of
like shape are attended together as one padded batch.

A tile's shape follows from its own request alone (a canvas's width and prefix; a place in a text),
never from what else is in the step. As each row's result depends on the shapes that it is computed
in and on nothing else of the batch, a request gets the same numbers in any company, to the bit.
For the same reason a forward has at least LEAST_ROWS rows: below, matrix products take other paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .canvas import Generation
from .feedforward import LEAST_ROWS
from .pages import PAGE_TOKENS, SCRATCH_PAGE
from .scheduler import Plan

READ_TILE = 32
"""Tokens of a text that attend together, at multiples of it."""

Ints = NDArray[np.int64]

_Place = tuple[int, int, int, int, int]
"""A canvas: its slot, its generation's place (three numbers), and the length of its prefix."""


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
class StepLayout:
    """T rows: num_read of the encoder's, then num_canvas, then padding up to LEAST_ROWS.

    read_ids int64 [num_read]. positions, kv_rows int64 [T]: where a row stands in its text, and in
    the KV pool. slots int64 [B]: of the B canvases, in the canvas table. canvas_rows int64
    [num_canvas]: in the table's flattened rows. grid int64 [num_canvas]: the same rows' places in
    [B, canvas_length]. free, pinned int64: which of the canvas rows are free, None for all, and
    which are not. buckets: for attention.
    """

    num_read: int
    num_canvas: int
    read_ids: Tensor
    positions: Tensor
    kv_rows: Tensor
    slots: Tensor
    canvas_rows: Tensor
    grid: Tensor
    free: Tensor | None
    pinned: Tensor
    buckets: list[Bucket]

    @property
    def num_rows(self) -> int:
        """T."""
        return len(self.positions)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows [first_row, first_row + num_rows) of the step, standing from row ``offset`` of a tile on.

    position: of the tile's row 0 in its text. width: of a canvas; 0 for a tile of a text.
    pages, first_page: what it sees of its text, and the number of the first of those pages.
    """

    first_row: int
    num_rows: int
    offset: int
    position: int
    width: int
    full: tuple[int, list[int]]
    sliding: tuple[int, list[int]]
    canvas_pages: list[int]

    @property
    def shape(self) -> tuple[bool, int, int, int]:
        """Is a canvas; rows; pages seen in full layers and in sliding ones, all rounded up."""
        rows = _round_up_width(self.width) if self.width else READ_TILE
        num_canvas = len(self.canvas_pages)
        return (
            self.width > 0,
            rows,
            _round_up_pages(len(self.full[1]) + num_canvas),
            _round_up_pages(len(self.sliding[1]) + num_canvas),
        )


class LayoutBuilder:
    """Lays out steps for one engine; keeps the last one, since most steps hold what the last held."""

    def __init__(
        self, sliding_window: int, canvas_length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """canvas_length: rows of one slot of the canvas table. dtype: of the masks."""
        self._window = sliding_window
        self._canvas_length = canvas_length
        self._dtype = dtype
        self._device = device
        self._last: tuple[list[_Place], StepLayout] | None = None

    def build(self, plan: Plan, slots: Sequence[int]) -> StepLayout:
        """slots: of the plan's canvases, in the canvas table, in order."""
        state = [
            (slot, *g.place, g.prefix_length) for slot, g in zip(slots, plan.canvases, strict=True)
        ]
        if self._last and not plan.chunks and self._last[0] == state:
            return self._last[1]
        layout = self._lay_out(plan, slots)
        self._last = None if plan.chunks else (state, layout)
        return layout

    def _lay_out(self, plan: Plan, slots: Sequence[int]) -> StepLayout:
        tiles: list[_Tile] = []
        positions: list[Ints] = []
        kv_rows: list[Ints] = []
        num_rows = 0
        for chunk in plan.chunks:
            places = np.arange(chunk.start, chunk.start + len(chunk.ids))
            positions.append(places)
            kv_rows.append(_kv_rows(chunk.pages, places))
            tiles += self._text_tiles(chunk.start, len(chunk.ids), chunk.pages, num_rows)
            num_rows += len(chunk.ids)
        num_read = num_rows
        for generation in plan.canvases:
            rows = np.arange(generation.width)
            positions.append(generation.prefix_length + rows)
            kv_rows.append(_kv_rows(generation.canvas_pages, rows))
            tiles.append(self._canvas_tile(generation, num_rows))
            num_rows += generation.width
        pinned = self._pinned(plan)
        padding = max(LEAST_ROWS - num_rows, 0)
        positions.append(np.zeros(padding, np.int64))
        kv_rows.append(np.full(padding, SCRATCH_PAGE * PAGE_TOKENS))
        widths = [generation.width for generation in plan.canvases]
        return StepLayout(
            num_read=num_read,
            num_canvas=num_rows - num_read,
            read_ids=self._ints([token for chunk in plan.chunks for token in chunk.ids]),
            positions=self._ints(np.concatenate(positions)),
            kv_rows=self._ints(np.concatenate(kv_rows)),
            slots=self._ints(slots),
            canvas_rows=self._ints(_ragged(slots, widths, self._canvas_length)),
            grid=self._ints(_ragged(range(len(widths)), widths, self._canvas_length)),
            free=self._ints((~pinned).nonzero()[0]) if pinned.any() else None,
            pinned=self._ints(pinned.nonzero()[0]),
            buckets=self._buckets(tiles),
        )

    def _pinned(self, plan: Plan) -> NDArray[np.bool_]:
        """Which canvas rows are held at a token."""
        pinned = np.zeros(plan.num_canvas_rows, np.bool_)
        start = 0
        for generation in plan.canvases:
            if pins := generation.pinned():
                pinned[[start + row for row, _ in pins]] = True
            start += generation.width
        return pinned

    def _text_tiles(self, start: int, length: int, pages: list[int], first_row: int) -> list[_Tile]:
        """The tiles of tokens [start, start + length) of a text."""
        tiles = []
        for position in range(start // READ_TILE * READ_TILE, start + length, READ_TILE):
            begin, end = max(position, start), min(position + READ_TILE, start + length)
            last = -(-end // PAGE_TOKENS)
            first = max(position - self._window + 1, 0) // PAGE_TOKENS
            tiles.append(
                _Tile(
                    first_row=first_row + begin - start,
                    num_rows=end - begin,
                    offset=begin - position,
                    position=position,
                    width=0,
                    full=(0, pages[:last]),
                    sliding=(first, pages[first:last]),
                    canvas_pages=[],
                )
            )
        return tiles

    def _canvas_tile(self, generation: Generation, first_row: int) -> _Tile:
        length = generation.prefix_length
        last = -(-length // PAGE_TOKENS)
        first = max(length - self._window + 1, 0) // PAGE_TOKENS
        width = generation.width
        return _Tile(
            first_row=first_row,
            num_rows=width,
            offset=0,
            position=length,
            width=width,
            full=(0, generation.pages[:last]),
            sliding=(first, generation.pages[first:last]),
            canvas_pages=generation.canvas_pages[: width // PAGE_TOKENS],
        )

    def _buckets(self, tiles: list[_Tile]) -> list[Bucket]:
        by_shape: dict[tuple[bool, int, int, int], list[_Tile]] = {}
        for tile in tiles:
            by_shape.setdefault(tile.shape, []).append(tile)
        return [self._bucket(shape, members) for shape, members in by_shape.items()]

    def _bucket(self, shape: tuple[bool, int, int, int], tiles: list[_Tile]) -> Bucket:
        is_canvas, num_rows, num_full, num_sliding = shape
        first = _column([tile.first_row - tile.offset for tile in tiles])
        begin = _column([tile.offset for tile in tiles])
        end = begin + _column([tile.num_rows for tile in tiles])
        columns = np.arange(num_rows)
        valid = (begin <= columns) & (columns < end)
        rows = np.where(valid, first + columns, 0)
        mask = self._canvas_mask if is_canvas else self._text_mask
        full = mask(tiles, [tile.full for tile in tiles], num_full, None)
        sliding = full
        if (
            any(tile.full != tile.sliding for tile in tiles)
            or num_full * PAGE_TOKENS > self._window
        ):
            sliding = mask(tiles, [tile.sliding for tile in tiles], num_sliding, self._window)
        return Bucket(
            num_tiles=len(tiles),
            rows=self._ints(rows.reshape(-1)),
            valid=None if valid.all() else self._ints(valid.reshape(-1).nonzero()[0]),
            full=full,
            sliding=sliding,
        )

    def _canvas_mask(
        self,
        tiles: list[_Tile],
        seen: list[tuple[int, list[int]]],
        num_pages: int,
        window: int | None,
    ) -> KeyRange:
        """All rows of a canvas see the same: its text (the last window - 1 tokens), and itself."""
        length = _column([tile.position for tile in tiles])
        first = _column([first for first, _ in seen]) * PAGE_TOKENS
        num_text = _column([len(pages) for _, pages in seen]) * PAGE_TOKENS
        num_canvas = _column([tile.width for tile in tiles])
        keys = np.arange(num_pages * PAGE_TOKENS)
        in_text = (keys < num_text) & (first + keys < length)
        if window is not None:
            in_text &= first + keys > length - window
        in_canvas = (keys >= num_text) & (keys < num_text + num_canvas)
        pages = [pages + tile.canvas_pages for tile, (_, pages) in zip(tiles, seen, strict=True)]
        return self._key_range(pages, num_pages, (in_text | in_canvas)[:, None, None])

    def _text_mask(
        self,
        tiles: list[_Tile],
        seen: list[tuple[int, list[int]]],
        num_pages: int,
        window: int | None,
    ) -> KeyRange:
        """Each row of a text sees itself and what comes before it, in a window or all."""
        queries = _column([tile.position for tile in tiles]) + np.arange(READ_TILE)
        keys = _column([first for first, _ in seen]) * PAGE_TOKENS + np.arange(
            num_pages * PAGE_TOKENS
        )
        mask = keys[:, None, :] <= queries[:, :, None]
        if window is not None:
            mask &= keys[:, None, :] > queries[:, :, None] - window
        return self._key_range([pages for _, pages in seen], num_pages, mask[:, None])

    def _key_range(
        self, pages: list[list[int]], num_pages: int, seen: NDArray[np.bool_]
    ) -> KeyRange:
        padded = [own + [SCRATCH_PAGE] * (num_pages - len(own)) for own in pages]
        mask = torch.zeros(seen.shape, dtype=self._dtype)
        mask.masked_fill_(torch.from_numpy(~seen), -torch.inf)
        return KeyRange(self._ints(padded).flatten(), mask.to(self._device))

    def _ints(self, values: Sequence[int] | Sequence[Sequence[int]] | Ints) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.int64)).to(self._device)


def _round_up_width(width: int) -> int:
    """Rows of a canvas's tile: few shapes, so that many canvases share one."""
    multiple = 16 if width <= 64 else 64
    return -(-width // multiple) * multiple


def _round_up_pages(num_pages: int) -> int:
    multiple = 4 if num_pages <= 16 else 16
    return -(-num_pages // multiple) * multiple


def _kv_rows(pages: Sequence[int], places: Ints) -> Ints:
    """Rows of the KV pool for places of a text."""
    owned = np.asarray(pages, np.int64)
    return owned[places // PAGE_TOKENS] * PAGE_TOKENS + places % PAGE_TOKENS


def _ragged(firsts: Sequence[int], widths: Sequence[int], stride: int) -> Ints:
    """first * stride + 0, 1, .. width - 1 for each first and width, in one row."""
    if not widths:
        return np.zeros(0, np.int64)
    return np.concatenate(
        [first * stride + np.arange(width) for first, width in zip(firsts, widths, strict=True)]
    )


def _column(values: Sequence[int]) -> Ints:
    return np.asarray(values, np.int64)[:, None]
