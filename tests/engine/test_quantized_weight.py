"""Layers that hold quantized weights: exact to the decoded weights, and equal in any company."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgq.engine.engine import Engine
from dgq.engine.feedforward import LEAST_ROWS, Experts
from dgq.engine.nf4_weight import Nf4Linear
from dgq.engine.quantization import Quantization
from dgq.engine.quantized_weight import hold_quantized, quantized_weights
from dgq.engine.torch_operations import TORCH
from dgq.kernels import fp8, nf4
from dgq.kernels.fp8_experts import fp8_experts_reference

from .conftest import text_of


@dataclass
class Sizes:
    num_experts: int = 5
    moe_intermediate_size: int = 64
    hidden_size: int = 192


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def stack(make_layer):
    """Modules nested by the checkpoint's names, so that a preset knows the weight."""
    model = nn.Module()
    model.decoder = nn.Module()
    model.decoder.layers = nn.ModuleList([nn.Module()])
    make_layer(model.decoder.layers[0])
    return model


def experts_pair(double_quantization, dtype):
    """Experts in NF4, and plain ones that hold the decoded weights."""
    torch.manual_seed(3)
    dense = Experts(Sizes(), TORCH)
    model = stack(lambda layer: setattr(layer, "experts", Experts(Sizes(), TORCH)))
    hold_quantized(model, Quantization("nf4-experts", double_quantization), TORCH)
    held = model.decoder.layers[0].experts
    for leaf in ("gate_up_proj", "down_proj"):
        weight = nf4.quantize(torch.randn(getattr(dense, leaf).shape), double_quantization)
        getattr(held, leaf).fill(weight)
        getattr(dense, leaf).data = nf4.dequantize(weight, dtype)
    return held, dense


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double_quantization", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 16, 100])
def test_experts_equal_those_with_the_decoded_weights(num_rows, double_quantization, dtype):
    held, dense = experts_pair(double_quantization, dtype)
    x = torch.randn(num_rows, 192).to(dtype)
    experts = torch.rand(num_rows, 5).topk(2).indices
    weights = torch.rand(num_rows, 2)
    assert torch.equal(held(x, weights, experts), dense(x, weights, experts))


def experts_in_fp8():
    """Experts in FP8, and the quantized weights that they hold."""
    torch.manual_seed(5)
    model = stack(lambda layer: setattr(layer, "experts", Experts(Sizes(), TORCH)))
    hold_quantized(model, Quantization("fp8-experts"), TORCH)
    held = model.decoder.layers[0].experts
    for leaf in ("gate_up_proj", "down_proj"):
        weight = getattr(held, leaf)
        weight.quantize_and_hold(torch.randn(weight.shape) * weight.shape[-1] ** -0.5)
    return held, (held.gate_up_proj.tensor, held.down_proj.tensor)


@pytest.mark.parametrize("num_rows", [1, 16, 100])
def test_experts_in_fp8_see_their_rows_in_fp8(num_rows):
    """The engine's sums add in another order than the reference, which moves a rounding or two."""
    held, weights_of_experts = experts_in_fp8()
    x = torch.randn(num_rows, 192)
    experts = torch.rand(num_rows, 5).topk(2).indices
    weights = torch.rand(num_rows, 2)
    ours = held(x, weights, experts)
    reference = fp8_experts_reference(x, *weights_of_experts, weights, experts)
    assert (ours - reference).square().mean() < 1e-5 * reference.square().mean()
    dense = Experts(Sizes(), TORCH)
    for leaf, weight in zip(("gate_up_proj", "down_proj"), weights_of_experts, strict=True):
        getattr(dense, leaf).data = fp8.dequantize(weight, torch.float32)
    by_exact_rows = dense(x, weights, experts)
    assert (ours - by_exact_rows).square().mean() > 1e-4 * reference.square().mean()


@pytest.mark.parametrize("weight_format", ["nf4", "fp8"])
def test_a_row_of_experts_is_the_same_in_any_company(weight_format):
    if weight_format == "nf4":
        held, _ = experts_pair(double_quantization=True, dtype=torch.float32)
    else:
        held, _ = experts_in_fp8()
    x = torch.randn(90, 192)
    experts = torch.rand(90, 5).topk(2).indices
    weights = torch.rand(90, 2)
    together = held(x, weights, experts)
    for start in range(0, 90 - LEAST_ROWS, 7):
        rows = slice(start, start + LEAST_ROWS)
        assert torch.equal(held(x[rows], weights[rows], experts[rows]), together[rows])


@pytest.mark.parametrize("double_quantization", [False, True])
def test_a_linear_layer_equals_one_with_the_decoded_weight(double_quantization):
    torch.manual_seed(4)
    model = stack(lambda layer: setattr(layer, "mlp", nn.Module()))
    mlp = model.decoder.layers[0].mlp
    mlp.up_proj = nn.Linear(128, 96, bias=False)
    weight = nf4.quantize(mlp.up_proj.weight, double_quantization)
    hold_quantized(model, Quantization("nf4", double_quantization), TORCH)
    assert isinstance(mlp.up_proj, Nf4Linear)
    mlp.up_proj.weight.fill(weight)
    x = torch.randn(2, 20, 128)
    assert torch.equal(mlp.up_proj(x), F.linear(x, nf4.dequantize(weight, torch.float32)))


def test_only_what_the_preset_covers_changes():
    def make_layer(layer):
        layer.mlp = nn.Module()
        layer.mlp.up_proj = nn.Linear(64, 64, bias=False)
        layer.router = nn.Module()
        layer.router.proj = nn.Linear(64, 64, bias=False)

    model = stack(make_layer)
    hold_quantized(model, Quantization("nf4"), TORCH)
    assert list(quantized_weights(model)) == ["decoder.layers.0.mlp.up_proj.weight"]


@pytest.mark.parametrize("preset", ["nf4", "fp8-experts"])
def test_the_engine_gives_each_request_the_same_text_in_any_company(preset):
    from dgq.engine.request import Request

    requests = [
        Request(tuple(range(2, 30 + 9 * seed)), max_new_tokens=16 + seed, seed=seed)
        for seed in range(4)
    ]
    with Engine.load(preset=preset) as engine:
        alone = [text_of(engine.submit(request).result()) for request in requests]
        futures = [engine.submit(request) for request in requests]
        together = [text_of(future.result()) for future in futures]
    assert together == alone
