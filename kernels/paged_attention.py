"""Attention of one step's rows over pages of keys and values: canvases and chunks of texts in one launch.

A *segment* is consecutive rows of the step that belong to one text: a canvas, whose rows all see the
whole prefix and the whole canvas, or a chunk of the text itself, whose rows see what comes before them
and themselves. Keys and values of all rows are in the pool already, the canvas's own on pages that follow
the text's. In a sliding layer of window w a row at place p sees the places from p - w + 1 on. Both kinds
come to one rule: a canvas is *one place* of its text. Its rows and its keys all stand where the prefix
ends, and a row sees a key whose place is between its own and w - 1 less. Scores are not scaled, since
queries and keys are normalised.

Method: FlashAttention's online softmax (arXiv 2205.14135) over page tables, as in PagedAttention (arXiv
2309.06180). Query heads that share a key head are stacked as rows of one tile, tokens times heads, so
that with eight heads a tile of 64 queries needs 8 tokens, and keys and values are read once for all of
them. Head sizes of 256 and 512 leave little room: accumulators of 128 rows by 256 take half of the
registers, and tiles are chosen by the shared memory of the device. With heads of 512 and room for
large tiles two programs share a tile, each with the scores of all keys and half of the values' columns:
tiles of 64 rows in one program would have both halves of its warps compute all scores, and read keys
and values from the cache twice as often.

A row's result does not depend on its company, on page numbers, or on how a text is cut into chunks:
blocks of keys begin at multiples of their size in the text, and a block of which a row sees nothing
leaves the row's sums as they are, to the bit. A tall tile has twice the warps of a low one, and each warp
holds its rows in the same way.

Keys are not split among programs. One canvas of 256 rows makes 64 programs, half of the 132
multiprocessors of an H100, so a split in two would gain up to half of attention's time: at a prefix of
1,024 some 0.5 ms of a forward of 8, by estimate. Results may not depend on the load, so each larger step
would split too, and write and read its partial sums in fp32: at 16 canvases 0.27 GB in each sliding
layer and 0.54 GB in each full one, 3 ms of a forward of 80. Two canvases fill the device without.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from . import launch
from .launch import check, check_inputs, tl, triton
from .page import PAGE_TOKENS
from .row_tiles import find_row_tile, max_row_tiles

MAX_HEAD_BYTES = 1024
"""A head of 512 in 16 bits: what the shared memory of the smallest device allows."""

_MANY_QUERIES = 8 * 1024
"""Rows times heads up to which each tile of 64 has a multiprocessor of its own: an H100 has 132."""

_PADDED_SEGMENTS = 128
"""Segments that a kernel is compiled for, at least: few steps have more, and compiling takes seconds."""

_MAX_INT32 = torch.iinfo(torch.int32).max

_NO_WINDOW = 1 << 30
_NOWHERE = tl.constexpr(1 << 30)
"""A place after all others."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the S segments of a step stand, for layers of one kind; all int32.

    row_offsets [S + 1], from 0: segment s has the rows row_offsets[s] to row_offsets[s + 1]; rows after
    the last segment are padding, and so may be segments without rows. positions [S]: where its
    first row stands in its text (a canvas: the prefix's length). is_canvas [S]: 1 or 0. pages, flat:
    pages[page_offsets[s] + i] holds the text's places from (first_pages[s] + i) * PAGE_TOKENS on; a
    canvas's own pages follow those of its prefix, the last of which may be partly filled.
    page_offsets [S + 1], first_pages [S]: pages before the first are seen by no row.
    """

    row_offsets: Tensor
    positions: Tensor
    is_canvas: Tensor
    pages: Tensor
    page_offsets: Tensor
    first_pages: Tensor


def paged_attention_reference(
    query: Tensor,
    pool_key: Tensor,
    pool_value: Tensor,
    segments: Segments,
    window: int | None = None,
) -> Tensor:
    """As ``paged_attention``, segment by segment."""
    output = torch.zeros_like(query)
    offsets, page_offsets = segments.row_offsets.tolist(), segments.page_offsets.tolist()
    for segment, (position, is_canvas, first_page) in enumerate(
        zip(
            segments.positions.tolist(),
            segments.is_canvas.tolist(),
            segments.first_pages.tolist(),
            strict=True,
        )
    ):
        rows = slice(offsets[segment], offsets[segment + 1])
        numbers = torch.arange(rows.stop - rows.start, device=query.device)
        if not len(numbers):
            continue
        if is_canvas:
            row_places = torch.full_like(numbers, position)
            first_slot = -(-position // PAGE_TOKENS) * PAGE_TOKENS
        else:
            row_places = position + numbers
            first_slot = position
        earlier = torch.arange(first_page * PAGE_TOKENS, position, device=query.device)
        slots = torch.cat([earlier, first_slot + numbers])
        places = torch.cat([earlier, row_places])
        pages = segments.pages[page_offsets[segment] + slots // PAGE_TOKENS - first_page]
        tokens = pages.long() * PAGE_TOKENS + slots % PAGE_TOKENS
        distance = row_places[:, None] - places[None, :]
        output[rows] = F.scaled_dot_product_attention(
            query[rows].transpose(0, 1),
            pool_key[tokens].transpose(0, 1),
            pool_value[tokens].transpose(0, 1),
            attn_mask=(distance >= 0) & (distance < (window or _NO_WINDOW)),
            scale=1.0,
            enable_gqa=True,
        ).transpose(0, 1)
    return output


def paged_attention(
    query: Tensor,
    pool_key: Tensor,
    pool_value: Tensor,
    segments: Segments,
    window: int | None = None,
) -> Tensor:
    """Queries [T, Hq, D] of all rows of a step -> [T, Hq, D], zero for rows in no segment.

    pool_key, pool_value [num_pages * PAGE_TOKENS, Hkv, D], rotated and normalised as the queries and
    written for all rows of the step; all of one 16-bit or fp32 dtype. window: of a sliding layer, in
    tokens. What is launched depends on shapes only. KernelError for heads over MAX_HEAD_BYTES, head
    counts that do not divide, or shapes that do not go together.
    """
    places = (
        segments.row_offsets,
        segments.positions,
        segments.is_canvas,
        segments.pages,
        segments.page_offsets,
        segments.first_pages,
    )
    check_inputs("paged_attention", query, pool_key, pool_value, *places)
    num_rows, num_query_heads, head_size = query.shape
    num_key_heads = pool_key.shape[1]
    num_segments = len(segments.positions)
    check(
        num_query_heads % num_key_heads == 0,
        f"paged_attention: {num_query_heads} query heads for {num_key_heads} key heads",
    )
    check(
        head_size * query.itemsize <= MAX_HEAD_BYTES,
        f"paged_attention: heads of {head_size} in {query.dtype}; it serves sizes up to"
        f" {MAX_HEAD_BYTES // query.itemsize}",
    )
    check(
        pool_key.shape == pool_value.shape == (len(pool_key), num_key_heads, head_size)
        and len(pool_key) % PAGE_TOKENS == 0
        and query.dtype == pool_key.dtype == pool_value.dtype,
        "paged_attention: a pool that does not go with the queries",
    )
    check(
        num_segments > 0
        and len(segments.is_canvas) == len(segments.first_pages) == num_segments
        and len(segments.row_offsets) == len(segments.page_offsets) == num_segments + 1
        and all(tensor.dtype == torch.int32 for tensor in places),
        "paged_attention: segments that are none, not int32, or of different numbers",
    )
    check(window is None or window > 0, f"paged_attention: a window of {window}")
    large = query.itemsize == 2 and launch.has_large_tiles(query)
    tile = choose_tile(head_size * query.itemsize, num_rows * num_query_heads, large)
    group = num_query_heads // num_key_heads
    check(
        group <= tile.block_queries,
        f"paged_attention: {group} query heads share one key head; at most {tile.block_queries}",
    )
    block_rows = tile.block_queries // group
    padded_head = max(16, triton.next_power_of_2(head_size))
    block_values = min(padded_head, tile.block_values)
    grid = (
        max_row_tiles(num_rows, num_segments, block_rows),
        num_key_heads,
        padded_head // block_values,
    )
    output = torch.empty_like(query)
    _attention_kernel[grid](
        query,
        pool_key,
        pool_value,
        *places,
        output,
        num_segments,
        num_rows,
        num_query_heads * head_size,
        window or _NO_WINDOW,
        PADDED=max(_PADDED_SEGMENTS, triton.next_power_of_2(num_segments)),
        NUM_KEY_HEADS=num_key_heads,
        GROUP=group,
        HEAD_SIZE=head_size,
        PADDED_HEAD=padded_head,
        PAGE_SIZE=PAGE_TOKENS,
        LARGE_POOL=pool_key.numel() > _MAX_INT32,
        BLOCK_ROWS=block_rows,
        BLOCK_QUERIES=tile.block_queries,
        BLOCK_KEYS=tile.block_keys,
        BLOCK_VALUES=block_values,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        maxnreg=255,  # all that there are: left alone, ptxas may aim at 128 and spill
    )
    return output


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Queries (rows times heads), keys, columns of values of a tile, and how it is launched."""

    block_queries: int
    block_keys: int
    block_values: int
    num_warps: int
    num_stages: int


def choose_tile(head_bytes: int, num_queries: int, large: bool) -> AttentionTile:
    """By head and shared memory; tall tiles only where there are enough of them.

    Only what leaves a row's result as it is may depend on num_queries: block_keys would change it.
    """
    if head_bytes > MAX_HEAD_BYTES // 2:
        return AttentionTile(128, 32, 256, 8, 2) if large else AttentionTile(32, 16, 512, 4, 2)
    if not large:
        return AttentionTile(64, 32, 256, 8, 2)
    if num_queries > _MANY_QUERIES:
        return AttentionTile(128, 64, 256, 8, 2)
    return AttentionTile(64, 64, 256, 4, 2)


@triton.jit
def _attention_kernel(
    query_ptr,
    pool_key_ptr,
    pool_value_ptr,
    row_offsets_ptr,
    positions_ptr,
    is_canvas_ptr,
    pages_ptr,
    page_offsets_ptr,
    first_pages_ptr,
    output_ptr,
    num_segments,
    num_rows,
    row_size,
    window,
    PADDED: tl.constexpr,
    NUM_KEY_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_HEAD: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    LARGE_POOL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_VALUES: tl.constexpr,
):
    tile = tl.program_id(0)
    key_head = tl.program_id(1)
    queries = tl.arange(0, BLOCK_QUERIES)  # row by row, a row's heads side by side
    columns = tl.arange(0, PADDED_HEAD)
    heads = queries // GROUP * (NUM_KEY_HEADS * GROUP) + queries % GROUP
    value_columns = tl.program_id(2) * BLOCK_VALUES + tl.arange(0, BLOCK_VALUES)
    # The tile-th BLOCK_ROWS rows, as far as they are padding, are this program's to clear.
    padding = tl.maximum(tile * BLOCK_ROWS, tl.load(row_offsets_ptr + num_segments))
    num_padding = tl.minimum((tile + 1) * BLOCK_ROWS, num_rows) - padding
    if num_padding > 0:
        base = (padding.to(tl.int64) * NUM_KEY_HEADS + key_head) * (GROUP * HEAD_SIZE)
        mask = (queries < num_padding * GROUP)[:, None] & (value_columns < HEAD_SIZE)[None, :]
        tl.store(
            output_ptr + base + heads[:, None] * HEAD_SIZE + value_columns[None, :], 0.0, mask=mask
        )
    segment, first_row, end_row = find_row_tile(
        row_offsets_ptr, tile, num_segments, PADDED, BLOCK_ROWS
    )
    if segment == num_segments:
        return
    base = (first_row.to(tl.int64) * NUM_KEY_HEADS + key_head) * (GROUP * HEAD_SIZE)
    held = queries < (end_row - first_row) * GROUP
    query = tl.load(
        query_ptr + base + heads[:, None] * HEAD_SIZE + columns[None, :],
        mask=held[:, None] & (columns < HEAD_SIZE)[None, :],
        other=0.0,
    )
    output = tl.zeros((BLOCK_QUERIES, BLOCK_VALUES), tl.float32)
    maximum = tl.full((BLOCK_QUERIES,), -1e30, tl.float32)  # finite: a row may see none of a block
    total = tl.zeros((BLOCK_QUERIES,), tl.float32)

    is_canvas = tl.load(is_canvas_ptr + segment) != 0
    position = tl.load(positions_ptr + segment)
    segment_row = tl.load(row_offsets_ptr + segment)
    first_place = position + tl.where(is_canvas, 0, first_row - segment_row)
    last_place = position + tl.where(is_canvas, 0, end_row - 1 - segment_row)
    row_places = tl.minimum(first_place + queries // GROUP, last_place)
    # Slots count tokens through the pages: a text's places, and after them its canvas's rows.
    text_end = tl.where(is_canvas, position, last_place + 1)
    canvas_slot = (text_end + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
    canvas_end = tl.load(row_offsets_ptr + segment + 1) - segment_row + canvas_slot
    end_slot = tl.where(is_canvas, canvas_end, text_end)
    first_slot = tl.maximum(first_place - window + 1, 0)
    first_page = tl.load(first_pages_ptr + segment)
    pages_ptr += tl.load(page_offsets_ptr + segment)
    lanes = tl.arange(0, BLOCK_KEYS)
    last_page = (end_slot - 1) // PAGE_SIZE - first_page
    for block in range(first_slot // BLOCK_KEYS, (end_slot + BLOCK_KEYS - 1) // BLOCK_KEYS):
        slots = block * BLOCK_KEYS + lanes
        number = block * (BLOCK_KEYS // PAGE_SIZE) + lanes // PAGE_SIZE - first_page
        page = tl.load(pages_ptr + tl.minimum(tl.maximum(number, 0), last_page))
        if LARGE_POOL:
            page = page.to(tl.int64)
        tokens = page * PAGE_SIZE + lanes % PAGE_SIZE
        starts = ((tokens * NUM_KEY_HEADS + key_head) * HEAD_SIZE)[:, None]
        key = tl.load(
            pool_key_ptr + starts + columns[None, :], mask=(columns < HEAD_SIZE)[None, :], other=0.0
        )
        scores = tl.dot(query, tl.trans(key)) * 1.4426950408889634  # 1 / ln 2: exp2 is native
        in_text = slots < text_end
        filled = (slots >= first_slot) & (in_text | (slots >= canvas_slot)) & (slots < end_slot)
        places = tl.where(filled, tl.where(in_text, slots, position), _NOWHERE)
        distance = (row_places[:, None] - places[None, :]).to(tl.uint32)  # of a later key: huge
        scores = tl.where(distance < tl.cast(window, tl.uint32), scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_maximum[:, None])
        fading = tl.exp2(maximum - new_maximum)
        total = total * fading + tl.sum(weights, axis=1)
        value = tl.load(  # masked: what others left here may be NaN, and 0 times NaN is NaN
            pool_value_ptr + starts + value_columns[None, :],
            mask=filled[:, None] & (value_columns < HEAD_SIZE)[None, :],
            other=0.0,
        )
        output = tl.dot(weights.to(value.dtype), value, output * fading[:, None])
        maximum = new_maximum
    output = output / total[:, None]
    # Not by GROUP and HEAD_SIZE as above: the compiler would keep those offsets through the loop.
    output_offsets = queries // GROUP * row_size + queries % GROUP * HEAD_SIZE
    held = queries // GROUP < end_row - first_row
    tl.store(
        output_ptr + base + output_offsets[:, None] + value_columns[None, :],
        output.to(output_ptr.dtype.element_ty),
        mask=held[:, None] & (value_columns < HEAD_SIZE)[None, :],
    )
