"""Where everything of one step stands: rows, pages, masks, as index tensors. No policy, no model.

A step is one flat batch of rows: first the rows of all canvases, each canvas as wide as it is, packed
without padding, then the tokens that the encoder reads. Only attention needs to know what
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
from .scheduler import Chunk, Plan
from .segments import StepSegments, sliding_pages, step_segments
from .sliding_pages import first_page_needed

READ_TILE = 32
"""Tokens of a text that attend together, at multiples of it."""

_SCRATCH_ROW = SCRATCH_PAGE * PAGE_TOKENS

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
    """T rows: num_canvas, then num_read of the encoder's, then padding up to LEAST_ROWS.

    read_ids int64 [num_read]. positions int64 [T]: where a row stands in its text. full_kv_rows,
    sliding_kv_rows int64 [T]: where its keys go in the KV pool, in layers of either kind. slots int64 [B]: of the B canvases, in the canvas table. canvas_rows int64
    [num_canvas]: in the table's flattened rows. grid int64 [num_canvas]: the same rows' places in
    [B, canvas_length]. free, pinned int64: which of the canvas rows are free, None for all, and
    which are not. For attention, buckets, or segments where the backend follows pages itself.
    """

    num_read: int
    num_canvas: int
    read_ids: Tensor
    positions: Tensor
    full_kv_rows: Tensor
    sliding_kv_rows: Tensor
    slots: Tensor
    canvas_rows: Tensor
    grid: Tensor
    free: Tensor | None
    pinned: Tensor
    buckets: list[Bucket]
    segments: StepSegments | None

    @property
    def num_rows(self) -> int:
        """T."""
        return len(self.positions)


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


class LayoutBuilder:
    """Lays out steps for one engine; keeps the last one, since most steps hold what the last held."""

    def __init__(
        self,
        sliding_window: int,
        canvas_length: int,
        dtype: torch.dtype,
        device: torch.device,
        follows_pages: bool = False,
    ) -> None:
        """canvas_length: rows of one slot of the canvas table. dtype: of the masks.

        follows_pages: whether attention follows pages itself, so that steps have segments and no
        buckets.
        """
        self._window = sliding_window
        self._canvas_length = canvas_length
        self._dtype = dtype
        self._device = device
        self._follows_pages = follows_pages
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
        full_rows: list[Ints] = []
        sliding_rows: list[Ints] = []
        num_rows = 0
        for generation in plan.canvases:
            rows, pages = np.arange(generation.width), generation.pages
            positions.append(generation.prefix_length + rows)
            full_rows.append(_kv_rows(pages.full_canvas, rows))
            sliding_rows.append(_kv_rows(pages.sliding_canvas, rows))
            if not self._follows_pages:
                tiles.append(self._canvas_tile(generation, num_rows))
            num_rows += generation.width
        num_canvas = num_rows
        for chunk in plan.chunks:
            places, pages = np.arange(chunk.start, chunk.start + len(chunk.ids)), chunk.pages
            positions.append(places)
            own = _kv_rows(pages.full, places)
            own[places < pages.num_found * PAGE_TOKENS] = _SCRATCH_ROW  # others' keys stay
            full_rows.append(own)
            sliding_rows.append(_kv_rows(pages.sliding, places - pages.first_sliding * PAGE_TOKENS))
            if not self._follows_pages:
                tiles += self._text_tiles(chunk, num_rows)
            num_rows += len(chunk.ids)
        pinned = self._pinned(plan)
        padding = max(LEAST_ROWS - num_rows, 0)
        positions.append(np.zeros(padding, np.int64))
        full_rows.append(np.full(padding, _SCRATCH_ROW))
        sliding_rows.append(np.full(padding, _SCRATCH_ROW))
        widths = [generation.width for generation in plan.canvases]
        return StepLayout(
            num_read=num_rows - num_canvas,
            num_canvas=num_canvas,
            read_ids=self._ints([token for chunk in plan.chunks for token in chunk.ids]),
            positions=self._ints(np.concatenate(positions)),
            full_kv_rows=self._ints(np.concatenate(full_rows)),
            sliding_kv_rows=self._ints(np.concatenate(sliding_rows)),
            slots=self._ints(slots),
            canvas_rows=self._ints(_ragged(slots, widths, self._canvas_length)),
            grid=self._ints(_ragged(range(len(widths)), widths, self._canvas_length)),
            free=self._ints((~pinned).nonzero()[0]) if pinned.any() else None,
            pinned=self._ints(pinned.nonzero()[0]),
            buckets=self._buckets(tiles),
            segments=step_segments(plan, self._window) if self._follows_pages else None,
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
