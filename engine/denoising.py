"""What becomes of the canvases of a step, from the hidden states of their rows to the canvas table.

Nothing here asks the host anything and no shape depends on data, so that a CUDA graph can hold it. The
sampler's rules are those of sampler.py; each canvas goes by the knobs in its slot.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas_table import CanvasTable
from .draws import Purpose, draw_bits_for, to_uniforms
from .model import DiffusionGemma


@dataclass(frozen=True, slots=True)
class CanvasRows:
    """The B canvases of a step, and the F rows that the head reads: those that are free.

    slots int64 [B]: in the canvas table. head int64 [F]: which of the hidden rows it reads, or None for
    all, in their order. grid int64 [F]: where these stand in [B, W]. places int64 [F]: the same, or
    B * W for what only pads a step and is to go nowhere. table_rows int64 [F]: in the table's flattened
    rows. held int64 [H]: rows of the table that are to believe in their token, unless the head reads
    them too; None: there are none.
    """

    slots: Tensor
    head: Tensor | None
    grid: Tensor
    places: Tensor
    table_rows: Tensor
    held: Tensor | None


@dataclass(frozen=True, slots=True)
class Denoised:
    """Of B canvases after a step: argmax int64 [B, W], and fp32 [B, 4]: done, converged, mean entropy
    in nats, steps.
    """

    argmax: Tensor
    facts: Tensor


def denoise(
    model: DiffusionGemma, table: CanvasTable, rows: CanvasRows, hidden: Tensor, *, sparse: bool
) -> Denoised:
    """Judge the canvases by their hidden states [C, d], and write what they become into the table."""
    slots = rows.slots
    rules = table.rules(slots)
    ids, free, steps = table.ids[slots], table.free[slots], table.steps[slots]
    num_rows = ids.shape[1]
    sample, noise, share = draw_bits_for(
        (Purpose.SAMPLE, Purpose.RENOISE, Purpose.RENOISE_SHARE), rules.keys, steps, num_rows
    )
    temperature = rules.schedule.temperature(rules.num_steps_allowed - steps)
    readings = model.read_rows(
        hidden if rows.head is None else hidden[rows.head],
        temperature[rows.grid // num_rows],
        sample.view(-1)[rows.grid],
        sparse=sparse,
    )
    entropy = _spread(readings.entropy, rows.places, ids.shape)
    argmax = torch.where(free, _spread(readings.argmax, rows.places, ids.shape), ids)
    accepted = rules.acceptance.accept(entropy, free)
    table.ids[slots] = rules.renoise.renoise(
        ids,
        _spread(readings.sampled, rows.places, ids.shape),
        accepted,
        free,
        noise,
        to_uniforms(share),
    )
    steps = steps + 1
    state, done, converged, mean = rules.stop.update(
        table.get_stop_state(slots), argmax, entropy, accepted, free, steps
    )
    table.put_stop_state(slots, state)
    table.steps[slots] = steps
    if rows.held is not None:
        table.soft_embeddings[rows.held] = model.embed(table.ids.view(-1)[rows.held])
    table.soft_embeddings[rows.table_rows] = readings.soft_embeddings
    facts = torch.stack([done.float(), converged.float(), mean, steps.float()], dim=1)
    return Denoised(argmax, facts)


def _spread(values: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
    """values [F] to their places in a tensor of this shape, zeros elsewhere; the place after all of
    them is nowhere.
    """
    spread = values.new_zeros(shape.numel() + 1).index_copy_(0, places, values)
    return spread[:-1].view(shape)
