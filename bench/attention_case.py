"""Attention as a case: canvases behind prefixes of different lengths, and a chunk of a text that is read."""

from collections.abc import Callable

import torch
from torch import Tensor

from dgq.engine.config import ModelConfig
from dgq.kernels.page import PAGE_TOKENS
from dgq.kernels.paged_attention import (
    Segments,
    paged_attention,
    paged_attention_reference,
)

from .kernel_case import Inputs, Prepared, bytes_of
from .work import Work

_PREFIX_TOKENS = 1024
"""Of a canvas of full width; a narrower one has as many times less."""


def attention(config: ModelConfig, rows: int, full: bool) -> Callable[[Inputs], Prepared]:
    """One layer's attention of rows in canvases of the config's width, the last of which may be partial.

    Every other canvas's prefix is a few tokens shorter, so that its last page is partly filled.
    """
    key_heads = config.num_key_value_heads_full if full else config.num_key_value_heads
    head_size = config.head_dim_full if full else config.head_dim
    heads, width = config.num_attention_heads, config.canvas_length
    window = None if full else config.sliding_window

    def prepare(inputs: Inputs) -> Prepared:
        widths = [min(width, rows - start) for start in range(0, rows, width)]
        prefix = _PREFIX_TOKENS * width // 256
        prefixes = [prefix - 5 * (number % 2) for number in range(len(widths))]
        kept = [
            -(-tokens // PAGE_TOKENS) + -(-own // PAGE_TOKENS)
            for tokens, own in zip(prefixes, widths, strict=True)
        ]
        num_pages = sum(kept)
        order = torch.randperm(num_pages, device=inputs.device, generator=inputs.generator)
        segments = Segments(
            row_offsets=inputs.ints(_running(widths)),
            positions=inputs.ints(prefixes),
            is_canvas=inputs.ints([1] * len(widths)),
            pages=order.int(),
            page_offsets=inputs.ints(_running(kept)),
            first_pages=inputs.ints([0] * len(widths)),
        )
        spread = head_size**-0.25  # scores are not scaled
        query = inputs.normal(rows, heads, head_size, spread=spread)
        pool_key, pool_value = (
            inputs.normal(num_pages * PAGE_TOKENS, key_heads, head_size, spread=spread)
            for _ in range(2)
        )
        arguments = (query, pool_key, pool_value, segments, window)
        seen = [
            (tokens if window is None else min(tokens, window - 1)) + own
            for tokens, own in zip(prefixes, widths, strict=True)
        ]
        pairs = sum(own * keys for own, keys in zip(widths, seen, strict=True))
        return Prepared(
            lambda: (paged_attention(*arguments),),
            lambda: (paged_attention_reference(*arguments),),
            lambda: (_plain(query, pool_key, pool_value, segments, window),),
            Work(
                4.0 * pairs * heads * head_size,
                2 * bytes_of(query)
                + 2.0 * sum(seen) * key_heads * head_size * inputs.bytes_per_number,
            ),
        )

    return prepare


def _plain(
    query: Tensor, pool_key: Tensor, pool_value: Tensor, segments: Segments, window: int | None
) -> Tensor:
    """Canvas by canvas: keys gathered, scores, softmax, sum, all written out."""
    outputs: list[Tensor] = []
    group = query.shape[1] // pool_key.shape[1]
    offsets, page_offsets = segments.row_offsets.tolist(), segments.page_offsets.tolist()
    for number, prefix in enumerate(segments.positions.tolist()):
        own = offsets[number + 1] - offsets[number]
        pages = segments.pages[page_offsets[number] : page_offsets[number + 1]].long()
        slots = (
            pages[:, None] * PAGE_TOKENS + torch.arange(PAGE_TOKENS, device=pages.device)
        ).flatten()
        first = 0 if window is None else max(0, prefix - window + 1)
        begin = -(-prefix // PAGE_TOKENS) * PAGE_TOKENS
        tokens = torch.cat([slots[first:prefix], slots[begin : begin + own]])
        key, value = (
            pool[tokens].float().repeat_interleave(group, dim=1) for pool in (pool_key, pool_value)
        )
        rows = query[offsets[number] : offsets[number + 1]].float()
        scores = torch.einsum("qhd,khd->hqk", rows, key)
        e = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        shares = e / e.sum(dim=-1, keepdim=True)
        outputs.append(torch.einsum("hqk,khd->qhd", shares, value))
    return torch.cat(outputs).to(query.dtype)


def _running(lengths: list[int]) -> list[int]:
    """0 and the sums up to each."""
    sums = [0]
    for length in lengths:
        sums.append(sums[-1] + length)
    return sums
