"""Weights held in FP8, in place of the experts' own."""

import torch
from torch import Tensor, nn

from dgq.kernels import fp8
from dgq.kernels.fp8 import Fp8Tensor


class Fp8Weight(nn.Module):
    """An FP8 tensor of shape [.., K], held as buffers: values e4m3 [.., K], scales fp32 [.., 1]."""

    values: Tensor
    scales: Tensor

    def __init__(self, shape: torch.Size) -> None:
        """A weight yet to be filled. shape: of what was quantized."""
        super().__init__()
        self.shape = shape
        self.register_buffer("values", torch.empty(shape, dtype=fp8.DTYPE))
        self.register_buffer("scales", torch.empty(*shape[:-1], 1, dtype=torch.float32))

    def quantize(self, tensor: Tensor) -> Fp8Tensor:
        """A tensor of this shape as it is to be held."""
        return fp8.quantize(tensor)

    def quantize_and_hold(self, tensor: Tensor) -> None:
        """Take a tensor of this shape that is not quantized."""
        self.fill(self.quantize(tensor))

    def fill(self, tensor: Fp8Tensor) -> None:
        """Take a quantized tensor of this shape."""
        self.values, self.scales = tensor.values, tensor.scales

    @property
    def tensor(self) -> Fp8Tensor:
        """The buffers as the kernels take them."""
        return Fp8Tensor(self.values, self.scales)
