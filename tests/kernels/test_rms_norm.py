import pytest
import torch

from dgq.kernels.errors import KernelError
from dgq.kernels.rms_norm import rms_norm, rms_norm_reference

EPS = 1e-6


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_weight", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    [
        (3, 2816),  # the model's rows: one a program, no power of two
        (5, 7, 48),  # heads: many a program, a partial last one
        (1, 1),
    ],
)
def test_equals_reference(shape, dtype, with_weight, with_residual, device):
    torch.manual_seed(sum(shape))
    x = (torch.randn(shape) * 3).to(device, dtype)
    weight = torch.randn(shape[-1]).to(device, dtype) if with_weight else None
    residual = torch.randn(shape).to(device, dtype) if with_residual else None
    ours = rms_norm(x, weight, EPS, residual)
    reference = rms_norm_reference(x, weight, EPS, residual)
    assert ours.dtype == dtype
    # The mean is summed in another order: one unit in the last place, of a term of the sum.
    unit = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    atol = 4 * unit if with_residual else unit / 10
    torch.testing.assert_close(ours, reference, rtol=unit, atol=atol)


def test_a_row_of_zeros_stays_zero(device):
    zeros = torch.zeros(2, 64, device=device)
    assert torch.equal(rms_norm(zeros, None, EPS), zeros)


def test_unsupported_shapes_are_refused(device):
    with pytest.raises(KernelError, match="20000 elements"):
        rms_norm(torch.zeros(1, 20000, device=device), None, EPS)
    with pytest.raises(KernelError, match="does not go with"):
        rms_norm(torch.zeros(2, 64, device=device), torch.ones(32, device=device), EPS)
