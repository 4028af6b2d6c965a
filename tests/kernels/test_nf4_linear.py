import pytest
import torch

from dgq.kernels import nf4
from dgq.kernels.errors import KernelError
from dgq.kernels.nf4_linear import nf4_linear, nf4_linear_reference

from .close import assert_close


def a_layer(rows, depth, outputs, dtype, device, double=False):
    torch.manual_seed(rows + depth)
    x = torch.randn(rows, depth).to(device, dtype)
    weight = (torch.randn(outputs, depth) * depth**-0.5).to(device, dtype)
    return x, nf4.quantize(weight, double)


@pytest.mark.parametrize("crossover_rows", [0, 1000])  # dequantize first, and fused
@pytest.mark.parametrize(
    ("dtype", "worst", "rms"), [(torch.float32, 1e-5, 1e-6), (torch.float16, 1e-2, 1e-3)]
)
@pytest.mark.parametrize("double", [False, True])
def test_equals_reference(double, dtype, worst, rms, crossover_rows, device):
    x, weight = a_layer(11, 192, 96, dtype, device, double)
    ours = nf4_linear(x, weight, crossover_rows)
    assert_close(ours, nf4_linear_reference(x, weight), worst, rms)


@pytest.mark.parametrize(
    ("rows", "depth", "outputs"),
    [
        (1, 64, 16),  # the smallest
        (70, 64, 64),  # two tiles of rows, the last one partial
        (64, 128, 176),  # output blocks of 16
    ],
)
def test_shapes(rows, depth, outputs, device):
    x, weight = a_layer(rows, depth, outputs, torch.float32, device)
    ours = nf4_linear(x, weight, crossover_rows=1000)
    assert_close(ours, nf4_linear_reference(x, weight), 1e-5, 1e-6)


def test_decoding_is_exact(device):
    """The rows of the unit matrix read the decoded weights out."""
    _, weight = a_layer(1, 128, 64, torch.float32, device)
    unit = torch.eye(128, device=device)
    for crossover_rows in (0, 1000):
        read = nf4_linear(unit, weight, crossover_rows)
        assert torch.equal(read.T, nf4.dequantize(weight, torch.float32))


def test_unsupported_sizes_are_refused(device):
    x, weight = a_layer(4, 128, 64, torch.float32, device)
    with pytest.raises(KernelError, match="rows of 64"):
        nf4_linear(x[:, :64].contiguous(), weight)
    x, weight = a_layer(4, 128, 40, torch.float32, device)
    with pytest.raises(KernelError, match="size of 40"):
        nf4_linear(x, weight)
