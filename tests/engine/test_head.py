"""The tiled head against the whole-matrix definition."""

import pytest
import torch

from dgq.engine import head
from dgq.engine.checkpoint import load_model
from dgq.engine.sampler import InverseCdf


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.mark.parametrize("tile_elements", [1, 200 * 7, 1 << 20])
@torch.inference_mode()
def test_tiles_equal_the_whole(model, monkeypatch, tile_elements):
    monkeypatch.setattr(head, "TILE_ELEMENTS", tile_elements)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, model.config.hidden_size, generator=generator)
    temperature = 0.4 + 0.4 * torch.rand(50, generator=generator)
    uniforms = torch.rand(50, generator=generator)
    readings = head.read_rows(model, hidden, temperature, uniforms)

    processed = model.logits(hidden) / temperature[:, None]
    distribution = torch.distributions.Categorical(logits=processed)
    assert torch.equal(readings.argmax, processed.argmax(dim=-1))
    assert torch.equal(readings.sampled, InverseCdf().sample(distribution.probs, uniforms))
    torch.testing.assert_close(readings.entropy, distribution.entropy(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        readings.soft_embeddings, model.soft_embeddings(processed), atol=1e-5, rtol=1e-5
    )


@torch.inference_mode()
def test_a_certain_row_has_no_entropy(model):
    weight = model.decoder.embed_tokens.weight
    hidden = 1000.0 * weight[:20]  # every logit at the softcap's ends
    readings = head.read_rows(model, hidden, torch.full((20,), 0.01), torch.rand(20))
    assert (readings.entropy >= 0).all()
    assert torch.isfinite(readings.entropy).all() and torch.isfinite(readings.soft_embeddings).all()
    assert (readings.entropy < 6).all()


@torch.inference_mode()
def test_a_16_bit_model_conditions_on_rounded_logits(checkpoint):
    model = load_model(checkpoint, torch.bfloat16)
    hidden = torch.randn(8, model.config.hidden_size).bfloat16()
    temperature = torch.full((8,), 0.5)
    readings = head.read_rows(model, hidden, temperature, torch.rand(8))
    processed = (model.logits(hidden) / 0.5).bfloat16()
    assert readings.soft_embeddings.dtype == torch.bfloat16
    torch.testing.assert_close(readings.soft_embeddings, model.soft_embeddings(processed))
