import pytest
import torch

from dgq.kernels import nf4
from dgq.kernels.errors import KernelError
from dgq.kernels.grouped_experts import (
    grouped_experts,
    grouped_experts_reference,
    launch_options,
    tile_height,
)

from .close import assert_close

FORMATS = ["dense", "nf4", "nf4-double"]


def a_layer(weight_format, dtype, device, rows=23, hidden=128, inner=64, experts=5, top_k=2):
    torch.manual_seed(rows + hidden)
    x = torch.randn(rows, hidden)
    gate_up = torch.randn(experts, 2 * inner, hidden) * hidden**-0.5
    down = torch.randn(experts, hidden, inner) * inner**-0.5
    scores = torch.rand(rows, experts)
    weights, chosen = scores.topk(top_k)
    x, weights, chosen = x.to(device, dtype), weights.to(device), chosen.to(device)
    gate_up, down = gate_up.to(device, dtype), down.to(device, dtype)
    if weight_format != "dense":
        double = weight_format == "nf4-double"
        gate_up, down = nf4.quantize(gate_up, double), nf4.quantize(down, double)
    return x, gate_up, down, weights, chosen


@pytest.mark.parametrize(
    ("dtype", "worst", "rms"), [(torch.float32, 1e-5, 1e-6), (torch.float16, 1e-2, 2e-3)]
)
@pytest.mark.parametrize("weight_format", FORMATS)
def test_equals_reference(weight_format, dtype, worst, rms, device):
    layer = a_layer(weight_format, dtype, device)
    assert_close(grouped_experts(*layer), grouped_experts_reference(*layer), worst, rms)


@pytest.mark.parametrize(
    "sizes",
    [
        {"rows": 1},  # most experts have no row
        {"rows": 70, "experts": 2, "top_k": 1},  # several tiles of one expert
        {"hidden": 192, "inner": 192},  # output blocks of 64, several depths
        {"hidden": 48, "inner": 16},  # the smallest blocks
    ],
)
def test_shapes(sizes, device):
    layer = a_layer("dense", torch.float32, device, **sizes)
    ours = grouped_experts(*layer, block_rows=16)
    assert_close(ours, grouped_experts_reference(*layer), 1e-5, 1e-6)


@pytest.mark.parametrize("block_rows", [16, 32, 128])
def test_every_tile_height(block_rows, device):
    layer = a_layer("nf4", torch.float32, device, rows=40, experts=2)
    ours = grouped_experts(*layer, block_rows=block_rows)
    assert_close(ours, grouped_experts_reference(*layer), 1e-5, 1e-6)


def test_a_row_alone_and_among_others_is_the_same(device):
    x, gate_up, down, weights, experts = a_layer("nf4", torch.float32, device)
    together = grouped_experts(x, gate_up, down, weights, experts, block_rows=16)
    for row in (0, 11, 22):
        one = slice(row, row + 1)
        alone = grouped_experts(x[one], gate_up, down, weights[one], experts[one], block_rows=16)
        assert torch.equal(alone, together[one])


def test_rows_of_no_expert_are_zero(device):
    x, gate_up, down, weights, experts = a_layer("nf4", torch.float32, device)
    experts[3:9] = 5
    ours = grouped_experts(x, gate_up, down, weights, experts)
    assert (ours[3:9] == 0).all()
    assert_close(ours, grouped_experts_reference(x, gate_up, down, weights, experts), 1e-5, 1e-6)


def test_tiles_grow_with_the_rows_of_an_expert():
    heights = [tile_height(canvases * 256 * 8, 128) for canvases in (1, 2, 4, 8, 16, 32)]
    assert heights == [32, 64, 128, 128, 128, 128]
    assert tile_height(8, 128) == 16
    assert launch_options(16)["num_warps"] == 4


def test_unsupported_sizes_are_refused(device):
    x, gate_up, down, weights, experts = a_layer("dense", torch.float32, device)
    with pytest.raises(KernelError, match="does not go with"):
        grouped_experts(x[:, :64].contiguous(), gate_up, down, weights, experts)
    layer = a_layer("dense", torch.float32, device, hidden=24, inner=40)
    with pytest.raises(KernelError, match="multiples of 16"):
        grouped_experts(*layer)
    with pytest.raises(KernelError, match="not contiguous"):
        grouped_experts(x, gate_up.transpose(1, 2), down, weights, experts)
