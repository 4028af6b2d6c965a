import pytest
import torch

from dgq.kernels.errors import KernelError
from dgq.kernels.router import route, route_reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "experts", "top_k"),
    [
        (11, 128, 8),  # the model's; a partial last program
        (3, 12, 5),  # no powers of two
        (2, 4, 4),  # all of them
        (5, 1, 1),
    ],
)
def test_equals_reference(rows, experts, top_k, dtype, device):
    torch.manual_seed(rows)
    scores = (torch.randn(rows, experts) * 2).to(device, dtype)
    scale = torch.rand(experts).to(device, dtype) + 0.5
    weights, chosen = route(scores, scale, top_k)
    expected_weights, expected = route_reference(scores, scale, top_k)
    assert torch.equal(chosen, expected)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-7)


def test_weights_sum_to_one_and_fall(device):
    weights, chosen = route(torch.randn(6, 32, device=device), torch.ones(32, device=device), 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, device=device))
    assert (weights.diff(dim=-1) <= 0).all()
    assert all(len(set(row)) == 4 for row in chosen.tolist())


def test_the_lowest_of_equal_experts_comes_first(device):
    scores = torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0]], device=device)
    ones = torch.ones(5, device=device)
    for choose in (route, route_reference):
        assert choose(scores, ones, 4)[1].tolist() == [[1, 3, 0, 2]]


def test_unsupported_shapes_are_refused(device):
    scores = torch.zeros(2, 8, device=device)
    with pytest.raises(KernelError, match="9 of 8 experts"):
        route(scores, torch.ones(8, device=device), 9)
    with pytest.raises(KernelError, match="scales for 8"):
        route(scores, torch.ones(7, device=device), 2)
