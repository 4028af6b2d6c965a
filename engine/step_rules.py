"""The sampler's rules for the canvases of one step, each with its own request's knobs.

The knobs are numbers in a row of a table, so that a step finds those of its canvases by their slots,
and nothing about them needs to be told to the device again when other canvases come and go.
"""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from .canvas import Generation
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

NUM_KNOBS = 10
NUM_TEMPERATURE_KNOBS = 3
"""The first of them: those of the temperature."""


def knobs_of(generation: Generation) -> tuple[float, ...]:
    """NUM_KNOBS numbers, in the order in which StepRules.of takes them."""
    knobs = generation.sampling
    return (
        knobs.t_min,
        knobs.t_max,
        knobs.max_denoising_steps,
        knobs.entropy_bound,
        generation.renoise_share(),
        knobs.confidence_threshold,
        knobs.stability_threshold,
        knobs.min_denoising_steps,
        STOP_RULES.index(knobs.stop_rule),
        knobs.stop_to_end,
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
        cls, knobs: Tensor, keys: Tensor, vocab_size: int, eos_ids: Collection[int]
    ) -> "StepRules":
        """knobs fp64 [B, NUM_KNOBS], so that t_max - t_min rounds as Python's does.

        eos_ids: the tokens that end a text.
        """
        t_min, t_max, steps, bound, share, confidence, unchanged, least, number, to_end = (
            knobs.unbind(dim=1)
        )
        num_steps, confidence = steps.long(), confidence.float()
        rules: dict[str, StopRule] = {
            "stable_and_confident": StableAndConfident(unchanged, confidence),
            "mean_entropy": LowMeanEntropy(least, confidence),
            "plateau": Plateau(unchanged, confidence),
        }
        return cls(
            keys=keys,
            num_steps_allowed=num_steps,
            schedule=LinearTemperatureSchedule(t_min, t_max, num_steps),
            acceptance=EntropyBoundAcceptance(bound),
            renoise=UniformRenoise(vocab_size, share),
            stop=StopTest(
                rules=[(number == i, rules[name]) for i, name in enumerate(STOP_RULES)],
                cap=StepCap(num_steps),
                to_end=to_end > 0,
                eos_ids=eos_ids,
            ),
        )
