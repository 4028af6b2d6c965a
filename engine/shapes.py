"""Shapes by name, as a checkpoint's config.json says them: the published model's, and a tiny one. No torch."""

from pathlib import Path
from typing import Any

from .config import FULL, SLIDING, ModelConfig
from .errors import EngineError


def _config(canvas_length: int, layer_types: list[str], **sizes: int) -> dict[str, Any]:
    return {
        "model_type": "diffusion_gemma",
        "canvas_length": canvas_length,
        "text_config": {
            **sizes,
            "layer_types": layer_types,
            "rms_norm_eps": 1e-6,
            "final_logit_softcapping": 30.0,
            "rope_parameters": {
                SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
                FULL: {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.25,
                    "rope_theta": 1_000_000.0,
                },
            },
        },
    }


SHAPES: dict[str, dict[str, Any]] = {
    "26b-a4b": _config(
        canvas_length=256,
        layer_types=([SLIDING] * 5 + [FULL]) * 5,
        vocab_size=262_144,
        hidden_size=2816,
        intermediate_size=2112,
        moe_intermediate_size=704,
        num_experts=128,
        top_k_experts=8,
        num_attention_heads=16,
        num_key_value_heads=8,
        num_global_key_value_heads=2,
        head_dim=256,
        global_head_dim=512,
        sliding_window=1024,
        max_position_embeddings=262_144,
    ),
    "micro": _config(
        canvas_length=32,
        layer_types=[SLIDING, FULL],
        vocab_size=512,
        hidden_size=128,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_experts=8,
        top_k_experts=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        head_dim=32,
        global_head_dim=64,
        sliding_window=64,
        max_position_embeddings=4096,
    ),
}
"""26b-a4b: what decides shapes in google/diffusiongemma-26B-A4B-it's config.json. micro: for tests."""

PUBLISHED = ModelConfig.from_dict(SHAPES["26b-a4b"])


def config_of_shape(shape: str) -> ModelConfig:
    """A named shape, or a checkpoint folder's. EngineError, CheckpointError where it is neither."""
    if shape in SHAPES:
        return ModelConfig.from_dict(SHAPES[shape])
    if not Path(shape).is_dir():
        raise EngineError(
            f"there is no shape {shape!r} and no such folder; shapes are {', '.join(SHAPES)}"
        )
    return ModelConfig.from_file(Path(shape) / "config.json")
