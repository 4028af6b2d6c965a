"""A small random DiffusionGemma that transformers itself saved, in several shards; and requests."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
)
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    DiffusionGemmaGenerationConfig,
    EntropyBoundSamplerConfig,
)

from dgq.engine.request import Request, SamplingConfig

VOCAB_SIZE = 200
CANVAS_LENGTH = 32
SLIDING_WINDOW = 16
EOS_IDS = [1, 106]
SAMPLING = SamplingConfig(
    max_denoising_steps=12,
    entropy_bound=4.0,
    t_max=0.9,
    t_min=0.3,
    confidence_threshold=0.5,
    reroll_entropy_nats=float("inf"),
)


def text_config(**changes):
    values = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": SLIDING_WINDOW,
        "num_experts": 6,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "max_position_embeddings": 512,
        "use_bidirectional_attention": "vision",
    }
    return DiffusionGemmaTextConfig(**{**values, **changes})


def vision_config():
    return Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=8,
        pooling_kernel_size=1,
        position_embedding_size=16,
        default_output_length=16,
    )


def randomize(model, embedding_scale, branch_scale):
    """Make every weight count: norms, router scales and layer scalars are ones when new.

    embedding_scale: large ones make peaked logits. branch_scale: how much a layer changes the
    residual; a random model at 1 is chaotic, and rounding errors grow tenfold in each step.
    """
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        seen = set()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if id(tensor) in seen or not name.startswith("model.") or "vision" in name:
                continue
            seen.add(id(tensor))
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("layer_scalar"):
                tensor.copy_(0.8 + 0.1 * noise)
            elif name.endswith("embed_tokens.weight"):
                tensor.copy_(embedding_scale * noise)
            elif "norm" in name or name.endswith("scale"):
                if tensor.ndim:
                    branch = name.split(".")[-2] in (
                        "post_attention_layernorm",
                        "post_feedforward_layernorm",
                    )
                    tensor.copy_((branch_scale if branch else 1.0) * (1.0 + 0.3 * noise))
            elif "inv_freq" not in name:
                tensor.copy_(noise * (2.0 if "router.proj" in name else 0.2))


def save_checkpoint(
    folder: Path,
    *,
    max_shard_size="60KB",
    embedding_scale=0.5,
    branch_scale=1.0,
    **changes,
) -> Path:
    torch.manual_seed(0)
    config = DiffusionGemmaConfig(
        text_config=text_config(**changes),
        vision_config=vision_config(),
        canvas_length=CANVAS_LENGTH,
    )
    model = DiffusionGemmaForBlockDiffusion(config).eval()
    randomize(model, embedding_scale, branch_scale)
    model.generation_config = DiffusionGemmaGenerationConfig(
        max_denoising_steps=12,
        sampler_config=EntropyBoundSamplerConfig(entropy_bound=4.0),
        t_min=0.3,
        t_max=0.9,
        stability_threshold=1,
        confidence_threshold=0.5,
        eos_token_id=EOS_IDS,
        pad_token_id=0,
        bos_token_id=2,
    )
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def requests(count=24):
    """Prompts of 1 to 70 tokens, canvases of 16 and 32 rows, answers of one to three canvases."""
    generator = torch.Generator().manual_seed(count)
    made = []
    for seed in range(count):
        length = int(torch.randint(1, 70, (), generator=generator))
        prompt = torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist()
        made.append(
            Request(
                tuple(prompt),
                max_new_tokens=[10, 32, 70][seed % 3],
                seed=seed,
                canvas_length=[16, 32, None][seed % 3],
                sampling=replace(
                    SAMPLING, max_denoising_steps=6 + seed % 7, stability_threshold=seed % 4
                ),
            )
        )
    return made


def text_of(result):
    """All of a result but the time that it took."""
    return replace(result, seconds=0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from more, and lose much where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("random-checkpoint"))


@pytest.fixture(scope="session")
def reference(checkpoint):
    """The same checkpoint, loaded by transformers."""
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="session")
def calm_checkpoint(tmp_path_factory) -> Path:
    """One on which rounding errors stay small over a generation, and whose canvases converge."""
    folder = tmp_path_factory.mktemp("calm-checkpoint")
    return save_checkpoint(folder, embedding_scale=1.5, branch_scale=0.2)


@pytest.fixture(scope="session")
def calm_reference(calm_checkpoint):
    """The calm checkpoint, loaded by transformers."""
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(calm_checkpoint, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="session")
def micro(tmp_path_factory) -> Path:
    """A layer of each kind, of sizes that NF4 and the kernels take."""
    return save_checkpoint(
        tmp_path_factory.mktemp("micro-checkpoint"),
        embedding_scale=1.5,
        branch_scale=0.2,
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=64,
        head_dim=16,
        global_head_dim=32,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
    )
