import pytest
import torch

from dgq.kernels.canvas_attention import (
    Canvases,
    canvas_attention,
    canvas_attention_reference,
    choose_tile,
)
from dgq.kernels.errors import KernelError

from .close import assert_close


def inputs(widths, prefixes, head_size, heads, dtype=torch.float32, device="cpu"):
    """Prefixes are (start, length) in a pool of 200 tokens."""
    torch.manual_seed(sum(widths) + head_size)
    rows, (query_heads, key_heads) = sum(widths), heads

    def draw(num, num_heads, scale=1.0):
        return (torch.randn(num, num_heads, head_size) * scale).to(device, dtype)

    query = draw(rows, query_heads, head_size**-0.5)
    keys = [draw(num, key_heads) for num in (rows, rows, 200, 200)]
    places = [torch.tensor([0, *torch.tensor(widths).cumsum(0)]), *torch.tensor(prefixes).T]
    canvases = Canvases(*(place.to(device, torch.int32).contiguous() for place in places))
    return query, *keys, canvases


CASES = [
    ([5], [(3, 0)], 48, (2, 1)),  # no prefix; a head size that is no power of two
    ([16, 3, 40], [(0, 70), (70, 1), (100, 100)], 64, (4, 2)),  # ragged
    ([40], [(10, 20)], 64, (16, 2)),  # several tiles of one canvas
    (
        [9, 4],
        [(0, 40), (20, 30)],
        64,
        (3, 1),
    ),  # a group that does not divide the tile; shared tokens
    ([2], [(0, 20)], 512, (2, 1)),  # the largest head
]


@pytest.mark.parametrize(
    ("dtype", "worst", "rms"), [(torch.float32, 2e-5, 2e-6), (torch.float16, 1e-2, 1e-3)]
)
@pytest.mark.parametrize("case", CASES)
def test_equals_reference(case, dtype, worst, rms, device):
    tensors = inputs(*case, dtype, device)
    assert_close(canvas_attention(*tensors), canvas_attention_reference(*tensors), worst, rms)


@pytest.mark.parametrize("window", [1, 17, 71, 500])  # none, some, all but one, and all of a prefix
def test_a_window_cuts_the_prefix_only(window, device):
    tensors = inputs([12, 30], [(0, 70), (80, 20)], 64, (4, 2), device=device)
    ours = canvas_attention(*tensors, window=window)
    assert_close(ours, canvas_attention_reference(*tensors, window=window), 2e-5, 2e-6)


def test_a_row_sees_its_prefix_and_its_canvas_and_nothing_else(device):
    """What lies outside is poisoned; what lies inside changes the result when changed."""
    query, key, value, pool_key, pool_value, canvases = inputs(
        [4, 6], [(20, 30), (60, 10)], 64, (2, 1), device=device
    )
    clean = canvas_attention(query, key, value, pool_key, pool_value, canvases, window=11)
    seen = [slice(40, 50), slice(60, 70)]
    poisoned_key, poisoned_value = (
        torch.full_like(pool, torch.nan) for pool in (pool_key, pool_value)
    )
    for rows in seen:
        poisoned_key[rows], poisoned_value[rows] = pool_key[rows], pool_value[rows]
    poisoned = canvas_attention(
        query, key, value, poisoned_key, poisoned_value, canvases, window=11
    )
    assert torch.equal(clean, poisoned)
    for token in (40, 49, 60, 69):
        changed = pool_value.clone()
        changed[token] += 1.0
        other = canvas_attention(query, key, value, pool_key, changed, canvases, window=11)
        mine, others = (slice(0, 4), slice(4, 10)) if token < 60 else (slice(4, 10), slice(0, 4))
        assert (other[mine] != clean[mine]).any(-1).all()
        assert torch.equal(other[others], clean[others])
    for row in (0, 3, 4, 9):
        changed = value.clone()
        changed[row] += 1.0
        other = canvas_attention(query, key, changed, pool_key, pool_value, canvases, window=11)
        mine, others = (slice(0, 4), slice(4, 10)) if row < 4 else (slice(4, 10), slice(0, 4))
        assert (other[mine] != clean[mine]).any(-1).all()
        assert torch.equal(other[others], clean[others])


def test_a_canvas_alone_and_among_others_is_the_same(device):
    query, key, value, pool_key, pool_value, canvases = inputs(
        [7, 20, 5], [(0, 33), (40, 50), (90, 64)], 64, (4, 2), device=device
    )
    together = canvas_attention(query, key, value, pool_key, pool_value, canvases)
    rows = slice(7, 27)
    moved = Canvases(
        torch.tensor([0, 20], dtype=torch.int32, device=device),
        torch.tensor([3], dtype=torch.int32, device=device),
        canvases.prefix_lengths[1:2],
    )
    alone = canvas_attention(
        query[rows], key[rows], value[rows], pool_key[37:95], pool_value[37:95], moved
    )
    assert torch.equal(alone, together[rows])


def test_tall_tiles_only_where_there_are_many_queries():
    assert choose_tile(256, 256 * 16, large=True).block_queries == 64
    assert choose_tile(256, 4096 * 16, large=True).block_queries == 128
    assert choose_tile(256, 4096 * 16, large=False).block_queries == 64


def test_unsupported_shapes_are_refused(device):
    with pytest.raises(KernelError, match="3 query heads for 2"):
        canvas_attention(*inputs([4], [(0, 4)], 64, (3, 2), device=device))
    with pytest.raises(KernelError, match="heads of 576"):
        canvas_attention(*inputs([4], [(0, 4)], 576, (2, 1), device=device))
    with pytest.raises(KernelError, match="128 query heads share"):
        canvas_attention(*inputs([4], [(0, 4)], 16, (128, 1), device=device))
    query, key, value, pool_key, pool_value, canvases = inputs([4], [(0, 4)], 64, (2, 1))
    with pytest.raises(KernelError, match="do not go with"):
        canvas_attention(query, key[:3], value, pool_key, pool_value, canvases)
