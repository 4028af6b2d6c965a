"""Where the rows of a step stand, and who sees whom, against the definition spelled out."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dgq.engine.canvas import Generation, Verdict
from dgq.engine.feedforward import LEAST_ROWS
from dgq.engine.pages import SCRATCH_PAGE
from dgq.engine.request import Request
from dgq.engine.tiles import READ_TILE
from dgq.kernels.page import PAGE_TOKENS

from .steps import CANVAS_LENGTH, LIMITS, Steps


def check_step(steps, plan, layout, slots):
    names = steps.names(plan)
    assert (layout.num_read, layout.num_canvas) == (plan.num_read_rows, plan.num_canvas_rows)
    assert layout.num_rows == max(len(names), LEAST_ROWS)
    assert layout.read_ids.tolist() == [token for chunk in plan.chunks for token in chunk.ids]
    positions = [place + sum(row) for _, place, *row in names]
    padding = layout.num_rows - len(names)
    assert layout.positions.tolist() == positions + [0] * padding
    for full, kv_rows in (
        (True, layout.full_kv_rows.tolist()),
        (False, layout.sliding_kv_rows.tolist()),
    ):
        assert kv_rows[len(names) :] == [SCRATCH_PAGE * PAGE_TOKENS] * padding
        assert len(set(kv_rows[: len(names)])) == len(names)
        steps.written[full].update(zip(kv_rows, names, strict=False))

    check_table(plan, layout, slots)
    if layout.segments is not None:
        assert layout.buckets == []
        return check_segments(steps, plan, layout.segments, names)
    return check_buckets(steps, plan, layout.buckets, names)


def check_table(plan, layout, slots):
    widths = [g.width for g in plan.canvases]
    assert layout.slots.tolist() == slots
    assert layout.canvas_rows.tolist() == [
        slot * CANVAS_LENGTH + row for slot, width in zip(slots, widths, strict=True)
        for row in range(width)
    ]  # fmt: skip
    assert layout.grid.tolist() == [
        i * CANVAS_LENGTH + row for i, width in enumerate(widths) for row in range(width)
    ]


def check_segments(steps, plan, segments, names):
    """Each row's keys, found as a kernel finds them."""
    width_of = {g.number: g.width for g in plan.canvases}
    attended = set()
    for segment, is_canvas in enumerate(segments.is_canvas.tolist()):
        start, stop = segments.row_offsets[segment : segment + 2].tolist()
        position = segments.positions[segment]
        for name in names[start:stop]:
            place = position if is_canvas else position + names.index(name) - start
            attended.add(name)
            for full, kind in ((True, segments.full), (False, segments.sliding)):
                pages = kind.pages[slice(*kind.page_offsets[segment : segment + 2])].tolist()
                begin = kind.first_pages[segment] * PAGE_TOKENS
                first = begin if full else max(begin, place - steps.window + 1)
                slots = list(range(first, position if is_canvas else place + 1))
                if is_canvas:
                    own = -(-position // PAGE_TOKENS) * PAGE_TOKENS
                    slots += range(own, own + stop - start)
                seen = [
                    steps.written[full].get(
                        pages[(slot - begin) // PAGE_TOKENS] * PAGE_TOKENS + slot % PAGE_TOKENS
                    )
                    for slot in slots
                ]
                assert len(seen) == len(set(seen))
                assert set(seen) == steps.sees(name, width_of.get(name[0]), full), (name, full)
                assert len(pages) == -(-(slots[-1] + 1 - begin) // PAGE_TOKENS) or not is_canvas
    assert attended == set(names)
    return {}


def check_buckets(steps, plan, buckets, names):
    """Each row's keys, found by the masks; gives the shapes that it was attended in."""
    width_of = {g.number: g.width for g in plan.canvases}
    shapes = {}
    for bucket in buckets:
        valid = range(len(bucket.rows)) if bucket.valid is None else bucket.valid.tolist()
        num_rows = len(bucket.rows) // bucket.num_tiles
        for place in valid:
            tile, row = divmod(place, num_rows)
            name = names[bucket.rows[place]]
            assert name not in shapes  # each row is attended once
            shapes[name] = [num_rows]
            for full, keys in ((True, bucket.full), (False, bucket.sliding)):
                mask = keys.mask[tile, 0]
                mask = mask[row if len(mask) > 1 else 0]
                assert set(mask.tolist()) <= {0.0, -torch.inf}
                pages = keys.pages.view(bucket.num_tiles, -1)[tile].tolist()
                places = [page * PAGE_TOKENS + i for page in pages for i in range(PAGE_TOKENS)]
                seen = [
                    steps.written[full].get(key)
                    for key, value in zip(places, mask.tolist(), strict=True)
                    if value == 0.0
                ]
                assert len(seen) == len(set(seen))
                assert set(seen) == steps.sees(name, width_of.get(name[0]), full), (name, full)
                shapes[name].append(len(pages))
    assert set(shapes) == set(names)
    return shapes


def run(steps, check=check_step):
    """To the end, one canvas leaving after each step; the shapes in which each row was attended."""
    shapes, leaves = {}, 0
    while not steps.scheduler.is_idle:
        plan, layout, slots = steps.next()
        for name, shape in check(steps, plan, layout, slots).items():
            assert shapes.setdefault(name, shape) == shape  # the same in every step
        if plan.canvases:
            leaves += 1
            steps.finish(plan.canvases[leaves % len(plan.canvases)])
    return shapes


TEXTS = st.lists(
    st.tuples(st.integers(1, 150), st.integers(1, 8).map(lambda n: 16 * n), st.integers(1, 300)),
    min_size=1,
    max_size=5,
)
WINDOWS = st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 40, 48, 64, 100, 1024])


@settings(max_examples=25, deadline=None)
@given(TEXTS, WINDOWS, st.sampled_from([128, 200, 10_000]))
@example([(15, 16, 16), (16, 16, 16), (17, 16, 16), (31, 32, 64), (33, 128, 130)], 16, 128)
def test_every_row_sees_what_it_should_and_nothing_else(texts, window, max_rows):
    run(Steps(texts, window, max_rows))
    run(Steps(texts, window, max_rows, follows_pages=True))


@settings(max_examples=8, deadline=None)
@given(TEXTS, WINDOWS)
@example([(150, 16, 16), (100, 16, 100)], 48)
def test_shapes_do_not_depend_on_company(texts, window):
    """In parts or whole, alone or together: each row is computed in the same shapes."""
    together = run(Steps(texts, window))
    alone = run(Steps(texts, window, max_rows=144, max_canvases=1))
    for name, shape in alone.items():
        assert together[name] == shape, name


def test_the_last_layout_is_kept_while_nothing_changes():
    steps = Steps([(20, 16, 16), (30, 32, 100)], window=16)
    _, first, _ = steps.next()
    _, second, _ = steps.next()
    assert second is not first and second.num_read == 0
    plan, third, _ = steps.next()
    assert third is second
    assert steps.finish(plan.canvases[1]) is Verdict.COMMIT
    _, fourth, _ = steps.next()
    assert fourth is not third
    assert (fourth.num_read, fourth.num_canvas) == (32, 48)
    _, fifth, _ = steps.next()
    assert fifth is not third and fifth.num_canvas == 48


def test_few_rows_are_padded_and_padding_touches_nobodys_memory():
    steps = Steps([(3, 16, 16)], window=16, max_rows=10_000)
    plan, layout, slots = steps.next()
    check_step(steps, plan, layout, slots)
    steps = Steps([(40, 16, 16)], window=16, max_rows=16)
    plan, layout, slots = steps.next()
    assert layout.num_canvas == 0 and layout.num_rows == LEAST_ROWS == 16
    steps = Steps([(3, 16, 16), (500, 16, 16)], window=16, max_rows=16)
    run(steps)


def test_pinned_rows_are_told_from_free_ones():
    steps = Steps([], window=16)
    for number, pins in enumerate([(), ((0, 5), (31, 6)), ((7, 5),)]):
        request = Request((5,), 32, seed=0, canvas_length=32, pins=pins)
        steps.scheduler.add(Generation.begin(number, request, LIMITS))
    _, layout, _ = steps.next()
    assert layout.pinned.tolist() == [32, 63, 64 + 7]
    assert sorted(layout.pinned.tolist() + layout.free.tolist()) == list(range(96))
    assert Steps([(3, 16, 16)], window=16).next()[1].free is None


def test_canvases_of_like_width_share_a_bucket():
    steps = Steps([(5, 80, 80), (6, 96, 96), (7, 112, 112), (8, 16, 16), (9, 16, 16)], 1024)
    steps.next()
    _, layout, _ = steps.next()
    assert sorted((b.num_tiles, len(b.rows) // b.num_tiles) for b in layout.buckets) == [
        (2, 16),
        (3, 128),
    ]


@pytest.mark.parametrize("length", [READ_TILE - 1, READ_TILE, READ_TILE + 1])
def test_a_text_is_cut_at_multiples_of_the_tile(length):
    steps = Steps([(length, 16, 16)], window=16)
    _, layout, _ = steps.next()
    text = [b for b in layout.buckets if b.full.mask.shape[2] > 1]
    assert sum(b.num_tiles for b in text) == -(-length // READ_TILE)


def test_who_shares_a_beginning_sees_the_pages_of_who_read_it():
    steps = Steps([], window=16, share=True)
    prompt = tuple(range(2, 52))
    for number, end in enumerate([(), (7, 7)]):
        request = Request(prompt + end, 16, seed=0, canvas_length=16)
        steps.scheduler.add(Generation.begin(number, request, LIMITS))
    plan, layout, _ = steps.next()
    first, second = plan.canvases
    assert first.pages.full[:3] == second.pages.full[:3]
    assert first.pages.full[3] != second.pages.full[3]
    assert second.pages.first_sliding == 2
    assert first.pages.sliding[2] == second.pages.sliding[0]
    assert first.pages.sliding[3] != second.pages.sliding[1]
    assert [(chunk.start, len(chunk.ids)) for chunk in plan.chunks] == [(0, 50), (48, 4)]
    canvases = next(b for b in layout.buckets if b.full.mask.shape[2] == 1)
    pages = canvases.full.pages.view(2, -1)
    assert torch.equal(pages[0, :3], pages[1, :3])
