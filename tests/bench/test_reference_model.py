"""transformers on random weights: tied as a checkpoint's would be, its constants right, all steps taken."""

import builtins
from unittest import mock

import pytest
import torch

from dgq.bench.reference_model import generate, random_reference, why_not
from dgq.engine.config import ModelConfig
from dgq.engine.shapes import SHAPES

pytest.importorskip("transformers")
MICRO = ModelConfig.from_dict(SHAPES["micro"])


@pytest.fixture(scope="module")
def model():
    return random_reference(MICRO, torch.bfloat16, "cpu")


def test_weights_are_there_once_and_constants_as_they_should_be(model):
    from transformers.models.diffusion_gemma import DiffusionGemmaForBlockDiffusion

    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    inner, own = model.model.encoder.language_model, model.model.decoder
    assert inner.layers[0].experts.gate_up_proj is own.layers[0].experts.gate_up_proj
    assert inner.embed_tokens.weight is own.embed_tokens.weight is model.lm_head.weight
    plain = dict(DiffusionGemmaForBlockDiffusion(model.config).named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer.float(), plain[name].float(), rtol=5e-3, atol=0.0)


def test_every_canvas_takes_all_its_steps(model):
    passes = []
    forward = model.forward

    def count(*args, **kwargs):
        passes.append(1)
        output = forward(*args, **kwargs)
        assert output.logits.isfinite().all()
        return output

    with mock.patch.object(model, "forward", count):
        tokens, seconds = generate(model, MICRO, batch=2, prompt=16, answer=64, num_steps=5)
    assert tokens == 2 * 64
    assert len(passes) == 2 * 5
    assert seconds > 0


def test_without_transformers_it_says_so():
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    assert why_not() is None
    with mock.patch.object(builtins, "__import__", missing):
        assert why_not() == "transformers is not installed"
    with mock.patch("transformers.__version__", "5.11.0"):
        assert why_not() == "transformers is 5.11.0; 5.17 or later is needed"
