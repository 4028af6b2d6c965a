"""What a static step is told: rounded up to few shapes, and found again as it was laid out."""

import numpy as np
import pytest
import torch

from dgq.engine.canvas import Generation
from dgq.engine.errors import EngineError
from dgq.engine.feedforward import LEAST_ROWS
from dgq.engine.request import Request
from dgq.engine.step_inputs import StepInputs, StepShape, pack, round_up_power, round_up_rows

from .steps import CANVAS_LENGTH, LIMITS, Steps

NUM_SLOTS = 40
SCRATCH_SLOT = NUM_SLOTS - 1


def test_rows_are_rounded_up_to_few_numbers_with_little_padding():
    rounded = [round_up_rows(count) for count in range(8193)]
    assert rounded[0] == 0
    assert sorted(set(rounded[1:257])) == [16, 32, 64, 128, 256]
    assert len(set(rounded)) == 1 + 5 + 4 * 5
    for count, most in enumerate(rounded):
        assert count <= most and round_up_rows(most) == most
        assert count <= 256 or (most - count) / most <= 0.2
    assert rounded == sorted(rounded)
    assert [round_up_power(count) for count in range(6)] == [0, 1, 2, 4, 4, 8]


def steps_of(texts, **options):
    """The steps of a few texts, of which one finishes its canvas after each."""
    steps = Steps(texts, window=40, follows_pages=True, **options)
    while not steps.scheduler.is_idle:
        plan, layout, _ = steps.next()
        yield plan, layout
        if plan.canvases:
            steps.finish(plan.canvases[0])


TEXTS = [(300, 16, 40), (50, 16, 16), (200, 128, 300), (7, 48, 48), (33, 64, 128)]


def unpack(layout, shape):
    """By way of a buffer that holds what other steps have left there."""
    numbers = pack(layout, shape, NUM_SLOTS, CANVAS_LENGTH)
    buffer = torch.full((len(numbers) + 100,), 2**40 + 12345)
    buffer[: len(numbers)] = torch.from_numpy(numbers)
    return StepInputs.of(buffer, shape)


def test_what_is_packed_is_found_again_and_padded():
    shapes = set()
    for _, layout in steps_of(TEXTS, max_rows=150):
        shape = StepShape.of(layout, 8)
        shapes.add(shape)
        inputs = unpack(layout, shape)
        num_canvas, num_rows = layout.num_canvas, layout.num_canvas + layout.num_read
        assert (inputs.num_canvas.item(), inputs.num_rows.item()) == (num_canvas, num_rows)
        assert len(inputs.positions) == shape.num_rows >= max(num_rows, LEAST_ROWS)
        assert torch.equal(inputs.read_ids[num_canvas:num_rows], layout.read_ids)
        for name in ("positions", "full_kv_rows", "sliding_kv_rows"):
            got, wanted = getattr(inputs, name), getattr(layout, name)[:num_rows]
            assert torch.equal(got[:num_rows], wanted) and got[num_rows:].eq(0).all(), name
        assert torch.equal(inputs.table_rows[:num_canvas], layout.canvas_rows)
        assert inputs.table_rows[num_canvas:].eq(SCRATCH_SLOT * CANVAS_LENGTH).all()
        assert torch.equal(inputs.slots[: len(layout.slots)], layout.slots)
        assert inputs.slots[len(layout.slots) :].eq(SCRATCH_SLOT).all()
        assert torch.equal(inputs.head[:num_canvas], torch.arange(num_canvas))
        assert torch.equal(inputs.head_table_rows[:num_canvas], layout.canvas_rows)
        assert torch.equal(inputs.grid[:num_canvas], layout.grid)
        assert torch.equal(inputs.places[:num_canvas], layout.grid)
        assert inputs.places[num_canvas:].eq(shape.num_canvases * CANVAS_LENGTH).all()
        assert inputs.grid[num_canvas:].eq(0).all()
        check_segments(inputs, layout, num_rows)
    assert len(shapes) > 5
    assert any(shape.num_canvases == 0 for shape in shapes)  # that only read


def check_segments(inputs, layout, num_rows):
    """Those of the layout, and then segments without rows and pages."""
    for got, wanted in zip(
        (inputs.full, inputs.sliding), layout.segments.on(torch.device("cpu")), strict=True
    ):
        count = len(wanted.positions)
        for name in ("positions", "is_canvas", "first_pages"):
            assert getattr(got, name).dtype == torch.int32
            assert torch.equal(getattr(got, name)[:count], getattr(wanted, name)), name
        assert got.row_offsets[: count + 1].tolist() == wanted.row_offsets.tolist()
        assert got.row_offsets[count:].eq(num_rows).all()
        assert got.page_offsets.diff().tolist() == wanted.page_offsets.diff().tolist() + [0] * (
            len(got.positions) - count
        )
        begin = got.page_offsets[0]
        assert torch.equal(got.pages[begin : begin + len(wanted.pages)], wanted.pages)


def test_the_head_reads_free_rows_only():
    steps = Steps([], window=40, follows_pages=True)
    pins = tuple((row, 9) for row in range(0, 32, 2))
    for number, own in enumerate([pins, (), tuple((row, 9) for row in range(16))]):
        request = Request((5,), 32 if number < 2 else 16, 0, canvas_length=32, pins=own)
        steps.scheduler.add(Generation.begin(number, request, LIMITS))
    _, layout, slots = steps.next()
    shape = StepShape.of(layout, 8)
    assert (shape.num_canvas_rows, shape.num_head_rows) == (128, 64)
    inputs = unpack(layout, shape)
    free = [*range(1, 32, 2), *range(32, 64)]
    assert inputs.head[:48].tolist() == free and inputs.head[48:].eq(0).all()
    wanted = [slots[row // 32] * CANVAS_LENGTH + row % 32 for row in free]
    assert inputs.head_table_rows[:48].tolist() == wanted
    assert inputs.head_table_rows[48:].eq(SCRATCH_SLOT * CANVAS_LENGTH).all()
    assert inputs.grid[:48].tolist() == [row // 32 * CANVAS_LENGTH + row % 32 for row in free]


def test_a_step_with_no_segments_is_refused():
    _, layout, _ = Steps([(5, 16, 16)], window=40).next()
    with pytest.raises(EngineError, match="a static step needs segments"):
        StepShape.of(layout, 8)


def test_the_number_of_numbers_is_known_before():
    for _, layout in steps_of(TEXTS):
        shape = StepShape.of(layout, 8)
        num_pages = len(layout.segments.full.pages) + len(layout.segments.sliding.pages)
        numbers = pack(layout, shape, NUM_SLOTS, CANVAS_LENGTH)
        assert numbers.dtype == np.int64 and len(numbers) == shape.num_numbers(num_pages)
