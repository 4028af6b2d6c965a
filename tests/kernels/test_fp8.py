import pytest
import torch

from dgq.kernels import fp8
from dgq.kernels.errors import KernelError

from .close import assert_close


def rows(*shape, dtype=torch.float32):
    torch.manual_seed(sum(shape))
    return (torch.randn(shape) * torch.rand((*shape[:-1], 1))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("block_size", [None, 64])
def test_elements_are_the_nearest_numbers_under_their_scale(dtype, block_size):
    tensor = rows(3, 5, 192, dtype=dtype)
    ours = fp8.quantize(tensor, block_size)
    num_blocks = 1 if block_size is None else 3
    assert ours.shape == tensor.shape and ours.scales.shape == (3, 5, num_blocks)
    blocks = tensor.float().unflatten(-1, (num_blocks, -1))
    assert torch.equal(ours.scales, blocks.abs().amax(dim=-1) / 448)
    scaled = (blocks / ours.scales[..., None]).flatten(-2).double()
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    numbers = numbers[numbers.isfinite()]
    nearest = (scaled[..., None] - numbers).abs().amin(dim=-1)
    assert torch.equal((scaled - ours.values.double()).abs(), nearest)
    assert (ours.values.float().abs().unflatten(-1, (num_blocks, -1)).amax(dim=-1) == 448).all()


def test_the_error_is_a_fortieth():
    """Of a normal distribution, by root mean square: 2.65 % is the published figure."""
    tensor = torch.randn(64, 2816, generator=torch.Generator().manual_seed(0))
    error = fp8.rounded(tensor) - tensor
    assert 0.024 < error.square().mean().sqrt() < 0.028


def test_rows_of_zeros_and_of_tiny_numbers():
    tensor = torch.zeros(3, 64)
    tensor[1] = 1e-36
    tensor[2, 5] = -3e-20
    decoded = fp8.rounded(tensor)
    assert (decoded[:2] == 0).all()
    torch.testing.assert_close(decoded[2], tensor[2], atol=0, rtol=1e-6)


def test_large_tensors_are_quantized_in_parts(monkeypatch):
    tensor = rows(37, 128)
    whole = fp8.quantize(tensor, 64)
    monkeypatch.setattr(fp8, "_CHUNK_SIZE", 640)
    parts = fp8.quantize(tensor, 64)
    assert torch.equal(parts.values.float(), whole.values.float())
    assert torch.equal(parts.scales, whole.scales)


def test_a_part_is_quantized_alone():
    tensor = rows(4, 6, 64)
    part, alone = fp8.quantize(tensor).part(2), fp8.quantize(tensor[2])
    assert torch.equal(fp8.dequantize(part, torch.float32), fp8.dequantize(alone, torch.float32))


@pytest.mark.usefixtures("exact_fp8_casts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [64, 176])
def test_the_kernel_quantizes_rows_as_the_reference(size, dtype, device):
    x = rows(9, size, dtype=dtype).to(device)
    x[4] = 0
    ours, reference = fp8.quantize_rows(x), fp8.quantize(x)
    assert torch.equal(ours.scales, reference.scales)
    assert (ours.values[4].float() == 0).all()
    # A product with the scale's reciprocal may land on the other side of the middle of two numbers.
    differing = ours.values.float() != reference.values.float()
    assert differing.float().mean() < 0.002
    assert_close(fp8.dequantize(ours, torch.float32), x.float(), 0.3, 0.04)


def test_unsupported_sizes_are_refused():
    with pytest.raises(KernelError, match="rows of 96 elements are no multiple of 64"):
        fp8.quantize(torch.zeros(2, 96), 64)
