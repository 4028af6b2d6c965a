"""Muon: momentum whose update is made orthogonal, for matrices.

Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the
coefficients of the Newton-Schulz iteration are theirs. Works on stacks of matrices too, which is
what experts are.
"""

import torch
from torch import Tensor


def newton_schulz(gradient: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearest orthogonal matrix, roughly, computed as ``dtype``; [.., rows, columns]."""
    x: Tensor = gradient.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        product = x @ x.mT
        x = 3.4445 * x + (-4.7750 * product + 2.0315 * product @ product) @ x
    return (x.mT if tall else x).to(gradient.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum, for matrices and stacks of matrices. dtype: of its products."""

    def __init__(
        self,
        parameters: list[Tensor],
        lr: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity = state["velocity"].lerp_(parameter.grad, 1 - group["momentum"])
                gradient = parameter.grad.lerp(velocity, group["momentum"])
                update = newton_schulz(gradient, self.dtype)
                scale = max(1.0, parameter.shape[-2] / parameter.shape[-1]) ** 0.5
                parameter.mul_(1 - group["lr"] * 0.02)
                parameter.add_(update, alpha=-group["lr"] * scale)
