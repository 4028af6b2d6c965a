"""The dense gated MLP, and the experts with the router that chooses among them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .norm import RMSNorm


class GatedMLP(nn.Module):
    """down(gelu_tanh(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.gelu(self.gate_proj(x), approximate="tanh")
        output: Tensor = self.down_proj(gate * self.up_proj(x))
        return output


class Router(nn.Module):
    """Chooses top-k experts of a row from its raw residual; weights sum to 1 before their scales."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k = config.top_k_experts
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, with_scale=False)
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, d] -> probabilities fp32 [T, E], weights fp32 [T, K], experts int64 [T, K]."""
        scores = self.proj(self.norm(x) * self.scale * x.shape[-1] ** -0.5)
        probabilities = scores.softmax(dim=-1, dtype=torch.float32)
        weights, experts = probabilities.topk(self.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return probabilities, weights * self.per_expert_scale[experts], experts


class Experts(nn.Module):
    """Gated MLPs, of which each row uses its top-k."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, size = config.num_experts, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * size, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts, config.hidden_size, size))

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [T, d], weights and experts [T, K] -> [T, d]."""
        num_experts = self.gate_up_proj.shape[0]
        if num_experts <= 2 * experts.shape[1]:
            # With half of the experts in use, two large products cost less than sorting rows.
            dense = torch.zeros(len(x), num_experts, dtype=weights.dtype, device=x.device)
            return self._all_experts(x, dense.scatter(1, experts, weights))
        return self._chosen_experts(x, weights, experts)

    def _all_experts(self, x: Tensor, weights: Tensor) -> Tensor:
        gate_up = F.linear(x, self.gate_up_proj.flatten(0, 1)).view(*weights.shape, -1)
        gate, up = gate_up.chunk(2, dim=-1)
        inner = F.gelu(gate, approximate="tanh") * up * weights.to(x.dtype)[:, :, None]
        return inner.flatten(1) @ self.down_proj.transpose(1, 2).flatten(0, 1)

    def _chosen_experts(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        output = torch.zeros_like(x)
        order = experts.flatten().argsort(stable=True)
        rows = order // experts.shape[1]
        counts = torch.bincount(experts.flatten(), minlength=self.gate_up_proj.shape[0]).tolist()
        row_weights = weights.flatten()[order].to(x.dtype)[:, None]
        start = 0
        for expert, count in enumerate(counts):
            if not count:
                continue
            chosen = slice(start, start + count)
            gate_up = F.linear(x[rows[chosen]], self.gate_up_proj[expert])
            gate, up = gate_up.chunk(2, dim=-1)
            inner = F.gelu(gate, approximate="tanh") * up
            result = F.linear(inner, self.down_proj[expert]) * row_weights[chosen]
            output = output.index_add(0, rows[chosen], result)
            start += count
        return output
