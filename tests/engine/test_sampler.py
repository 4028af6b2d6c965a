"""Each rule of the denoising loop alone."""

import pytest
import torch

from dgq.engine.sampler import (
    EntropyBoundAcceptance,
    InverseCdf,
    LinearTemperatureSchedule,
    Stability,
    StableAndConfident,
    UniformRenoise,
)


def bools(*rows):
    return torch.tensor([[char == "x" for char in row] for row in rows])


def test_temperature_counts_down_from_t_max():
    schedule = LinearTemperatureSchedule(t_min=0.4, t_max=0.8, max_denoising_steps=4)
    temperature = schedule.temperature(torch.tensor([4, 3, 2, 1]))
    assert temperature.dtype == torch.float32
    torch.testing.assert_close(temperature, torch.tensor([0.8, 0.7, 0.6, 0.5]))


def test_each_canvas_has_its_own_schedule():
    schedule = LinearTemperatureSchedule(
        torch.tensor([0.4, 1.0]), torch.tensor([0.8, 1.0]), torch.tensor([4, 10])
    )
    temperature = schedule.temperature(torch.tensor([2, 7]))
    torch.testing.assert_close(temperature, torch.tensor([0.6, 1.0]))


def test_acceptance_spends_the_bound_before_the_last_row():
    """Sorted 0, .05, .06, .2: before the third .05 is spent, before the fourth .11."""
    entropy = torch.tensor([[0.2, 0.0, 0.06, 0.05]])
    accepted = EntropyBoundAcceptance(0.1).accept(entropy, bools("xxxx"))
    assert torch.equal(accepted, bools("-xxx"))


def test_the_most_certain_row_is_always_accepted():
    entropy = torch.tensor([[5.0, 3.0, 4.0]])
    assert torch.equal(EntropyBoundAcceptance(0.1).accept(entropy, bools("xxx")), bools("-x-"))


def test_rows_that_are_not_free_use_no_budget():
    entropy = torch.tensor([[0.2, 0.09, 0.06, 0.05], [0.0, 0.0, 0.0, 0.0]])
    accepted = EntropyBoundAcceptance(0.1).accept(entropy, bools("xxx-", "----"))
    assert torch.equal(accepted, bools("-xx-", "----"))


def test_each_canvas_has_its_own_bound():
    entropy = torch.tensor([[0.2, 0.3, 0.4]] * 3)
    bound = torch.tensor([0.1, 0.2, 9.0], dtype=torch.float64)
    accepted = EntropyBoundAcceptance(bound).accept(entropy, bools("xxx", "xxx", "xxx"))
    assert torch.equal(accepted, bools("x--", "xx-", "xxx"))


def test_padding_does_not_change_acceptance():
    entropy = torch.rand(20, 48, generator=torch.Generator().manual_seed(0)) * 0.1
    alone = EntropyBoundAcceptance(0.5).accept(entropy, torch.ones(20, 48).bool())
    padded = torch.cat([entropy, torch.zeros(20, 16)], dim=1)
    free = torch.arange(64).expand(20, 64) < 48
    together = EntropyBoundAcceptance(0.5).accept(padded, free)
    assert torch.equal(together[:, :48], alone) and not together[:, 48:].any()


def test_renoise_keeps_accepted_and_held_rows_only():
    canvas, sampled = torch.tensor([[10, 11, 12, 13]]), torch.tensor([[20, 21, 22, 23]])
    bits = torch.tensor([[-1, 0, -1, -1]])  # token 99, 0, 99, 99 of 100
    rows = bools("x---"), bools("xx-x"), bits, torch.tensor([[0.9, 0.9, 0.9, 0.9]])
    assert UniformRenoise(100).renoise(canvas, sampled, *rows).tolist() == [[20, 0, 12, 99]]


def test_renoise_of_a_share_keeps_the_other_rows_tokens():
    canvas, sampled = torch.tensor([[10, 11, 12]] * 2), torch.tensor([[20, 21, 22]] * 2)
    bits, uniforms = torch.tensor([[-1, -1, -1]] * 2), torch.tensor([[0.1, 0.3, 0.5]] * 2)
    rule = UniformRenoise(100, torch.tensor([0.4, 0.0]))
    renoised = rule.renoise(
        canvas, sampled, bools("x--", "---"), bools("xxx", "xxx"), bits, uniforms
    )
    assert renoised.tolist() == [[20, 99, 12], [10, 11, 12]]


def run_stop(rule, argmaxes, entropy=0.0, free="xx"):
    """The stop decisions over steps of one canvas of two rows."""
    state = Stability.fresh(torch.zeros(1, 2, dtype=torch.int64))
    decisions = []
    for argmax in argmaxes:
        entropies = torch.full((1, 2), entropy)
        state, stop, _ = rule.update(state, torch.tensor([argmax]), entropies, bools(free))
        decisions += stop.tolist()
    return decisions


@pytest.mark.parametrize(
    ("threshold", "wanted"),
    [(0, "xxxxxxx"), (1, "-x--xxx"), (2, "-----xx"), (3, "------x")],
)
def test_stability_counts_unchanged_steps(threshold, wanted):
    argmaxes = [[1, 1], [1, 1], [1, 2], [3, 3], [3, 3], [3, 3], [3, 3]]
    decisions = run_stop(StableAndConfident(threshold, 0.005), argmaxes)
    assert decisions == [char == "x" for char in wanted]


def test_stability_needs_confidence():
    assert run_stop(StableAndConfident(1, 0.005), [[1, 1]] * 3, entropy=0.006) == [False] * 3
    assert run_stop(StableAndConfident(1, 0.005), [[1, 1]] * 3, entropy=0.004)[1:] == [True] * 2


def test_held_rows_decide_nothing():
    assert run_stop(StableAndConfident(1, 0.005), [[1, 1], [1, 2]], free="x-") == [False, True]
    assert run_stop(StableAndConfident(1, 0.005), [[1, 1], [1, 2]], free="-x") == [False, False]
    entropy = torch.tensor([[9.0, 0.5, 1.5, 9.0]])
    argmax = torch.zeros(1, 4, dtype=torch.int64)
    _, _, mean = StableAndConfident(0, 0.1).update(
        Stability.fresh(argmax), argmax, entropy, bools("-xx-")
    )
    assert mean.tolist() == [1.0]


def test_a_canvas_without_free_rows_stops():
    assert run_stop(StableAndConfident(1, 0.005), [[1, 1], [2, 2]], free="--")[-1]


def test_canvases_stop_independently():
    rule = StableAndConfident(torch.tensor([0, 1, 2]), torch.tensor([0.1, 0.1, 0.1]))
    argmax = torch.ones(3, 2, dtype=torch.int64)
    state, entropy, free = Stability.fresh(argmax), torch.zeros(3, 2), bools("xx", "xx", "xx")
    stops = []
    for _ in range(4):
        state, stop, _ = rule.update(state, argmax, entropy, free)
        stops.append(stop.tolist())
    assert stops[0] == [True, False, False] and stops[1] == [True, True, False]
    assert stops[2] == [True, True, True]


@pytest.mark.parametrize("vocab_size", [3, 64, 200, 2048])
def test_inverse_cdf_equals_its_definition(vocab_size):
    generator = torch.Generator().manual_seed(vocab_size)
    weights = torch.randint(0, 5, (500, vocab_size), generator=generator).float()
    weights[:, 0] += 1  # whole numbers: all sums are exact, so all algorithms agree
    uniforms = torch.rand(500, generator=generator)
    target = uniforms * weights.sum(dim=-1)
    wanted = torch.searchsorted(weights.cumsum(dim=-1), target[:, None], right=True)[:, 0]
    sampled = InverseCdf().sample(weights, uniforms)
    assert torch.equal(sampled, wanted)
    assert (weights.gather(1, sampled[:, None]) > 0).all()


def test_inverse_cdf_at_the_ends():
    weights = torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.0]] * 3)
    uniforms = torch.tensor([0.0, 0.7, 1 - 2**-24])
    assert InverseCdf().sample(weights, uniforms).tolist() == [1, 3, 3]
    tiny = torch.rand(1000, 300, generator=torch.Generator().manual_seed(0)) ** 20
    tiny[:, 250:] = 0.0
    last = InverseCdf().sample(tiny, torch.full((1000,), 1 - 2**-24))
    assert (tiny.gather(1, last[:, None]) > 0).all()


def test_inverse_cdf_follows_the_distribution():
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.125])
    uniforms = (torch.arange(4096) + 0.5) / 4096
    sampled = InverseCdf().sample(probabilities.expand(4096, 4), uniforms)
    assert torch.bincount(sampled).tolist() == [2048, 1024, 512, 512]
