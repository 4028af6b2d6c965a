"""The dense MLP's activation and the experts against plain formulations."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from dgq.engine.feedforward import LEAST_ROWS, Experts, GatedMLP, gelu_tanh
from dgq.engine.torch_operations import TORCH


@dataclass
class Sizes:
    num_experts: int = 6
    moe_intermediate_size: int = 24
    hidden_size: int = 32


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gelu_is_torchs():
    x = torch.cat([random(10_000) * 4, torch.tensor([0.0, 1e4, -1e4, 1e20, -1e20])])
    torch.testing.assert_close(gelu_tanh(x), F.gelu(x, approximate="tanh"), atol=1e-6, rtol=1e-5)
    exact = F.gelu(x.double(), approximate="tanh")
    torch.testing.assert_close(gelu_tanh(x).double(), exact, atol=1e-6, rtol=2e-6)


def test_gelu_can_be_differentiated():
    with torch.inference_mode(False), torch.enable_grad():
        x = random(100).clone().requires_grad_()
        gelu_tanh(x).sum().backward()
        other = x.detach().clone().requires_grad_()
        F.gelu(other, approximate="tanh").sum().backward()
    torch.testing.assert_close(x.grad, other.grad)


@pytest.mark.parametrize("width", [24, 48, 192, 7])
def test_gelu_of_a_row_does_not_depend_on_its_place(width):
    x = random(64, 2 * width)[:, :width]  # one half of each row, as the experts have it
    together = gelu_tanh(x)
    for rows in range(1, 64):
        assert torch.equal(gelu_tanh(x[:rows]), together[:rows])
        assert torch.equal(gelu_tanh(x[64 - rows :].clone()), together[64 - rows :])


@pytest.fixture
def experts():
    experts = Experts(Sizes(), TORCH)
    for i, parameter in enumerate(experts.parameters()):
        parameter.copy_(random(*parameter.shape, seed=i) * 0.3)
    return experts


def choose(num_rows, top_k, seed=0, of=6):
    """Weights and experts of rows; each row's experts differ."""
    scores = random(num_rows, of, seed=seed)
    return scores.softmax(dim=-1).topk(top_k, dim=-1)


def plain_experts(experts, x, weights, chosen):
    output = torch.zeros_like(x)
    for row in range(len(x)):
        for weight, expert in zip(weights[row], chosen[row], strict=True):
            gate, up = (experts.gate_up_proj[expert] @ x[row]).chunk(2)
            inner = F.gelu(gate, approximate="tanh") * up
            output[row] += weight * (experts.down_proj[expert] @ inner)
    return output


@pytest.mark.parametrize("num_rows", [16, 17, 50, 130])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_grouped_experts_are_a_plain_loop(experts, num_rows, top_k):
    x = random(num_rows, 32, seed=1)
    weights, chosen = choose(num_rows, top_k)
    torch.testing.assert_close(
        experts(x, weights, chosen), plain_experts(experts, x, weights, chosen)
    )


@pytest.mark.parametrize("expert", [0, 3, 5])
def test_experts_that_nobody_chooses(experts, expert):
    x, chosen = random(20, 32), torch.full((20, 1), expert)
    weights = torch.full((20, 1), 0.5)
    torch.testing.assert_close(
        experts(x, weights, chosen), plain_experts(experts, x, weights, chosen)
    )


def test_an_expert_of_a_single_row(experts):
    x, chosen = random(40, 32), torch.full((40, 1), 2)
    chosen[[0, 7, 39], 0] = torch.tensor([0, 5, 4])
    weights = torch.ones(40, 1)
    torch.testing.assert_close(
        experts(x, weights, chosen), plain_experts(experts, x, weights, chosen)
    )


def assert_independent_of_company(function, rows):
    """Any LEAST_ROWS rows or more give each row what all together give it, to the bit."""
    together = function(slice(0, rows))
    generator = torch.Generator().manual_seed(rows)
    for num_rows in (LEAST_ROWS, 17, 23, 31, 32, 33, 64, 77, 100, 129, 256, 300):
        chosen = torch.randperm(rows, generator=generator)[:num_rows]
        for picked in (chosen, slice(0, num_rows), slice(rows - num_rows, rows)):
            assert torch.equal(function(picked), together[picked]), num_rows


SHAPES = [(32, 32), (32, 6), (24, 32), (48, 32), (192, 384), (384, 192), (192, 96), (192, 4)]


@pytest.mark.parametrize(("inputs", "outputs"), [*SHAPES, (192, 2048), (2048, 192), (4096, 8)])
def test_a_linear_layers_row_does_not_depend_on_its_company(inputs, outputs):
    x, weight = random(700, inputs), random(outputs, inputs, seed=1)
    assert_independent_of_company(lambda rows: F.linear(x[rows], weight), 700)


@pytest.mark.parametrize(("size", "intermediate"), [(32, 48), (192, 384)])
def test_an_mlps_row_does_not_depend_on_its_company(size, intermediate):
    mlp = GatedMLP(size, intermediate)
    x = random(700, size)
    assert_independent_of_company(lambda rows: mlp(x[rows]), 700)


@pytest.mark.parametrize(("size", "intermediate", "num_experts"), [(32, 24, 6), (192, 192, 4)])
def test_a_row_of_the_experts_does_not_depend_on_its_company(size, intermediate, num_experts):
    experts = Experts(Sizes(num_experts, intermediate, size), TORCH)
    for i, parameter in enumerate(experts.parameters()):
        parameter.copy_(random(*parameter.shape, seed=i) * 0.3)
    x = random(700, size)
    weights, chosen = choose(700, 2, of=num_experts)
    assert_independent_of_company(lambda rows: experts(x[rows], weights[rows], chosen[rows]), 700)
