"""Turns generations into tensors and runs the model on them; holds no policy.

The three things it does in a step: encode (prompts, and canvases that are committed), start fresh
canvases, and denoise all canvases in flight once. Per step there is one transfer to the host of a
few numbers per canvas, and one more of the tokens of those that finished.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import LayerKV
from .batch import CanvasBatch, CanvasRows, pad_kv
from .canvas import Generation
from .draws import Purpose, canvas_key, draw_bits, to_tokens, to_uniforms
from .head import RowReadings, read_rows
from .model import DiffusionGemma
from .sampler import StopState


@dataclass(frozen=True, slots=True)
class Outcome:
    """A canvas that left the denoising loop: its most probable tokens and its last step's mean."""

    generation: Generation
    ids: list[int]
    num_steps: int
    mean_entropy: float
    converged: bool


class Runner:
    """The device path. One thread only."""

    def __init__(self, model: DiffusionGemma, max_encode_tokens: int) -> None:
        """max_encode_tokens: padded tokens of one encoder forward, if more than one text."""
        weight = model.decoder.embed_tokens.weight
        self._model = model
        self._device, self._dtype = weight.device, weight.dtype
        self.max_encode_tokens = max_encode_tokens
        self._kv: dict[int, list[LayerKV]] = {}
        self._rows: dict[int, CanvasRows] = {}
        self._batches: dict[tuple[tuple[int, int, int], ...], CanvasBatch] = {}

    @property
    def num_held(self) -> int:
        """Generations whose tensors are held."""
        return len(self._kv)

    def release(self, generation: Generation) -> None:
        """Forget a generation's tensors."""
        self._kv.pop(generation.number, None)
        self._rows.pop(generation.number, None)

    @property
    def device_memory_bytes(self) -> int:
        """What torch holds of the accelerator's memory; from any thread. 0 on a CPU."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def release_all(self) -> None:
        """Forget the tensors of all generations, and give their memory back to the device."""
        self._kv.clear()
        self._rows.clear()
        self._batches.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def encode(self, generations: list[Generation]) -> None:
        """Read each generation's pending tokens and append their KV to its prefix."""
        fresh = [g for g in generations if g.prefix_length == 0]
        grown = [g for g in generations if g.prefix_length > 0]
        for together in (fresh, grown):
            for batch in _length_batches(together, self.max_encode_tokens):
                self._encode_batch(batch)

    def start(self, generations: list[Generation]) -> None:
        """Fill fresh canvases: draft, filler and pins, and uniform noise in their places."""
        if not generations:
            return
        width = max(g.width for g in generations)
        base = self._tensor([_padded(g.start_ids(), width) for g in generations])
        noise = torch.tensor([g.start_noise() for g in generations], device=self._device)
        pinned = torch.zeros_like(base, dtype=torch.bool)
        for i, generation in enumerate(generations):
            if pins := generation.pinned():
                pinned[i, self._tensor([row for row, _ in pins])] = True
        keys = self._tensor([canvas_key(g.request.seed, g.attempt, g.canvas) for g in generations])
        steps = torch.zeros_like(keys)
        uniforms = to_uniforms(draw_bits(keys, Purpose.START_NOISE, steps, width))
        bits = draw_bits(keys, Purpose.START_TOKEN, steps, width)
        noised = (uniforms < noise[:, None]) & ~pinned
        ids = torch.where(noised, to_tokens(bits, self._model.config.vocab_size), base)
        for i, generation in enumerate(generations):
            self._start_rows(generation, ids[i, : generation.width], pinned[i, : generation.width])

    def denoise(self, groups: list[list[Generation]]) -> list[Outcome]:
        """One step for every canvas; gives those that stopped or used all their steps."""
        batches = self._batches_for(groups)
        if not batches:
            return []
        argmaxes, flags = zip(*(self._step(batch) for batch in batches), strict=True)
        numbers = iter(torch.cat(flags).tolist())  # the step's one wait for the device
        finished: list[tuple[Generation, Tensor, list[float]]] = []
        for batch, argmax in zip(batches, argmaxes, strict=True):
            for i, (generation, row) in enumerate(zip(batch.generations, batch.rows, strict=True)):
                row.num_steps += 1
                done, *rest = next(numbers)
                if done:
                    finished.append((generation, argmax[i, : generation.width], rest))
        return self._outcomes(finished)

    def _outcomes(self, finished: list[tuple[Generation, Tensor, list[float]]]) -> list[Outcome]:
        if not finished:
            return []
        tokens = iter(torch.cat([ids for _, ids, _ in finished]).tolist())
        return [
            Outcome(
                generation,
                [next(tokens) for _ in range(len(ids))],
                self._rows[generation.number].num_steps,
                mean_entropy,
                bool(converged),
            )
            for generation, ids, (converged, mean_entropy) in finished
        ]

    def _step(self, batch: CanvasBatch) -> tuple[Tensor, Tensor]:
        """Denoise a batch once; its argmax [B, W], and [B, 3]: done, converged, mean entropy."""
        hidden = self._model.denoise(
            batch.ids, batch.positions, batch.valid, batch.kv, batch.past_valid,
            batch.soft_embeddings,
        )  # fmt: skip
        readings = self._read(batch, hidden)
        argmax = torch.where(batch.free, readings.argmax, batch.ids)
        accepted = batch.acceptance.accept(readings.entropy, batch.free)
        width = argmax.shape[1]
        bits = draw_bits(batch.keys, Purpose.RENOISE, batch.steps, width)
        uniforms = to_uniforms(draw_bits(batch.keys, Purpose.RENOISE_SHARE, batch.steps, width))
        batch.ids = batch.renoise.renoise(
            batch.ids, readings.sampled, accepted, batch.free, bits, uniforms
        )
        batch.steps = batch.steps + 1
        batch.stop_state, done, converged, mean = batch.stop.update(
            batch.stop_state, argmax, readings.entropy, accepted, batch.free, batch.steps
        )
        batch.soft_embeddings = readings.soft_embeddings
        return argmax, torch.stack([done.float(), converged.float(), mean], dim=1)

    def _read(self, batch: CanvasBatch, hidden: Tensor) -> RowReadings:
        """The head on the valid rows only; its readings as [B, W], zero at padding."""
        shape = hidden.shape[:2]
        temperature = batch.schedule.temperature(batch.num_steps_allowed - batch.steps)
        temperature = temperature[:, None].expand(shape).flatten()
        uniforms = to_uniforms(
            draw_bits(batch.keys, Purpose.SAMPLE, batch.steps, shape[1])
        ).flatten()
        flat = hidden.flatten(0, 1)
        if batch.packed is None:
            return _unpack(read_rows(self._model, flat, temperature, uniforms), None, shape)
        packed = batch.packed
        readings = read_rows(self._model, flat[packed], temperature[packed], uniforms[packed])
        return _unpack(readings, packed, shape)

    def _batches_for(self, groups: list[list[Generation]]) -> list[CanvasBatch]:
        """The groups' batches; those whose membership has not changed are kept as they are."""
        wanted = {tuple(g.place for g in group): group for group in groups}
        for place in self._batches.keys() - wanted.keys():
            self._batches.pop(place).dissolve()
        for place, group in wanted.items():
            if place not in self._batches:
                rows = [self._rows[g.number] for g in group]
                self._batches[place] = CanvasBatch.build(group, rows, self._model.config.vocab_size)
                for generation, row in zip(group, rows, strict=True):
                    self._kv[generation.number] = row.kv
        return [self._batches[place] for place in wanted]

    def _start_rows(self, generation: Generation, ids: Tensor, pinned: Tensor) -> None:
        self._rows[generation.number] = CanvasRows(
            kv=self._kv[generation.number],
            ids=ids,
            pinned=pinned,
            stop_state=StopState.fresh(ids),
            soft_embeddings=torch.zeros(
                len(ids), self._model.config.hidden_size, dtype=self._dtype, device=self._device
            ),
        )
        generation.needs_start = False

    def _encode_batch(self, batch: list[Generation]) -> None:
        lengths = [len(g.pending_ids) for g in batch]
        longest = max(lengths)
        ids = self._tensor([_padded(list(g.pending_ids), longest) for g in batch])
        before = self._tensor([g.prefix_length for g in batch])[:, None]
        columns = torch.arange(longest, device=self._device)
        valid = columns < self._tensor(lengths)[:, None]
        past = past_valid = None
        if batch[0].prefix_length:
            past = pad_kv([self._kv[g.number] for g in batch])
            past_valid = torch.arange(past[0][0].shape[2], device=self._device) < before
        _, new = self._model.encode(ids, before + columns, valid, past, past_valid)
        for i, (generation, length) in enumerate(zip(batch, lengths, strict=True)):
            own = [(k[i : i + 1, :, :length], v[i : i + 1, :, :length]) for k, v in new]
            old = self._kv.get(generation.number)
            self._kv[generation.number] = own if old is None else _append(old, own)
            generation.encoded()

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _append(old: list[LayerKV], new: list[LayerKV]) -> list[LayerKV]:
    return [
        (torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2))
        for (old_k, old_v), (k, v) in zip(old, new, strict=True)
    ]


def _unpack(readings: RowReadings, packed: Tensor | None, shape: torch.Size) -> RowReadings:
    def unpack(values: Tensor) -> Tensor:
        if packed is not None:
            padded = values.new_zeros(shape.numel(), *values.shape[1:])
            values = padded.index_copy_(0, packed, values)
        return values.view(*shape, *values.shape[1:])

    return RowReadings(
        unpack(readings.argmax),
        unpack(readings.sampled),
        unpack(readings.entropy),
        unpack(readings.soft_embeddings),
    )


def _length_batches(
    generations: Iterable[Generation], max_tokens: int
) -> Iterator[list[Generation]]:
    """Shortest first, cut so that each padded batch stays within max_tokens."""
    batch: list[Generation] = []
    for generation in sorted(generations, key=lambda g: len(g.pending_ids)):
        if batch and (len(batch) + 1) * len(generation.pending_ids) > max_tokens:
            yield batch
            batch = []
        batch.append(generation)
    if batch:
        yield batch


def _padded(ids: list[int], length: int) -> list[int]:
    return ids + [0] * (length - len(ids))
