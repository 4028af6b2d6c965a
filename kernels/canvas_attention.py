"""Attention of canvases of different widths, each to its own prefix and to its whole self.

The rows of all canvases stand one after the other. A canvas's row sees the tokens of its prefix, whose
keys and values lie in a pool as one range, and every row of its canvas, whose keys and values are given
beside the queries and need not be in the pool. So what a row sees is a rectangle, the same for all rows
of a canvas, and nothing is masked but the ragged ends. In a sliding layer of window w the prefix is cut to
its last w - 1 tokens: still one range. Scores are not scaled, since queries and keys are normalised.

Method: FlashAttention's online softmax (arXiv 2205.14135), over the prefix and then over the canvas.
Query heads that share a key head are stacked as rows of one tile, tokens times heads, so that with eight
heads a tile of 64 rows needs 8 tokens, and keys and values are read once for all of them. The blocks of
keys are counted from the start of the canvas's own ranges, so a result does not depend on what else is in
the batch or in the pool.

Head sizes of 256 and 512 leave little room: accumulators of 64 rows by 512 take half of the registers,
and tiles are chosen by the shared memory of the device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from . import launch
from .launch import check, check_inputs, tl, triton
from .row_tiles import find_row_tile, max_row_tiles

MAX_HEAD_SIZE = 512

_MANY_QUERIES = 32 * 1024
"""Queries times heads from which on tiles of 128 rows still make two for every multiprocessor."""


@dataclass(frozen=True, slots=True)
class Canvases:
    """Where C canvases and their prefixes lie; all int32.

    row_offsets [C + 1]: canvas c has the rows row_offsets[c] to row_offsets[c + 1];
    prefix_starts, prefix_lengths [C]: its prefix in the pool, in tokens.
    """

    row_offsets: Tensor
    prefix_starts: Tensor
    prefix_lengths: Tensor


def canvas_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pool_key: Tensor,
    pool_value: Tensor,
    canvases: Canvases,
    window: int | None = None,
) -> Tensor:
    """As ``canvas_attention``, canvas by canvas."""
    output = torch.empty_like(query)
    offsets = canvases.row_offsets.tolist()
    for canvas, (start, length) in enumerate(
        zip(canvases.prefix_starts.tolist(), canvases.prefix_lengths.tolist(), strict=True)
    ):
        rows = slice(offsets[canvas], offsets[canvas + 1])
        seen = length if window is None else min(length, window - 1)
        prefix = slice(start + length - seen, start + length)
        keys = torch.cat([pool_key[prefix], key[rows]])
        values = torch.cat([pool_value[prefix], value[rows]])
        output[rows] = F.scaled_dot_product_attention(
            query[rows].transpose(0, 1),
            keys.transpose(0, 1),
            values.transpose(0, 1),
            scale=1.0,
            enable_gqa=True,
        ).transpose(0, 1)
    return output


def canvas_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pool_key: Tensor,
    pool_value: Tensor,
    canvases: Canvases,
    window: int | None = None,
) -> Tensor:
    """Queries [T, Hq, D] of the canvases' T rows -> [T, Hq, D].

    key, value [T, Hkv, D] of the same rows; pool_key, pool_value [P, Hkv, D], rotated and normalised
    as the others; all of one 16-bit or fp32 dtype. Rows in no canvas are undefined. window: of a
    sliding layer, in tokens. KernelError for a head size over 512 or head counts that do not divide.
    """
    check_inputs("canvas_attention", query, key, value, pool_key, pool_value)
    num_rows, num_query_heads, head_size = query.shape
    num_key_heads = key.shape[1]
    check(
        num_query_heads % num_key_heads == 0,
        f"canvas_attention: {num_query_heads} query heads for {num_key_heads} key heads",
    )
    check(
        head_size <= MAX_HEAD_SIZE,
        f"canvas_attention: heads of {head_size}; it serves sizes up to {MAX_HEAD_SIZE}",
    )
    check(
        key.shape == value.shape == (num_rows, num_key_heads, head_size)
        and pool_key.shape == pool_value.shape == (len(pool_key), num_key_heads, head_size),
        "canvas_attention: keys or values that do not go with the queries",
    )
    check(window is None or window > 0, f"canvas_attention: a window of {window}")
    tile = choose_tile(head_size, num_rows * num_query_heads, launch.has_large_tiles(query))
    group = num_query_heads // num_key_heads
    check(
        group <= tile.block_queries,
        f"canvas_attention: {group} query heads share one key head; at most {tile.block_queries}",
    )
    num_canvases = len(canvases.prefix_starts)
    block_rows = tile.block_queries // group
    output = torch.empty_like(query)
    _attention_kernel[(max_row_tiles(num_rows, num_canvases, block_rows), num_key_heads)](
        query,
        key,
        value,
        pool_key,
        pool_value,
        canvases.row_offsets,
        canvases.prefix_starts,
        canvases.prefix_lengths,
        output,
        num_canvases,
        0 if window is None else window - 1,
        SLIDING=window is not None,
        PADDED=triton.next_power_of_2(num_canvases),
        NUM_KEY_HEADS=num_key_heads,
        GROUP=group,
        HEAD_SIZE=head_size,
        PADDED_HEAD=max(16, triton.next_power_of_2(head_size)),
        BLOCK_ROWS=block_rows,
        BLOCK_QUERIES=tile.block_queries,
        BLOCK_KEYS=tile.block_keys,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        maxnreg=255,  # all that there are: left alone, ptxas may aim at 128 and spill
    )
    return output


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Queries (rows times heads) and keys of a tile, and how it is launched."""

    block_queries: int
    block_keys: int
    num_warps: int
    num_stages: int


def choose_tile(head_size: int, num_queries: int, large: bool) -> AttentionTile:
    """By head size and shared memory; tall tiles only where there are enough of them."""
    if head_size > 256:
        return AttentionTile(64, 32, 8, 2) if large else AttentionTile(32, 16, 8, 3)
    if large and num_queries >= _MANY_QUERIES:
        return AttentionTile(128, 32, 8, 2)
    return AttentionTile(64, 64, 8, 2) if large else AttentionTile(64, 32, 8, 2)


@triton.jit
def _attention_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    pool_key_ptr,
    pool_value_ptr,
    row_offsets_ptr,
    prefix_starts_ptr,
    prefix_lengths_ptr,
    output_ptr,
    num_canvases,
    window_prefix,
    SLIDING: tl.constexpr,
    PADDED: tl.constexpr,
    NUM_KEY_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_HEAD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    canvas, first_row, end_row = find_row_tile(
        row_offsets_ptr, tl.program_id(0), num_canvases, PADDED, BLOCK_ROWS
    )
    if canvas == num_canvases:
        return
    key_head = tl.program_id(1)
    queries = tl.arange(0, BLOCK_QUERIES)  # row by row, a row's heads side by side
    held = queries < (end_row - first_row) * GROUP
    columns = tl.arange(0, PADDED_HEAD)
    base = (first_row.to(tl.int64) * NUM_KEY_HEADS + key_head) * (GROUP * HEAD_SIZE)
    heads = queries // GROUP * (NUM_KEY_HEADS * GROUP) + queries % GROUP
    offsets = heads[:, None] * HEAD_SIZE + columns[None, :]
    mask = held[:, None] & (columns < HEAD_SIZE)[None, :]
    query = tl.load(query_ptr + base + offsets, mask=mask, other=0.0)
    output = tl.zeros((BLOCK_QUERIES, PADDED_HEAD), tl.float32)
    maximum = tl.full((BLOCK_QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_QUERIES,), tl.float32)
    length = tl.load(prefix_lengths_ptr + canvas)
    prefix_end = tl.load(prefix_starts_ptr + canvas) + length
    if SLIDING:
        length = tl.minimum(length, window_prefix)
    canvas_start = tl.load(row_offsets_ptr + canvas)
    canvas_end = tl.load(row_offsets_ptr + canvas + 1)
    places = tl.arange(0, BLOCK_KEYS)
    # 64-bit sums are of scalars only: pointers of a whole tile would take many registers.
    key_offsets = places[:, None] * (NUM_KEY_HEADS * HEAD_SIZE) + columns[None, :]
    num_prefix_blocks = (length + BLOCK_KEYS - 1) // BLOCK_KEYS
    num_blocks = num_prefix_blocks + (canvas_end - canvas_start + BLOCK_KEYS - 1) // BLOCK_KEYS
    for block in range(num_blocks):  # of the prefix first, then of the canvas
        in_prefix = block < num_prefix_blocks
        start = tl.where(
            in_prefix,
            prefix_end - length + block * BLOCK_KEYS,
            canvas_start + (block - num_prefix_blocks) * BLOCK_KEYS,
        )
        inside = places < tl.where(in_prefix, prefix_end, canvas_end) - start
        key_base = (start.to(tl.int64) * NUM_KEY_HEADS + key_head) * HEAD_SIZE
        key_mask = inside[:, None] & (columns < HEAD_SIZE)[None, :]
        keys = tl.where(in_prefix, pool_key_ptr, key_ptr) + key_base
        key = tl.load(keys + key_offsets, mask=key_mask, other=0.0)
        scores = tl.dot(query, tl.trans(key)) * 1.4426950408889634  # 1 / ln 2: exp2 is native
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_maximum[:, None])
        fading = tl.exp2(maximum - new_maximum)
        total = total * fading + tl.sum(weights, axis=1)
        values = tl.where(in_prefix, pool_value_ptr, value_ptr) + key_base
        value = tl.load(values + key_offsets, mask=key_mask, other=0.0)
        output = tl.dot(weights.to(value.dtype), value, output * fading[:, None])
        maximum = new_maximum
    output = output / total[:, None]
    tl.store(output_ptr + base + offsets, output.to(output_ptr.dtype.element_ty), mask=mask)
