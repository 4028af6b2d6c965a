"""Where the segments of a step stand and which pages they see, for attention that follows pages.

A segment is consecutive rows of the step that belong to one text: a canvas, or a chunk that is read
(dgq.kernels.paged_attention). Here they are arrays on the host, so that they can be copied to a device
together with the rest of a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dgq.kernels.page import PAGE_TOKENS
from dgq.kernels.paged_attention import Segments

from .kv_pages import TextPages
from .pages import SCRATCH_PAGE
from .scheduler import Plan
from .sliding_pages import first_page_needed

Int32s = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SegmentPages:
    """Pages of S segments, in layers of one kind.

    pages, flat: pages[page_offsets[s] + i] holds the places of segment s's text from
    (first_pages[s] + i) * PAGE_TOKENS on; a canvas's own pages follow those of its text.
    page_offsets [S + 1], first_pages [S]: pages before the first are seen by no row.
    """

    pages: Int32s
    page_offsets: Int32s
    first_pages: Int32s


@dataclass(frozen=True, slots=True)
class StepSegments:
    """S segments, the canvases first, in the order of the step's rows.

    row_offsets [S + 1]: segment s has the rows row_offsets[s] to row_offsets[s + 1]. positions [S]:
    where its first row stands in its text (a canvas: the length of its prefix). is_canvas [S]: 1 or 0.
    """

    row_offsets: Int32s
    positions: Int32s
    is_canvas: Int32s
    full: SegmentPages
    sliding: SegmentPages

    def on(self, device: torch.device) -> tuple[Segments, Segments]:
        """As tensors, for full layers and for sliding ones."""
        row_offsets, positions, is_canvas = (
            torch.from_numpy(array).to(device)
            for array in (self.row_offsets, self.positions, self.is_canvas)
        )
        full, sliding = (
            Segments(
                row_offsets=row_offsets,
                positions=positions,
                is_canvas=is_canvas,
                pages=torch.from_numpy(kind.pages).to(device),
                page_offsets=torch.from_numpy(kind.page_offsets).to(device),
                first_pages=torch.from_numpy(kind.first_pages).to(device),
            )
            for kind in (self.full, self.sliding)
        )
        return full, sliding


def step_segments(plan: Plan, window: int) -> StepSegments:
    """Of all rows of a step."""
    segments = [(g.prefix_length, g.width, True, g.pages) for g in plan.canvases]
    segments += [(chunk.start, len(chunk.ids), False, chunk.pages) for chunk in plan.chunks]
    firsts = [first_page_needed(position, window) for position, *_ in segments]
    full, sliding = [], []
    for first, (position, num_rows, is_canvas, pages) in zip(firsts, segments, strict=True):
        last = -(-(position if is_canvas else position + num_rows) // PAGE_TOKENS)
        num_canvas = num_rows // PAGE_TOKENS if is_canvas else 0
        full.append(pages.full[:last] + pages.full_canvas[:num_canvas])
        sliding.append(sliding_pages(pages, first, last) + pages.sliding_canvas[:num_canvas])
    return StepSegments(
        row_offsets=_offsets([num_rows for _, num_rows, *_ in segments]),
        positions=np.array([position for position, *_ in segments], np.int32),
        is_canvas=np.array([is_canvas for _, _, is_canvas, _ in segments], np.int32),
        full=_segment_pages(full, [0] * len(segments)),
        sliding=_segment_pages(sliding, firsts),
    )


def sliding_pages(pages: TextPages, first: int, last: int) -> list[int]:
    """Pages first to last - 1 of a text; those that it has let go of, which are masked, are scratch."""
    skipped = first - pages.first_sliding
    gone = [SCRATCH_PAGE] * -skipped
    return gone + pages.sliding[max(skipped, 0) : last - pages.first_sliding]


def _segment_pages(pages: list[list[int]], firsts: list[int]) -> SegmentPages:
    return SegmentPages(
        pages=np.array([page for own in pages for page in own], np.int32),
        page_offsets=_offsets([len(own) for own in pages]),
        first_pages=np.array(firsts, np.int32),
    )


def _offsets(sizes: Sequence[int]) -> Int32s:
    return np.cumsum([0, *sizes], dtype=np.int32)
