"""dgq-tiny's shape, and writing it as transformers would."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dgq.engine.model import DiffusionGemma

from . import tokenizer as tiny
from .decoding import DECODING

CONFIG: dict[str, Any] = {
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "model_type": "diffusion_gemma",
    "canvas_length": 256,
    "dtype": "bfloat16",
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "diffusion_gemma_text",
        "vocab_size": tiny.VOCAB_SIZE,
        "hidden_size": 192,
        "intermediate_size": 384,
        "moe_intermediate_size": 192,
        "num_experts": 4,
        "top_k_experts": 2,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 48,
        "global_head_dim": 96,
        "num_global_key_value_heads": 1,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 512,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": "vision",
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": 0.25,
                "rope_theta": 1_000_000.0,
            },
        },
        "bos_token_id": tiny.BOS_ID,
        "eos_token_id": tiny.EOS_ID,
        "pad_token_id": tiny.PAD_ID,
    },
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "patch_size": 4,
        "position_embedding_size": 16,
    },
}
GENERATION_CONFIG = {
    "max_new_tokens": 256,
    "max_denoising_steps": 24,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
    "t_max": 0.8,
    "t_min": 0.4,
    "stability_threshold": 1,
    "confidence_threshold": 0.005,
    "bos_token_id": tiny.BOS_ID,
    "eos_token_id": [tiny.EOS_ID, tiny.END_OF_TURN_ID],
    "pad_token_id": tiny.PAD_ID,
}


def save_checkpoint(model: DiffusionGemma, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors in bf16.

    The vision tower that the reference insists on is there too, one small random layer, so that
    transformers finds every tensor it looks for; nothing has trained it and nothing reads it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {
        f"model.{name}": tensor.detach().to(torch.bfloat16).contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    tensors |= _vision_tensors()
    beside = folder / "model.safetensors.new"
    save_file(tensors, beside, metadata={"format": "pt"})
    beside.replace(folder / "model.safetensors")
    files = {"config": CONFIG, "generation_config": GENERATION_CONFIG, "dgq": DECODING}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _vision_tensors() -> dict[str, Tensor]:
    """A vision tower of one layer of width 16, by the names that the reference gives it."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) * 0.02).to(torch.bfloat16)

    ones = torch.ones(16, dtype=torch.bfloat16)
    layer = "model.encoder.vision_tower.encoder.layers.0"
    tensors = {
        "model.encoder.embed_vision.embedding_projection.weight": random(192, 16),
        "model.encoder.vision_tower.patch_embedder.input_proj.weight": random(16, 48),
        "model.encoder.vision_tower.patch_embedder.position_embedding_table": random(2, 16, 16),
    }
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        tensors[f"{layer}.self_attn.{name}.linear.weight"] = random(16, 16)
    for name in ("gate_proj", "up_proj", "down_proj"):
        tensors[f"{layer}.mlp.{name}.linear.weight"] = random(16, 16)
    for name in (
        "self_attn.q_norm",
        "self_attn.k_norm",
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ):
        tensors[f"{layer}.{name}.weight"] = ones.clone()
    return tensors
