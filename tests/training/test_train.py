"""The training step, on a model small enough to run in a moment."""

import random

import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer

from dgq.engine.config import ModelConfig
from dgq.engine.model import DiffusionGemma
from dgq.engine.tokenizer import Tokenizer
from training.checkpoint import CONFIG
from training.examples import collate, draw_case, make_example, make_pinned_example
from training.fills import fill_job
from training.loss import RouterWatch, losses
from training.muon import newton_schulz
from training.tokenizer import TinyTokenizer
from training.train import initialise, make_optimisers, rate


@pytest.fixture(scope="module")
def tiny_tokenizer(shipped_model) -> TinyTokenizer:
    return TinyTokenizer(FastTokenizer.from_file(str(shipped_model / "tokenizer.json")))


def test_prompts_are_encoded_as_the_engine_encodes_them(tiny_tokenizer, shipped_model) -> None:
    tokenizer = Tokenizer.from_folder(shipped_model)
    rng = random.Random(0)
    for _ in range(20):
        prompt = draw_case(rng).prompt
        messages = [{"role": "user", "content": prompt}]
        assert tiny_tokenizer.encode_chat(messages) == list(tokenizer.encode_chat(messages))


def test_steps_lower_the_loss_on_one_batch(tiny_tokenizer) -> None:
    torch.manual_seed(0)
    rng = random.Random(0)
    small = CONFIG | {"text_config": CONFIG["text_config"] | {"hidden_size": 32}}
    model = DiffusionGemma(ModelConfig.from_dict(small))
    initialise(model)
    optimisers, watch = make_optimisers(model, torch.float32), RouterWatch(model)
    made = [make_example(rng, tiny_tokenizer, draw_case(rng)) for _ in range(8)]
    made += [make_pinned_example(rng, tiny_tokenizer, fill_job(rng, "train")) for _ in range(2)]
    batch = collate([example for example in made if example][:6])
    seen = []
    for _ in range(12):
        parts = losses(model, watch, batch)
        loss = parts["canvas"] + parts["next_token"]
        (loss + parts["balance"]).backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        seen.append(loss.item())
    assert seen[-1] < 0.8 * seen[0]


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (3, 16, 8)])
def test_newton_schulz_gives_singular_values_near_one(shape) -> None:
    update = newton_schulz(torch.randn(*shape, generator=torch.Generator().manual_seed(1)))
    values = torch.linalg.svdvals(update.float())
    assert values.min() > 0.5 and values.max() < 1.4


def test_rate_rises_stays_and_falls_to_zero() -> None:
    assert rate(0.0) == 0.0
    assert rate(0.3) == 1.0
    assert rate(1.0) == 0.0
