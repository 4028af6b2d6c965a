"""Attention over pages, by masks or by segments, equals attention over padded batches, row for row."""

import pytest
import torch

from dgq.engine.attention import PaddedAttend
from dgq.engine.checkpoint import load_model
from dgq.engine.config import FULL
from dgq.engine.kv_pages import PageCounts
from dgq.engine.kv_pool import KVPool
from dgq.engine.layout import LayoutBuilder
from dgq.engine.paged import PagedAttend
from dgq.kernels.page import PAGE_TOKENS
from dgq.kernels.paged_attention import paged_attention_reference

from .conftest import SLIDING_WINDOW
from .steps import CANVAS_LENGTH, Steps

COUNTS = PageCounts(full=2000, sliding=2000)


@pytest.fixture(scope="module")
def config(checkpoint):
    return load_model(checkpoint).config


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


class Padded:
    """Attention of single texts: remembers each text's keys and values, unpaged."""

    def __init__(self, window):
        self.window = window
        self._texts = {}

    def read(self, number, query, key, value):
        """Rows [L] that continue a text."""
        past = self._texts.get(number)
        length = 0 if past is None else past[0].shape[2]
        own = length + torch.arange(len(query))
        keys = torch.arange(length + len(query))
        mask = keys <= own[:, None]
        if self.window is not None:
            mask &= keys > own[:, None] - self.window
        attend = PaddedAttend(past, mask[None, None])
        output = attend(query[None], key[None], value[None])[0]
        both = (past, attend.kv) if past is not None else (attend.kv,)
        self._texts[number] = tuple(torch.cat(parts, 2) for parts in zip(*both, strict=True))
        return output

    def denoise(self, number, query, key, value):
        """Rows [W] of a canvas behind a text."""
        past = self._texts[number]
        length = past[0].shape[2]
        mask = torch.ones(1, 1, 1, length + len(query)).bool()
        if self.window is not None:
            mask[..., : max(length - self.window + 1, 0)] = False
        return PaddedAttend(past, mask)(query[None], key[None], value[None])[0]


@pytest.mark.parametrize("layer", [0, 1], ids=["sliding", "full"])
@pytest.mark.parametrize("max_rows", [128, 10_000], ids=["in parts", "whole"])
def test_ragged_texts_and_canvases(config, layer, max_rows):
    """Lengths about the borders of pages, tiles and windows; canvases of four widths; commits."""
    window = SLIDING_WINDOW
    lengths = [1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 100]
    texts = [(n, 16 * (1 + i % 4), 16 * (1 + i % 7)) for i, n in enumerate(lengths)]
    steps = Steps(texts, window, max_rows)
    follower = LayoutBuilder(window, CANVAS_LENGTH, torch.float32, torch.device("cpu"), True)
    full = config.is_full(layer)
    assert full == (config.layer_types[layer] == FULL)
    pool = KVPool(config, COUNTS, torch.float32, torch.device("cpu"))
    for tensor in pool.layers[layer]:  # what others left behind must not matter
        tensor.normal_(generator=torch.Generator().manual_seed(9))
    padded = Padded(None if full else window)
    generator = torch.Generator().manual_seed(layer)
    _, kv_heads, head_dim = pool.layers[layer][0].shape
    num_steps = 0
    while not steps.scheduler.is_idle:
        plan, layout, slots = steps.next()
        query, key, value = (
            torch.randn(layout.num_rows, heads, head_dim, generator=generator)
            for heads in (config.num_attention_heads, kv_heads, kv_heads)
        )
        got = PagedAttend(pool, layer, layout, full)(query, key, value)
        owners = {id(g.pages): g.number for g in steps.scheduler.running}
        parts = []
        start = plan.num_canvas_rows
        for chunk in plan.chunks:  # what a canvas sees is read first
            rows = slice(start, start + len(chunk.ids))
            number = owners[id(chunk.pages)]
            parts.append(padded.read(number, query[rows], key[rows], value[rows]))
            start = rows.stop
        num_rows, start, canvases = start, 0, []
        for g in plan.canvases:
            rows = slice(start, start + g.width)
            canvases.append(padded.denoise(g.number, query[rows], key[rows], value[rows]))
            start = rows.stop
        parts, start = canvases + parts, num_rows
        torch.testing.assert_close(got[:start], torch.cat(parts), atol=1e-5, rtol=1e-5)
        assert torch.isfinite(got).all()
        segments = follower.build(plan, slots).segments.on(torch.device("cpu"))[not full]
        keys, values = pool.layers[layer]
        followed = paged_attention_reference(query, keys, values, segments, padded.window)
        torch.testing.assert_close(followed, got, atol=1e-5, rtol=1e-5)
        num_steps += 1
        for g in plan.canvases[::2]:
            steps.finish(g)
    assert num_steps > 5


def test_rows_are_written_where_the_layout_says_and_nowhere_else(config):
    steps = Steps([(40, 32, 32), (3, 16, 16)], SLIDING_WINDOW)
    pool = KVPool(config, COUNTS, torch.float32, torch.device("cpu"))
    keys, values = pool.layers[0]
    assert keys.shape == (COUNTS.sliding * PAGE_TOKENS, config.num_key_value_heads, config.head_dim)
    assert not keys.any() and not values.any()
    _, layout, _ = steps.next()
    query = torch.randn(layout.num_rows, config.num_attention_heads, config.head_dim)
    key = torch.randn(layout.num_rows, *keys.shape[1:])
    PagedAttend(pool, 0, layout, full=False)(query, key, -key)
    rows = layout.sliding_kv_rows
    assert torch.equal(keys[rows], key) and torch.equal(values[rows], -key)
    untouched = torch.ones(len(keys)).bool()
    untouched[rows] = False
    assert not keys[untouched].any() and not values[untouched].any()
