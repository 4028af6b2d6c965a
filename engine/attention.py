"""Attention and its rotary positions, for sliding and for full-attention layers.

Attention is not scaled by 1/sqrt(head_dim): queries and keys are normalised instead. Full-attention
layers have no value projection; their V is the unit-normalised raw key projection. A layer makes
queries, keys and values of its rows; who sees whom is left to an *attend*: padded batches
(PaddedAttend: training, tests) or pages of a KV pool (paged.py: the engine).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .norm import RMSNorm
from .operations import Operations

LayerKV = tuple[Tensor, Tensor]
"""Keys (already rotated) and values, each [batch, num_kv_heads, length, head_dim]."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Rotated queries [.., num_heads, head_dim], keys and values [.., num_kv_heads, head_dim] of the
layer's own rows -> attended values, shaped as the queries."""


class Rotary:
    """Cosines and sines of the rotary embedding of one layer type; nothing learned."""

    def __init__(self, head_dim: int, theta: float, partial_rotary_factor: float = 1.0) -> None:
        num_angles = int(partial_rotary_factor * head_dim // 2)
        exponents = torch.arange(0, 2 * num_angles, 2, device="cpu").float() / head_dim
        self.inverse_frequencies = 1.0 / theta**exponents

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """positions [..] -> cos, sin, each [.., 1, num_angles]."""
        if (
            self.inverse_frequencies.device != positions.device
        ):  # once: copying waits for the device
            self.inverse_frequencies = self.inverse_frequencies.to(positions.device)
        angles = positions[..., None, None].float() * self.inverse_frequencies
        return angles.cos().to(dtype), angles.sin().to(dtype)


class Attention(nn.Module):
    """Grouped-query attention with normed queries and keys, scale 1."""

    def __init__(self, config: ModelConfig, layer: int, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
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
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps, operations)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps, operations)
        self.v_norm = RMSNorm(self.head_dim, config.rms_norm_eps, operations, with_scale=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """x [.., d], rotary [.., 1, num_angles] each -> output [.., d]."""
        heads = (*x.shape[:-1], -1, self.head_dim)
        rotate = self.operations.rotate
        query = rotate(self.q_norm(self.q_proj(x).view(heads)), rotary)
        raw_key = self.k_proj(x).view(heads)
        raw_value = raw_key if self.v_proj is None else self.v_proj(x).view(heads)
        key = rotate(self.k_norm(raw_key), rotary)
        output: Tensor = self.o_proj(attend(query, key, self.v_norm(raw_value)).flatten(-2))
        return output


class PaddedAttend:
    """Rows [B, L] see their own batch entry's past and one another, as a mask says.

    Keeps the KV of its rows, for whoever reads on: ``kv``, [B, num_kv_heads, L, head_dim] each.
    """

    def __init__(self, past: LayerKV | None, mask: Tensor) -> None:
        """past [B, num_kv_heads, P, head_dim] each; mask bool [B, 1, L or 1, P + L]."""
        self._past = past
        self._mask = mask
        self.kv: LayerKV | None = None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As Attend says."""
        keys, values = key.transpose(1, 2), value.transpose(1, 2)
        self.kv = keys, values
        if self._past is not None:
            keys = torch.cat([self._past[0], keys], dim=2)
            values = torch.cat([self._past[1], values], dim=2)
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2), keys, values, attn_mask=self._mask, scale=1.0, enable_gqa=True
        )
        return attended.transpose(1, 2)
