"""From hidden states to all that a denoising step needs of the vocabulary, without its logits.

With z = softcap * tanh(h E^T / softcap) / temperature, per row:

    argmax         the largest z; of equal ones the lowest token
    log_sum_exp    log sum exp(z)
    entropy        of softmax(z) in nats, centred: with c = z - max and S = sum exp(c) it is
                   log S - sum(exp(c) c) / S, two terms that are not negative and so cancel nothing
    sampled        a token with probability exactly softmax(z), from two uniform numbers

The vocabulary is cut into tiles of 128 tokens. The first launch is a matrix product whose epilogue
reduces each row of a tile to a few numbers: its largest z and where, the sums above, and a token
drawn within the tile by inverse CDF from the second uniform number. The second launch combines the
tiles of a row, and picks a tile by inverse CDF over the tiles' sums from the first number. By the
chain rule that is an exact sample, for two random numbers in place of one per token; and since the
numbers are inputs, it is the same in any batch.

No [rows, vocabulary] tensor is made, unless the logits are to be kept for self-conditioning: then z is
stored rounded to the embedding's dtype. That rounding is the one which the reference implementation
(transformers) puts on the logits that it conditions on.

Sources: FlashSampling (arXiv 2603.15854) for sampling by groups; vLLM's one-pass row statistics.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .launch import check, check_inputs, largest_divisor, tl, triton

TILE_TOKENS = 128
"""Tokens of a tile. Which token is drawn depends on it, so it is one number for all devices."""

_ROWS_PER_REDUCTION = 4


@dataclass(frozen=True, slots=True)
class VocabularyReadings:
    """What R rows say.

    argmax, sampled int64 [R]; entropy (nats) and log_sum_exp fp32 [R]; tile_max and tile_sum fp32
    [tiles, R], a tile's largest z and its sum of exp(z - largest); logits [R, V] in the embedding's
    dtype, or None if they were not to be kept.
    """

    argmax: Tensor
    sampled: Tensor
    entropy: Tensor
    log_sum_exp: Tensor
    tile_max: Tensor
    tile_sum: Tensor
    logits: Tensor | None


def read_vocabulary_reference(
    hidden: Tensor,
    embedding: Tensor,
    temperature: Tensor,
    uniforms: Tensor,
    softcap: float,
    keep_logits: bool = False,
) -> VocabularyReadings:
    """As ``read_vocabulary``, through fp32 logits of all rows."""
    logits = F.linear(hidden.float(), embedding.float())
    z = torch.tanh(logits / softcap) * softcap / temperature[:, None]
    missing = -z.shape[1] % TILE_TOKENS
    tiles = F.pad(z, (0, missing), value=-torch.inf).unflatten(1, (-1, TILE_TOKENS))
    tile_max = tiles.amax(dim=-1)
    e = (tiles - tile_max[..., None]).exp()
    tile_sum = e.sum(dim=-1)
    weights = tile_sum * (tile_max - tile_max.amax(dim=1, keepdim=True)).exp()
    tile = _first_above(weights, uniforms[:, 0])
    token = _first_above(e[torch.arange(len(e), device=e.device), tile], uniforms[:, 1])
    log_probabilities = z.log_softmax(dim=-1)
    return VocabularyReadings(
        z.argmax(dim=-1),
        tile * TILE_TOKENS + token,
        -(log_probabilities.exp() * log_probabilities).sum(dim=-1),
        z.logsumexp(dim=-1),
        tile_max.T.contiguous(),
        tile_sum.T.contiguous(),
        z.to(embedding.dtype) if keep_logits else None,
    )


def read_vocabulary(
    hidden: Tensor,
    embedding: Tensor,
    temperature: Tensor,
    uniforms: Tensor,
    softcap: float,
    keep_logits: bool = False,
) -> VocabularyReadings:
    """One step's readings of R rows.

    hidden [R, d] and embedding [V, d] of one dtype; temperature fp32 [R]; uniforms fp32 [R, 2] in
    [0, 1). KernelError for a d that is no multiple of 16 or dtypes that differ.
    """
    check_inputs("read_vocabulary", hidden, embedding, temperature, uniforms)
    num_rows, depth = hidden.shape
    vocabulary = len(embedding)
    check(
        hidden.dtype == embedding.dtype and embedding.shape[1] == depth,
        f"read_vocabulary: hidden {hidden.dtype} {tuple(hidden.shape)} does not go with"
        f" embedding {embedding.dtype} {tuple(embedding.shape)}",
    )
    block_depth = largest_divisor("read_vocabulary", depth, 64, 32, 16)
    num_tiles = triton.cdiv(vocabulary, TILE_TOKENS)
    block_rows = 64 if num_rows <= 64 else 128
    num_row_blocks = triton.cdiv(num_rows, block_rows)
    maxima, sums, centred = (temperature.new_empty(num_tiles, num_rows) for _ in range(3))
    largest, drawn = (
        torch.empty(num_tiles, num_rows, dtype=torch.int32, device=hidden.device) for _ in range(2)
    )
    logits = hidden.new_empty(num_rows, vocabulary) if keep_logits else None
    _tiles_kernel[(num_row_blocks * num_tiles,)](
        hidden,
        embedding,
        temperature,
        uniforms,
        maxima,
        sums,
        centred,
        largest,
        drawn,
        hidden if logits is None else logits,
        num_rows,
        num_row_blocks,
        depth,
        softcap,
        VOCABULARY=vocabulary,
        DEPTH=depth,
        KEEP_LOGITS=keep_logits,
        BLOCK_ROWS=block_rows,
        BLOCK_TOKENS=TILE_TOKENS,
        BLOCK_DEPTH=block_depth,
        num_warps=block_rows // 16,
        num_stages=3,
    )
    argmax, sampled = (
        torch.empty(num_rows, dtype=torch.int64, device=hidden.device) for _ in range(2)
    )
    entropy, log_sum_exp = (temperature.new_empty(num_rows) for _ in range(2))
    _combine_kernel[(triton.cdiv(num_rows, _ROWS_PER_REDUCTION),)](
        maxima,
        sums,
        centred,
        largest,
        drawn,
        uniforms,
        argmax,
        sampled,
        entropy,
        log_sum_exp,
        num_rows,
        num_tiles,
        TILE=TILE_TOKENS,
        BLOCK_TILES=triton.next_power_of_2(num_tiles),
        BLOCK_ROWS=_ROWS_PER_REDUCTION,
        num_warps=8,
    )
    return VocabularyReadings(argmax, sampled, entropy, log_sum_exp, maxima, sums, logits)


_UNDER_ONE = 1 - 2.0**-23


def _first_above(weights: Tensor, uniforms: Tensor) -> Tensor:
    """weights >= 0 [R, N], uniforms [R] -> the first index whose running sum exceeds its share.

    The share is held below the whole, so that some sum does exceed it however it is rounded.
    """
    sums = weights.cumsum(dim=-1)
    total = sums[:, -1:]
    target = torch.minimum(uniforms[:, None] * total, total * _UNDER_ONE)
    return (sums <= target).sum(dim=-1)


@triton.jit
def _below(uniform, total):
    """As ``_first_above``: a share of the total that is less than the whole, 1 - 2^-23 at most."""
    return tl.minimum(uniform * total, total * 0.99999988079071044921875)


@triton.jit
def _tiles_kernel(
    hidden_ptr,
    embedding_ptr,
    temperature_ptr,
    uniforms_ptr,
    maxima_ptr,
    sums_ptr,
    centred_ptr,
    largest_ptr,
    drawn_ptr,
    logits_ptr,
    num_rows,
    num_row_blocks,
    depth,
    softcap,
    VOCABULARY: tl.constexpr,
    DEPTH: tl.constexpr,
    KEEP_LOGITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    # The row blocks of one tile are neighbours: the embedding is read from memory once.
    tile = tl.program_id(0) // num_row_blocks
    rows = tl.program_id(0) % num_row_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    held = rows < num_rows
    tokens = tile * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    real = tokens < VOCABULARY
    depths = tl.arange(0, BLOCK_DEPTH)
    hidden_rows = hidden_ptr + tl.minimum(rows, num_rows - 1).to(tl.int64) * DEPTH
    token_rows = embedding_ptr + tl.minimum(tokens, VOCABULARY - 1).to(tl.int64) * DEPTH
    products = tl.zeros((BLOCK_ROWS, BLOCK_TOKENS), tl.float32)
    for start in range(0, depth, BLOCK_DEPTH):  # a run-time bound: else the loop is unrolled
        hidden = tl.load(hidden_rows[:, None] + (start + depths)[None, :])
        embedding = tl.load(token_rows[:, None] + (start + depths)[None, :])
        products = tl.dot(hidden, tl.trans(embedding), products)
    temperature = tl.load(temperature_ptr + rows, mask=held, other=1.0)
    tanh = 2.0 * tl.sigmoid(products * (2.0 / softcap)) - 1.0
    z = tanh * (softcap / temperature)[:, None]
    if KEEP_LOGITS:
        tl.store(
            logits_ptr + rows.to(tl.int64)[:, None] * VOCABULARY + tokens[None, :],
            z.to(logits_ptr.dtype.element_ty),
            mask=held[:, None] & real[None, :],
        )
    z = tl.where(real[None, :], z, float("-inf"))
    maximum = tl.max(z, axis=1)
    columns = tl.arange(0, BLOCK_TOKENS)
    largest = tl.min(tl.where(z == maximum[:, None], columns[None, :], BLOCK_TOKENS), axis=1)
    below = tl.where(real[None, :], z - maximum[:, None], 0.0)
    e = tl.where(real[None, :], tl.exp(below), 0.0)
    running = tl.cumsum(e, axis=1)
    total = tl.max(running, axis=1)
    target = _below(tl.load(uniforms_ptr + 2 * rows + 1, mask=held, other=0.0), total)
    drawn = tl.sum((running <= target[:, None]).to(tl.int32), axis=1)
    places = tile * num_rows + rows
    tl.store(maxima_ptr + places, maximum, mask=held)
    # Not ``total``: a running sum rounds once per token, always after the large ones.
    tl.store(sums_ptr + places, tl.sum(e, axis=1), mask=held)
    tl.store(centred_ptr + places, tl.sum(e * below, axis=1), mask=held)
    tl.store(largest_ptr + places, largest, mask=held)
    tl.store(drawn_ptr + places, drawn, mask=held)


@triton.jit
def _combine_kernel(
    maxima_ptr,
    sums_ptr,
    centred_ptr,
    largest_ptr,
    drawn_ptr,
    uniforms_ptr,
    argmax_ptr,
    sampled_ptr,
    entropy_ptr,
    log_sum_exp_ptr,
    num_rows,
    num_tiles,
    TILE: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    tiles = tl.arange(0, BLOCK_TILES)
    held = rows < num_rows
    mask = (tiles < num_tiles)[:, None] & held[None, :]
    places = tiles[:, None] * num_rows + rows[None, :]
    maxima = tl.load(maxima_ptr + places, mask=mask, other=float("-inf"))
    # A row past the last has no tile; 0 keeps its arithmetic finite.
    maximum, best = tl.max(maxima, axis=0, return_indices=True, return_indices_tie_break_left=True)
    below = tl.where(mask, maxima - tl.where(held, maximum, 0.0)[None, :], 0.0)
    factors = tl.where(mask, tl.exp(below), 0.0)
    weights = tl.load(sums_ptr + places, mask=mask, other=0.0) * factors
    running = tl.cumsum(weights, axis=0)
    total = tl.max(running, axis=0)
    target = _below(tl.load(uniforms_ptr + 2 * rows, mask=held, other=0.0), total)
    chosen = tl.sum((running <= target[None, :]).to(tl.int32), axis=0)
    centred = tl.load(centred_ptr + places, mask=mask, other=0.0) * factors + weights * below
    total = tl.where(held, tl.sum(weights, axis=0), 1.0)
    log_total = tl.log(total)
    entropy = log_total - tl.sum(centred, axis=0) / total
    best_in_tile = tl.load(largest_ptr + best * num_rows + rows, mask=held, other=0)
    drawn_in_tile = tl.load(drawn_ptr + chosen * num_rows + rows, mask=held, other=0)
    tl.store(argmax_ptr + rows, (best * TILE + best_in_tile).to(tl.int64), mask=held)
    tl.store(sampled_ptr + rows, (chosen * TILE + drawn_in_tile).to(tl.int64), mask=held)
    tl.store(entropy_ptr + rows, entropy, mask=held)
    tl.store(log_sum_exp_ptr + rows, maximum + log_total, mask=held)
