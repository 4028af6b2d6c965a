"""transformers' DiffusionGemma on the same shapes: random weights made on the device, fixed steps.

The one file of the package that imports transformers, which need not be installed. The weights are not
dgq's own numbers, but of the same shapes, spread and dtype, which is all that speed depends on; the vision part is as
small as it may be. Static batches are all that its ``generate`` has: a batch of texts in lockstep.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

from dgq.engine.config import FULL, SLIDING, ModelConfig
from dgq.engine.stand_in import draw_dense

LEAST_VERSION = (5, 17)
"""Of transformers: the first whose speed counts."""

_NEVER = 1e-30
"""A confidence that no canvas reaches, so that it takes all its steps; zero is refused."""


def why_not() -> str | None:
    """Why it cannot be measured here; None where it can."""
    try:
        import transformers
    except ImportError:
        return "transformers is not installed"
    found = transformers.__version__
    if tuple(int(part) for part in found.split(".")[:2] if part.isdecimal()) < LEAST_VERSION:
        return f"transformers is {found}; {'.'.join(map(str, LEAST_VERSION))} or later is needed"
    return None


def random_reference(config: ModelConfig, dtype: torch.dtype, device: str) -> Any:
    """A model of these shapes, its weights drawn where they stay."""
    from transformers.models.diffusion_gemma import (
        DiffusionGemmaConfig,
        DiffusionGemmaForBlockDiffusion,
    )

    settings = DiffusionGemmaConfig(
        text_config=_text_config(config),
        vision_config=_SMALLEST_VISION,
        canvas_length=config.canvas_length,
        tie_word_embeddings=True,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), _parameters_without_memory():
            model = DiffusionGemmaForBlockDiffusion(settings)
    finally:
        torch.set_default_dtype(before)
    _draw(model, dtype, device)
    return model.eval().requires_grad_(False)


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Inside, a module's parameters have none, and its buffers have what they should hold.

    The encoder's weights are the decoder's only once all are made: there is no room for both.
    """
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # else it is tied
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    with mock.patch.object(nn.Module, "register_parameter", register_empty):
        yield


def _draw(model: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Random weights of the stand-in's spread; what is tied is drawn once."""
    generator = torch.Generator(device).manual_seed(0)
    drawn: dict[int, nn.Parameter] = {}
    for path, module in list(model.named_modules()):
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in drawn:
                tensor = torch.empty(parameter.shape, dtype=dtype, device=device)
                draw_dense(tensor, f"{path}.{name}", generator)
                drawn[id(parameter)] = nn.Parameter(tensor, requires_grad=False)
            module._parameters[name] = drawn[id(parameter)]


@torch.inference_mode()
def generate(
    model: Any, config: ModelConfig, batch: int, prompt: int, answer: int, num_steps: int
) -> tuple[int, float]:
    """One batch of random prompts of equal length; tokens made, and seconds.

    answer: tokens, rounded up to whole canvases by transformers.
    """
    device = model.device
    ids = torch.randint(2, config.vocab_size, (batch, prompt), device=device)
    _synchronize(device)
    started_s = time.perf_counter()
    output = model.generate(
        input_ids=ids,
        max_new_tokens=answer,
        max_denoising_steps=num_steps,
        stability_threshold=1,
        confidence_threshold=_NEVER,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    _synchronize(device)
    seconds = time.perf_counter() - started_s
    made = output.sequences.shape[1] - prompt
    return batch * made, seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _text_config(config: ModelConfig) -> dict[str, Any]:
    """As a checkpoint's config.json has it."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "moe_intermediate_size": config.moe_intermediate_size,
        "num_experts": config.num_experts,
        "top_k_experts": config.top_k_experts,
        "num_hidden_layers": len(config.layer_types),
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "num_global_key_value_heads": config.num_key_value_heads_full,
        "head_dim": config.head_dim,
        "global_head_dim": config.head_dim_full,
        "layer_types": list(config.layer_types),
        "sliding_window": config.sliding_window,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "final_logit_softcapping": config.final_logit_softcapping,
        "use_bidirectional_attention": "vision",
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "rope_parameters": {
            SLIDING: {
                "rope_type": "default",
                "rope_theta": config.rope_theta_sliding,
            },
            FULL: {
                "rope_type": "proportional",
                "rope_theta": config.rope_theta_full,
                "partial_rotary_factor": config.partial_rotary_factor_full,
            },
        },
    }


_SMALLEST_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "patch_size": 4,
    "position_embedding_size": 16,
}
