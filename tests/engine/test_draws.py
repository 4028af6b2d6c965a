"""Draws: golden values, independence of the batch, and the statistics of uniform numbers."""

import pytest
import torch

from dgq.engine.draws import (
    MAX_VOCAB_SIZE,
    Purpose,
    canvas_key,
    draw_bits,
    draw_bits_for,
    to_tokens,
    to_uniform_pairs,
    to_uniforms,
)

GOLDEN_KEYS = [2558736989570252433, -2455426558055805750, -287061555193568806]
GOLDEN_BITS = [
    [-5924694089836130694, -972426032505195705, 3719588046802143369],
    [-3431857121570976648, 4704536849093937039, -1663973110193012043],
]
GOLDEN_TOKENS = [[177949, 248324, 52858], [213374, 66855, 238497]]
GOLDEN_UNIFORMS = [0.8139586448669434, 0.2550334334373474, 0.9097958207130432]


def bits_of(seeds, purpose=Purpose.SAMPLE, step=0, rows=64, attempt=0, canvas=0):
    keys = torch.tensor([canvas_key(seed, attempt, canvas) for seed in seeds])
    return draw_bits(keys, purpose, torch.full_like(keys, step), rows)


def chi_square(values, num_bins):
    """Standard scores of the bin counts: about normal(0, 1) for uniform values."""
    counts = torch.bincount((values * num_bins).long().flatten(), minlength=num_bins).double()
    expected = values.numel() / num_bins
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float((statistic - (num_bins - 1)) / (2 * (num_bins - 1)) ** 0.5)


def correlation(x, y):
    return float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]).double())[0, 1])


def test_golden_values():
    """These must never change: the same seed must give the same text in every release."""
    assert canvas_key(0, 0, 0) == GOLDEN_KEYS[0]
    assert canvas_key(12345, 1, 2) == GOLDEN_KEYS[1]
    assert canvas_key(-1, 0, 0) == canvas_key(2**64 - 1, 0, 0) == GOLDEN_KEYS[2]
    bits = bits_of([0, 12345], rows=3, step=7)
    assert bits.tolist() == GOLDEN_BITS
    assert to_tokens(bits, 262_144).tolist() == GOLDEN_TOKENS
    assert to_uniforms(bits[1]).tolist() == pytest.approx(GOLDEN_UNIFORMS, abs=1e-7)


def test_the_hash_is_splitmix64():
    """Row r takes the r-th output of splitmix64 from the stream's start, in plain integers."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    assert mix(golden) == 0xE220A8397B1DCDAF  # the published first output for state 0
    key, step = canvas_key(99, 0, 3) & mask, 11
    stream = mix((key + (step * 256 + int(Purpose.RENOISE)) * golden) & mask)
    wanted = [mix((stream + (row + 1) * golden) & mask) for row in range(20)]
    got = bits_of([99], Purpose.RENOISE, step, rows=20, canvas=3)[0]
    assert [bits & mask for bits in got.tolist()] == wanted


def test_a_draw_does_not_depend_on_its_batch():
    together = bits_of([3, 1, 4, 1, 5], rows=100)
    for i, seed in enumerate([3, 1, 4, 1, 5]):
        assert torch.equal(together[i, :30], bits_of([seed], rows=30)[0])


def test_every_part_of_the_key_counts():
    base = {"seeds": [1], "purpose": Purpose.SAMPLE, "step": 3, "attempt": 0, "canvas": 0}
    variants = [
        {},
        {"seeds": [2]},
        {"purpose": Purpose.RENOISE},
        {"step": 4},
        {"attempt": 1},
        {"canvas": 1},
    ]
    draws = torch.cat([bits_of(**{**base, **variant}) for variant in variants])
    assert draws.unique().numel() == draws.numel()


@pytest.mark.parametrize("purpose", list(Purpose))
def test_uniforms_are_uniform(purpose):
    uniforms = to_uniforms(bits_of(range(400), purpose, rows=256))
    assert uniforms.min() >= 0.0 and uniforms.max() < 1.0
    assert abs(float(uniforms.mean()) - 0.5) < 4 / (12 * uniforms.numel()) ** 0.5
    assert abs(chi_square(uniforms, 64)) < 4
    assert abs(chi_square(uniforms * 4096 % 1.0, 64)) < 4  # the middle bits too


def test_pairs_of_uniforms_are_two_of_one_draw():
    pairs = to_uniform_pairs(bits_of(range(400), rows=256))
    assert torch.equal(pairs[..., 0], to_uniforms(bits_of(range(400), rows=256)))
    second = pairs[..., 1]
    assert second.min() >= 0.0 and second.max() < 1.0
    assert abs(chi_square(second, 64)) < 4
    assert abs(chi_square(second * 4096 % 1.0, 64)) < 4
    assert abs(correlation(pairs[..., 0], second)) < 4 / (400 * 256) ** 0.5


def test_neighbours_are_not_correlated():
    limit = 4 / (300 * 256) ** 0.5
    uniforms = to_uniforms(bits_of(range(300), rows=257))
    assert abs(correlation(uniforms[:, :-1], uniforms[:, 1:])) < limit
    assert abs(correlation(uniforms[:-1], uniforms[1:])) < limit
    for other in (
        bits_of(range(300), step=1, rows=257),
        bits_of(range(300), Purpose.RENOISE, rows=257),
        bits_of(range(300), canvas=1, rows=257),
        bits_of(range(300), attempt=1, rows=257),
    ):
        assert abs(correlation(uniforms, to_uniforms(other))) < limit


@pytest.mark.parametrize("vocab_size", [2, 200, 262_144, MAX_VOCAB_SIZE])
def test_tokens_cover_the_vocabulary_evenly(vocab_size):
    tokens = to_tokens(bits_of(range(400), rows=256), vocab_size)
    assert tokens.min() >= 0 and tokens.max() < vocab_size
    assert abs(chi_square((tokens + 0.5).double() / vocab_size, min(vocab_size, 50))) < 4


def test_extreme_bits():
    extremes = torch.tensor([0, -1, 2**63 - 1, -(2**63)])
    assert to_uniforms(extremes).tolist() == [0.0, 1 - 2**-24, 0.5 - 2**-24, 0.5]
    assert to_tokens(extremes, 200).tolist() == [0, 199, 99, 100]
    assert to_tokens(extremes, MAX_VOCAB_SIZE)[1] == MAX_VOCAB_SIZE - 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bits_are_equal_on_a_gpu():
    keys = torch.tensor([canvas_key(seed, 0, 0) for seed in range(100)])
    steps = torch.arange(100)
    on_cpu = draw_bits(keys, Purpose.SAMPLE, steps, 256)
    on_gpu = draw_bits(keys.cuda(), Purpose.SAMPLE, steps.cuda(), 256)
    assert torch.equal(on_cpu, on_gpu.cpu())
    assert torch.equal(to_uniforms(on_cpu), to_uniforms(on_gpu).cpu())
    assert torch.equal(to_tokens(on_cpu, 262_144), to_tokens(on_gpu, 262_144).cpu())


def test_several_purposes_at_once_are_each_as_alone():
    keys, steps = (
        torch.tensor([canvas_key(seed, 1, 2) for seed in range(3)]),
        torch.tensor([0, 1, 9]),
    )
    together = draw_bits_for(list(Purpose), keys, steps, 40)
    for purpose, bits in zip(Purpose, together, strict=True):
        assert torch.equal(bits, draw_bits(keys, purpose, steps, 40))
