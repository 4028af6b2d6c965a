"""Random draws that depend on what is drawn, never on when or beside what.

Each draw is a hash of (seed, attempt, canvas, step, purpose, row), so a request gets the same text
alone or in any batch, on any device, at any retry. The hash is splitmix64: a canvas's numbers are
folded into one 64-bit key, the step and the purpose make of it the start of a stream, and row r
takes that stream's r-th output. Everything is 64-bit integer arithmetic that wraps, which is exact
and so equal on every device; torch has no unsigned 64-bit products, so a logical shift is an
arithmetic one with the sign bits masked off.
"""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB

_UNIFORM_BITS = 24  # all that a float32 in [0, 1) holds
_TOKEN_BITS = 40  # times a vocabulary of up to 2**23 stays below 2**63

MAX_VOCAB_SIZE = 1 << 23


class Purpose(IntEnum):
    """What a draw decides; two purposes never share a number."""

    START_TOKEN = 1
    START_NOISE = 2
    SAMPLE = 3
    RENOISE = 4
    RENOISE_SHARE = 5


def canvas_key(seed: int, attempt: int, canvas: int) -> int:
    """The key of one attempt at one canvas, as a signed 64-bit number; seeds count modulo 2**64."""
    key = 0
    for part in (seed, attempt, canvas):
        key = _mix_int(((key ^ (part & _MASK)) + _GOLDEN) & _MASK)
    return _signed(key)


def draw_bits(keys: Tensor, purpose: Purpose, steps: Tensor, num_rows: int) -> Tensor:
    """64 random bits for each row of each canvas.

    keys int64 [B] from canvas_key, steps int64 [B] -> int64 [B, num_rows].
    """
    return draw_bits_for((purpose,), keys, steps, num_rows)[0]


def draw_bits_for(
    purposes: Sequence[Purpose], keys: Tensor, steps: Tensor, num_rows: int
) -> tuple[Tensor, ...]:
    """As draw_bits, for several purposes at the price of one, which is mostly that of calls."""
    numbers = torch.stack([steps * 256 + int(purpose) for purpose in purposes])
    streams = _mix(keys + numbers * _signed(_GOLDEN))
    rows = torch.arange(1, num_rows + 1, device=keys.device)
    return _mix(streams[:, :, None] + rows * _signed(_GOLDEN)).unbind(0)


def to_uniforms(bits: Tensor) -> Tensor:
    """int64 bits -> float32 in [0, 1), of the same shape."""
    return _shift(bits, 64 - _UNIFORM_BITS).to(torch.float32) * 2.0**-_UNIFORM_BITS


def to_uniform_pairs(bits: Tensor) -> Tensor:
    """int64 bits -> two independent float32 in [0, 1) from each, [.., 2]; the first: as to_uniforms."""
    return torch.stack([to_uniforms(bits), to_uniforms(bits << _UNIFORM_BITS)], dim=-1)


def to_tokens(bits: Tensor, vocab_size: int) -> Tensor:
    """int64 bits -> token ids in [0, vocab_size), of the same shape. vocab_size <= 2**23."""
    return (_shift(bits, 64 - _TOKEN_BITS) * vocab_size) >> _TOKEN_BITS


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(_FIRST)
    x = (x ^ _shift(x, 27)) * _signed(_SECOND)
    return x ^ _shift(x, 31)


def _mix_int(x: int) -> int:
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return x ^ (x >> 31)


def _shift(x: Tensor, count: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> count) & ((1 << (64 - count)) - 1)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
