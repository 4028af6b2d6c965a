"""The canvases in flight as tensors: one slot each, allocated once.

A slot holds what its canvas has become and by which knobs it goes; both are written when the canvas
starts, and a step finds them by the slot.

All slots are as wide as the widest canvas, so that whatever is summed over a canvas's rows is summed
in the same order in any company. What a slot holds beyond its canvas's width is never free.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from .canvas import Generation
from .config import ModelConfig
from .draws import Purpose, canvas_key, draw_bits, to_tokens, to_uniforms
from .sampler import StopState
from .step_rules import NUM_KNOBS, NUM_TEMPERATURE_KNOBS, StepRules, knobs_of
from .upload import upload


class CanvasTable:
    """S slots of W rows, the last of them for padding.

    ids int64 [S, W]; free bool [S, W]; steps int64 [S]; soft_embeddings [S * W, d], what the last
    step believed, zero before the first; stop_state of S canvases.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_slots: int,
        eos_ids: Collection[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """num_slots: one more is allocated, the last, for canvases that only pad a step. eos_ids: the
        tokens that end a text.
        """
        width = config.canvas_length
        self._vocab_size = config.vocab_size
        self._free_slots = list(range(num_slots))
        num_slots += 1
        self._slots: dict[int, int] = {}
        self.ids = torch.zeros(num_slots, width, dtype=torch.int64, device=device)
        self.free = torch.zeros(num_slots, width, dtype=torch.bool, device=device)
        self.steps = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.soft_embeddings = torch.zeros(
            num_slots * width, config.hidden_size, dtype=dtype, device=device
        )
        self.stop_state = StopState.fresh(self.ids)
        self._keys = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._knobs = torch.zeros(num_slots, NUM_KNOBS, dtype=torch.float64, device=device)
        self._knobs[-1, :NUM_TEMPERATURE_KNOBS] = 1.0  # whatever is computed of padding is finite
        self._eos_ids = eos_ids

    @property
    def num_held(self) -> int:
        """Canvases that have a slot."""
        return len(self._slots)

    def slot(self, generation: Generation) -> int:
        """Where its canvas is."""
        return self._slots[generation.number]

    def release(self, generation: Generation) -> None:
        """Give its slot to the next."""
        slot = self._slots.pop(generation.number, None)
        if slot is not None:
            self._free_slots.append(slot)

    def release_all(self) -> None:
        """Give all slots up."""
        self._free_slots += self._slots.values()
        self._slots.clear()

    def start(self, generations: Sequence[Generation]) -> None:
        """Fill fresh canvases: draft, filler and pins, and uniform noise in their places."""
        if not generations:
            return
        for generation in generations:
            if generation.number not in self._slots:
                self._slots[generation.number] = self._free_slots.pop()
        device, width = self.ids.device, self.ids.shape[1]
        numbers = upload(
            np.array(
                [
                    (
                        self.slot(g),
                        canvas_key(g.request.seed, g.attempt, g.canvas),
                        *_padded(g.start_ids(), width),
                        *_padded(_free_rows(g), width),
                    )
                    for g in generations
                ],
                np.int64,
            ),
            device,
        )
        slots, keys, (base, free) = numbers[:, 0], numbers[:, 1], numbers[:, 2:].chunk(2, dim=1)
        free = free.bool()
        shares = upload(
            np.array([(g.start_noise(), *knobs_of(g)) for g in generations], np.float64), device
        )
        noise, knobs = shares[:, :1], shares[:, 1:]
        steps = torch.zeros_like(keys)
        uniforms = to_uniforms(draw_bits(keys, Purpose.START_NOISE, steps, width))
        bits = draw_bits(keys, Purpose.START_TOKEN, steps, width)
        noised = (uniforms < noise.float()) & free
        self.ids[slots] = torch.where(noised, to_tokens(bits, self._vocab_size), base)
        self.free[slots] = free
        self.steps[slots] = steps
        self.soft_embeddings.view(len(self.ids), width, -1)[slots] = 0
        self._keys[slots] = keys
        self._knobs[slots] = knobs
        self.put_stop_state(slots, StopState.fresh(base))
        for generation in generations:
            generation.needs_start = False

    def rules(self, slots: Tensor) -> StepRules:
        """slots int64 [B] -> by what rules their canvases go."""
        return StepRules.of(self._knobs[slots], self._keys[slots], self._vocab_size, self._eos_ids)

    def get_stop_state(self, slots: Tensor) -> StopState:
        """slots int64 [B] -> the state of B canvases."""
        state = self.stop_state
        return StopState(
            state.argmax[slots],
            state.accepted[slots],
            state.num_argmax_unchanged[slots],
            state.num_accepted_unchanged[slots],
        )

    def put_stop_state(self, slots: Tensor, state: StopState) -> None:
        """slots int64 [B], state of B canvases."""
        self.stop_state.argmax[slots] = state.argmax
        self.stop_state.accepted[slots] = state.accepted
        self.stop_state.num_argmax_unchanged[slots] = state.num_argmax_unchanged
        self.stop_state.num_accepted_unchanged[slots] = state.num_accepted_unchanged


def _free_rows(generation: Generation) -> list[int]:
    """1 for each row of its canvas, 0 for pinned ones."""
    free = [1] * generation.width
    for row, _ in generation.pinned():
        free[row] = 0
    return free


def _padded(values: list[int], length: int) -> list[int]:
    return values + [0] * (length - len(values))
