"""torch's head: hidden states to all that a step needs of the vocabulary, in tiles of rows and tokens.

Per row: the most probable token, a sample, the entropy, and the expected embedding, which is the
next step's self-conditioning. With z = logits / temperature, each tile of the vocabulary gives its
largest z with its token, the sum of e = exp(z - largest), and the sum of e * (z - largest); from
these come the whole row's maximum, log-sum-exp, and entropy, as a sum of terms that are not negative,
so that small entropies keep their digits. The sample is drawn in two stages, exactly: first a tile
by the tiles' sums, then a token inside it, from one uniform number. No tensor of [rows, vocabulary]
exists; a vocabulary of one tile is computed once, a larger one again for the rows that need a tile
a second time.

The expected embedding of a row is *sparse* where the tiles' most probable tokens hold all but
DROPPED_MASS of its probability: it is then the mean of their embeddings, and what is left out is known.
Most rows of a canvas that has nearly converged are such. The others are computed densely, in a
second pass. The self-conditioning block normalises what it gets, so only a direction can be off.

Sources: the tiled statistics are those of FlashSampling (arXiv 2603.15854) and online softmax.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .feedforward import LEAST_ROWS
from .operations import RowReadings
from .sampler import InverseCdf

TILE_ELEMENTS = 1 << 18
"""Logits per tile: one MiB of fp32, which stays in a core's cache."""

TILE_TOKENS = 4096
"""The most columns of a tile."""

DROPPED_MASS = 1e-4
"""The most probability that a sparse expected embedding may leave out."""

_SMALLEST_EXPONENT = -80.0
"""exp(-80) is nothing beside 1 in fp32; below about -87 exp gives denormals, 30 times slower."""


@dataclass(frozen=True, slots=True)
class HeadTiling:
    """Sizes of the tiles, and whether expected embeddings may be sparse."""

    tile_tokens: int = TILE_TOKENS
    tile_elements: int = TILE_ELEMENTS
    sparse: bool = True


DEFAULT_TILING = HeadTiling()


def read_rows(
    hidden: Tensor,
    embedding: Tensor,
    softcap: float,
    temperature: Tensor,
    uniforms: Tensor,
    tiling: HeadTiling = DEFAULT_TILING,
) -> RowReadings:
    """hidden [R, d] after the final norm, embedding [V, d]; temperature and uniforms fp32 [R]."""
    argmax = hidden.new_empty(len(hidden), dtype=torch.int64)
    readings = RowReadings(
        argmax, torch.empty_like(argmax), torch.empty_like(uniforms), torch.empty_like(hidden)
    )
    num_tokens = min(tiling.tile_tokens, len(embedding))
    num_rows = max(LEAST_ROWS, tiling.tile_elements // num_tokens)
    for rows in _row_tiles(len(hidden), num_rows):
        reader = _TileReader(hidden[rows], embedding, softcap, temperature[rows], num_tokens)
        tile = reader.read(uniforms[rows], tiling.sparse)
        readings.argmax[rows] = tile.argmax
        readings.sampled[rows] = tile.sampled
        readings.entropy[rows] = tile.entropy
        readings.soft_embeddings[rows] = tile.soft_embeddings
    return readings


def _row_tiles(num_rows: int, tile: int) -> Iterator[Tensor | slice]:
    """Cuts rows into tiles; the last one reaches back, or repeats a row, to have LEAST_ROWS.

    A product of fewer rows may round otherwise, and a row's result must not depend on its company.
    """
    if 0 < num_rows < LEAST_ROWS:
        yield torch.arange(LEAST_ROWS).clamp(max=num_rows - 1)
        return
    for start in range(0, num_rows, tile):
        yield slice(max(min(start, num_rows - LEAST_ROWS), 0), min(start + tile, num_rows))


class _TileReader:
    """The head on one tile of rows."""

    def __init__(
        self,
        hidden: Tensor,
        embedding: Tensor,
        softcap: float,
        temperature: Tensor,
        num_tokens: int,
    ) -> None:
        """hidden [R, d], embedding [V, d], temperature [R]; num_tokens: columns of a tile."""
        self._weight = embedding
        self._cap = softcap
        self._scale = embedding.shape[1] ** 0.5
        self._hidden = hidden
        self._temperature = temperature[:, None]
        self._tokens = [
            slice(start, start + num_tokens) for start in range(0, len(self._weight), num_tokens)
        ]
        self._only: Tensor | None = None  # e of the only tile

    def read(self, uniforms: Tensor, sparse: bool) -> RowReadings:
        """uniforms fp32 [R]; see read_rows."""
        largest, tokens, sums, moments = self._statistics()
        maximum, tile = largest.max(dim=1)
        below = (largest - maximum[:, None]).clamp_(min=_SMALLEST_EXPONENT)
        share = below.exp()
        weights = sums * share
        total = weights.sum(dim=1)
        entropy = total.log() - (share * (moments + below * sums)).sum(dim=1) / total
        argmax = tokens.gather(1, tile[:, None])[:, 0]
        soft = self._soft_embeddings(maximum, tokens, share, total, sparse)
        return RowReadings(argmax, self._sample(maximum, weights, uniforms), entropy, soft)

    def _statistics(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Each tile's largest z, its token, sum of e and sum of e * log e: all [R, tiles]."""
        columns = []
        for tokens in self._tokens:
            z = self._z(tokens)
            largest, argmax = z.max(dim=1)
            z.sub_(largest[:, None]).clamp_(min=_SMALLEST_EXPONENT)
            e = z.exp()
            columns.append(
                (largest, argmax + tokens.start, e.sum(dim=1), torch.linalg.vecdot(e, z))
            )
        if len(self._tokens) == 1:
            self._only = e
        largest, argmax, sums, moments = (
            torch.stack(parts, dim=1) for parts in zip(*columns, strict=True)
        )
        return largest, argmax, sums, moments

    def _z(self, tokens: slice, rows: Tensor | None = None) -> Tensor:
        """Softcapped logits over temperature, fp32 [R, tile]."""
        hidden, temperature = _pick(self._hidden, rows), _pick(self._temperature, rows)
        logits = F.linear(hidden, self._weight[tokens]).float()
        return logits.div_(self._cap).tanh_().mul_(self._cap / temperature)

    def _e(self, tokens: slice, maximum: Tensor, rows: Tensor | None) -> Tensor:
        """exp(z - maximum) of some rows or all, fp32 [rows, tile]."""
        if self._only is not None:
            return self._only if rows is None else self._only[rows]
        z = self._z(tokens, rows).sub_(_pick(maximum, rows)[:, None])
        return z.clamp_(min=_SMALLEST_EXPONENT).exp_()

    def _sample(self, maximum: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
        """A token of each row, in two stages. weights: each tile's share, [R, tiles]."""
        if self._only is not None:
            return InverseCdf().sample(self._only, uniforms)
        tiles, rest = InverseCdf().split(weights, uniforms)
        sampled = torch.empty_like(tiles)
        for i, tokens in enumerate(self._tokens):
            rows = (tiles == i).nonzero()[:, 0]
            if len(rows):
                e = self._e(tokens, maximum, at_least(rows))[: len(rows)]
                sampled[rows] = InverseCdf().sample(e, rest[rows]) + tokens.start
        return sampled

    def _soft_embeddings(
        self, maximum: Tensor, tokens: Tensor, share: Tensor, total: Tensor, sparse: bool
    ) -> Tensor:
        """softmax(z) @ embeddings, scaled; sparse rows from the tiles' best tokens alone."""
        kept = share.sum(dim=1)
        is_dense = kept < (1 - DROPPED_MASS) * total if sparse else torch.ones_like(kept).bool()
        rows = is_dense.nonzero()[:, 0]
        if len(rows) == len(kept):
            return self._dense(maximum, None)
        weights = (share * (self._scale / kept)[:, None]).to(self._weight.dtype)
        soft: Tensor = F.embedding_bag(tokens, self._weight, per_sample_weights=weights, mode="sum")
        if len(rows):
            soft[rows] = self._dense(maximum, at_least(rows))[: len(rows)]
        return soft

    def _dense(self, maximum: Tensor, rows: Tensor | None) -> Tensor:
        """A 16-bit model conditions on its rounded z, as the reference does."""
        dtype = self._weight.dtype
        maximum_of_rows = _pick(maximum, rows)[:, None]
        total = torch.zeros_like(maximum_of_rows)
        result = total.new_zeros(len(total), self._weight.shape[1])
        for tokens in self._tokens:
            if dtype == torch.float32:
                e = self._e(tokens, maximum, rows)
            else:
                z = self._z(tokens, rows).to(dtype).float().sub_(maximum_of_rows)
                e = z.clamp_(min=_SMALLEST_EXPONENT).exp_().to(dtype)
            result += (e @ self._weight[tokens]).float()
            total += e.float().sum(dim=1, keepdim=True)
        mean: Tensor = result * (self._scale / total)
        return mean.to(dtype)


def _pick(values: Tensor, rows: Tensor | None) -> Tensor:
    """The values of these rows; None: of all."""
    return values if rows is None else values[rows]


def at_least(rows: Tensor) -> Tensor:
    """Row numbers, the last one repeated up to LEAST_ROWS: fewer rows might round otherwise."""
    missing = LEAST_ROWS - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing)])
