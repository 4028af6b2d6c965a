"""Where everything of one step stands: rows, pages, keys, as index tensors. No policy, no model.

A step is one flat batch of rows: first the rows of all canvases, each canvas as wide as it is, packed
without padding, then the tokens that the encoder reads. Only attention needs to know what belongs
together: by *buckets* (tiles.py), or by *segments* (segments.py) if it follows pages itself.

A row's result depends on the shapes that it is computed in and on nothing else of the batch. So a
forward has at least LEAST_ROWS rows: below, matrix products take other paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgq.kernels.page import PAGE_TOKENS

from .feedforward import LEAST_ROWS
from .pages import SCRATCH_PAGE
from .scheduler import Plan
from .segments import StepSegments, step_segments
from .tiles import Bucket, Ints, TileBuilder

_SCRATCH_ROW = SCRATCH_PAGE * PAGE_TOKENS

_Place = tuple[int, int, int, int, int]
"""A canvas: its slot, its generation's place (three numbers), and the length of its prefix."""


@dataclass(frozen=True, slots=True)
class StepLayout:
    """T rows: num_canvas, then num_read of the encoder's, then padding up to LEAST_ROWS.

    read_ids int64 [num_read]. positions int64 [T]: where a row stands in its text. full_kv_rows,
    sliding_kv_rows int64 [T]: where its keys go in the KV pool, in layers of either kind. slots int64
    [B]: of the B canvases, in the canvas table. canvas_rows int64 [num_canvas]: in the table's
    flattened rows. grid int64 [num_canvas]: the same rows' places in [B, canvas_length]. free,
    pinned int64: which of the canvas rows are free, None for all, and which are not. For attention,
    buckets, or segments if it follows pages itself.
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
        self._device = device
        self._follows_pages = follows_pages
        self._tiles = TileBuilder(sliding_window, dtype, device)
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
        positions: list[Ints] = []
        full_rows: list[Ints] = []
        sliding_rows: list[Ints] = []
        num_rows = 0
        for generation in plan.canvases:
            rows, pages = np.arange(generation.width), generation.pages
            positions.append(generation.prefix_length + rows)
            full_rows.append(_kv_rows(pages.full_canvas, rows))
            sliding_rows.append(_kv_rows(pages.sliding_canvas, rows))
            num_rows += generation.width
        num_canvas = num_rows
        for chunk in plan.chunks:
            places, pages = np.arange(chunk.start, chunk.start + len(chunk.ids)), chunk.pages
            positions.append(places)
            own = _kv_rows(pages.full, places)
            own[places < pages.num_found * PAGE_TOKENS] = _SCRATCH_ROW  # others' keys stay
            full_rows.append(own)
            sliding_rows.append(_kv_rows(pages.sliding, places - pages.first_sliding * PAGE_TOKENS))
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
            buckets=[] if self._follows_pages else self._tiles.buckets(plan),
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

    def _ints(self, values: Sequence[int] | Sequence[Sequence[int]] | Ints) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.int64)).to(self._device)


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
