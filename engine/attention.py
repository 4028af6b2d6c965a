"""Attention and its rotary positions, for sliding and for full-attention layers.

Attention is not scaled by 1/sqrt(head_dim): queries and keys are normalised instead. Full-attention
layers have no value projection; their V is the unit-normalised raw key projection.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .norm import RMSNorm

LayerKV = tuple[Tensor, Tensor]
"""Keys (already rotated) and values, each [batch, num_kv_heads, length, head_dim]."""


class Rotary:
    """Cosines and sines of the rotary embedding of one layer type; nothing learned."""

    def __init__(self, head_dim: int, theta: float, partial_rotary_factor: float = 1.0) -> None:
        num_angles = int(partial_rotary_factor * head_dim // 2)
        exponents = torch.arange(0, 2 * num_angles, 2, device="cpu").float() / head_dim
        rest = torch.zeros(head_dim // 2 - num_angles, device="cpu")  # "proportional": no rotation
        self.inverse_frequencies = torch.cat([1.0 / theta**exponents, rest])

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """positions [B, L] -> cos, sin, each [B, 1, L, head_dim]."""
        inverse_frequencies = self.inverse_frequencies.to(positions.device)
        angles = positions[:, None, :, None].float() * inverse_frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + head_dim/2) of the last dimension."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention with normed queries and keys, scale 1."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        full = config.is_full(layer)
        self.head_dim = config.head_dim_full if full else config.head_dim
        num_kv_heads = config.num_key_value_heads_full if full else config.num_key_value_heads
        query_size = config.num_attention_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, num_kv_heads * self.head_dim, bias=False)
        self.v_proj = (
            None
            if full
            else nn.Linear(config.hidden_size, num_kv_heads * self.head_dim, bias=False)
        )
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.v_norm = RMSNorm(self.head_dim, config.rms_norm_eps, with_scale=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], past: LayerKV | None, mask: Tensor
    ) -> tuple[Tensor, LayerKV]:
        """x [B, L, d], mask bool [B, 1, L or 1, P + L] -> output [B, L, d], KV of x's own rows."""
        batch, length, _ = x.shape
        heads = (batch, length, -1, self.head_dim)
        cos, sin = rotary
        query = rotate(self.q_norm(self.q_proj(x).view(heads)).transpose(1, 2), cos, sin)
        raw_key = self.k_proj(x).view(heads)
        raw_value = raw_key if self.v_proj is None else self.v_proj(x).view(heads)
        key = rotate(self.k_norm(raw_key).transpose(1, 2), cos, sin)
        value = self.v_norm(raw_value).transpose(1, 2)
        all_keys, all_values = key, value
        if past is not None:
            all_keys = torch.cat([past[0], key], dim=2)
            all_values = torch.cat([past[1], value], dim=2)
        attended = F.scaled_dot_product_attention(
            query, all_keys, all_values, attn_mask=mask, scale=1.0, enable_gqa=True
        )
        output: Tensor = self.o_proj(attended.transpose(1, 2).reshape(batch, length, -1))
        return output, (key, value)
