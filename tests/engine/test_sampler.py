"""Each rule of the denoising loop alone."""

import pytest
import torch

from dgq.engine.sampler import (
    EntropyBoundAcceptance,
    InverseCdf,
    LinearTemperatureSchedule,
    LowMeanEntropy,
    Plateau,
    StableAndConfident,
    StepCap,
    StopState,
    StopTest,
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


EOS = 9


def stop_test(*rules, cap=99, to_end="-"):
    """rules: a rule for all canvases, or (canvases as in bools, rule) pairs."""
    pairs = [rule if isinstance(rule, tuple) else ("x", rule) for rule in rules]
    return StopTest(
        [(bools(canvases)[0], rule) for canvases, rule in pairs],
        StepCap(cap),
        bools(to_end)[0],
        [EOS, EOS + 1],
    )


def run_stop(test, argmaxes, entropies=0.0, accepted="", free=""):
    """Whether one canvas is done and has converged, and its mean entropy, step by step."""
    width = len(argmaxes[0])
    state = StopState.fresh(torch.zeros(1, width, dtype=torch.int64))
    done, converged, means = "", "", []
    for i, argmax in enumerate(argmaxes):
        entropy = torch.as_tensor(entropies, dtype=torch.float32).expand(1, width)
        mask = bools(accepted[i] if accepted else "x" * width)
        state, is_done, has_converged, mean = test.update(
            state, torch.tensor([argmax]), entropy, mask, bools(free or "x" * width),
            torch.tensor([i + 1]),
        )  # fmt: skip
        done += "x" if is_done.item() else "-"
        converged += "x" if has_converged.item() else "-"
        means.append(mean.item())
    return done, converged, means


@pytest.mark.parametrize(
    ("threshold", "wanted"),
    [(0, "xxxxxxx"), (1, "-x--xxx"), (2, "-----xx"), (3, "------x")],
)
def test_stability_counts_unchanged_steps(threshold, wanted):
    argmaxes = [[1, 1], [1, 1], [1, 2], [3, 3], [3, 3], [3, 3], [3, 3]]
    done, converged, _ = run_stop(stop_test(StableAndConfident(threshold, 0.005)), argmaxes)
    assert done == converged == wanted


def test_stability_needs_confidence():
    rule = stop_test(StableAndConfident(1, 0.005))
    assert run_stop(rule, [[1, 1]] * 3, 0.006)[1] == "---"
    assert run_stop(rule, [[1, 1]] * 3, 0.004)[1] == "-xx"


def test_low_mean_entropy_needs_no_stability_but_some_steps():
    changing = [[step, step] for step in range(4)]
    assert run_stop(stop_test(LowMeanEntropy(1, 0.05)), changing, 0.04)[1] == "xxxx"
    assert run_stop(stop_test(LowMeanEntropy(3, 0.05)), changing, 0.04)[1] == "--xx"
    assert run_stop(stop_test(LowMeanEntropy(3, 0.05)), changing, 0.06)[1] == "----"


def test_a_plateau_is_of_the_accepted_rows():
    changing = [[step, step] for step in range(6)]
    masks = ["x-", "x-", "xx", "xx", "xx", "xx"]
    assert run_stop(stop_test(Plateau(1, 0.5)), changing, 0.4, masks)[1] == "-x-xxx"
    assert run_stop(stop_test(Plateau(3, 0.5)), changing, 0.4, masks)[1] == "-----x"
    assert run_stop(stop_test(Plateau(1, 0.5)), changing, 0.6, masks)[1] == "------"
    assert run_stop(stop_test(Plateau(1, 0.5)), changing, 0.4, masks, free="x-")[1] == "-xxxxx"
    assert run_stop(stop_test(Plateau(1, 0.5)), changing[:2], 0.4, ["--"] * 2)[1] == "-x"


def test_the_step_cap_ends_without_convergence():
    done, converged, _ = run_stop(stop_test(StableAndConfident(1, 0.005), cap=3), [[1, 1]] * 4, 9.0)
    assert (done, converged) == ("--xx", "----")


def test_rows_behind_the_first_end_decide_nothing_where_they_are_not_judged():
    """The filler keeps changing and is unsure; the text and its end do not and are not."""
    argmaxes = [[1, EOS, step, EOS] for step in range(4)]
    entropies = [0.0, 0.0, 1.0, 1.0]
    rule = StableAndConfident(1, 0.005)
    assert run_stop(stop_test(rule), argmaxes, entropies)[1:] == ("----", [0.5] * 4)
    assert run_stop(stop_test(rule, to_end="x"), argmaxes, entropies)[1:] == ("-xxx", [0.0] * 4)
    assert run_stop(stop_test(rule, to_end="-"), argmaxes, entropies)[1] == "----"


def test_the_end_itself_is_judged_and_may_move():
    rule = stop_test(StableAndConfident(1, 0.005), to_end="x")
    assert run_stop(rule, [[1, EOS, 2, 2]] * 2, [0.0, 1.0, 0.0, 0.0])[1:] == ("--", [0.5] * 2)
    moving = [[1, 2, 3, EOS], [1, EOS + 1, 3, EOS], [1, 2, 3, EOS], [1, 2, 3, EOS]]
    assert run_stop(rule, moving)[1] == "---x"
    without = [[1, 2, 3, step % 3] for step in range(3)]
    assert run_stop(rule, without)[1] == "---"


def test_held_rows_decide_nothing():
    rule = stop_test(StableAndConfident(1, 0.005))
    assert run_stop(rule, [[1, 1], [1, 2]], free="x-")[1] == "-x"
    assert run_stop(rule, [[1, 1], [1, 2]], free="-x")[1] == "--"
    assert run_stop(rule, [[0, 0, 0, 0]], [9.0, 0.5, 1.5, 9.0], free="-xx-")[2] == [1.0]


def test_a_canvas_without_free_rows_stops():
    assert run_stop(stop_test(StableAndConfident(1, 0.005)), [[1, 1], [2, 2]], free="--")[1] == "xx"


def test_canvases_stop_independently_each_by_its_own_rule():
    """Four canvases whose argmax changes in every step, and one that is stable."""
    confidence = torch.tensor([0.1, 0.1, 0.1, 0.01, 0.1], dtype=torch.float64)
    unchanged = torch.tensor([0, 0, 2, 2, 1])
    test = stop_test(
        ("x---x", StableAndConfident(unchanged, confidence)),
        ("-x---", LowMeanEntropy(torch.tensor([9, 3, 1, 1, 1]), confidence)),
        ("--xx-", Plateau(unchanged, confidence)),
        cap=torch.tensor([9, 9, 9, 4, 9]),
    )
    state = StopState.fresh(torch.zeros(5, 2, dtype=torch.int64))
    entropy, on = torch.full((5, 2), 0.05), torch.ones(5, 2).bool()
    converged, done = [], []
    for step in range(4):
        argmax = torch.full((5, 2), step)
        argmax[4] = 7
        steps = torch.full((5,), step + 1)
        state, is_done, has_converged, _ = test.update(state, argmax, entropy, on, on, steps)
        converged.append("".join("x" if flag else "-" for flag in has_converged))
        done.append("".join("x" if flag else "-" for flag in is_done))
    assert converged == ["x----", "x---x", "xxx-x", "xxx-x"]
    assert done == ["x----", "x---x", "xxx-x", "xxxxx"]


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
