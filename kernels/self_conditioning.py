"""What a step believed, as embeddings: softmax(logits) E, times a number.

The exact product reads every embedding for every row, as much work as the vocabulary head itself. But
once a row has made up its mind, nearly all of its probability lies on a few tokens. So per row:

    survivors: tokens whose probability is at least e^-10 of the largest one's
    sparse     if there are at most 64 and all others together hold less than 1e-4: only the
               survivors' embeddings are gathered, and weighted by their probabilities among themselves
    dense      otherwise: the product over the whole vocabulary

What is dropped is known, not guessed: the head has each tile's exact sum, so tiles without a survivor
are counted without being read. Early steps, noise, are dense; late ones are nearly free. Which it is is
decided on the device, row by row, so a row's result does not depend on the rows beside it.

Both read the rounded logits that the head kept, and divide by their own sum of probabilities, so both
are softmax(rounded logits) E, as in the reference implementation.

The dense product forms the probabilities in registers, on their way to the matrix unit. It is split over
the vocabulary into a fixed number of parts, which a last launch adds in order: equal at every run.

Give rows in chunks: 512 rows of the 26B model take 268 MB of logits and 46 MB of partial sums.

Sources: sparse self-conditioning in mmastrac/diffgemma (the threshold, and that it changes no output).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import launch
from .errors import KernelError
from .launch import check_inputs, largest_divisor, tl, triton
from .vocabulary_head import TILE_TOKENS, VocabularyReadings

MAX_SURVIVORS = 64

MAX_DROPPED_MASS = 1e-4
"""Of a sparse row, by default; with 0 every row is dense."""

THRESHOLD = -10.0
"""Log of the smallest surviving probability over the largest."""

NUM_SPLITS = 8
"""Parts of the vocabulary in the dense product: fixed, so that sums do not depend on the batch."""


@dataclass(frozen=True, slots=True)
class Survivors:
    """The tokens that matter, for R rows.

    tokens int32 and logits fp32 [R, 64], of which the first count (int32 [R]) are set;
    dropped_mass fp32 [R], the probability of all others; is_dense bool [R]: too many, or too much.
    Where there are too many, count and dropped_mass are only known to be too large.
    """

    tokens: Tensor
    logits: Tensor
    count: Tensor
    dropped_mass: Tensor
    is_dense: Tensor


def self_conditioning_reference(logits: Tensor, embedding: Tensor, normalizer: float) -> Tensor:
    """logits [R, V], embedding [V, d] -> [R, d], exact for every row."""
    probabilities = logits.float().softmax(dim=-1)
    return (probabilities @ embedding.float() * normalizer).to(embedding.dtype)


def self_conditioning(
    readings: VocabularyReadings,
    embedding: Tensor,
    normalizer: float,
    max_dropped_mass: float = MAX_DROPPED_MASS,
) -> Tensor:
    """The readings of R rows with their logits, embedding [V, d] -> soft embeddings [R, d].

    KernelError for readings without logits, or a d that is no multiple of 16.
    """
    survivors = find_survivors(readings, max_dropped_mass)
    num_rows, depth = len(readings.argmax), embedding.shape[1]
    soft = embedding.new_empty(num_rows, depth)
    widest = (256,) if launch.has_large_tiles(embedding) else ()
    block_columns = largest_divisor("self_conditioning", depth, *widest, 128, 64, 32, 16)
    block_gathered = 1024
    _gather_kernel[(num_rows, triton.cdiv(depth, block_gathered))](
        survivors.tokens,
        survivors.logits,
        survivors.count,
        survivors.is_dense,
        embedding,
        soft,
        normalizer,
        DEPTH=depth,
        MAX_SURVIVORS=MAX_SURVIVORS,
        BLOCK_COLUMNS=block_gathered,
        num_warps=4,
    )
    dense_rows = torch.empty(num_rows + 1, dtype=torch.int32, device=embedding.device)
    _list_rows_kernel[(1,)](survivors.is_dense, dense_rows, num_rows, BLOCK_ROWS=1024)
    partial = torch.empty(NUM_SPLITS, num_rows, depth, dtype=torch.float32, device=embedding.device)
    masses = torch.empty(NUM_SPLITS, num_rows, dtype=torch.float32, device=embedding.device)
    block_rows = 64 if num_rows <= 64 else 128
    num_row_blocks = triton.cdiv(num_rows, block_rows)
    vocabulary = len(embedding)
    split_size = triton.cdiv(triton.cdiv(vocabulary, NUM_SPLITS), TILE_TOKENS) * TILE_TOKENS
    _dense_kernel[(num_row_blocks * (depth // block_columns), NUM_SPLITS)](
        readings.logits,
        readings.log_sum_exp,
        embedding,
        dense_rows,
        partial,
        masses,
        num_rows,
        num_row_blocks,
        split_size,
        VOCABULARY=vocabulary,
        DEPTH=depth,
        BLOCK_ROWS=block_rows,
        BLOCK_COLUMNS=block_columns,
        BLOCK_TOKENS=32,
        num_warps=8 if block_rows * block_columns > 64 * 128 else 4,
        num_stages=4,
    )
    _add_parts_kernel[(num_rows, triton.cdiv(depth, block_gathered))](
        partial,
        masses,
        survivors.is_dense,
        soft,
        num_rows,
        normalizer,
        DEPTH=depth,
        NUM_SPLITS=NUM_SPLITS,
        BLOCK_COLUMNS=block_gathered,
        num_warps=4,
    )
    return soft


def find_survivors(
    readings: VocabularyReadings, max_dropped_mass: float = MAX_DROPPED_MASS
) -> Survivors:
    """Which tokens matter, and whether they are few enough. KernelError without logits."""
    logits = readings.logits
    if logits is None:
        raise KernelError("self_conditioning: the head did not keep its logits")
    check_inputs("self_conditioning", logits, readings.tile_max, readings.tile_sum)
    num_rows, vocabulary = logits.shape
    num_tiles = len(readings.tile_max)
    survivors = Survivors(
        torch.empty(num_rows, MAX_SURVIVORS, dtype=torch.int32, device=logits.device),
        torch.empty(num_rows, MAX_SURVIVORS, dtype=torch.float32, device=logits.device),
        torch.empty(num_rows, dtype=torch.int32, device=logits.device),
        torch.empty(num_rows, dtype=torch.float32, device=logits.device),
        torch.empty(num_rows, dtype=torch.bool, device=logits.device),
    )
    _survivors_kernel[(num_rows,)](
        logits,
        readings.log_sum_exp,
        readings.tile_max,
        readings.tile_sum,
        survivors.tokens,
        survivors.logits,
        survivors.count,
        survivors.dropped_mass,
        survivors.is_dense,
        num_rows,
        num_tiles,
        THRESHOLD,
        max_dropped_mass,
        VOCABULARY=vocabulary,
        TILE=TILE_TOKENS,
        MAX_SURVIVORS=MAX_SURVIVORS,
        BLOCK_TILES=triton.next_power_of_2(num_tiles),
        num_warps=4,
    )
    return survivors


@triton.jit
def _survivors_kernel(
    logits_ptr,
    log_sum_exp_ptr,
    tile_max_ptr,
    tile_sum_ptr,
    tokens_ptr,
    survivor_logits_ptr,
    count_ptr,
    dropped_ptr,
    is_dense_ptr,
    num_rows,
    num_tiles,
    threshold,
    max_dropped,
    VOCABULARY: tl.constexpr,
    TILE: tl.constexpr,
    MAX_SURVIVORS: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
):
    row = tl.program_id(0)
    logits_row = logits_ptr + row.to(tl.int64) * VOCABULARY
    log_sum_exp = tl.load(log_sum_exp_ptr + row)
    tiles = tl.arange(0, BLOCK_TILES)
    inside = tiles < num_tiles
    maxima = tl.load(tile_max_ptr + tiles * num_rows + row, mask=inside, other=float("-inf"))
    sums = tl.load(tile_sum_ptr + tiles * num_rows + row, mask=inside, other=0.0)
    smallest = tl.max(maxima, axis=0) + threshold
    read = maxima >= smallest
    mass = tl.where(inside, sums * tl.exp(maxima - log_sum_exp), 0.0)
    dropped = tl.sum(tl.where(read, 0.0, mass), axis=0)
    num_read = tl.sum(read.to(tl.int32), axis=0)
    count = num_read  # at least one survivor in each: too many already, if these are
    if num_read <= MAX_SURVIVORS:
        count = 0
        tile = -1
        columns = tl.arange(0, TILE)
        for _ in range(num_read):
            tile = tl.min(tl.where(read & (tiles > tile), tiles, BLOCK_TILES), axis=0)
            tokens = tile * TILE + columns
            z = tl.load(logits_row + tokens, mask=tokens < VOCABULARY, other=float("-inf"))
            z = z.to(tl.float32)
            keep = z >= smallest
            dropped += tl.sum(tl.where(keep, 0.0, tl.exp(z - log_sum_exp)), axis=0)
            places = count + tl.cumsum(keep.to(tl.int32), axis=0) - 1
            kept = keep & (places < MAX_SURVIVORS)
            tl.store(tokens_ptr + row * MAX_SURVIVORS + places, tokens, mask=kept)
            tl.store(survivor_logits_ptr + row * MAX_SURVIVORS + places, z, mask=kept)
            count += tl.sum(keep.to(tl.int32), axis=0)
    tl.store(count_ptr + row, count)
    tl.store(dropped_ptr + row, dropped)
    tl.store(is_dense_ptr + row, (count > MAX_SURVIVORS) | (dropped >= max_dropped))


@triton.jit
def _gather_kernel(
    tokens_ptr,
    logits_ptr,
    count_ptr,
    is_dense_ptr,
    embedding_ptr,
    soft_ptr,
    normalizer,
    DEPTH: tl.constexpr,
    MAX_SURVIVORS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    row = tl.program_id(0)
    if tl.load(is_dense_ptr + row):
        return
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    count = tl.load(count_ptr + row)
    places = tl.arange(0, MAX_SURVIVORS)
    all_logits = tl.load(
        logits_ptr + row * MAX_SURVIVORS + places, mask=places < count, other=float("-inf")
    )
    largest = tl.max(all_logits, axis=0)
    total = tl.sum(tl.exp(all_logits - largest), axis=0)
    soft = tl.zeros((BLOCK_COLUMNS,), tl.float32)
    for survivor in range(count):
        token = tl.load(tokens_ptr + row * MAX_SURVIVORS + survivor).to(tl.int64)
        weight = tl.exp(tl.load(logits_ptr + row * MAX_SURVIVORS + survivor) - largest)
        values = tl.load(embedding_ptr + token * DEPTH + columns, mask=columns < DEPTH, other=0.0)
        soft += weight * values.to(tl.float32)
    soft = soft * (normalizer / total)
    soft_row = soft_ptr + row.to(tl.int64) * DEPTH
    tl.store(soft_row + columns, soft.to(soft_ptr.dtype.element_ty), mask=columns < DEPTH)


@triton.jit
def _list_rows_kernel(is_dense_ptr, dense_rows_ptr, num_rows, BLOCK_ROWS: tl.constexpr):
    """The dense rows in ascending order, and after all of them, at [num_rows], how many."""
    count = 0
    for start in range(0, num_rows, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        dense = tl.load(is_dense_ptr + rows, mask=rows < num_rows, other=0).to(tl.int32)
        places = count + tl.cumsum(dense, axis=0) - 1
        tl.store(dense_rows_ptr + places, rows, mask=dense != 0)
        count += tl.sum(dense, axis=0)
    tl.store(dense_rows_ptr + num_rows, count)


@triton.jit
def _dense_kernel(
    logits_ptr,
    log_sum_exp_ptr,
    embedding_ptr,
    dense_rows_ptr,
    partial_ptr,
    masses_ptr,
    num_rows,
    num_row_blocks,
    split_size,
    VOCABULARY: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    # The row blocks of one part of the embedding are neighbours: it is read from memory once.
    block = tl.program_id(0) % num_row_blocks
    column_block = tl.program_id(0) // num_row_blocks
    split = tl.program_id(1)
    count = tl.load(dense_rows_ptr + num_rows)
    if block * BLOCK_ROWS >= count:
        return
    places = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    held = places < count
    rows = tl.load(dense_rows_ptr + tl.minimum(places, count - 1)).to(tl.int64)
    columns = column_block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    log_sum_exp = tl.load(log_sum_exp_ptr + rows)
    soft = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    mass = tl.zeros((BLOCK_ROWS,), tl.float32)
    end = tl.minimum((split + 1) * split_size, VOCABULARY)
    for start in range(split * split_size, end, BLOCK_TOKENS):
        tokens = start + tl.arange(0, BLOCK_TOKENS)
        z = tl.load(
            logits_ptr + rows[:, None] * VOCABULARY + tokens[None, :],
            mask=(tokens < end)[None, :],
            other=float("-inf"),
        )
        probabilities = tl.exp(z.to(tl.float32) - log_sum_exp[:, None])
        mass += tl.sum(probabilities, axis=1)
        embedding = tl.load(
            embedding_ptr + tokens.to(tl.int64)[:, None] * DEPTH + columns[None, :],
            mask=(tokens < end)[:, None],
            other=0.0,
        )
        soft = tl.dot(probabilities.to(embedding.dtype), embedding, soft)
    part = (split.to(tl.int64) * num_rows + rows) * DEPTH
    tl.store(partial_ptr + part[:, None] + columns[None, :], soft, mask=held[:, None])
    if column_block == 0:
        tl.store(masses_ptr + split * num_rows + rows, mass, mask=held)


@triton.jit
def _add_parts_kernel(
    partial_ptr,
    masses_ptr,
    is_dense_ptr,
    soft_ptr,
    num_rows,
    normalizer,
    DEPTH: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(is_dense_ptr + row) == 0:
        return
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    soft = tl.zeros((BLOCK_COLUMNS,), tl.float32)
    mass = 0.0
    for split in range(NUM_SPLITS):
        part = (split * num_rows + row) * DEPTH
        soft += tl.load(partial_ptr + part + columns, mask=columns < DEPTH, other=0.0)
        mass += tl.load(masses_ptr + split * num_rows + row)
    soft = soft * (normalizer / mass)
    tl.store(
        soft_ptr + row * DEPTH + columns,
        soft.to(soft_ptr.dtype.element_ty),
        mask=columns < DEPTH,
    )
