"""All that a static step is told, as one run of numbers that a single copy brings to the device.

A step's shape is rounded up to few sizes. Where each kind of number begins follows from the shape, so
that whatever is captured for a shape finds its inputs in the same place in every step. What pads a step
does no harm: rows after the last segment attend to nothing, go to no expert and leave their keys in the
scratch page; canvases that pad are the table's scratch slot; what the head reads for padding goes
nowhere. Row order: the canvases' rows, then the encoder's, then padding, without gaps, so that segments
are consecutive; which rows are a canvas's is therefore data and not shape.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgq.kernels.page import PAGE_TOKENS
from dgq.kernels.paged_attention import Segments

from .errors import EngineError
from .feedforward import LEAST_ROWS
from .layout import StepLayout
from .pages import SCRATCH_PAGE
from .segments import StepSegments

_COARSE_ROWS = 256
"""Up to here, numbers of rows are rounded up to powers of two; above, to quarters between them."""

Values = Sequence[int] | NDArray[np.integer]

_SCRATCH_ROW = SCRATCH_PAGE * PAGE_TOKENS


def round_up_rows(num_rows: int) -> int:
    """0, or from LEAST_ROWS up. Above _COARSE_ROWS at most a fifth of the result is padding."""
    if num_rows == 0:
        return 0
    power = max(LEAST_ROWS, round_up_power(num_rows))
    quarter = power // 8 if num_rows > _COARSE_ROWS else power
    return -(-num_rows // quarter) * quarter


def round_up_power(count: int) -> int:
    """0, or the next power of two."""
    return 1 << (count - 1).bit_length() if count else 0


@dataclass(frozen=True, slots=True)
class StepShape:
    """Numbers of rows, of rows that hold the canvases', of rows that the head reads, of canvases and of
    segments; all rounded up.

    num_canvases is 0 for a step that only reads, and else always the same, as many as there may be: how
    torch divides sums over a canvas's rows among a GPU's threads, and so how it rounds them, depends on
    how many canvases it is given.
    """

    num_rows: int
    num_canvas_rows: int
    num_head_rows: int
    num_canvases: int
    num_segments: int

    @classmethod
    def of(cls, layout: StepLayout, max_canvases: int) -> "StepShape":
        """The smallest that holds the step. Its segments must be laid out."""
        num_head = layout.num_canvas if layout.free is None else len(layout.free)
        return cls(
            num_rows=round_up_rows(layout.num_canvas + layout.num_read),
            num_canvas_rows=round_up_rows(layout.num_canvas),
            num_head_rows=round_up_rows(num_head),
            num_canvases=max_canvases if len(layout.slots) else 0,
            num_segments=round_up_power(len(_segments(layout).positions)),
        )

    @property
    def _wide(self) -> tuple[int, ...]:
        """Sizes of what is told in 64 bits, in the order of ``pack``."""
        rows, canvas_rows, head_rows = self.num_rows, self.num_canvas_rows, self.num_head_rows
        return (1, 1, *[rows] * 4, canvas_rows, *[head_rows] * 4, self.num_canvases)

    @property
    def _narrow(self) -> tuple[int, ...]:
        """Sizes of what is told in 32 bits, but for the pages, whose number is free."""
        segments = self.num_segments
        return (segments + 1, segments, segments, *(segments + 1, segments) * 2)

    def num_numbers(self, num_pages: int) -> int:
        """Of 64 bits."""
        return sum(self._wide) + -(-(sum(self._narrow) + num_pages) // 2)


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Views of the device's numbers. T, C, F, B: of the shape.

    num_canvas, num_rows int64 [1]: without padding. read_ids, positions, full_kv_rows, sliding_kv_rows
    int64 [T], as in StepLayout; read_ids only counts where the encoder reads. table_rows int64 [C]:
    as StepLayout's canvas_rows. head, grid, places, head_table_rows int64 [F] and slots int64 [B]: as in
    denoising.CanvasRows. full, sliding: segments of either kind of layer.
    """

    num_canvas: Tensor
    num_rows: Tensor
    read_ids: Tensor
    positions: Tensor
    full_kv_rows: Tensor
    sliding_kv_rows: Tensor
    table_rows: Tensor
    head: Tensor
    grid: Tensor
    places: Tensor
    head_table_rows: Tensor
    slots: Tensor
    full: Segments
    sliding: Segments

    @classmethod
    def of(cls, numbers: Tensor, shape: StepShape) -> "StepInputs":
        """numbers int64 [N], of which ``pack`` made the beginning."""
        end = sum(shape._wide)
        (
            num_canvas, num_rows, read_ids, positions, full_kv_rows, sliding_kv_rows, table_rows,
            head, grid, places, head_table_rows, slots,
        ) = numbers[:end].split_with_sizes(shape._wide)  # fmt: skip
        narrow, end = numbers[end:].view(torch.int32), sum(shape._narrow)
        (
            row_offsets, segment_positions, is_canvas,
            full_offsets, full_firsts, sliding_offsets, sliding_firsts,
        ) = narrow[:end].split_with_sizes(shape._narrow)  # fmt: skip
        full, sliding = (
            Segments(row_offsets, segment_positions, is_canvas, narrow[end:], offsets, firsts)
            for offsets, firsts in (
                (full_offsets, full_firsts),
                (sliding_offsets, sliding_firsts),
            )
        )
        return cls(
            num_canvas, num_rows, read_ids, positions, full_kv_rows, sliding_kv_rows, table_rows,
            head, grid, places, head_table_rows, slots, full, sliding,
        )  # fmt: skip


def pack(layout: StepLayout, shape: StepShape, num_slots: int, width: int) -> NDArray[np.int64]:
    """The numbers of a step, whose tensors are on the host.

    num_slots, width: of the canvas table; its last slot is for padding.
    """
    scratch_slot = num_slots - 1
    scratch_row, nowhere = scratch_slot * width, shape.num_canvases * width
    num_rows = layout.num_canvas + layout.num_read
    canvas_rows, grid = layout.canvas_rows.numpy(), layout.grid.numpy()
    head = np.arange(layout.num_canvas) if layout.free is None else layout.free.numpy()
    wide: list[tuple[Values, int]] = [  # in the order of StepInputs, and what pads them
        ([layout.num_canvas], 0),
        ([num_rows], 0),
        (np.concatenate([np.zeros(layout.num_canvas, np.int64), layout.read_ids.numpy()]), 0),
        (layout.positions.numpy()[:num_rows], 0),
        (layout.full_kv_rows.numpy()[:num_rows], _SCRATCH_ROW),
        (layout.sliding_kv_rows.numpy()[:num_rows], _SCRATCH_ROW),
        (canvas_rows, scratch_row),
        (head, 0),
        (grid[head], 0),
        (grid[head], nowhere),
        (canvas_rows[head], scratch_row),
        (layout.slots.numpy(), scratch_slot),
    ]
    segments = _segments(layout)
    full, sliding = segments.full, segments.sliding
    num_full, num_pages = len(full.pages), len(full.pages) + len(sliding.pages)
    narrow: list[tuple[Values, int]] = [
        (segments.row_offsets, num_rows),
        (segments.positions, 0),
        (segments.is_canvas, 0),
        (full.page_offsets, num_full),
        (full.first_pages, 0),
        (sliding.page_offsets + num_full, num_pages),  # in one list, behind the others
        (sliding.first_pages, 0),
    ]
    even = np.zeros((sum(shape._narrow) + num_pages) % 2, np.int32)
    in_32_bits: list[NDArray[Any]] = [
        *_padded(narrow, shape._narrow),
        full.pages,
        sliding.pages,
        even,
    ]
    return np.concatenate(
        [
            *_padded(wide, shape._wide),
            np.concatenate(in_32_bits, dtype=np.int32).view(np.int64),
        ]
    )


def _padded(
    parts: Sequence[tuple[Values, int]], sizes: Sequence[int]
) -> Iterator[NDArray[np.int64]]:
    """Each part's values and then its filler, up to its size."""
    for (values, filler), size in zip(parts, sizes, strict=True):
        padded = np.full(size, filler)
        padded[: len(values)] = values
        yield padded


def _segments(layout: StepLayout) -> StepSegments:
    if layout.segments is None:
        raise EngineError("a static step needs segments: lay it out for attention over pages")
    return layout.segments
