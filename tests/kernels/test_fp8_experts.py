import pytest
import torch

from dgq.kernels import fp8
from dgq.kernels.errors import KernelError
from dgq.kernels.fp8 import Fp8Tensor
from dgq.kernels.fp8_experts import fp8_experts, fp8_experts_reference
from dgq.kernels.grouped_experts import grouped_experts_reference

from .close import assert_close

pytestmark = pytest.mark.usefixtures("exact_fp8_casts")


def a_layer(dtype, device, rows=23, hidden=128, inner=64, experts=5, top_k=2):
    torch.manual_seed(rows + hidden)
    x = torch.randn(rows, hidden)
    gate_up = torch.randn(experts, 2 * inner, hidden) * hidden**-0.5
    down = torch.randn(experts, hidden, inner) * inner**-0.5
    weights, chosen = torch.rand(rows, experts).topk(top_k)
    x, weights, chosen = x.to(device, dtype), weights.to(device), chosen.to(device)
    return x, fp8.quantize(gate_up.to(device)), fp8.quantize(down.to(device)), weights, chosen


@pytest.mark.parametrize(
    ("dtype", "worst", "rms"), [(torch.float32, 0.05, 2e-3), (torch.float16, 0.05, 2e-3)]
)
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"rows": 1},  # most experts have no row
        {"rows": 70, "experts": 2, "top_k": 1},  # several tiles of one expert
        {"hidden": 192, "inner": 192},  # steps of 64, several blocks of inner
        {"hidden": 256, "inner": 128},  # steps of 128
    ],
)
def test_equals_reference(sizes, dtype, worst, rms, device):
    """But for elements of rows that were just between two numbers: each is off by a sixteenth."""
    layer = a_layer(dtype, device, **sizes)
    ours = fp8_experts(*layer, block_rows=16)
    assert_close(ours, fp8_experts_reference(*layer), worst, rms)


def test_is_near_the_experts_that_were_quantized(device):
    """Weights and rows are off by a fortieth each, so products are by about a twentieth."""
    torch.manual_seed(1)
    gate_up, down = torch.randn(4, 256, 256) / 16, torch.randn(4, 256, 128) * 128**-0.5
    x, scores = torch.randn(40, 256), torch.rand(40, 4)
    weights, chosen = scores.topk(2)
    exact = grouped_experts_reference(x, gate_up, down, weights, chosen)
    ours = fp8_experts(
        x.to(device),
        fp8.quantize(gate_up.to(device)),
        fp8.quantize(down.to(device)),
        weights.to(device),
        chosen.to(device),
    )
    assert_close(ours.cpu(), exact, 0.4, 0.08)


@pytest.mark.parametrize("block_rows", [16, 32, 128])
def test_every_tile_height(block_rows, device):
    layer = a_layer(torch.float32, device, rows=40, experts=2)
    ours = fp8_experts(*layer, block_rows=block_rows)
    assert_close(ours, fp8_experts_reference(*layer), 0.05, 2e-3)


def test_a_row_alone_and_among_others_is_the_same(device):
    x, gate_up, down, weights, experts = a_layer(torch.float32, device)
    together = fp8_experts(x, gate_up, down, weights, experts, block_rows=16)
    for row in (0, 11, 22):
        one = slice(row, row + 1)
        alone = fp8_experts(x[one], gate_up, down, weights[one], experts[one], block_rows=16)
        assert torch.equal(alone, together[one])


def test_rows_of_no_expert_are_zero_and_rows_of_zeros_stay_so(device):
    x, gate_up, down, weights, experts = a_layer(torch.float32, device)
    experts[3:9] = 5
    x[12] = 0
    ours = fp8_experts(x, gate_up, down, weights, experts)
    assert (ours[3:9] == 0).all() and (ours[12] == 0).all()
    reference = fp8_experts_reference(x, gate_up, down, weights, experts)
    assert_close(ours, reference, 0.05, 2e-3)


def test_unsupported_weights_are_refused(device):
    x, gate_up, down, weights, experts = a_layer(torch.float32, device)
    with pytest.raises(KernelError, match="does not go with"):
        fp8_experts(x[:, :64].contiguous(), gate_up, down, weights, experts)
    with pytest.raises(KernelError, match="both weights must be FP8"):
        fp8_experts(x, gate_up, fp8.dequantize(down, x.dtype), weights, experts)
    many = Fp8Tensor(gate_up.values, gate_up.scales.repeat(1, 1, 2))
    with pytest.raises(KernelError, match="more scales than one per output"):
        fp8_experts(x, many, down, weights, experts)
    with pytest.raises(KernelError, match="multiples of 64"):
        fp8_experts(*a_layer(torch.float32, device, hidden=64, inner=96))
