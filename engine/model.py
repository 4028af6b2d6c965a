"""DiffusionGemma's text model: one stack of layers, used in two ways.

As the *encoder* it reads tokens causally and gives their keys and values; as the *decoder* it
reads a canvas, every row seeing every other row and the encoder's cached prefix, and gives hidden
states whose logits predict the clean canvas. Both share all weights but ``layer_scalar``, and the
self-conditioning block, which only the decoder has.

Source: transformers 5.23, ``models/diffusion_gemma/modeling_diffusion_gemma.py``; the tests compare
with it. What is easy to get wrong: attention is not scaled by 1/sqrt(head_dim); full-attention
layers have no value projection, their V is the unit-normalised raw key projection; the router reads
the raw residual, not the normed one; a sliding layer's canvas rows all see the same rectangle, the
last ``sliding_window - 1`` cached tokens and the whole canvas.

Plain PyTorch on padded ``[batch, length]`` tensors, differentiable: training uses it too.
Parameter names are the checkpoint's without the leading ``model.``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig

LayerKV = tuple[Tensor, Tensor]
"""Keys (already rotated) and values, each [batch, num_kv_heads, length, head_dim]."""


class RMSNorm(nn.Module):
    """x / rms(x), times a weight if there is one; computed in fp32."""

    def __init__(self, size: int, eps: float, with_scale: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.size = size
        self.weight = nn.Parameter(torch.ones(size)) if with_scale else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float() if self.weight is not None else None
        return F.rms_norm(x.float(), (self.size,), weight, self.eps).to(x.dtype)


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
        return self.o_proj(attended.transpose(1, 2).reshape(batch, length, -1)), (key, value)


class GatedMLP(nn.Module):
    """down(gelu_tanh(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.gelu(self.gate_proj(x), approximate="tanh")
        return self.down_proj(gate * self.up_proj(x))


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
        gate_up = F.linear(x, self.gate_up_proj.flatten(0, 1)).unflatten(1, (weights.shape[1], -1))
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


class Layer(nn.Module):
    """Attention, then a dense gated MLP and routed experts side by side, each between norms."""

    layer_scalar: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, layer)
        self.mlp = GatedMLP(size, config.intermediate_size)
        self.router = Router(config)
        self.experts = Experts(config)
        self.input_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.pre_feedforward_layernorm = RMSNorm(size, eps)
        self.post_feedforward_layernorm = RMSNorm(size, eps)
        self.post_feedforward_layernorm_1 = RMSNorm(size, eps)
        self.post_feedforward_layernorm_2 = RMSNorm(size, eps)
        self.pre_feedforward_layernorm_2 = RMSNorm(size, eps)
        self.register_buffer("layer_scalar", torch.ones(1))

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        past: LayerKV | None,
        mask: Tensor,
        layer_scalar: Tensor,
    ) -> tuple[Tensor, LayerKV]:
        attended, kv = self.self_attn(self.input_layernorm(x), rotary, past, mask)
        x = x + self.post_attention_layernorm(attended)
        dense = self.post_feedforward_layernorm_1(self.mlp(self.pre_feedforward_layernorm(x)))
        flat = x.flatten(0, 1)
        _, weights, experts = self.router(flat)
        routed = self.experts(self.pre_feedforward_layernorm_2(flat), weights, experts)
        routed = self.post_feedforward_layernorm_2(routed).view_as(x)
        x = x + self.post_feedforward_layernorm(dense + routed)
        return x * layer_scalar, kv


class SelfConditioning(nn.Module):
    """Adds what the last step believed to the canvas's embeddings; runs with zeros at step one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.pre_norm = RMSNorm(size, eps)
        self.post_norm = RMSNorm(size, eps, with_scale=False)
        self.gate_proj = nn.Linear(size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, size, bias=False)

    def forward(self, embeddings: Tensor, soft_embeddings: Tensor | None) -> Tensor:
        if soft_embeddings is not None:
            normed = self.pre_norm(soft_embeddings)
            gate = F.gelu(self.gate_proj(normed), approximate="tanh")
            embeddings = embeddings + self.down_proj(gate * self.up_proj(normed))
        return self.post_norm(embeddings)  # a zero signal gives zero, so None skips the block


class DecoderStack(nn.Module):
    """Everything that the checkpoint stores under ``decoder``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(len(config.layer_types)))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)


class EncoderScalar(nn.Module):
    """The one thing of a layer that the encoder does not share with the decoder."""

    layer_scalar: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("layer_scalar", torch.ones(1))


class EncoderStack(nn.Module):
    """Everything that the checkpoint stores under ``encoder``, the vision part aside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.language_model = nn.Module()
        self.language_model.layers = nn.ModuleList(EncoderScalar() for _ in config.layer_types)


class DiffusionGemma(nn.Module):
    """The text model of a DiffusionGemma checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = DecoderStack(config)
        self.encoder = EncoderStack(config)
        self.rotary_sliding = Rotary(config.head_dim, config.rope_theta_sliding)
        self.rotary_full = Rotary(
            config.head_dim_full, config.rope_theta_full, config.partial_rotary_factor_full
        )

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids [..] -> [.., d], scaled by sqrt(d) rounded to the weights' dtype."""
        weight = self.decoder.embed_tokens.weight
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=weight.dtype, device=weight.device)
        return self.decoder.embed_tokens(token_ids) * scale

    def encode(
        self,
        token_ids: Tensor,
        positions: Tensor,
        valid: Tensor,
        past: list[LayerKV] | None = None,
        past_valid: Tensor | None = None,
    ) -> tuple[Tensor, list[LayerKV]]:
        """Read tokens causally.

        token_ids, positions int64 [B, L]; valid bool [B, L], right-padded. past: the prefix's KV,
        right-padded to P, row j at position j; past_valid bool [B, P].
        Returns hidden [B, L, d] after the final norm, and each layer's KV of these L tokens.
        """
        length = token_ids.shape[1]
        rows = torch.arange(length, device=token_ids.device)
        causal = rows[None, :] <= rows[:, None]
        near = rows[None, :] > rows[:, None] - self.config.sliding_window
        mask_full = causal & valid[:, None, :]
        mask_sliding = mask_full & near
        if past is not None and past_valid is not None:
            past_rows = torch.arange(past_valid.shape[1], device=token_ids.device)
            past_full = past_valid[:, None, :].expand(-1, length, -1)
            in_window = past_rows > positions[:, :, None] - self.config.sliding_window
            mask_full = torch.cat([past_full, mask_full], dim=2)
            mask_sliding = torch.cat([past_full & in_window, mask_sliding], dim=2)
        scalars = [layer.layer_scalar for layer in self.encoder.language_model.layers]
        return self._layers(
            self.embed(token_ids), positions, past, mask_full, mask_sliding, scalars
        )

    def denoise(
        self,
        canvas_ids: Tensor,
        positions: Tensor,
        canvas_valid: Tensor,
        past: list[LayerKV],
        past_valid: Tensor,
        soft_embeddings: Tensor | None = None,
    ) -> Tensor:
        """Read canvases, every row seeing its whole canvas and its own prefix.

        canvas_ids, positions int64 [B, W]; canvas_valid bool [B, W]; past right-padded to P;
        past_valid bool [B, P]; soft_embeddings [B, W, d], what the last step believed, or None.
        Returns hidden [B, W, d] after the final norm.
        """
        past_lengths = past_valid.sum(dim=1, keepdim=True)
        past_rows = torch.arange(past_valid.shape[1], device=canvas_ids.device)
        in_window = past_rows > past_lengths - self.config.sliding_window
        mask_full = torch.cat([past_valid, canvas_valid], dim=1)[:, None, :]
        mask_sliding = torch.cat([past_valid & in_window, canvas_valid], dim=1)[:, None, :]
        x = self.decoder.self_conditioning(self.embed(canvas_ids), soft_embeddings)
        scalars = [layer.layer_scalar for layer in self.decoder.layers]
        return self._layers(x, positions, past, mask_full, mask_sliding, scalars)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [.., d] -> softcapped logits, fp32 [.., V]."""
        cap = self.config.final_logit_softcapping
        logits = F.linear(hidden, self.decoder.embed_tokens.weight).float()
        return torch.tanh(logits / cap) * cap

    def soft_embeddings(self, processed_logits: Tensor) -> Tensor:
        """What a step believed, as embeddings: softmax(logits) @ embedding, scaled; [.., d]."""
        weight = self.decoder.embed_tokens.weight
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=weight.dtype, device=weight.device)
        probabilities = processed_logits.softmax(dim=-1, dtype=torch.float32).to(weight.dtype)
        return (probabilities @ weight) * scale

    def _layers(
        self,
        x: Tensor,
        positions: Tensor,
        past: list[LayerKV] | None,
        mask_full: Tensor,
        mask_sliding: Tensor,
        scalars: list[Tensor],
    ) -> tuple[Tensor, list[LayerKV]]:
        """Masks are bool [B, L or 1, P + L]."""
        rotary_sliding = self.rotary_sliding(positions, x.dtype)
        rotary_full = self.rotary_full(positions, x.dtype)
        mask_full, mask_sliding = mask_full[:, None], mask_sliding[:, None]
        kvs: list[LayerKV] = []
        for i, layer in enumerate(self.decoder.layers):
            full = self.config.is_full(i)
            x, kv = layer(
                x,
                rotary_full if full else rotary_sliding,
                None if past is None else past[i],
                mask_full if full else mask_sliding,
                scalars[i],
            )
            kvs.append(kv)
        return self.decoder.norm(x), kvs
