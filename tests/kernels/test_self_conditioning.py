import pytest
import torch

from dgq.kernels.errors import KernelError
from dgq.kernels.self_conditioning import (
    MAX_SURVIVORS,
    find_survivors,
    self_conditioning,
    self_conditioning_reference,
)
from dgq.kernels.vocabulary_head import read_vocabulary_reference

from .close import assert_close

NORMALIZER = 7.5


def readings(rows, depth, vocabulary, device, dtype=torch.float32, spreads=(0.05, 0.3, 5.0)):
    """Rows of every kind, flat to peaked, in turn; and the embedding."""
    torch.manual_seed(rows + vocabulary)
    spread = torch.tensor(spreads).repeat(rows)[:rows, None]
    hidden = (torch.randn(rows, depth) * spread).to(device, dtype)
    embedding = torch.randn(vocabulary, depth).to(device, dtype)
    ones, uniforms = torch.ones(rows, device=device), torch.rand(rows, 2, device=device)
    return read_vocabulary_reference(hidden, embedding, ones, uniforms, 1e3, True), embedding


@pytest.mark.parametrize(
    ("dtype", "worst", "rms"), [(torch.float32, 2e-3, 2e-4), (torch.float16, 1e-2, 2e-3)]
)
def test_equals_reference(dtype, worst, rms, device):
    read, embedding = readings(7, 48, 300, device, dtype)  # a partial tile; several column blocks
    is_dense = find_survivors(read).is_dense
    assert is_dense.any() and not is_dense.all()
    ours = self_conditioning(read, embedding, NORMALIZER)
    reference = self_conditioning_reference(read.logits, embedding, NORMALIZER)
    assert_close(ours, reference, worst, rms)


@pytest.mark.parametrize(
    ("spreads", "rows"),
    [
        ((0.01,), 66),  # all dense: two blocks of rows, the last one partial
        ((5.0,), 5),  # all sparse
    ],
)
def test_all_rows_of_one_kind(spreads, rows, device):
    read, embedding = readings(rows, 32, 140, device, spreads=spreads)
    assert (find_survivors(read).is_dense == (spreads[0] < 1)).all()
    ours = self_conditioning(read, embedding, NORMALIZER)
    reference = self_conditioning_reference(read.logits, embedding, NORMALIZER)
    assert_close(ours, reference, 2e-3, 2e-4)


def test_every_row_is_dense_where_nothing_may_be_dropped(device):
    read, embedding = readings(5, 32, 140, device, spreads=(5.0,))
    assert find_survivors(read, max_dropped_mass=0.0).is_dense.all()
    ours = self_conditioning(read, embedding, NORMALIZER, max_dropped_mass=0.0)
    reference = self_conditioning_reference(read.logits, embedding, NORMALIZER)
    assert_close(ours, reference, 1e-5, 1e-6)


def test_survivors_are_the_tokens_above_the_threshold(device):
    read, _ = readings(12, 32, 700, device)
    survivors = find_survivors(read)
    probabilities = read.logits.softmax(-1)
    for row in (~survivors.is_dense).nonzero().flatten().tolist():
        z = read.logits[row]
        expected = (z >= z.max() - 10).nonzero().flatten()
        count = survivors.count[row]
        assert survivors.tokens[row, :count].tolist() == expected.tolist()
        assert torch.equal(survivors.logits[row, :count], z[expected])
        dropped = 1 - probabilities[row, expected].double().sum()
        torch.testing.assert_close(survivors.dropped_mass[row].double(), dropped, rtol=0, atol=1e-6)
        assert dropped < 1e-4


def test_too_many_survivors_and_too_much_dropped_are_dense(device):
    vocabulary = 20_000
    embedding = torch.zeros(vocabulary, 16, device=device)
    embedding[:, 0] = -10.5
    embedding[:1, 0] = 0.0
    embedding[:MAX_SURVIVORS, 1] = 1.0
    embedding[: MAX_SURVIVORS + 1, 2] = 1.0
    hidden = torch.zeros(3, 16, device=device)
    hidden[0, 0] = 1.0  # one survivor, and 20,000 tokens below the threshold that add up
    hidden[1, 1] = 25.0  # as many survivors as there may be
    hidden[2, 2] = 25.0  # one more
    ones, uniforms = torch.ones(3, device=device), torch.rand(3, 2, device=device)
    read = read_vocabulary_reference(hidden, embedding, ones, uniforms, 1e6, True)
    survivors = find_survivors(read)
    assert survivors.count.tolist() == [1, MAX_SURVIVORS, MAX_SURVIVORS + 1]
    assert survivors.dropped_mass[0] > 0.1
    assert survivors.is_dense.tolist() == [True, False, True]


def test_a_row_alone_and_among_others_is_the_same(device):
    read, embedding = readings(9, 32, 300, device)
    together = self_conditioning(read, embedding, NORMALIZER)
    for row in (3, 5):
        alone = type(read)(
            read.argmax[row : row + 1],
            read.sampled[row : row + 1],
            read.entropy[row : row + 1],
            read.log_sum_exp[row : row + 1],
            read.tile_max[:, row : row + 1].contiguous(),
            read.tile_sum[:, row : row + 1].contiguous(),
            read.logits[row : row + 1],
        )
        assert torch.equal(self_conditioning(alone, embedding, NORMALIZER)[0], together[row])


def test_readings_without_logits_are_refused(device):
    read, embedding = readings(2, 32, 100, device)
    without = type(read)(
        read.argmax,
        read.sampled,
        read.entropy,
        read.log_sum_exp,
        read.tile_max,
        read.tile_sum,
        None,
    )
    with pytest.raises(KernelError, match="did not keep"):
        self_conditioning(without, embedding, NORMALIZER)
