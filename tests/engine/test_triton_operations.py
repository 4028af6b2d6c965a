"""The model by the Triton kernels, in their interpreter, against the model by torch.

The kernels have tests of their own; here it counts that the model hands them what they take, that a
whole generation comes out the same, and that nothing waits for the device.
"""

from dataclasses import replace

import pytest
import torch

from dgq.engine.checkpoint import load_model
from dgq.engine.config import ModelConfig
from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.model import DiffusionGemma
from dgq.engine.quantization import Quantization
from dgq.engine.quantized_weight import hold_quantized, quantized_weights
from dgq.engine.request import Request
from dgq.engine.torch_operations import TORCH
from dgq.engine.triton_operations import HEAD_ROWS, TRITON
from dgq.kernels import nf4

from .conftest import SAMPLING, text_of
from .published import PUBLISHED
from .same_draws import SameDraws
from .tally import Tally

BF16, NF4 = Quantization("bf16"), Quantization("nf4", double_quantization=True)
FP8 = Quantization("fp8-experts")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("leading", [(5,), (2, 3)])
def test_operations_on_any_leading_dimensions(leading):
    x, weight = random(*leading, 64), random(64, seed=1)
    heads, angles = random(*leading, 2, 32, seed=2), random(*leading, 1, 4, seed=3)
    rotary = angles.cos(), angles.sin()
    quantized = nf4.quantize(random(48, 64, seed=4))
    pairs = [
        [operations.rms_norm(x, None, 1e-6, None) for operations in (TORCH, TRITON)],
        [operations.rms_norm(x, weight, 1e-6, x.flip(0)) for operations in (TORCH, TRITON)],
        [operations.rotate(heads.clone(), rotary) for operations in (TORCH, TRITON)],
        [operations.nf4_linear(x, quantized) for operations in (TORCH, TRITON)],
    ]
    for by_torch, by_triton in pairs:
        torch.testing.assert_close(by_triton, by_torch, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quantization", [BF16, NF4], ids=["bf16", "nf4"])
def test_hidden_states_are_close(micro, quantization):
    """A text is read and a canvas behind it is denoised, with what the last step believed."""
    token_ids = torch.randint(3, 200, (1, 9), generator=torch.Generator().manual_seed(0))
    canvas_ids = torch.randint(3, 200, (1, 5), generator=torch.Generator().manual_seed(1))
    soft = random(1, 5, 64)
    found = []
    for operations in (TORCH, TRITON):
        model = load_model(micro, quantization=quantization, operations=operations)
        valid, positions = torch.ones(1, 9, dtype=torch.bool), torch.arange(9)[None]
        hidden, past = model.encode(token_ids, positions, valid)
        denoised = model.denoise(
            canvas_ids, torch.arange(9, 14)[None], valid[:, :5], past, valid, soft
        )
        found.append((hidden, denoised, *past[0], *past[1]))
    for by_torch, by_triton in zip(*found, strict=True):
        torch.testing.assert_close(by_triton, by_torch, atol=2e-4, rtol=2e-4)


@pytest.mark.usefixtures("exact_fp8_casts")
def test_hidden_states_are_close_in_fp8(micro):
    """Sums in another order move some rows' elements to the next number, a sixteenth away."""
    token_ids = torch.randint(3, 200, (1, 9), generator=torch.Generator().manual_seed(0))
    by_torch, by_triton = (
        load_model(micro, quantization=FP8, operations=operations).encode(
            token_ids, torch.arange(9)[None], torch.ones(1, 9, dtype=torch.bool)
        )[0]
        for operations in (TORCH, TRITON)
    )
    assert (by_triton - by_torch).norm() < 0.01 * by_torch.norm()


def rows(model, count):
    """Hidden states, some of them sure of a token; temperatures; bits."""
    embedding = model.decoder.embed_tokens.weight
    hidden = random(count, 64) * torch.tensor([0.02, 0.3, 0.1]).repeat(count)[:count, None]
    hidden[::4] = embedding[:count:4]
    temperature = torch.linspace(0.4, 0.8, count)
    bits = torch.randint(-(2**63), 2**63 - 1, (count,), generator=torch.Generator().manual_seed(2))
    return hidden, temperature, bits


@pytest.mark.parametrize("sparse", [True, False])
def test_rows_are_read_alike(micro, sparse):
    """But for the samples, of which the kernel draws a tile first."""
    model = load_model(micro)
    hidden, temperature, bits = rows(model, 12)
    by_torch = model.read_rows(hidden, temperature, bits, sparse=False)
    model.operations = SameDraws()
    same_draws = model.read_rows(hidden, temperature, bits, sparse=False)
    model.operations = TRITON
    by_triton = model.read_rows(hidden, temperature, bits, sparse=sparse)
    assert torch.equal(by_triton.argmax, by_torch.argmax)
    assert torch.equal(by_triton.sampled, same_draws.sampled)
    torch.testing.assert_close(by_triton.entropy, by_torch.entropy, atol=2e-5, rtol=1e-4)
    error = (by_triton.soft_embeddings - by_torch.soft_embeddings).norm(dim=1)
    largest = 8 * model.decoder.embed_tokens.weight.norm(dim=1).max()
    if sparse:
        assert (error <= 2e-4 * largest).all() and error.max() > 1e-6 * largest
    else:
        assert (error <= 1e-6 * largest).all()


def test_no_rows_and_more_than_are_read_at_once(micro, monkeypatch):
    model = load_model(micro, operations=TRITON)
    hidden, temperature, bits = rows(model, 7)
    none = model.read_rows(hidden[:0], temperature[:0], bits[:0], sparse=True)
    assert [len(none.argmax), len(none.sampled), len(none.entropy)] == [0, 0, 0]
    assert none.soft_embeddings.shape == (0, 64)
    together = model.read_rows(hidden, temperature, bits, sparse=True)
    monkeypatch.setattr("dgq.engine.triton_operations.HEAD_ROWS", 3)
    chunked = model.read_rows(hidden, temperature, bits, sparse=True)
    for name in ("argmax", "sampled", "entropy", "soft_embeddings"):
        assert torch.equal(getattr(chunked, name), getattr(together, name)), name


def test_whole_generations_are_the_same(micro):
    """Two requests at once, one with pinned rows, over three steps."""
    sampling = replace(SAMPLING, max_denoising_steps=3, stability_threshold=3)
    pins = tuple((row, 9) for row in range(0, 16, 3))
    requests = [
        Request((5, 6, 7), 16, seed=1, canvas_length=16, sampling=sampling),
        Request((8, 9), 16, seed=2, canvas_length=16, pins=pins, sampling=sampling),
    ]
    config = EngineConfig(sparse_self_conditioning=False)
    with Engine.load(micro, kernels="triton", config=config) as engine:
        by_triton = [text_of(result) for _, result in sorted(engine.generate(requests))]
    model = load_model(micro, operations=SameDraws())
    with Engine(model, micro, config) as engine:
        by_torch = [text_of(result) for _, result in sorted(engine.generate(requests))]
    for ours, reference in zip(by_triton, by_torch, strict=True):
        assert ours.token_ids == reference.token_ids
        assert ours.num_steps == reference.num_steps == 3


@pytest.fixture
def launched(monkeypatch):
    """Kernels that are launched do nothing but be named here: for tensors without memory."""
    from triton.runtime.interpreter import InterpretedFunction

    names = set()
    monkeypatch.setattr(
        InterpretedFunction, "run", lambda self, *_, **__: names.add(self.fn.__name__)
    )
    return names


def step_without_memory(model, num_read, num_canvas):
    """A forward and the head on rows on the meta device, where whatever asks for a value fails."""

    def ids(count):
        return torch.empty(count, dtype=torch.int64, device="meta")

    weight = model.decoder.embed_tokens.weight
    hidden = model.read_and_denoise(
        ids(num_read),
        ids(num_canvas),
        weight.new_empty(num_canvas, weight.shape[1]),
        ids(num_read + num_canvas),
        [lambda query, key, value: torch.empty_like(query)] * len(model.decoder.layers),
    )
    temperature = torch.empty(num_canvas, device="meta")
    return model.read_rows(hidden, temperature, ids(num_canvas), sparse=True)


def test_nothing_waits_for_the_device(micro, launched):
    num_rows = HEAD_ROWS + 100
    model = load_model(micro, quantization=NF4, operations=TRITON).to("meta")
    assert step_without_memory(model, 20, num_rows).soft_embeddings.shape == (num_rows, 64)
    assert {"_rms_norm_kernel", "_rotate_kernel", "_route_kernel", "_down_kernel"} <= launched
    assert {"_dequantize_kernel", "_tiles_kernel", "_dense_kernel", "_place_kernel"} <= launched
    model = load_model(micro, quantization=FP8, operations=TRITON).to("meta")
    step_without_memory(model, 20, num_rows)
    assert {"_quantize_rows_kernel", "_fp8_gate_up_kernel", "_fp8_down_kernel"} <= launched
    with pytest.raises(RuntimeError, match="Meta"):  # so the test can tell
        step_without_memory(load_model(micro).to("meta"), 20, num_rows)


@pytest.mark.parametrize("quantization", [BF16, NF4, FP8], ids=["bf16", "nf4", "fp8"])
@pytest.mark.parametrize("num_rows", [256, 2048])
def test_a_step_stays_within_its_workspace_at_the_published_shape(launched, quantization, num_rows):
    """Counted by torch's storages. The attention is none; its kernel counts for itself."""
    with torch.device("meta"):
        model = DiffusionGemma(ModelConfig.from_dict(PUBLISHED), TRITON).to(torch.bfloat16)
        hold_quantized(model, quantization, TRITON)
    shapes = [weight.shape for weight in quantized_weights(model).values()]
    workspace = TRITON.workspace(model.config, shapes, torch.bfloat16)
    with Tally() as tally:
        step_without_memory(model, 32, num_rows)
    assert 0.5 * workspace.of(num_rows + 32) < tally.peak <= workspace.of(num_rows + 32)
