from dataclasses import replace

import pytest
import torch

from dgq.kernels import launch
from dgq.kernels import paged_attention as module
from dgq.kernels.errors import KernelError
from dgq.kernels.page import PAGE_TOKENS
from dgq.kernels.paged_attention import (
    Segments,
    choose_tile,
    paged_attention,
    paged_attention_reference,
)

from .close import assert_close

NUM_PAGES = 40
MANY_QUERIES = 1 << 20


def canvas(prefix, width, first_page=0):
    """A canvas of so many rows after a prefix of so many tokens."""
    return prefix, width, True, first_page


def chunk(start, length, first_page=0):
    """So many tokens of a text, from one on."""
    return start, length, False, first_page


def num_pages(segment):
    """Of its text from the first page that is listed, and of its canvas."""
    start, length, is_canvas, first_page = segment
    tokens = [start, length] if is_canvas else [start + length]
    return sum(-(-number // PAGE_TOKENS) for number in tokens) - first_page


def place(segments, pages, device, padding=0):
    """Segments with these pages, each in turn; so many padding segments behind them."""
    empty = [(0, 0, False, 0)] * padding
    starts, lengths, kinds, firsts = zip(*segments, *empty, strict=True)
    counts = [num_pages(segment) for segment in segments] + [0] * padding
    assert sum(counts) <= len(pages)

    def offsets(numbers):
        return [sum(numbers[:end]) for end in range(len(numbers) + 1)]

    columns = offsets(lengths), starts, kinds, pages, offsets(counts), firsts
    return Segments(*(torch.tensor(column, dtype=torch.int32, device=device) for column in columns))


def inputs(
    segments,
    head_size,
    heads,
    dtype=torch.float32,
    device="cpu",
    padding_rows=0,
    padding_segments=0,
):
    """Pages of the segments lie all over the pool."""
    generator = torch.Generator().manual_seed(head_size + len(segments))
    num_rows = sum(length for _, length, _, _ in segments) + padding_rows
    query_heads, key_heads = heads

    def draw(num, num_heads, scale=1.0):
        values = torch.randn(num, num_heads, head_size, generator=generator) * scale
        return values.to(device, dtype)

    pool = [draw(NUM_PAGES * PAGE_TOKENS, key_heads) for _ in range(2)]
    pages = torch.randperm(NUM_PAGES, generator=generator).tolist()
    placed = place(segments, pages, device, padding_segments)
    return draw(num_rows, query_heads, head_size**-0.5), *pool, placed


def seen_tokens(segments, window):
    """For each row of each segment, in the pool, what it sees; in plain Python, from the contract."""
    pages, page_offsets = segments.pages.tolist(), segments.page_offsets.tolist()
    offsets = segments.row_offsets.tolist()
    for number, (start, is_canvas, first_page) in enumerate(
        zip(
            segments.positions.tolist(),
            segments.is_canvas.tolist(),
            segments.first_pages.tolist(),
            strict=True,
        )
    ):
        own = pages[page_offsets[number] : page_offsets[number + 1]]
        length = offsets[number + 1] - offsets[number]

        def token(page, place, own=own):
            return own[page] * PAGE_TOKENS + place % PAGE_TOKENS

        for row in range(length):
            last = start - 1 if is_canvas else start + row
            first = 0 if window is None else max(0, (start if is_canvas else last) - window + 1)
            seen = [
                token(place // PAGE_TOKENS - first_page, place) for place in range(first, last + 1)
            ]
            if is_canvas:
                behind = -(-start // PAGE_TOKENS) - first_page
                seen += [token(behind + other // PAGE_TOKENS, other) for other in range(length)]
            yield seen


def naive(query, pool_key, pool_value, segments, window=None):
    """A softmax for each row and head, in double precision."""
    output = torch.zeros_like(query, dtype=torch.float64)
    group = query.shape[1] // pool_key.shape[1]
    for row, seen in enumerate(seen_tokens(segments, window)):
        keys, values = (
            pool[seen].double().repeat_interleave(group, 1) for pool in (pool_key, pool_value)
        )
        weights = torch.einsum("hd,thd->ht", query[row].double(), keys).softmax(-1)
        output[row] = torch.einsum("ht,thd->hd", weights, values)
    return output.to(query.dtype)


CASES = [
    ([canvas(0, 16)], 48, (2, 1)),  # no prefix; a head size that is no power of two
    ([canvas(70, 16), canvas(1, 3), canvas(32, 40)], 64, (4, 2)),  # ragged; in mid page, at its end
    ([chunk(0, 37), chunk(21, 20), canvas(20, 9), chunk(64, 1)], 64, (4, 2)),
    ([chunk(5, 40)], 64, (16, 2)),  # several tiles of one chunk
    ([canvas(40, 9), chunk(3, 9)], 32, (3, 1)),  # a group that does not divide the tile
    ([canvas(20, 2), chunk(17, 2)], 256, (2, 1)),  # the largest head in fp32
]
WINDOWED = [canvas(70, 12), canvas(5, 30), chunk(0, 40), chunk(50, 40)]


@pytest.mark.parametrize("case", CASES)
def test_the_reference_equals_a_softmax_for_each_row(case):
    tensors = inputs(*case)
    assert_close(paged_attention_reference(*tensors), naive(*tensors), 2e-5, 2e-6)


@pytest.mark.parametrize("window", [1, 17, 64, 500])
def test_the_reference_cuts_a_window(window):
    tensors = inputs(WINDOWED, 64, (2, 1), padding_rows=2)
    ours = paged_attention_reference(*tensors, window=window)
    assert_close(ours, naive(*tensors, window=window), 2e-5, 2e-6)


@pytest.mark.parametrize(
    ("dtype", "worst", "rms"), [(torch.float32, 2e-5, 2e-6), (torch.float16, 1e-2, 1e-3)]
)
@pytest.mark.parametrize("case", CASES)
def test_equals_reference(case, dtype, worst, rms, device):
    tensors = inputs(*case, dtype, device)
    assert_close(paged_attention(*tensors), paged_attention_reference(*tensors), worst, rms)


def test_the_largest_head(device):
    tensors = inputs([canvas(20, 2), chunk(17, 2)], 512, (8, 1), torch.float16, device)
    assert_close(paged_attention(*tensors), paged_attention_reference(*tensors), 1e-2, 1e-3)


@pytest.mark.parametrize("window", [1, 17, 64, 500])  # itself; some; whole blocks; all
def test_a_window_cuts_the_text_and_not_the_canvas(window, device):
    tensors = inputs(WINDOWED, 64, (4, 2), device=device)
    ours = paged_attention(*tensors, window=window)
    assert_close(ours, paged_attention_reference(*tensors, window=window), 2e-5, 2e-6)


def test_pages_before_the_first_are_not_needed(device):
    """In a sliding layer a text's old pages are given back: only those of the window are listed."""
    window = 20
    whole = inputs([canvas(70, 12), chunk(60, 40)], 64, (2, 1), device=device)
    pages = whole[-1].pages.tolist()
    first = [(70 - window + 1) // PAGE_TOKENS, (60 - window + 1) // PAGE_TOKENS]
    cut = [canvas(70, 12, first[0]), chunk(60, 40, first[1])]
    kept = pages[first[0] : 6] + pages[6 + first[1] : 13]
    ours = paged_attention(*whole[:-1], place(cut, kept, device), window=window)
    assert torch.equal(ours, paged_attention(*whole, window=window))


def test_rows_in_no_segment_are_zero(device):
    tensors = inputs(
        [canvas(20, 5), chunk(3, 30)],
        64,
        (4, 2),
        device=device,
        padding_rows=77,
        padding_segments=3,
    )
    tensors[0][35:] = torch.nan
    ours = paged_attention(*tensors)
    assert not ours[35:].any()
    assert_close(ours, paged_attention_reference(*tensors), 2e-5, 2e-6)


def test_a_step_of_padding_only_is_zero(device):
    tensors = inputs([chunk(0, 0)], 64, (2, 1), device=device, padding_rows=16)
    assert not paged_attention(*tensors).any()


def test_a_row_sees_what_it_should_and_nothing_else(device):
    """What no row sees is poisoned; what a row sees changes its result when it is changed."""
    query, pool_key, pool_value, segments = inputs(
        [canvas(30, 4), chunk(12, 8)], 64, (2, 1), device=device
    )
    window = 11
    clean = paged_attention(query, pool_key, pool_value, segments, window)
    seen = list(seen_tokens(segments, window))
    poisoned = [torch.full_like(pool, torch.nan) for pool in (pool_key, pool_value)]
    for row in seen:
        for theirs, ours in zip(poisoned, (pool_key, pool_value), strict=True):
            theirs[row] = ours[row]
    assert torch.equal(paged_attention(query, *poisoned, segments, window), clean)
    ends = {seen[0][0], seen[0][19 - 10], seen[0][-1], seen[4][0], seen[4][-1], seen[-1][-1]}
    for token in ends:
        changed = pool_value.clone()
        changed[token] += 1.0
        other = paged_attention(query, pool_key, changed, segments, window)
        differs = (other != clean).flatten(1).any(-1)
        assert differs.tolist() == [token in row for row in seen]


def test_company_and_page_numbers_change_nothing(device):
    together = [canvas(33, 7), canvas(50, 20), chunk(40, 20)]
    query, pool_key, pool_value, segments = inputs(
        together, 64, (4, 2), device=device, padding_rows=5, padding_segments=1
    )
    window = 40
    ours = paged_attention(query, pool_key, pool_value, segments, window)
    order = torch.arange(NUM_PAGES, device=device).roll(11)
    moved = [
        pool.unflatten(0, (NUM_PAGES, -1))[order].flatten(0, 1) for pool in (pool_key, pool_value)
    ]
    pages = order.argsort()[segments.pages.long()].tolist()
    for rows, segment, first in ((slice(7, 27), 1, 4), (slice(27, 47), 2, 10)):
        alone = place([together[segment]], pages[first:], device)
        assert torch.equal(paged_attention(query[rows], *moved, alone, window), ours[rows])


@pytest.mark.parametrize("window", [None, 20])
def test_how_a_text_is_cut_into_chunks_changes_nothing(window, device):
    query, pool_key, pool_value, segments = inputs([chunk(0, 75)], 64, (4, 2), device=device)
    whole = paged_attention(query, pool_key, pool_value, segments, window)
    pages = segments.pages.tolist()
    cuts = [chunk(0, 30), chunk(30, 3), chunk(33, 42)]
    lists = pages[:2] + pages[:3] + pages[:5]
    cut = paged_attention(query, pool_key, pool_value, place(cuts, lists, device), window)
    assert torch.equal(cut, whole)


def test_tall_tiles_only_where_there_are_many_queries():
    assert choose_tile(512, 256 * 16, large=True).block_queries == 64
    assert choose_tile(512, MANY_QUERIES, large=True).block_queries == 128
    assert choose_tile(512, MANY_QUERIES, large=False).block_queries == 64


@pytest.mark.parametrize("head_bytes", [64, 512, 1024])
@pytest.mark.parametrize("large", [False, True])
def test_blocks_of_keys_do_not_depend_on_the_load(head_bytes, large):
    tiles = {choose_tile(head_bytes, number, large).block_keys for number in (16, MANY_QUERIES)}
    assert len(tiles) == 1 and not tiles.pop() % PAGE_TOKENS


@pytest.mark.parametrize(("head_size", "many_queries"), [(64, 0), (64, MANY_QUERIES), (512, 0)])
def test_the_tiles_of_large_devices(head_size, many_queries, device, monkeypatch):
    monkeypatch.setattr(launch, "has_large_tiles", lambda tensor: True)
    monkeypatch.setattr(module, "_MANY_QUERIES", many_queries)
    tensors = inputs([canvas(70, 12), chunk(50, 20)], head_size, (4, 2), torch.float16, device)
    ours = paged_attention(*tensors, window=30)
    assert_close(ours, paged_attention_reference(*tensors, window=30), 1e-2, 1e-3)


def test_a_pool_that_needs_64_bit_offsets(device, monkeypatch):
    tensors = inputs([canvas(40, 9), chunk(3, 9)], 32, (2, 1), device=device)
    small = paged_attention(*tensors)
    monkeypatch.setattr(module, "_MAX_INT32", 0)
    assert torch.equal(paged_attention(*tensors), small)


def test_unsupported_shapes_are_refused(device):
    def refused(message, *tensors, window=None):
        with pytest.raises(KernelError, match=message):
            paged_attention(*tensors, window=window)

    refused("3 query heads for 2", *inputs([chunk(0, 4)], 64, (3, 2), device=device))
    refused("heads of 288", *inputs([chunk(0, 4)], 288, (2, 1), device=device))
    refused("128 query heads share", *inputs([chunk(0, 4)], 16, (128, 1), device=device))
    query, pool_key, pool_value, segments = inputs([chunk(0, 4)], 64, (2, 1), device=device)
    refused("does not go with", query, pool_key, pool_value[:3], segments)
    refused("does not go with", query.half(), pool_key, pool_value, segments)
    wide = replace(segments, pages=segments.pages.long())
    refused("not int32", query, pool_key, pool_value, wide)
    short = replace(segments, page_offsets=segments.page_offsets[:1])
    refused("different numbers", query, pool_key, pool_value, short)
    refused("a window of 0", query, pool_key, pool_value, segments, window=0)
