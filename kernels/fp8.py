"""FP8, eight-bit floating-point numbers (e4m3: 4 bits of exponent, 3 of mantissa) under fp32 scales.

The rows of a tensor are cut into blocks of equal size, at most the whole row. A block stores one scale,
its largest magnitude / 448, so that the largest element becomes the largest number of the format, and
of each element the number nearest to element / scale. That is 8 bits per element and 32 per block.

Weights have one block per row, which is one scale per output: the "channel" strategy of
compressed-tensors, as the published FP8 checkpoints have it. Rows that meet such weights are quantized
too, while the model runs ("dynamic"). Then matrix units multiply the stored numbers as they are,
at twice the rate of 16-bit ones, and the sums are multiplied by the scales.

Source: FP8 Formats for Deep Learning (arXiv 2209.05433) for the numbers and why they need a scale.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .launch import check, check_inputs, tl, triton

DTYPE = torch.float8_e4m3fn

LARGEST = 448.0
"""The largest finite number of the format."""

_SMALLEST_ABSMAX = 1e-30
"""In place of the largest magnitude 0 of a block of zeros, which are then divided by its scale."""

_CHUNK_SIZE = 1 << 24
"""Elements quantized at a time: some 200 MB of intermediates."""


@dataclass(frozen=True, slots=True)
class Fp8Tensor:
    """A quantized tensor of shape [.., K]: values e4m3 [.., K], scales fp32 [.., blocks per row]."""

    values: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape of the tensor that was quantized."""
        return self.values.shape

    def part(self, index: int) -> "Fp8Tensor":
        """The index-th part along the first dimension."""
        return Fp8Tensor(self.values[index], self.scales[index])


def quantize(tensor: Tensor, block_size: int | None = None) -> Fp8Tensor:
    """[.., K] of any float dtype -> FP8, in blocks of so many elements, else of a row each.

    KernelError for a K that is no multiple of the block.
    """
    size = tensor.shape[-1]
    block_size = block_size or size
    check(size % block_size == 0, f"fp8: rows of {size} elements are no multiple of {block_size}")
    blocks = tensor.reshape(-1, block_size)
    values = torch.empty(blocks.shape, dtype=DTYPE, device=tensor.device)
    scales = torch.empty(len(blocks), dtype=torch.float32, device=tensor.device)
    num_blocks = max(1, _CHUNK_SIZE // block_size)
    for start in range(0, len(blocks), num_blocks):
        chunk = blocks[start : start + num_blocks].float()
        own = chunk.abs().amax(dim=-1).clamp(min=_SMALLEST_ABSMAX) / LARGEST
        # A quotient may be rounded to a little more than the largest number.
        chunk = (chunk / own[:, None]).clamp(-LARGEST, LARGEST)
        values[start : start + num_blocks] = chunk.to(DTYPE)
        scales[start : start + num_blocks] = own
    return Fp8Tensor(values.view(tensor.shape), scales.view(*tensor.shape[:-1], size // block_size))


def dequantize(tensor: Fp8Tensor, dtype: torch.dtype) -> Tensor:
    """FP8 -> [.., K]; products in fp32, rounded once to the dtype."""
    blocks = tensor.values.float().unflatten(-1, (tensor.scales.shape[-1], -1))
    return torch.mul(blocks, tensor.scales[..., None]).flatten(-2).to(dtype)


def rounded(x: Tensor, block_size: int | None = None) -> Tensor:
    """x [.., K] as FP8 can say it, of its own dtype: what a quantized row is to the reference."""
    return dequantize(quantize(x, block_size), x.dtype)


def quantize_rows(x: Tensor) -> Fp8Tensor:
    """As ``quantize``, in one launch: x [R, K], a scale for each row."""
    check_inputs("quantize_rows", x)
    num_rows, size = x.shape
    values = torch.empty(x.shape, dtype=DTYPE, device=x.device)
    scales = torch.empty(num_rows, 1, dtype=torch.float32, device=x.device)
    _quantize_rows_kernel[(num_rows,)](
        x, values, scales, SIZE=size, PADDED=triton.next_power_of_2(size), num_warps=8
    )
    return Fp8Tensor(values, scales)


@triton.jit
def _quantize_rows_kernel(x_ptr, values_ptr, scales_ptr, SIZE: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, PADDED)
    x = tl.load(x_ptr + row * SIZE + columns, mask=columns < SIZE, other=0.0).to(tl.float32)
    absmax = tl.max(tl.abs(x), axis=0)
    tl.store(values_ptr + row * SIZE + columns, to_fp8(x, absmax), mask=columns < SIZE)
    tl.store(scales_ptr + row, scale_of(absmax))


@triton.jit
def scale_of(absmax):
    """Inside a kernel: the scale of a block by its largest magnitude, fp32."""
    return tl.maximum(absmax, 1e-30) / 448.0


@triton.jit
def to_fp8(x, absmax):
    """Inside a kernel: fp32 elements under the scale of their block's largest magnitude."""
    scaled = x * (448.0 / tl.maximum(absmax, 1e-30))
    return tl.clamp(scaled, -448.0, 448.0).to(tl.float8e4nv)
