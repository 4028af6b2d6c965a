"""A template as rows of a canvas: literal tokens pinned, slots as runs of free rows.

A window starts at the first slot that has no value yet; all text before it is answer that is already
written, and goes in front of the canvas, where the model reads it once. The window takes as many
slots as its canvas has room for, with the literals between them, and looks ahead a little behind the
last one. What is left over of the canvas's last 16 rows shows more of the text on either side. Values
already known are literals like any other, so the next window, a retry and a later stage are all
made by the same call with more values known.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from .decoding import round_up
from .ports import TextTokenizer
from .template import EXCERPT_SIDE, Template, after_border
from .token_edges import Literal, cut_literal

LOOK_AHEAD_ROWS = 16
FARTHEST_ROWS = 48
"""Slots with more literal rows than this between them go into different windows."""

RowsOf = Callable[[str, str, str], int]
"""From a slot's name and its lead and trail to the rows that its text may take."""


@dataclass(frozen=True, slots=True)
class SlotRows:
    """Rows first_row to first_row + num_rows of a canvas hold a slot's text, then filler.

    The text is lead + value + trail: what no token border separates from the value.
    """

    slot: str
    first_row: int
    num_rows: int
    lead: str
    trail: str


@dataclass(frozen=True, slots=True)
class Window:
    """One canvas. prefix_ids: what the answer says before it. pins: (row, token id) pairs."""

    prefix_ids: tuple[int, ...]
    num_rows: int
    pins: tuple[tuple[int, int], ...]
    slots: tuple[SlotRows, ...]


def next_window(
    template: Template,
    values: Mapping[str, str],
    ready: Collection[str],
    rows_of: RowsOf,
    tokenizer: TextTokenizer,
    canvas_length: int,
    *,
    full_width: bool = False,
) -> Window:
    """The window that starts at the first ready slot.

    values: of the slots known so far. ready: the slots to be asked for, at least one; others
    without a value are free rows behind that slot, and keep their mark before it. full_width: the
    canvas has canvas_length rows, else as few as the window needs.
    """
    texts, names = _open_parts(template, values, ready)
    literals = [
        cut_literal(text, tokenizer, slot_before=i > 0, slot_after=i < len(names))
        for i, text in enumerate(texts)
    ]
    widths = [
        min(rows_of(name, literals[i].tail, literals[i + 1].head), canvas_length)
        for i, name in enumerate(names)
    ]
    taken, used = _fitting(widths, literals, canvas_length)
    behind = literals[taken].token_ids
    ahead = min(len(behind), LOOK_AHEAD_ROWS, canvas_length - used)
    num_rows = canvas_length if full_width else round_up(used + ahead)
    ahead += min(num_rows - used - ahead, len(behind) - ahead)
    before = literals[0].token_ids
    left = min(num_rows - used - ahead, len(before))
    filler = num_rows - used - ahead - left
    if filler and taken < len(names):  # the text goes on: no end to be shown
        widths[taken - 1] += filler
    ids: list[int | None] = list(before[len(before) - left :])
    slots: list[SlotRows] = []
    for i, width in enumerate(widths[:taken]):
        slots.append(SlotRows(names[i], len(ids), width, literals[i].tail, literals[i + 1].head))
        ids += [None] * width
        ids += literals[i + 1].token_ids if i + 1 < taken else behind[:ahead]
    ids += [tokenizer.eos_ids[0]] * (num_rows - len(ids))
    pins = tuple((row, token) for row, token in enumerate(ids) if token is not None)
    return Window(before[: len(before) - left], num_rows, pins, tuple(slots))


def _open_parts(
    template: Template, values: Mapping[str, str], ready: Collection[str]
) -> tuple[list[str], list[str]]:
    """The texts around the open slots, one more than there are, and the open slots' names."""
    texts: list[str] = [template.literals[0]]
    names: list[str] = []
    for slot, literal in zip(template.slots, template.literals[1:], strict=True):
        if slot in values:
            texts[-1] += values[slot] + literal
        elif not names and slot not in ready:
            texts[-1] += "{{" + slot + "}}" + literal
        else:
            names.append(slot)
            texts.append(literal)
    if len(texts[0]) > EXCERPT_SIDE:
        texts[0] = after_border(texts[0][-EXCERPT_SIDE:])
    return texts, names


def _fitting(widths: list[int], literals: list[Literal], canvas_length: int) -> tuple[int, int]:
    """How many of the slots fit together, and the rows that they and the text between them take."""
    taken, used = 1, widths[0]
    for i in range(1, len(widths)):
        between = len(literals[i].token_ids)
        ahead = min(len(literals[i + 1].token_ids), LOOK_AHEAD_ROWS)
        more = used + between + widths[i]
        if between > FARTHEST_ROWS or more + ahead > canvas_length:
            break
        taken, used = i + 1, more
    return taken, used
