"""Canvases as tensors: alone (CanvasRows) and padded together for a step (CanvasBatch).

Building a batch copies its members' keys and values, so a batch is kept for as long as its
membership lasts; a member's rows of KV are views into the batch, which is then their only copy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import LayerKV
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
    StopState,
    StopTest,
    UniformRenoise,
)


@dataclass(slots=True, eq=False)
class CanvasRows:
    """One canvas of W rows and its prefix of P tokens.

    kv: per layer, [1, heads, P, head_dim]; ids int64 [W]; pinned bool [W]; stop_state of the one
    canvas; soft_embeddings [W, d], zero before the first step.
    """

    kv: list[LayerKV]
    ids: Tensor
    pinned: Tensor
    stop_state: StopState
    soft_embeddings: Tensor
    num_steps: int = 0


@dataclass(slots=True, eq=False)
class CanvasBatch:
    """B canvases padded to W rows and P prefix tokens, each at its own step."""

    generations: list[Generation]
    rows: list[CanvasRows]
    kv: list[LayerKV]
    past_valid: Tensor
    positions: Tensor
    valid: Tensor
    free: Tensor
    packed: Tensor | None  # flat indices of the valid rows; None where every row is valid
    keys: Tensor
    steps: Tensor
    num_steps_allowed: Tensor
    schedule: LinearTemperatureSchedule
    acceptance: EntropyBoundAcceptance
    renoise: UniformRenoise
    stop: StopTest
    ids: Tensor
    stop_state: StopState
    soft_embeddings: Tensor

    @classmethod
    def build(
        cls, generations: list[Generation], rows: list[CanvasRows], vocab_size: int
    ) -> "CanvasBatch":
        """Pad and copy the members' rows; their KV become views into this batch."""
        device = rows[0].ids.device
        lengths = torch.tensor([g.prefix_length for g in generations], device=device)[:, None]
        widths = torch.tensor([g.width for g in generations], device=device)[:, None]
        max_length = max(g.prefix_length for g in generations)
        max_width = max(g.width for g in generations)
        columns = torch.arange(max(max_width, max_length), device=device)
        valid = columns[:max_width] < widths
        knobs = _per_canvas(
            [
                (
                    knob.t_min,
                    knob.t_max,
                    knob.max_denoising_steps,
                    knob.entropy_bound,
                    share,
                )
                for knob, share in ((g.sampling, g.renoise_share()) for g in generations)
            ],
            device,
        )
        keys = [canvas_key(g.request.seed, g.attempt, g.canvas) for g in generations]
        batch = cls(
            generations=generations,
            rows=rows,
            kv=pad_kv([row.kv for row in rows]),
            past_valid=columns[:max_length] < lengths,
            positions=lengths + columns[:max_width],
            valid=valid,
            free=valid & ~_pad([row.pinned for row in rows]),
            packed=None if bool(valid.all()) else valid.flatten().nonzero()[:, 0],
            keys=torch.tensor(keys, device=device),
            steps=torch.tensor([row.num_steps for row in rows], device=device),
            num_steps_allowed=knobs[2].long(),
            schedule=LinearTemperatureSchedule(knobs[0], knobs[1], knobs[2].long()),
            acceptance=EntropyBoundAcceptance(knobs[3]),
            renoise=UniformRenoise(vocab_size, knobs[4]),
            stop=stop_test(generations, device),
            ids=_pad([row.ids for row in rows]),
            stop_state=StopState(
                _pad([row.stop_state.argmax for row in rows]),
                _pad([row.stop_state.accepted for row in rows]),
                torch.stack([row.stop_state.num_argmax_unchanged for row in rows]),
                torch.stack([row.stop_state.num_accepted_unchanged for row in rows]),
            ),
            soft_embeddings=_pad([row.soft_embeddings for row in rows]),
        )
        batch._own_kv()
        return batch

    def dissolve(self) -> None:
        """Give the members their rows back, as the last step left them."""
        for i, row in enumerate(self.rows):
            width = row.ids.shape[0]
            row.ids = self.ids[i, :width]
            row.stop_state = StopState(
                self.stop_state.argmax[i, :width],
                self.stop_state.accepted[i, :width],
                self.stop_state.num_argmax_unchanged[i],
                self.stop_state.num_accepted_unchanged[i],
            )
            row.soft_embeddings = self.soft_embeddings[i, :width]

    def _own_kv(self) -> None:
        for i, (generation, row) in enumerate(zip(self.generations, self.rows, strict=True)):
            length = generation.prefix_length
            row.kv = [(k[i : i + 1, :, :length], v[i : i + 1, :, :length]) for k, v in self.kv]


def stop_test(generations: list[Generation], device: torch.device) -> StopTest:
    """The stop test of a batch whose canvases may have different rules."""
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


def pad_kv(kvs: list[list[LayerKV]]) -> list[LayerKV]:
    """Each canvas's KV per layer ([1, heads, P_i, head_dim]) -> per layer [B, heads, max P, ..]."""
    return [
        (_pad_lengths([kv[0] for kv in layer]), _pad_lengths([kv[1] for kv in layer]))
        for layer in zip(*kvs, strict=True)
    ]


def _pad_lengths(tensors: list[Tensor]) -> Tensor:
    """Zeros, never uninitialised memory: a masked key still multiplies its value by 0."""
    _, heads, _, size = tensors[0].shape
    longest = max(tensor.shape[2] for tensor in tensors)
    padded = tensors[0].new_empty(len(tensors), heads, longest, size)
    for i, tensor in enumerate(tensors):
        length = tensor.shape[2]
        padded[i, :, :length] = tensor[0]
        padded[i, :, length:] = 0
    return padded


def _pad(tensors: list[Tensor]) -> Tensor:
    """[W_i, ..] each -> [B, max W, ..], with zeros."""
    if len({tensor.shape[0] for tensor in tensors}) == 1:
        return torch.stack(tensors)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def _per_canvas(values: list[tuple[float, ...]], device: torch.device) -> list[Tensor]:
    """One fp64 tensor [B] per knob; fp64 so that t_max - t_min rounds as Python's does."""
    return list(torch.tensor(values, dtype=torch.float64).T.contiguous().to(device).unbind(0))
