"""The rules of the denoising loop, each a frozen value with one method and no state.

One step on one canvas: divide the logits by the step's temperature; sample every row; accept the
most certain rows, as many as the entropy bound allows, and replace all others by uniform noise;
stop when the most probable tokens have stayed the same and the mean entropy is low. The canvas that
is kept is the one of the most probable tokens, not the sampled one.

Everything is vectorised over [canvases, rows]. A rule's parameters are numbers, or tensors of one
number per canvas. Rows that are not *free* (padding, or pinned to a token) take no part in
any decision. Reference: transformers 5.23, ``generation_diffusion_gemma.py``.
"""

from dataclasses import dataclass

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
class Stability:
    """What the stop rule remembers of a canvas: the last argmax and for how long it has held.

    previous int64 [B, W], -1 before the first step; num_unchanged int64 [B].
    """

    previous: Tensor
    num_unchanged: Tensor

    @classmethod
    def fresh(cls, canvas: Tensor) -> "Stability":
        """The state before the first step of canvases [B, W]."""
        return cls(torch.full_like(canvas, -1), canvas.new_zeros(canvas.shape[0]))


@dataclass(frozen=True, slots=True)
class StableAndConfident:
    """Stops a canvas whose argmax equals its last stability_threshold ones, at low mean entropy."""

    stability_threshold: PerCanvas
    confidence_threshold: PerCanvas

    def update(
        self, state: Stability, argmax: Tensor, entropy: Tensor, free: Tensor
    ) -> tuple[Stability, Tensor, Tensor]:
        """argmax int64, entropy fp32, free bool, all [B, W].

        Returns the next state, which canvases stop (bool [B]), and the mean entropy of the
        free rows (fp32 [B], nats; 0 where no row is free).
        """
        unchanged = ((argmax == state.previous) | ~free).all(dim=-1)
        num_unchanged = (state.num_unchanged + 1) * unchanged
        total = entropy.masked_fill(~free, 0.0).sum(dim=-1)
        mean = total / free.sum(dim=-1).clamp(min=1)
        confident = mean < _float32(self.confidence_threshold, mean)
        stop = (num_unchanged >= self.stability_threshold) & confident
        return Stability(argmax, num_unchanged), stop, mean


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


def _column(value: PerCanvas, like: Tensor) -> Tensor:
    """As fp32 [B or 1, 1], to compare with [B, W]."""
    return _float32(value, like).reshape(-1, 1)
