import pytest
import torch

from dgq.kernels.errors import KernelError
from dgq.kernels.vocabulary_head import (
    TILE_TOKENS,
    read_vocabulary,
    read_vocabulary_reference,
)

from .close import assert_close

SOFTCAP = 30.0


def inputs(rows, depth, vocabulary, dtype=torch.float32, device="cpu", spread=1.0):
    torch.manual_seed(rows + vocabulary)
    hidden = torch.randn(rows, depth) * spread
    embedding = torch.randn(vocabulary, depth)
    temperature = 0.4 + 0.4 * torch.rand(rows)
    uniforms = torch.rand(rows, 2)
    tensors = hidden.to(dtype), embedding.to(dtype), temperature, uniforms
    return [tensor.to(device) for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("spread", [0.02, 0.2, 2.0])  # flat, broad and peaked rows
@pytest.mark.parametrize(
    ("rows", "depth", "vocabulary"),
    [
        (5, 48, 100),  # less than a tile
        (70, 64, 512),  # two blocks of rows, the last one partial
        (16, 32, 700),  # a partial tile
    ],
)
def test_equals_reference(rows, depth, vocabulary, spread, dtype, device):
    tensors = inputs(rows, depth, vocabulary, dtype, device, spread)
    ours = read_vocabulary(*tensors, SOFTCAP, keep_logits=True)
    reference = read_vocabulary_reference(*tensors, SOFTCAP, keep_logits=True)
    assert torch.equal(ours.argmax, reference.argmax)
    assert torch.equal(ours.sampled, reference.sampled)
    torch.testing.assert_close(ours.entropy, reference.entropy, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(ours.log_sum_exp, reference.log_sum_exp, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.tile_max, reference.tile_max, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours.tile_sum, reference.tile_sum, rtol=1e-3, atol=0)
    assert_close(ours.logits, reference.logits, 1e-2, 1e-3)


def test_logits_are_kept_only_when_asked(device):
    assert read_vocabulary(*inputs(3, 32, 200, device=device), SOFTCAP).logits is None


def test_the_lowest_of_equal_tokens_wins(device):
    hidden, embedding, temperature, uniforms = inputs(4, 32, 300, device=device)
    embedding[:] = 0.0
    embedding[[17, 40, 200, 299]] = hidden[0]  # two in one tile, two in others
    readings = read_vocabulary(hidden[:1], embedding, temperature[:1], uniforms[:1], SOFTCAP)
    assert readings.argmax.tolist() == [17]


def test_small_entropies_keep_their_digits(device):
    """One token at z = 0 and 255 far below: the entropy is known in closed form."""
    embedding = torch.zeros(256, 16, device=device)
    embedding[:, 0] = -1.0
    embedding[3] = 0.0
    hidden = torch.zeros(3, 16, device=device)
    hidden[:, 0] = torch.tensor([12.0, 16.0, 20.0], device=device)
    one = torch.ones(3, device=device)
    ours = read_vocabulary(hidden, embedding, one, torch.rand(3, 2, device=device), SOFTCAP)
    z = SOFTCAP * torch.tanh(-hidden[:, 0].double() / SOFTCAP)
    others = 255 * z.exp()
    expected = torch.log1p(others) - others * z / (1 + others)
    torch.testing.assert_close(ours.entropy.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("read", [read_vocabulary, read_vocabulary_reference])
def test_samples_follow_the_softmax_exactly(read, device):
    """Over an even grid of both uniform numbers a token's share is its probability."""
    hidden, embedding, _, _ = inputs(1, 32, 2 * TILE_TOKENS, device=device, spread=0.3)
    side = 16
    middles = (torch.arange(side, device=device) + 0.5) / side
    uniforms = torch.cartesian_prod(middles, middles)
    rows = len(uniforms)
    ones = torch.ones(rows, device=device)
    readings = read(hidden.repeat(rows, 1), embedding, ones, uniforms, SOFTCAP)
    z = SOFTCAP * torch.tanh(hidden @ embedding.T / SOFTCAP)
    shares = torch.bincount(readings.sampled, minlength=2 * TILE_TOKENS) / rows
    error = (shares.cumsum(0) - z.softmax(-1)[0].cumsum(0)).abs().max()
    assert error <= 1.5 / side


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval(uniform, device):
    hidden, embedding, temperature, uniforms = inputs(6, 32, 300, device=device, spread=3.0)
    uniforms[:] = uniform
    sampled = read_vocabulary(hidden, embedding, temperature, uniforms, SOFTCAP).sampled
    reference = read_vocabulary_reference(hidden, embedding, temperature, uniforms, SOFTCAP)
    assert torch.equal(sampled, reference.sampled)
    assert ((sampled >= 0) & (sampled < 300)).all()


def test_a_row_alone_and_among_others_is_the_same(device):
    tensors = inputs(9, 64, 300, device=device)
    together = read_vocabulary(*tensors, SOFTCAP)
    hidden, embedding, temperature, uniforms = tensors
    one = slice(4, 5)
    alone = read_vocabulary(hidden[one], embedding, temperature[one], uniforms[one], SOFTCAP)
    for name in ("argmax", "sampled", "entropy", "log_sum_exp"):
        assert torch.equal(getattr(alone, name), getattr(together, name)[one])


def test_unsupported_inputs_are_refused(device):
    hidden, embedding, temperature, uniforms = inputs(4, 32, 100, device=device)
    with pytest.raises(KernelError, match="does not go with"):
        read_vocabulary(hidden.half(), embedding, temperature, uniforms, SOFTCAP)
    with pytest.raises(KernelError, match="multiples of 16"):
        read_vocabulary(*inputs(4, 24, 100, device=device), SOFTCAP)
