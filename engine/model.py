"""DiffusionGemma's text model: one stack of layers, used in two ways.

As the *encoder* it reads tokens causally and gives their keys and values; as the *decoder* it
reads a canvas, every row seeing every other row and the encoder's cached prefix, and gives hidden
states whose logits predict the clean canvas. Both share all weights but ``layer_scalar``, and the
self-conditioning block, which only the decoder has.

Source: transformers 5.23, ``models/diffusion_gemma/modeling_diffusion_gemma.py``; the tests compare
with it. What is easy to get wrong: the router reads the raw residual, not the normed one; the layer
scalars differ between encoder and decoder; a sliding layer's canvas rows all see the same rectangle,
the last ``sliding_window - 1`` cached tokens and the whole canvas.

``encode`` and ``denoise`` work on padded ``[batch, length]`` tensors and are differentiable: for
training, and the plain form that tests compare with. ``read_and_denoise`` is the engine's: texts that
are read and canvases that are denoised as one flat batch of rows. Parameter names are the
checkpoint's without the leading ``model.``. The modules leave most of the arithmetic to an
``Operations``: torch's, or the Triton kernels (operations.py).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attend, Attention, LayerKV, PaddedAttend, Rotary
from .config import ModelConfig
from .feedforward import Experts, GatedMLP, Router, gelu_tanh
from .norm import RMSNorm
from .operations import Operations, RowReadings
from .torch_operations import TORCH


class Layer(nn.Module):
    """Attention, then a dense gated MLP and routed experts side by side, each between norms."""

    layer_scalar: Tensor

    def __init__(self, config: ModelConfig, layer: int, operations: Operations) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, layer, operations)
        self.mlp = GatedMLP(size, config.intermediate_size)
        self.router = Router(config, operations)
        self.experts = Experts(config, operations)
        self.input_layernorm = RMSNorm(size, eps, operations)
        self.post_attention_layernorm = RMSNorm(size, eps, operations)
        self.pre_feedforward_layernorm = RMSNorm(size, eps, operations)
        self.post_feedforward_layernorm = RMSNorm(size, eps, operations)
        self.post_feedforward_layernorm_1 = RMSNorm(size, eps, operations)
        self.post_feedforward_layernorm_2 = RMSNorm(size, eps, operations)
        self.pre_feedforward_layernorm_2 = RMSNorm(size, eps, operations)
        self.register_buffer("layer_scalar", torch.ones(1))

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        attend: Attend,
        layer_scalar: Tensor,
        is_row: Tensor | None = None,
    ) -> Tensor:
        """x [.., d] -> [.., d]; layer_scalar [1], or [.., 1] where rows differ. is_row bool [rows, 1]:
        False for padding, which goes to no expert; None: there is none.
        """
        attended = self.self_attn(self.input_layernorm(x), rotary, attend)
        x = self.post_attention_layernorm(attended, residual=x)
        dense = self.post_feedforward_layernorm_1(self.mlp(self.pre_feedforward_layernorm(x)))
        flat = x.view(-1, x.shape[-1])
        scores, weights, experts = self.router(flat)
        if is_row is not None:
            experts = experts.masked_fill(~is_row, scores.shape[-1])
        routed = self.experts(self.pre_feedforward_layernorm_2(flat), weights, experts)
        routed = self.post_feedforward_layernorm_2(routed).view_as(x)
        x = self.post_feedforward_layernorm(dense + routed, residual=x)
        return x * layer_scalar


class SelfConditioning(nn.Module):
    """Adds what the last step believed to the canvas's embeddings; runs with zeros at step one."""

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.pre_norm = RMSNorm(size, eps, operations)
        self.post_norm = RMSNorm(size, eps, operations, with_scale=False)
        self.gate_proj = nn.Linear(size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, size, bias=False)

    def forward(self, embeddings: Tensor, soft_embeddings: Tensor | None) -> Tensor:
        if soft_embeddings is not None:
            normed = self.pre_norm(soft_embeddings)
            inner = gelu_tanh(self.gate_proj(normed)) * self.up_proj(normed)
            embeddings = embeddings + self.down_proj(inner)
        # A zero signal gives zero, so None skips the block; the norm runs all the same.
        output: Tensor = self.post_norm(embeddings)
        return output


class DecoderStack(nn.Module):
    """Everything that the checkpoint stores under ``decoder``."""

    layers: Sequence[Layer]  # as nn.Module's own typing cannot say it

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = [Layer(config, i, operations) for i in range(len(config.layer_types))]
        self.layers = cast(Sequence[Layer], nn.ModuleList(layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, operations)
        self.self_conditioning = SelfConditioning(config, operations)


class EncoderScalar(nn.Module):
    """The one thing of a layer that the encoder does not share with the decoder."""

    layer_scalar: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("layer_scalar", torch.ones(1))


class EncoderText(nn.Module):
    """Everything that the checkpoint stores under ``encoder.language_model``."""

    layers: Sequence[EncoderScalar]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layers = [EncoderScalar() for _ in config.layer_types]
        self.layers = cast(Sequence[EncoderScalar], nn.ModuleList(layers))


class EncoderStack(nn.Module):
    """Everything that the checkpoint stores under ``encoder``, the vision part aside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.language_model = EncoderText(config)


class DiffusionGemma(nn.Module):
    """The text model of a DiffusionGemma checkpoint; operations: how it computes."""

    def __init__(self, config: ModelConfig, operations: Operations = TORCH) -> None:
        super().__init__()
        self.config = config
        self.operations = operations
        self.decoder = DecoderStack(config, operations)
        self.encoder = EncoderStack(config)
        self.rotary_sliding = Rotary(config.head_dim, config.rope_theta_sliding)
        self.rotary_full = Rotary(
            config.head_dim_full, config.rope_theta_full, config.partial_rotary_factor_full
        )

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids [..] -> [.., d], scaled by sqrt(d) rounded to the weights' dtype."""
        weight = self.decoder.embed_tokens.weight
        # A number of the host's is no copy to the device, which a CUDA graph could not hold.
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=weight.dtype, device="cpu")
        return F.embedding(token_ids, weight) * scale

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

    def read_and_denoise(
        self,
        read_ids: Tensor,
        canvas_ids: Tensor,
        soft_embeddings: Tensor,
        positions: Tensor,
        attends: Sequence[Attend],
    ) -> Tensor:
        """One flat batch: the canvases' rows, then the encoder's, then padding.

        read_ids int64 [E], canvas_ids int64 [C], soft_embeddings [C, d] (zero before a canvas's
        first step), positions int64 [T >= E + C]; attends: of each layer, for all T rows.
        Returns the canvas rows' hidden [C, d] after the final norm.
        """
        num_read, num_canvas = len(read_ids), len(canvas_ids)
        padding = len(positions) - num_read - num_canvas
        parts = [
            self.decoder.self_conditioning(self.embed(canvas_ids), soft_embeddings),
            self.embed(read_ids),
            soft_embeddings.new_zeros(padding, self.config.hidden_size),
        ]
        x = torch.cat([part for part in parts if len(part)])
        is_canvas = (torch.arange(len(x), device=x.device) < num_canvas)[:, None]
        x = self._rows_through_layers(x, is_canvas, None, positions, attends)
        hidden: Tensor = self.decoder.norm(x[:num_canvas])
        return hidden

    def read_and_denoise_padded(
        self,
        token_ids: Tensor,
        soft_embeddings: Tensor,
        positions: Tensor,
        num_canvas: Tensor,
        num_rows: Tensor,
        attends: Sequence[Attend],
    ) -> Tensor:
        """As read_and_denoise, where the host knows only bounds of the numbers of rows.

        token_ids, positions int64 [T]: the canvases' rows, then the encoder's, then padding.
        soft_embeddings [C, d]: of the first C rows, which hold all of the canvases'. num_canvas,
        num_rows int64 [1]: how many are the canvases', and how many are no padding.
        Returns hidden [C, d] after the final norm; what is no canvas's row is to be ignored.
        """
        rows = torch.arange(len(token_ids), device=token_ids.device)[:, None]
        is_canvas, is_row = rows < num_canvas, rows < num_rows
        x, most = self.embed(token_ids), len(soft_embeddings)
        if most:
            conditioned = self.decoder.self_conditioning(x[:most], soft_embeddings)
            x = torch.cat([torch.where(is_canvas[:most], conditioned, x[:most]), x[most:]])
        x = self._rows_through_layers(x, is_canvas, is_row, positions, attends)
        hidden: Tensor = self.decoder.norm(x[:most])
        return hidden

    def read_rows(
        self, hidden: Tensor, temperature: Tensor, bits: Tensor, *, sparse: bool
    ) -> RowReadings:
        """hidden [R, d] after the final norm, temperature fp32 [R], bits int64 [R]; see Operations."""
        embedding, cap = self.decoder.embed_tokens.weight, self.config.final_logit_softcapping
        return self.operations.read_rows(hidden, embedding, cap, temperature, bits, sparse=sparse)

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

    def _rows_through_layers(
        self,
        x: Tensor,
        is_canvas: Tensor,
        is_row: Tensor | None,
        positions: Tensor,
        attends: Sequence[Attend],
    ) -> Tensor:
        """x [T, d]; is_canvas bool [T, 1], is_row as Layer takes it."""
        rotary_sliding = self.rotary_sliding(positions, x.dtype)
        rotary_full = self.rotary_full(positions, x.dtype)
        scalars = torch.where(
            is_canvas,
            torch.cat([layer.layer_scalar for layer in self.decoder.layers]),
            torch.cat([layer.layer_scalar for layer in self.encoder.language_model.layers]),
        )
        for i, (layer, attend) in enumerate(zip(self.decoder.layers, attends, strict=True)):
            rotary = rotary_full if self.config.is_full(i) else rotary_sliding
            x = layer(x, rotary, attend, scalars[:, i : i + 1], is_row)
        return x

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
            attend = PaddedAttend(
                None if past is None else past[i], mask_full if full else mask_sliding
            )
            x = layer(x, rotary_full if full else rotary_sliding, attend, scalars[i])
            kvs.append(cast(LayerKV, attend.kv))
        return self.decoder.norm(x), kvs
