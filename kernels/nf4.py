"""NF4, four-bit numbers whose 16 values are quantiles of the normal distribution.

A tensor is read row-major in blocks of 64 elements. A block stores absmax, the largest magnitude in
it, and for each element the index of the codebook value nearest to element / absmax. Two indices
share a byte, the first in the high half. Optionally the absmax values are quantized once more
("double quantization"): their mean is taken off, and blocks of 256 of them are stored as one fp32
absmax and 8-bit indices into a second codebook, of 256 values spaced by powers of ten. That is 4.5
bits per element without it, 4.127 with it.

This is the storage format of bitsandbytes, bit for bit: its QuantState takes these tensors as they
are. Sources: QLoRA (arXiv 2305.14314) for NF4 and double quantization, 8-bit Optimizers
(arXiv 2110.02861) for the second codebook, bitsandbytes 0.50 ``functional.py`` for the format.

Weights are [..., K] with K a multiple of 64, so that no block crosses a row. A kernel decodes one
block of each of N rows at a time: it multiplies the codebook by the rows' absmax, a table of 16 values
per row held in registers, and every half byte picks from its row's table. That is one product per four
weights and one shuffle per weight; the values are those of ``dequantize``, bit for bit.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .launch import check, tl, triton

BLOCK_SIZE = 64
"""Elements that share one absmax."""

NESTED_BLOCK_SIZE = 256
"""Absmax values that share one absmax of their own."""

_CODE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)

_SMALLEST_ABSMAX = 1e-38
"""In place of the absmax 0 of a block of zeros, which are then divided by it."""


_CHUNK_SIZE = 1 << 24
"""Elements quantized at a time, a multiple of both block sizes: some 200 MB of intermediates."""


@dataclass(frozen=True, slots=True)
class NestedScales:
    """The second level of double quantization.

    code fp32 [256], ascending; absmax fp32 [blocks / 256, rounded up]; offset fp32 [].
    """

    code: Tensor
    absmax: Tensor
    offset: Tensor


@dataclass(frozen=True, slots=True)
class Nf4Tensor:
    """A quantized tensor of shape [..., K].

    packed uint8 [..., K / 2]; absmax [..., K / 64], fp32, or uint8 with the nested scales.
    """

    packed: Tensor
    absmax: Tensor
    nested: NestedScales | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape of the tensor that was quantized."""
        return torch.Size((*self.packed.shape[:-1], self.packed.shape[-1] * 2))

    def scales(self) -> Tensor:
        """The absmax values, fp32 [..., K / 64], decoded if they are quantized themselves."""
        if self.nested is None:
            return self.absmax
        codes = self.nested.code[self.absmax.flatten().long()]
        per_value = self.nested.absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: len(codes)]
        return (codes * per_value + self.nested.offset).view(self.absmax.shape)


@lru_cache
def codebook(device: torch.device) -> Tensor:
    """The 16 values, ascending; fp32 [16]."""
    return torch.tensor(_CODE, dtype=torch.float32, device=device)


@lru_cache
def nested_codebook(device: torch.device) -> Tensor:
    """The signed "dynamic" code for absmax values, ascending; fp32 [256].

    Its magnitudes are 0, 1, and in each decade from 1e-7 to 1 the middles of 1, 2, 4 .. 64 equal
    intervals between a tenth of the decade and the whole.
    """
    magnitudes = []
    for exponent in range(7):
        bounds = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        magnitudes += (10 ** (exponent - 6) * ((bounds[:-1] + bounds[1:]) / 2)).tolist()
    values = sorted([0.0, 1.0, *magnitudes, *(-magnitude for magnitude in magnitudes)])
    return torch.tensor(values, dtype=torch.float32, device=device)


def quantize(tensor: Tensor, double_quantization: bool = False) -> Nf4Tensor:
    """[..., K] of any float dtype, K a multiple of 64 -> NF4. KernelError for another K."""
    size = tensor.shape[-1]
    check(
        size % BLOCK_SIZE == 0 and size > 0,
        f"nf4: rows of {size} elements are no multiple of {BLOCK_SIZE}",
    )
    indices, absmax = _nearest(tensor.flatten(), codebook(tensor.device), BLOCK_SIZE)
    packed = (indices[0::2] << 4 | indices[1::2]).view(*tensor.shape[:-1], size // 2)
    scales_shape = (*tensor.shape[:-1], size // BLOCK_SIZE)
    if not double_quantization:
        return Nf4Tensor(packed, absmax.view(scales_shape))
    offset = absmax.mean()
    code = nested_codebook(tensor.device)
    nested_indices, nested_absmax = _nearest(absmax - offset, code, NESTED_BLOCK_SIZE)
    nested = NestedScales(code, nested_absmax, offset)
    return Nf4Tensor(packed, nested_indices.view(scales_shape), nested)


def dequantize(weight: Nf4Tensor, dtype: torch.dtype) -> Tensor:
    """NF4 -> [..., K]; products in fp32, rounded once to the dtype."""
    packed = weight.packed.int()
    indices = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(-2)
    values = codebook(packed.device)[indices].unflatten(-1, (-1, BLOCK_SIZE))
    return torch.mul(values, weight.scales()[..., None]).flatten(-2).to(dtype)


def _nearest(values: Tensor, code: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """values [n] -> uint8 [n], the nearest codes of value / absmax, and absmax fp32 [blocks]."""
    num_values = len(values)
    indices = torch.empty(num_values, dtype=torch.uint8, device=values.device)
    absmax = torch.empty(-(-num_values // block_size), dtype=torch.float32, device=values.device)
    middles = (code[:-1] + code[1:]) / 2
    for start in range(0, num_values, _CHUNK_SIZE):
        chunk = values[start : start + _CHUNK_SIZE]
        blocks = F.pad(chunk.float(), (0, -len(chunk) % block_size)).view(-1, block_size)
        largest = blocks.abs().amax(dim=-1)
        # Times the reciprocal, not divided: the two may round apart, and this is what is stored.
        scaled = (blocks * (1.0 / largest.clamp(min=_SMALLEST_ABSMAX))[:, None]).clamp(-1, 1)
        nearest = torch.bucketize(scaled, middles, out_int32=True).flatten()[: len(chunk)]
        indices[start : start + len(chunk)] = nearest
        absmax[start // block_size :][: len(largest)] = largest
    return indices, absmax


def kernel_arguments(weight: Tensor | Nf4Tensor) -> tuple[tuple[Tensor, ...], dict[str, bool]]:
    """What ``load_weight_tile`` needs of a weight: its five pointers, and its two flags.

    Pointers that the format has no use for repeat one that it has.
    """
    if not isinstance(weight, Nf4Tensor):
        return (weight,) * 5, {"QUANTIZED": False, "NESTED": False}
    packed, absmax, nested = weight.packed, weight.absmax, weight.nested
    if nested is None:
        return (packed, absmax, absmax, absmax, absmax), {"QUANTIZED": True, "NESTED": False}
    pointers = (packed, absmax, nested.code, nested.absmax, nested.offset)
    return pointers, {"QUANTIZED": True, "NESTED": True}


@triton.jit
def load_weight_tile(
    weight_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    nested_offset_ptr,
    code,
    rows,
    start,
    dtype: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    QUANTIZED: tl.constexpr,
    NESTED: tl.constexpr,
):
    """Inside a kernel: rows int64 [N] of a weight [.., DEPTH], columns from start, of dtype.

    Returns [N, BLOCK_DEPTH]; BLOCK_DEPTH is 64, one block of each row, where the weight is NF4.
    code fp32 [16] is the codebook.
    """
    if QUANTIZED:
        bytes = start // 2 + tl.arange(0, BLOCK_DEPTH // 2)
        packed = tl.load(weight_ptr + rows[:, None] * (DEPTH // 2) + bytes[None, :])
        blocks = rows * (DEPTH // 64) + start // 64
        scales = tl.load(absmax_ptr + blocks)
        if NESTED:
            scales = tl.load(nested_code_ptr + scales.to(tl.int32))
            scales = scales * tl.load(nested_absmax_ptr + blocks // 256)
            scales = scales + tl.load(nested_offset_ptr)
        values = code[None, :] * scales[:, None]
        high = tl.gather(values, (packed >> 4).to(tl.int32), axis=1)
        low = tl.gather(values, (packed & 15).to(tl.int32), axis=1)
        tile = tl.interleave(high.to(dtype), low.to(dtype))
    else:
        columns = start + tl.arange(0, BLOCK_DEPTH)
        tile = tl.load(weight_ptr + rows[:, None] * DEPTH + columns[None, :])
    return tile
