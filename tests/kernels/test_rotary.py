import pytest
import torch

from dgq.kernels.errors import KernelError
from dgq.kernels.rotary import rotate, rotate_reference


def tables(rows, head_size, dtype, device, turned=1.0):
    angles = torch.rand(rows, int(turned * head_size // 2)) * 6.28
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],
)
@pytest.mark.parametrize(
    ("rows", "heads", "head_size", "turned"),
    [
        (3, 16, 64, 1.0),
        (2, 3, 48, 1.0),  # no powers of two
        (1, 16, 512, 0.25),  # several programs a row, a part of the pairs
    ],
)
def test_equals_reference(rows, heads, head_size, turned, dtype, tolerance, device):
    torch.manual_seed(rows)
    x = torch.randn(rows, heads, head_size).to(device, dtype)
    cos, sin = tables(rows, head_size, dtype, device, turned)
    ours = rotate(x, cos, sin)
    torch.testing.assert_close(ours, rotate_reference(x, cos, sin), rtol=tolerance, atol=tolerance)


def test_pairs_without_an_angle_do_not_turn(device):
    x = torch.randn(4, 2, 64, device=device)
    cos, sin = tables(4, 64, torch.float32, device, turned=0.25)
    turned = rotate(x, cos, sin)
    still = [*range(8, 32), *range(40, 64)]
    assert torch.equal(turned[..., still], x[..., still])
    assert (turned[..., :8] != x[..., :8]).any()


def test_lengths_are_kept(device):
    x = torch.randn(4, 2, 64, device=device)
    turned = rotate(x, *tables(4, 64, torch.float32, device))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_unsupported_shapes_are_refused(device):
    x = torch.randn(4, 2, 64, device=device)
    for rows, head_size in ((4, 128), (3, 64)):
        with pytest.raises(KernelError, match="heads of 64"):
            rotate(x, *tables(rows, head_size, torch.float32, device))
