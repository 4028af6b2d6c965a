"""The sampler's rules for the canvases of one step, each with its own request's knobs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Generation
from .draws import canvas_key
from .request import STOP_RULES
from .sampler import (
    EntropyBoundAcceptance,
    LinearTemperatureSchedule,
    LowMeanEntropy,
    Plateau,
    StableAndConfident,
    StepCap,
    StopRule,
    StopTest,
    UniformRenoise,
)


@dataclass(frozen=True, slots=True)
class StepRules:
    """For B canvases. keys int64 [B]: what their draws are keyed by; num_steps_allowed int64 [B]."""

    keys: Tensor
    num_steps_allowed: Tensor
    schedule: LinearTemperatureSchedule
    acceptance: EntropyBoundAcceptance
    renoise: UniformRenoise
    stop: StopTest

    @classmethod
    def of(
        cls, generations: Sequence[Generation], vocab_size: int, device: torch.device
    ) -> "StepRules":
        """At least one generation."""
        t_min, t_max, steps, entropy_bound, share = _per_canvas(
            [
                (
                    g.sampling.t_min,
                    g.sampling.t_max,
                    g.sampling.max_denoising_steps,
                    g.sampling.entropy_bound,
                    g.renoise_share(),
                )
                for g in generations
            ],
            device,
        )
        keys = [canvas_key(g.request.seed, g.attempt, g.canvas) for g in generations]
        return cls(
            keys=torch.tensor(keys, device=device),
            num_steps_allowed=steps.long(),
            schedule=LinearTemperatureSchedule(t_min, t_max, steps.long()),
            acceptance=EntropyBoundAcceptance(entropy_bound),
            renoise=UniformRenoise(vocab_size, share),
            stop=_stop_test(generations, device),
        )


def _stop_test(generations: Sequence[Generation], device: torch.device) -> StopTest:
    knobs = [generation.sampling for generation in generations]
    confidence, unchanged, least, most = _per_canvas(
        [
            (
                knob.confidence_threshold,
                knob.stability_threshold,
                knob.min_denoising_steps,
                knob.max_denoising_steps,
            )
            for knob in knobs
        ],
        device,
    )
    rules: dict[str, StopRule] = {
        "stable_and_confident": StableAndConfident(unchanged, confidence),
        "mean_entropy": LowMeanEntropy(least, confidence),
        "plateau": Plateau(unchanged, confidence),
    }
    names = [knob.stop_rule for knob in knobs]
    used = [name for name in STOP_RULES if name in names]
    to_end = [knob.stop_to_end for knob in knobs]
    return StopTest(
        rules=[
            (
                None if len(used) == 1 else torch.tensor([n == name for n in names], device=device),
                rules[name],
            )
            for name in used
        ],
        cap=StepCap(most),
        to_end=torch.tensor(to_end, device=device) if any(to_end) else None,
        eos_ids=torch.tensor(
            sorted(generations[0].limits.eos_ids), dtype=torch.int64, device=device
        ),
    )


def _per_canvas(values: list[tuple[float, ...]], device: torch.device) -> list[Tensor]:
    """One fp64 tensor [B] per knob; fp64 so that t_max - t_min rounds as Python's does."""
    return list(torch.tensor(values, dtype=torch.float64).T.contiguous().to(device).unbind(0))
