"""Layers that hold NF4 weights: exact to the decoded weights, and equal in any company."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgq.engine.engine import Engine
from dgq.engine.feedforward import LEAST_ROWS, Experts
from dgq.engine.nf4_weight import Nf4Linear, Nf4Weight, hold_in_nf4
from dgq.engine.quantization import Quantization
from dgq.engine.torch_operations import TORCH
from dgq.kernels import nf4

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
    hold_in_nf4(model, Quantization("nf4-experts", double_quantization), TORCH)
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


def test_a_row_of_experts_is_the_same_in_any_company():
    held, _ = experts_pair(double_quantization=True, dtype=torch.float32)
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
    hold_in_nf4(model, Quantization("nf4", double_quantization), TORCH)
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
    hold_in_nf4(model, Quantization("nf4"), TORCH)
    held = [name for name, module in model.named_modules() if isinstance(module, Nf4Weight)]
    assert held == ["decoder.layers.0.mlp.up_proj.weight"]


def test_the_engine_gives_each_request_the_same_text_in_any_company():
    from dgq.engine.request import Request

    requests = [
        Request(tuple(range(2, 30 + 9 * seed)), max_new_tokens=16 + seed, seed=seed)
        for seed in range(4)
    ]
    with Engine.load(preset="nf4") as engine:
        alone = [text_of(engine.submit(request).result()) for request in requests]
        futures = [engine.submit(request) for request in requests]
        together = [text_of(future.result()) for future in futures]
    assert together == alone
