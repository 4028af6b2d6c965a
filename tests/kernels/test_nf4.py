import bitsandbytes.functional as bnb
import pytest
import torch

from dgq.kernels import nf4
from dgq.kernels.errors import KernelError

SHAPES = [
    (64,),
    (3, 64),
    (5, 7, 192),  # 105 blocks: a partial block of nested scales
    (2, 96, 704),  # 2112 blocks: several blocks of nested scales
]


def values(shape, dtype=torch.bfloat16):
    torch.manual_seed(sum(shape))
    return (torch.randn(shape) * torch.rand((*shape[:-1], 1))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_bitsandbytes_bit_for_bit(shape, dtype):
    tensor = values(shape, dtype)
    packed, state = bnb.quantize_4bit(tensor, blocksize=64, quant_type="nf4")
    ours = nf4.quantize(tensor)
    assert ours.shape == shape
    assert torch.equal(ours.packed.flatten(), packed.flatten())
    assert torch.equal(ours.absmax.flatten(), state.absmax)
    theirs = bnb.dequantize_4bit(packed, state).view(shape)
    assert torch.equal(nf4.dequantize(ours, dtype), theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_double_quantization_is_as_near_as_that_of_bitsandbytes(shape):
    tensor = values(shape)
    _, plain = bnb.quantize_4bit(tensor, blocksize=64, quant_type="nf4")
    _, state = bnb.quantize_4bit(tensor, blocksize=64, quant_type="nf4", compress_statistics=True)
    ours = nf4.quantize(tensor, double_quantization=True)
    assert torch.equal(ours.nested.code, state.state2.code)
    assert torch.equal(ours.nested.absmax, state.state2.absmax)
    assert torch.equal(ours.nested.offset, state.offset)
    theirs = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    our_error = (ours.scales().flatten() - plain.absmax).abs()
    # On the CPU bitsandbytes sometimes takes a code that is not quite the nearest.
    assert (our_error <= (theirs - plain.absmax).abs() + 1e-6).all()


@pytest.mark.parametrize("double_quantization", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bitsandbytes_reads_ours(shape, double_quantization):
    tensor = values(shape)
    ours = nf4.quantize(tensor, double_quantization)
    nested = ours.nested and bnb.QuantState(
        absmax=ours.nested.absmax, code=ours.nested.code, blocksize=256, dtype=torch.float32
    )
    state = bnb.QuantState(
        absmax=ours.absmax.flatten(),
        shape=tensor.shape,
        dtype=tensor.dtype,
        blocksize=nf4.BLOCK_SIZE,
        code=nf4.codebook(tensor.device),
        quant_type="nf4",
        offset=ours.nested and ours.nested.offset,
        state2=nested,
    )
    read = bnb.dequantize_4bit(ours.packed.view(-1, 1), state)
    assert torch.equal(read.view(shape), nf4.dequantize(ours, tensor.dtype))


def test_chunks_do_not_show(monkeypatch):
    tensor = values((8, 8192))
    whole = nf4.quantize(tensor, double_quantization=True)
    monkeypatch.setattr(nf4, "_CHUNK_SIZE", 16384)
    chunked = nf4.quantize(tensor, double_quantization=True)
    assert torch.equal(whole.packed, chunked.packed)
    assert torch.equal(whole.absmax, chunked.absmax)
    assert torch.equal(whole.nested.absmax, chunked.nested.absmax)


def test_a_block_of_zeros_stays_zero():
    tensor = torch.zeros(2, 64)
    tensor[1] = 3.0
    quantized = nf4.quantize(tensor)
    assert torch.equal(nf4.dequantize(quantized, torch.float32), tensor)


def test_the_error_is_within_half_a_step_of_the_codebook():
    tensor = values((4, 640), torch.float32)
    restored = nf4.dequantize(nf4.quantize(tensor), torch.float32)
    steps = nf4.codebook(tensor.device).diff().max()
    largest = tensor.unflatten(-1, (-1, 64)).abs().amax(-1, keepdim=True)
    error = (restored - tensor).unflatten(-1, (-1, 64)).abs()
    assert (error <= largest * steps / 2 * 1.0001).all()
    assert nf4.quantize(tensor).shape == tensor.shape


def test_another_row_length_is_refused():
    with pytest.raises(KernelError, match="100 elements"):
        nf4.quantize(torch.zeros(3, 100))
