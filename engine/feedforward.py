"""The dense gated MLP, and the experts with the router that chooses among them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .norm import RMSNorm
from .operations import Operations
from .quantized_weight import QuantizedWeight, held

LEAST_ROWS = 16
"""Rows from which on a matrix product gives each row the same result in any company."""


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation.

    0.5 x (1 + tanh(u)) is x / (1 + exp(-2 u)). On a CPU, torch's tanh is slower, and its sigmoid and
    GELU round otherwise in the last few elements of a tensor, so that a row's result would depend
    on its place; its exp does not. Differentiation and other devices use torch's own.
    """
    if x.device.type != "cpu" or x.requires_grad:
        return F.gelu(x, approximate="tanh")
    minus_twice_u = (x * x).mul_(-_GELU_CUBIC).sub_(_GELU_LINEAR).mul_(x)
    return torch.div(x, minus_twice_u.exp_().add_(1), out=minus_twice_u)


_GELU_LINEAR = 2 * (2 / math.pi) ** 0.5
_GELU_CUBIC = _GELU_LINEAR * 0.044715


class GatedMLP(nn.Module):
    """down(gelu_tanh(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.down_proj(gelu_tanh(self.gate_proj(x)) * self.up_proj(x))
        return output


class Router(nn.Module):
    """Chooses top-k experts of a row from its raw residual; weights sum to 1 before their scales."""

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.top_k = config.top_k_experts
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, operations, with_scale=False)
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, d] -> scores [T, E], weights fp32 [T, K], experts int64 [T, K]."""
        scores = self.proj(self.norm(x) * self.scale * x.shape[-1] ** -0.5)
        return scores, *self.operations.route(scores, self.per_expert_scale, self.top_k)


class Experts(nn.Module):
    """Gated MLPs, of which each row uses its top-k."""

    gate_up_proj: Tensor | QuantizedWeight  # [E, 2 I, d]
    down_proj: Tensor | QuantizedWeight  # [E, d, I]

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        experts, size = config.num_experts, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * size, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts, config.hidden_size, size))

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [T, d], weights and experts [T, K] -> [T, d]."""
        gate_up_proj, down_proj = held(self.gate_up_proj), held(self.down_proj)
        return self.operations.experts(x, gate_up_proj, down_proj, weights, experts)
