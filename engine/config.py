"""The shape of a DiffusionGemma, read from a checkpoint's config.json and from nothing else.

The defaults of the reference's config class are not the checkpoint's values, so every field that
shapes a tensor must be in the file. Two spellings of the full-attention overrides are in use:
``global_head_dim`` / ``num_global_key_value_heads`` (the published checkpoint) and
``per_layer_config`` (what transformers 5.23 writes); both are read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError

FULL = "full_attention"
SLIDING = "sliding_attention"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The text model's shape. ``*_full`` fields hold for full-attention layers."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_experts: int
    top_k_experts: int
    num_attention_heads: int
    num_key_value_heads: int
    num_key_value_heads_full: int
    head_dim: int
    head_dim_full: int
    layer_types: tuple[str, ...]
    sliding_window: int
    canvas_length: int
    max_position_embeddings: int
    rms_norm_eps: float
    final_logit_softcapping: float
    rope_theta_sliding: float
    rope_theta_full: float
    partial_rotary_factor_full: float

    @classmethod
    def from_file(cls, path: Path) -> "ModelConfig":
        """Read config.json. CheckpointError names the file and the field that is wrong."""
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path.parent} is not a checkpoint: it has no {path.name}"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from None
        try:
            return cls.from_dict(config)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, config: Any) -> "ModelConfig":
        """Take the parsed config.json. CheckpointError names the field that is wrong."""
        if not isinstance(config, dict) or config.get("model_type") != "diffusion_gemma":
            found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
            raise CheckpointError(f"model_type is {found!r}; dgq runs 'diffusion_gemma' only")
        text = config.get("text_config")
        if not isinstance(text, dict):
            raise CheckpointError("text_config is missing")
        layer_types = _field(text, "layer_types", list)
        if unknown := set(layer_types) - {FULL, SLIDING}:
            raise CheckpointError(f"layer_types holds unknown kinds: {sorted(map(str, unknown))}")
        for name, wanted in (
            ("hidden_activation", "gelu_pytorch_tanh"),
            ("tie_word_embeddings", True),
            ("attention_bias", False),
        ):
            if text.get(name, wanted) != wanted:
                raise CheckpointError(f"{name} is {text[name]!r}; dgq knows {wanted!r} only")
        if text.get("use_bidirectional_attention") == "all":
            raise CheckpointError(
                "use_bidirectional_attention is 'all'; dgq needs a causal encoder"
            )
        full_head_dim, full_kv_heads = _full_layer_overrides(text, layer_types)
        rope = _field(text, "rope_parameters", dict)
        return cls(
            vocab_size=_field(text, "vocab_size", int),
            hidden_size=_field(text, "hidden_size", int),
            intermediate_size=_field(text, "intermediate_size", int),
            moe_intermediate_size=_field(text, "moe_intermediate_size", int),
            num_experts=_field(text, "num_experts", int),
            top_k_experts=_field(text, "top_k_experts", int),
            num_attention_heads=_field(text, "num_attention_heads", int),
            num_key_value_heads=_field(text, "num_key_value_heads", int),
            num_key_value_heads_full=full_kv_heads,
            head_dim=_field(text, "head_dim", int),
            head_dim_full=full_head_dim,
            layer_types=tuple(layer_types),
            sliding_window=_field(text, "sliding_window", int),
            canvas_length=_field(config, "canvas_length", int),
            max_position_embeddings=_field(text, "max_position_embeddings", int),
            rms_norm_eps=float(_field(text, "rms_norm_eps", float)),
            final_logit_softcapping=float(text.get("final_logit_softcapping", 30.0)),
            rope_theta_sliding=_rope(rope, SLIDING, "default", "rope_theta"),
            rope_theta_full=_rope(rope, FULL, "proportional", "rope_theta"),
            partial_rotary_factor_full=_rope(rope, FULL, "proportional", "partial_rotary_factor"),
        )

    @property
    def attention_width(self) -> int:
        """Elements of a row's queries and keys in the widest layer."""
        return max(
            (self.num_attention_heads + self.num_key_value_heads) * self.head_dim,
            (self.num_attention_heads + self.num_key_value_heads_full) * self.head_dim_full,
        )

    def is_full(self, layer: int) -> bool:
        """Whether this layer attends to the whole prefix."""
        return self.layer_types[layer] == FULL


def _field(config: dict[str, Any], name: str, kind: type) -> Any:
    value = config.get(name)
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise CheckpointError(f"{name} is {value!r}, expected {kind.__name__}")
    return value


def _full_layer_overrides(text: dict[str, Any], layer_types: list[str]) -> tuple[int, int]:
    """Head dimension and number of key-value heads of the full-attention layers."""
    head_dim = text.get("global_head_dim", text.get("head_dim"))
    kv_heads = text.get("num_global_key_value_heads") or text.get("num_key_value_heads")
    per_layer = text.get("per_layer_config")
    if isinstance(per_layer, dict):
        overrides = [
            per_layer.get(str(i), {}) for i, kind in enumerate(layer_types) if kind == FULL
        ]
        if any(other != overrides[0] for other in overrides):
            raise CheckpointError("per_layer_config differs between full-attention layers")
        if overrides:
            head_dim = overrides[0].get("head_dim", head_dim)
            kv_heads = overrides[0].get("num_key_value_heads", kv_heads)
    if not isinstance(head_dim, int) or not isinstance(kv_heads, int):
        raise CheckpointError("global_head_dim / num_global_key_value_heads are not whole numbers")
    return head_dim, kv_heads


def _rope(rope: dict[str, Any], layer_type: str, rope_type: str, name: str) -> float:
    parameters = rope.get(layer_type)
    if not isinstance(parameters, dict) or parameters.get("rope_type") != rope_type:
        raise CheckpointError(f"rope_parameters.{layer_type}.rope_type must be {rope_type!r}")
    return float(_field(parameters, name, float))
