"""The model against transformers on a checkpoint that transformers saved."""

from functools import partial

import pytest
import torch
from transformers import DynamicCache

from dgq.engine.checkpoint import load_model

from .conftest import CANVAS_LENGTH, SLIDING_WINDOW, VOCAB_SIZE

assert_close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)
PROMPT_LENGTHS = [3, SLIDING_WINDOW - 1, SLIDING_WINDOW, SLIDING_WINDOW + 1, 3 * SLIDING_WINDOW]


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


def random_ids(length, seed, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB_SIZE, (batch, length), generator=generator)


def reference_encode(reference, ids, cache=None):
    cache = cache or DynamicCache(config=reference.config.get_text_config(decoder=True))
    start = cache.get_seq_length()
    output = reference.model.encoder(
        input_ids=ids,
        past_key_values=cache,
        position_ids=torch.arange(start, start + ids.shape[1])[None],
        attention_mask=torch.ones(1, start + ids.shape[1], dtype=torch.bool),
    )
    return output.last_hidden_state, cache


def encode(model, ids, past=None):
    start = past[0][0].shape[2] if past else 0
    positions = torch.arange(start, start + ids.shape[1])[None]
    past_valid = torch.ones(1, start, dtype=torch.bool) if past else None
    hidden, new = model.encode(ids, positions, torch.ones_like(ids).bool(), past, past_valid)
    if past:
        new = [
            (torch.cat([old_k, k], 2), torch.cat([old_v, v], 2))
            for (old_k, old_v), (k, v) in zip(past, new, strict=True)
        ]
    return hidden, new


def denoise(model, canvas, past, soft_embeddings=None):
    start = past[0][0].shape[2]
    return model.logits(
        model.denoise(
            canvas,
            torch.arange(start, start + canvas.shape[1])[None],
            torch.ones_like(canvas).bool(),
            past,
            torch.ones(1, start, dtype=torch.bool),
            soft_embeddings,
        )
    )


def assert_same_kv(kv, cache):
    """transformers keeps the last window - 1 tokens of sliding layers; we keep all."""
    for (key, value), layer in zip(kv, cache.layers, strict=True):
        kept = layer.keys.shape[2]
        assert_close(key[:, :, -kept:], layer.keys)
        assert_close(value[:, :, -kept:], layer.values)


def test_the_checkpoint_has_the_traits_that_matter(checkpoint, reference):
    assert len(list(checkpoint.glob("*.safetensors"))) >= 3
    kinds = reference.config.text_config.layer_types
    assert set(kinds) == {"sliding_attention", "full_attention"}
    assert any("vision_tower" in name for name in reference.state_dict())
    encoder, decoder = reference.model.encoder.language_model, reference.model.decoder
    for ours, theirs in zip(encoder.layers, decoder.layers, strict=True):
        assert ours.layer_scalar != theirs.layer_scalar
        assert ours.self_attn.q_proj.weight is theirs.self_attn.q_proj.weight


@pytest.mark.parametrize("length", PROMPT_LENGTHS)
def test_encoder_kv_and_hidden_states(model, reference, length):
    ids = random_ids(length, seed=length)
    wanted, cache = reference_encode(reference, ids)
    hidden, kv = encode(model, ids)
    assert_close(hidden, wanted)
    assert_same_kv(kv, cache)


@pytest.mark.parametrize("length", PROMPT_LENGTHS)
def test_decoder_logits_with_and_without_self_conditioning(model, reference, length):
    ids, canvas = random_ids(length, seed=length), random_ids(CANVAS_LENGTH, seed=100 + length)
    _, cache = reference_encode(reference, ids)
    _, kv = encode(model, ids)
    wanted = reference(decoder_input_ids=canvas, past_key_values=cache).logits
    first = denoise(model, canvas, kv)
    assert_close(first, wanted)

    processed = wanted / 0.7
    wanted = reference(
        decoder_input_ids=canvas, past_key_values=cache, self_conditioning_logits=processed
    ).logits
    second = denoise(model, canvas, kv, model.soft_embeddings(processed))
    assert_close(second, wanted)
    assert (second - first).abs().max() > 0.1  # the signal matters, so the test does


@pytest.mark.parametrize("length", PROMPT_LENGTHS)
def test_after_two_commits(model, reference, length):
    ids = random_ids(length, seed=length)
    _, cache = reference_encode(reference, ids)
    _, kv = encode(model, ids)
    for seed in (1, 2):
        committed = random_ids(CANVAS_LENGTH, seed=seed)
        wanted, cache = reference_encode(reference, committed, cache)
        hidden, kv = encode(model, committed, kv)
        assert_close(hidden, wanted)
        assert_same_kv(kv, cache)
    canvas = random_ids(CANVAS_LENGTH, seed=3)
    wanted = reference(decoder_input_ids=canvas, past_key_values=cache).logits
    assert_close(denoise(model, canvas, kv), wanted)


def test_zero_soft_embeddings_are_no_soft_embeddings(model):
    _, kv = encode(model, random_ids(20, seed=1))
    canvas = random_ids(CANVAS_LENGTH, seed=2)
    zeros = torch.zeros(1, CANVAS_LENGTH, model.config.hidden_size)
    assert_close(denoise(model, canvas, kv, zeros), denoise(model, canvas, kv))


def test_padding_changes_nothing(model):
    """Texts of very different lengths together, so that padded rows see no key at all."""
    lengths, widths = [2, 70, 17], [16, 48, 32]
    prompts = [random_ids(length, seed=length)[0] for length in lengths]
    canvases = [random_ids(width, seed=width)[0] for width in widths]
    pad = torch.nn.utils.rnn.pad_sequence
    columns = torch.arange(max(lengths))
    valid = columns < torch.tensor(lengths)[:, None]
    ids = pad(prompts, batch_first=True)
    _, kv = model.encode(ids, columns.expand_as(ids), valid)
    rows = torch.arange(max(widths))
    hidden = model.denoise(
        pad(canvases, batch_first=True),
        torch.tensor(lengths)[:, None] + rows,
        rows < torch.tensor(widths)[:, None],
        kv,
        valid,
    )
    for i, (prompt, canvas) in enumerate(zip(prompts, canvases, strict=True)):
        _, alone = encode(model, prompt[None])
        for (k, v), (k_alone, v_alone) in zip(kv, alone, strict=True):
            assert_close(k[i : i + 1, :, : lengths[i]], k_alone)
            assert_close(v[i : i + 1, :, : lengths[i]], v_alone)
        wanted = denoise(model, canvas[None], alone)
        got = model.logits(hidden[i : i + 1, : widths[i]])
        assert_close(got, wanted)
