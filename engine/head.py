"""From hidden states to all that a step needs of the vocabulary, in tiles of rows.

Per row: the most probable token, a sample, the entropy, and the expected embedding, which is the
next step's self-conditioning. Logits of all rows together never exist: a tile's logits stay in the
processor's cache, and at 262,144 tokens the whole would not fit anywhere. With
z = logits / temperature - max(z), e = exp(z) and S = sum(e), the entropy is
log S + sum(e * -z) / S: a sum of two terms that are not negative, so small entropies keep
their digits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .model import DiffusionGemma
from .sampler import InverseCdf

TILE_ELEMENTS = 1 << 18
"""Logits per tile: one MiB of fp32."""

_SMALLEST_EXPONENT = -80.0
"""exp(-80) is nothing beside 1 in fp32; below about -87 exp gives denormals, 30 times slower."""


@dataclass(frozen=True, slots=True)
class RowReadings:
    """What one step says of R rows: int64 [R], int64 [R], fp32 [R] in nats, [R, d]."""

    argmax: Tensor
    sampled: Tensor
    entropy: Tensor
    soft_embeddings: Tensor


def read_rows(
    model: DiffusionGemma, hidden: Tensor, temperature: Tensor, uniforms: Tensor
) -> RowReadings:
    """hidden [R, d] after the final norm; temperature and uniforms fp32 [R]."""
    argmax = hidden.new_empty(len(hidden), dtype=torch.int64)
    readings = RowReadings(
        argmax, torch.empty_like(argmax), torch.empty_like(uniforms), torch.empty_like(hidden)
    )
    rows_per_tile = max(1, TILE_ELEMENTS // model.config.vocab_size)
    for start in range(0, len(hidden), rows_per_tile):
        tile = slice(start, start + rows_per_tile)
        tile_readings = _read_tile(model, hidden[tile], temperature[tile], uniforms[tile])
        readings.argmax[tile] = tile_readings.argmax
        readings.sampled[tile] = tile_readings.sampled
        readings.entropy[tile] = tile_readings.entropy
        readings.soft_embeddings[tile] = tile_readings.soft_embeddings
    return readings


def _read_tile(
    model: DiffusionGemma, hidden: Tensor, temperature: Tensor, uniforms: Tensor
) -> RowReadings:
    weight = model.decoder.embed_tokens.weight
    z = model.logits(hidden).div_(temperature[:, None])
    largest, argmax = z.max(dim=-1)
    # A 16-bit model conditions on its rounded logits, as the reference does; in fp32 the softmax
    # below is that very softmax, and is not computed twice.
    soft = None if weight.dtype == torch.float32 else model.soft_embeddings(z.to(weight.dtype))
    z.sub_(largest[:, None]).clamp_(min=_SMALLEST_EXPONENT)
    e = z.exp()
    total = e.sum(dim=-1)
    entropy = total.log() - torch.linalg.vecdot(e, z) / total
    sampled = InverseCdf().sample(e, uniforms)
    if soft is None:
        soft = (e @ weight) * (model.config.hidden_size**0.5 / total)[:, None]
    return RowReadings(argmax, sampled, entropy, soft)
