"""The sampler and whole generations against transformers, both fed the same draws."""

from dataclasses import replace

import pytest
import torch
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    EntropyBoundSamplerConfig,
    LinearTemperatureScheduleLogitsProcessor,
    StableAndConfidentStoppingCriteria,
)

from dgq.engine.draws import Purpose, canvas_key, draw_bits, to_tokens, to_uniforms
from dgq.engine.engine import Engine
from dgq.engine.request import Request
from dgq.engine.sampler import (
    EntropyBoundAcceptance,
    InverseCdf,
    LinearTemperatureSchedule,
    StableAndConfident,
    StepCap,
    StopState,
    StopTest,
    UniformRenoise,
)

from .conftest import CANVAS_LENGTH, EOS_IDS, VOCAB_SIZE


class SharedDraws:
    """Stands in for torch.multinomial and torch.randint, and draws as the engine does.

    transformers asks for a random canvas once at the start of each canvas, and then in each step
    for a sample and a random canvas.
    """

    def __init__(self, seed):
        self.seed, self.canvas, self.step, self.sampled = seed, -1, 0, False

    def bits(self, purpose, num_rows):
        key = torch.tensor([canvas_key(self.seed, 0, self.canvas)])
        return draw_bits(key, purpose, torch.tensor([self.step]), num_rows)

    def multinomial(self, probs, num_samples):
        self.sampled = True
        uniforms = to_uniforms(self.bits(Purpose.SAMPLE, len(probs)))[0]
        return InverseCdf().sample(probs, uniforms)[:, None]

    def randint(self, low, high, size, device):
        if not self.sampled:
            self.canvas, self.step = self.canvas + 1, 0
            return to_tokens(self.bits(Purpose.START_TOKEN, size[1]), high)
        tokens = to_tokens(self.bits(Purpose.RENOISE, size[1]), high)
        self.step, self.sampled = self.step + 1, False
        return tokens


def reference_generate(reference, monkeypatch, prompt, seed, num_canvases, **knobs):
    draws = SharedDraws(seed)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", draws.multinomial)
        patch.setattr(torch, "randint", draws.randint)
        # it would import the compiler, which takes seconds and warns of its own deprecations
        patch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
        output = reference.generate(
            torch.tensor([prompt]), max_new_tokens=num_canvases * CANVAS_LENGTH, **knobs
        )
    new_tokens = output.sequences[0, len(prompt) :].tolist()
    return new_tokens, draws.canvas + 1, output


def until_stop(tokens):
    end = next((i for i, token in enumerate(tokens) if token in EOS_IDS), None)
    return tokens[:end], end is not None


@pytest.mark.parametrize(("length", "max_steps"), [(4, 12), (40, 12), (20, 4)])
def test_whole_generations_token_for_token(
    calm_checkpoint, calm_reference, monkeypatch, length, max_steps
):
    """Twelve requests at once, of one to three canvases that converge or use all their steps."""
    num_canvases, seeds = 3, range(12)
    generator = torch.Generator().manual_seed(length)
    prompts = [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for _ in seeds]
    wanted = [
        reference_generate(
            calm_reference, monkeypatch, prompt, seed, num_canvases, max_denoising_steps=max_steps
        )
        for seed, prompt in zip(seeds, prompts, strict=True)
    ]
    with Engine.load(calm_checkpoint) as engine:
        sampling = replace(
            engine.sampling, reroll_entropy_nats=float("inf"), max_denoising_steps=max_steps
        )
        requests = [
            Request(tuple(prompt), num_canvases * CANVAS_LENGTH, seed, sampling=sampling)
            for seed, prompt in zip(seeds, prompts, strict=True)
        ]
        results = dict(engine.generate(requests))
    for seed, (tokens, canvases, output) in zip(seeds, wanted, strict=True):
        text, stopped = until_stop(tokens)
        assert list(results[seed].token_ids) == text, f"seed {seed}"
        assert results[seed].finish_reason == ("stop" if stopped else "length")
        assert results[seed].num_canvases == canvases
        num_tokens = sum(token != 0 for token in tokens)
        assert num_tokens / results[seed].num_steps == pytest.approx(
            float(output.tokens_per_forward[0])
        )
    assert {result.finish_reason for result in results.values()} == {"stop", "length"}
    assert {result.num_canvases for result in results.values()} >= {1, num_canvases}
    steps_per_canvas = {r.num_steps / r.num_canvases for r in results.values()}
    assert min(steps_per_canvas) <= max_steps
    assert max_steps < 12 or 1 < min(steps_per_canvas) < max_steps


def random_logits(seed, scale, batch=3):
    """Logits of very different certainty from row to row, as in the middle of a denoising."""
    generator = torch.Generator().manual_seed(seed)
    peaks = torch.rand(batch, CANVAS_LENGTH, 1, generator=generator) * scale
    return torch.randn(batch, CANVAS_LENGTH, VOCAB_SIZE, generator=generator) * peaks


def entropy_of(logits):
    return torch.distributions.Categorical(logits=logits).entropy()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("bound", [0.01, 0.1, 4.0])
def test_accept_and_renoise_decisions(monkeypatch, seed, bound):
    logits = random_logits(seed, scale=20.0)
    generator = torch.Generator().manual_seed(seed)
    canvas, sampled, noise = torch.randint(
        VOCAB_SIZE, (3, 3, CANVAS_LENGTH), generator=generator
    ).unbind()
    theirs = EntropyBoundSampler(EntropyBoundSamplerConfig(bound), CANVAS_LENGTH, VOCAB_SIZE, 48)
    monkeypatch.setattr(theirs, "initialize_canvas", lambda batch_size, device: noise)
    wanted = theirs.renoise_canvas(theirs.accept_canvas(canvas, sampled, logits, 5), 5)

    free = torch.ones_like(canvas).bool()
    accepted = EntropyBoundAcceptance(bound).accept(entropy_of(logits), free)
    assert torch.equal(accepted, theirs.accepted_token_mask)
    assert 0 < accepted.sum() < accepted.numel()
    # to_tokens takes the top 40 bits; these bits make it give exactly the reference's noise
    bits = ((noise << 40) // VOCAB_SIZE + 1) << 24
    assert torch.equal(to_tokens(bits, VOCAB_SIZE), noise)
    got = UniformRenoise(VOCAB_SIZE).renoise(
        canvas, sampled, accepted, free, bits, torch.zeros(bits.shape)
    )
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("threshold", [0, 1, 2, 3])
def test_stop_decisions(threshold):
    """Forty steps of three canvases whose argmax changes now and then, of changing certainty."""
    generator = torch.Generator().manual_seed(threshold)
    theirs = StableAndConfidentStoppingCriteria(threshold, 0.5)
    every = torch.ones(3).bool()
    ours = StopTest(
        [(every, StableAndConfident(threshold, 0.5))],
        StepCap(99),
        to_end=~every,
        eos_ids=EOS_IDS,
    )
    argmax = torch.randint(VOCAB_SIZE, (3, CANVAS_LENGTH), generator=generator)
    state = StopState.fresh(argmax)
    free = torch.ones_like(argmax).bool()
    decisions = []
    for step in range(40):
        logits = random_logits(step, scale=300.0 if step % 3 else 20.0)
        if step % 4 == 0:
            argmax = argmax.clone()
            argmax[step % 3, step % CANVAS_LENGTH] += 1
        wanted = theirs(argmax, logits)
        state, _, stop, mean = ours.update(
            state, argmax, entropy_of(logits), free, free, torch.full((3,), step + 1)
        )
        torch.testing.assert_close(mean, entropy_of(logits).mean(dim=-1))
        assert torch.equal(stop, wanted), f"step {step}"
        decisions += stop.tolist()
    assert set(decisions) == {True, False}


def test_temperatures_are_bit_equal():
    ours = LinearTemperatureSchedule(0.4, 0.8, 48)
    theirs = LinearTemperatureScheduleLogitsProcessor(0.4, 0.8, 48)
    remaining = torch.arange(48, 0, -1)
    wanted = torch.cat([theirs(None, torch.ones(1), step.int()) for step in remaining])
    assert torch.equal(torch.ones(48) / ours.temperature(remaining), wanted)
    tensors = LinearTemperatureSchedule(
        torch.full((48,), 0.4, dtype=torch.float64),
        torch.full((48,), 0.8, dtype=torch.float64),
        torch.full((48,), 48),
    )
    assert torch.equal(tensors.temperature(remaining), ours.temperature(remaining))
