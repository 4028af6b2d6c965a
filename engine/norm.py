"""Root-mean-square normalisation."""

import torch
from torch import Tensor, nn

from .operations import Operations


class RMSNorm(nn.Module):
    """x / rms(x), times a weight if there is one; computed in fp32."""

    def __init__(
        self, size: int, eps: float, operations: Operations, with_scale: bool = True
    ) -> None:
        super().__init__()
        self.operations = operations
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size)) if with_scale else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x [.., d] -> [.., d], on top of the residual if there is one."""
        return self.operations.rms_norm(x, self.weight, self.eps, residual)
