"""Weights held in NF4, in place of a linear layer's or the experts' own.

How a product decodes them is the operations' business.
"""

import torch
from torch import Tensor, nn

from dgq.kernels import nf4
from dgq.kernels.nf4 import (
    BLOCK_SIZE,
    NESTED_BLOCK_SIZE,
    NestedScales,
    Nf4Tensor,
    nested_codebook,
)

from .operations import Operations


class Nf4Weight(nn.Module):
    """An NF4 tensor of shape [.., K], held as buffers.

    packed uint8 [.., K / 2]; absmax [.., K / 64], fp32, or uint8 where it is quantized itself: then
    nested_absmax fp32 [blocks / 256, rounded up] and nested_offset fp32 [] go with it.
    """

    packed: Tensor
    absmax: Tensor
    nested_absmax: Tensor
    nested_offset: Tensor

    def __init__(self, shape: torch.Size, double_quantization: bool) -> None:
        """A weight yet to be filled. shape: of what was quantized, K a multiple of 64."""
        super().__init__()
        self.shape = shape
        self.double_quantization = double_quantization
        num_blocks = shape.numel() // BLOCK_SIZE
        scales = (*shape[:-1], shape[-1] // BLOCK_SIZE)
        scales_dtype = torch.uint8 if double_quantization else torch.float32
        self.register_buffer("packed", torch.empty(*shape[:-1], shape[-1] // 2, dtype=torch.uint8))
        self.register_buffer("absmax", torch.empty(scales, dtype=scales_dtype))
        if double_quantization:
            self.register_buffer("nested_absmax", torch.empty(-(-num_blocks // NESTED_BLOCK_SIZE)))
            self.register_buffer("nested_offset", torch.empty(()))

    def quantize(self, tensor: Tensor) -> Nf4Tensor:
        """A tensor of this shape as it is to be held."""
        return nf4.quantize(tensor, self.double_quantization)

    def quantize_and_hold(self, tensor: Tensor) -> None:
        """Take a tensor of this shape that is not quantized."""
        self.fill(self.quantize(tensor))

    def fill(self, tensor: Nf4Tensor) -> None:
        """Take a quantized tensor of this shape."""
        self.packed, self.absmax = tensor.packed, tensor.absmax
        if tensor.nested is not None:
            self.nested_absmax, self.nested_offset = tensor.nested.absmax, tensor.nested.offset

    @property
    def tensor(self) -> Nf4Tensor:
        """The buffers as the kernels take them."""
        nested = None
        if self.double_quantization:
            code = nested_codebook(self.packed.device)
            nested = NestedScales(code, self.nested_absmax, self.nested_offset)
        return Nf4Tensor(self.packed, self.absmax, nested)


class Nf4Linear(nn.Module):
    """A linear layer without bias whose weight [N, K] is NF4."""

    def __init__(
        self, shape: torch.Size, double_quantization: bool, operations: Operations
    ) -> None:
        super().__init__()
        self.operations = operations
        self.weight = Nf4Weight(shape, double_quantization)

    def forward(self, x: Tensor) -> Tensor:
        """x [.., K] -> [.., N]."""
        return self.operations.nf4_linear(x, self.weight.tensor)
