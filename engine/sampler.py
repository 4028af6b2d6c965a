"""The rules of the denoising loop, each a frozen value with one method and no state.

One step on one canvas: divide the logits by the step's temperature; sample every row; accept the
most certain rows, as many as the entropy bound allows, and replace all others by uniform noise;
stop when the stop rule says that the canvas has converged, by default when the most probable tokens
have stayed the same and the mean entropy is low, or at the step cap. The canvas that is kept is the
one of the most probable tokens, not the sampled one.

Everything is vectorised over [canvases, rows]. A rule's parameters are numbers, or tensors of one
number per canvas. Rows that are not *free* (padding, or pinned to a token) take no part in
any decision. Reference: transformers 5.23, ``generation_diffusion_gemma.py``.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .draws import to_tokens

PerCanvas = float | Tensor
"""One number for all canvases, or a tensor [canvases]."""


@dataclass(frozen=True, slots=True)
class LinearTemperatureSchedule:
    """From t_max at the first step down towards t_min."""

    t_min: PerCanvas
    t_max: PerCanvas
    max_denoising_steps: PerCanvas

    def temperature(self, steps_remaining: Tensor) -> Tensor:
        """steps_remaining int64 [B], counted max_denoising_steps..1 -> fp32 [B]."""
        share = steps_remaining / self.max_denoising_steps
        spread = _float32(self.t_max - self.t_min, share)
        return _float32(self.t_min, share) + spread * share.float()


@dataclass(frozen=True, slots=True)
class EntropyBoundAcceptance:
    """Accepts the most certain rows while the entropies of those before sum to <= entropy_bound."""

    entropy_bound: PerCanvas

    def accept(self, entropy: Tensor, free: Tensor) -> Tensor:
        """entropy fp32 [B, W], free bool [B, W] -> accepted bool [B, W], only free rows."""
        held_last = entropy.masked_fill(~free, torch.inf)
        ascending, order = held_last.sort(dim=-1, stable=True)
        spent_before = ascending.cumsum(dim=-1) - ascending  # inf - inf is nan, which is not <=
        within = spent_before <= _column(self.entropy_bound, entropy)
        return torch.zeros_like(within).scatter(-1, order, within)


@dataclass(frozen=True, slots=True)
class UniformRenoise:
    """Free rows that were not accepted become uniform random tokens, or a share of them does.

    A share below 1 is for canvases that start from a draft: the rows left out keep their token.
    """

    vocab_size: int
    share: PerCanvas = 1.0

    def renoise(
        self,
        canvas: Tensor,
        sampled: Tensor,
        accepted: Tensor,
        free: Tensor,
        bits: Tensor,
        uniforms: Tensor,
    ) -> Tensor:
        """The next canvas [B, W]; accepted rows as sampled, rows that are not free unchanged.

        bits int64 and uniforms fp32 in [0, 1), both [B, W], decide on the tokens and the share.
        """
        noise = torch.where(
            uniforms < _column(self.share, uniforms), to_tokens(bits, self.vocab_size), canvas
        )
        return torch.where(free, torch.where(accepted, sampled, noise), canvas)


@dataclass(frozen=True, slots=True)
class StopState:
    """What a stop test remembers of the step before, and for how many steps it has held.

    argmax int64 [B, W], -1 before the first step; accepted bool [B, W]; num_argmax_unchanged and
    num_accepted_unchanged int64 [B].
    """

    argmax: Tensor
    accepted: Tensor
    num_argmax_unchanged: Tensor
    num_accepted_unchanged: Tensor

    @classmethod
    def fresh(cls, canvas: Tensor) -> "StopState":
        """The state before the first step of canvases [B, W], or of one canvas [W]."""
        return cls(
            torch.full_like(canvas, -1),
            torch.zeros_like(canvas, dtype=torch.bool),
            canvas.new_zeros(canvas.shape[:-1]),
            canvas.new_zeros(canvas.shape[:-1]),  # one of its own: canvas tables write in place
        )


@dataclass(frozen=True, slots=True)
class StopFacts:
    """What a stop rule sees of canvases after a step, each [B].

    num_steps int64, this one included. num_argmax_unchanged, num_accepted_unchanged int64: for how
    many steps the most probable tokens, and the accepted rows, have been what they are now.
    mean_entropy fp32, nats.
    """

    num_steps: Tensor
    num_argmax_unchanged: Tensor
    num_accepted_unchanged: Tensor
    mean_entropy: Tensor


class StopRule(Protocol):
    """Says which canvases have converged."""

    def stops(self, facts: StopFacts) -> Tensor:
        """-> bool [B]."""
        ...


@dataclass(frozen=True, slots=True)
class StableAndConfident:
    """The reference's rule: the argmax equals its last stability_threshold ones, at low entropy."""

    stability_threshold: PerCanvas
    confidence_threshold: PerCanvas

    def stops(self, facts: StopFacts) -> Tensor:
        """-> bool [B]."""
        stable = facts.num_argmax_unchanged >= self.stability_threshold
        return stable & _is_below(facts.mean_entropy, self.confidence_threshold)


@dataclass(frozen=True, slots=True)
class LowMeanEntropy:
    """Low mean entropy after min_denoising_steps, stable or not: the answer settles before its
    last token does. As in diffgemma, with 0.05 nats and 12 steps.
    """

    min_denoising_steps: PerCanvas
    confidence_threshold: PerCanvas

    def stops(self, facts: StopFacts) -> Tensor:
        """-> bool [B]."""
        late = facts.num_steps >= self.min_denoising_steps
        return late & _is_below(facts.mean_entropy, self.confidence_threshold)


@dataclass(frozen=True, slots=True)
class Plateau:
    """The same rows accepted for stability_threshold steps: more steps would change no more, though
    tokens between equal choices may still flip. As in diffgemma, with 8 steps below 0.05 nats.
    """

    stability_threshold: PerCanvas
    confidence_threshold: PerCanvas

    def stops(self, facts: StopFacts) -> Tensor:
        """-> bool [B]."""
        flat = facts.num_accepted_unchanged >= self.stability_threshold
        return flat & _is_below(facts.mean_entropy, self.confidence_threshold)


@dataclass(frozen=True, slots=True)
class StepCap:
    """Ends a canvas after max_denoising_steps, converged or not."""

    max_denoising_steps: PerCanvas

    def stops(self, facts: StopFacts) -> Tensor:
        """-> bool [B]."""
        return facts.num_steps >= self.max_denoising_steps


@dataclass(frozen=True, slots=True)
class StopTest:
    """Which rows of a canvas are judged, and by which rule.

    rules: each with the canvases that it judges, bool [B]. All are asked of all canvases: a few
    numbers each cost less than to ask the host which are needed.
    to_end: bool [B], canvases judged by their rows up to the first of eos_ids in the argmax, that
    row included, so that the filler behind neither delays nor dilutes. Of these, or else of all
    rows, the free ones count.
    """

    rules: Sequence[tuple[Tensor, StopRule]]
    cap: StepCap
    to_end: Tensor
    eos_ids: Collection[int]

    def update(
        self,
        state: StopState,
        argmax: Tensor,
        entropy: Tensor,
        accepted: Tensor,
        free: Tensor,
        num_steps: Tensor,
    ) -> tuple[StopState, Tensor, Tensor, Tensor]:
        """argmax int64, entropy fp32, accepted and free bool, all [B, W]; num_steps int64 [B], the
        step that made them included.

        Returns the next state; which canvases are done and which of them have converged (bool
        [B]); and the mean entropy of the judged rows (fp32 [B], nats; 0 where there are none).
        """
        judged = self._judged(argmax, free)
        same_argmax = argmax == state.argmax
        same_accepted = (accepted == state.accepted) & (state.argmax >= 0)
        total = entropy.masked_fill(~judged, 0.0).sum(dim=-1)
        facts = StopFacts(
            num_steps,
            (state.num_argmax_unchanged + 1) * (same_argmax | ~judged).all(dim=-1),
            (state.num_accepted_unchanged + 1) * (same_accepted | ~judged).all(dim=-1),
            total / judged.sum(dim=-1).clamp(min=1),
        )
        converged = torch.zeros_like(num_steps, dtype=torch.bool)
        for canvases, rule in self.rules:
            converged = converged | (rule.stops(facts) & canvases)
        next_state = StopState(
            argmax, accepted, facts.num_argmax_unchanged, facts.num_accepted_unchanged
        )
        return next_state, converged | self.cap.stops(facts), converged, facts.mean_entropy

    def _judged(self, argmax: Tensor, free: Tensor) -> Tensor:
        ends = torch.zeros_like(free)
        for token in self.eos_ids:  # a few; torch.isin takes several times as long
            ends = ends | (argmax == token)
        behind = ends.cumsum(dim=-1) > ends
        return free & ~(behind & self.to_end[:, None])


@dataclass(frozen=True, slots=True)
class InverseCdf:
    """Categorical sampling from one uniform number per row: the first token whose CDF exceeds it.

    The sum runs in two levels, over blocks of ``block`` tokens and then inside one block, which
    reads the weights once where a running sum over the vocabulary would also write them.
    """

    block: int = 64

    def sample(self, weights: Tensor, uniforms: Tensor) -> Tensor:
        """weights >= 0, fp32 [R, V], any scale; uniforms [R] in [0, 1) -> token ids int64 [R].

        A token of weight 0 is never chosen.
        """
        if missing := -weights.shape[-1] % self.block:
            weights = F.pad(weights, (0, missing))
        blocks = weights.view(len(weights), -1, self.block)
        sums = blocks.sum(dim=-1)
        chosen, rest = self.split(sums, uniforms)
        rows = torch.arange(len(blocks), device=blocks.device)
        inner = blocks[rows, chosen].cumsum(dim=-1)
        return chosen * self.block + _first_above(inner, rest * sums[rows, chosen])

    def split(self, weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Choose among weights [R, N]; int64 [R], and what of the uniform is left for inside it."""
        sums = weights.cumsum(dim=-1)
        target = uniforms * sums[:, -1]
        chosen = _first_above(sums, target)
        before = sums.gather(1, (chosen - 1).clamp(min=0)[:, None])[:, 0] * (chosen > 0)
        weight = weights.gather(1, chosen[:, None])[:, 0]
        return chosen, ((target - before) / weight).clamp(0.0, 1.0)


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """First index whose running sum exceeds target; at the latest, the last one that added any."""
    first = (sums <= target[:, None]).sum(dim=-1)
    last = (sums < sums[:, -1:]).sum(dim=-1)
    return torch.minimum(first, last)


def _float32(value: PerCanvas, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32, device=like.device)


def _is_below(entropy: Tensor, threshold: PerCanvas) -> Tensor:
    return entropy < _float32(threshold, entropy)


def _column(value: PerCanvas, like: Tensor) -> Tensor:
    """As fp32 [B or 1, 1], to compare with [B, W]."""
    return _float32(value, like).reshape(-1, 1)
