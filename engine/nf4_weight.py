"""Weights held in NF4, in place of a linear layer's or the experts' own.

How a product decodes them is the operations' business.
"""

import torch
from torch import Tensor, nn

from dgq.kernels.nf4 import (
    BLOCK_SIZE,
    NESTED_BLOCK_SIZE,
    NestedScales,
    Nf4Tensor,
    nested_codebook,
)

from .errors import CheckpointError
from .operations import Operations, Weight
from .quantization import Quantization


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


def held(weight: Tensor | Nf4Weight) -> Weight:
    """A weight as the operations take it."""
    return weight.tensor if isinstance(weight, Nf4Weight) else weight


def hold_in_nf4(model: nn.Module, quantization: Quantization, operations: Operations) -> None:
    """Make the covered weights of a model NF4 ones, yet to be filled; what they held is gone.

    CheckpointError names a weight whose rows cannot be cut into blocks.
    """
    for name, weight in list(model.named_parameters()):
        if not quantization.covers(name):
            continue
        if weight.shape[-1] % BLOCK_SIZE:
            raise CheckpointError(
                f"{name} has rows of {weight.shape[-1]} elements, no multiple of {BLOCK_SIZE}; "
                f"the preset {quantization.preset} cannot hold it"
            )
        parent, _, leaf = name.rpartition(".")
        holder = model.get_submodule(parent)
        if isinstance(holder, nn.Linear):
            above, _, own = parent.rpartition(".")
            linear = Nf4Linear(weight.shape, quantization.double_quantization, operations)
            setattr(model.get_submodule(above), own, linear)
        else:
            delattr(holder, leaf)
            setattr(holder, leaf, Nf4Weight(weight.shape, quantization.double_quantization))
