"""Attention of one step's rows over pages of the KV pool.

All keys and values of the step are written to the pool first, so a row may see what another row of
the same forward has just made: a canvas its prompt, a text a beginning that is read beside it. With
torch each bucket's keys are then gathered from their pages; the kernel follows the pages itself.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dgq.kernels.page import PAGE_TOKENS
from dgq.kernels.paged_attention import Segments, paged_attention

from .kv_pool import KVPool
from .layout import StepLayout
from .tiles import Bucket, KeyRange


class PagedAttend:
    """One layer's attention in one step, by torch; see attention.Attend."""

    def __init__(self, pool: KVPool, layer: int, layout: StepLayout, full: bool) -> None:
        self._keys, self._values = pool.layers[layer]
        self._layout = layout
        self._full = full
        self._kv_rows = layout.full_kv_rows if full else layout.sliding_kv_rows

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, num_heads, head_dim], key and value [T, num_kv_heads, head_dim] -> as query."""
        self._keys.index_copy_(0, self._kv_rows, key)
        self._values.index_copy_(0, self._kv_rows, value)
        output = torch.zeros_like(query)
        for bucket in self._layout.buckets:
            self._attend(query, bucket, output)
        return output

    def _attend(self, query: Tensor, bucket: Bucket, output: Tensor) -> None:
        seen = bucket.full if self._full else bucket.sliding
        tiles = query.index_select(0, bucket.rows).view(bucket.num_tiles, -1, *query.shape[1:])
        attended = F.scaled_dot_product_attention(
            tiles.transpose(1, 2),
            _gather(self._keys, seen, bucket.num_tiles),
            _gather(self._values, seen, bucket.num_tiles),
            attn_mask=seen.mask,
            scale=1.0,
            enable_gqa=True,
        )
        rows, flat = bucket.rows, attended.transpose(1, 2).reshape(-1, *query.shape[1:])
        if bucket.valid is not None:
            rows, flat = rows[bucket.valid], flat[bucket.valid]
        output.index_copy_(0, rows, flat)


class SegmentAttend:
    """One layer's attention in one step, by the kernel; see attention.Attend."""

    def __init__(
        self, pool: KVPool, layer: int, kv_rows: Tensor, segments: Segments, window: int | None
    ) -> None:
        """kv_rows int64 [T]: where the rows' keys go in the pool; segments: of layers of this kind."""
        self._keys, self._values = pool.layers[layer]
        self._kv_rows = kv_rows
        self._segments = segments
        self._window = window

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, num_heads, head_dim], key and value [T, num_kv_heads, head_dim] -> as query."""
        self._keys.index_copy_(0, self._kv_rows, key)
        self._values.index_copy_(0, self._kv_rows, value)
        return paged_attention(query, self._keys, self._values, self._segments, self._window)


def _gather(pool: Tensor, seen: KeyRange, num_tiles: int) -> Tensor:
    """[num_tiles, num_kv_heads, N * PAGE_TOKENS, head_dim] of a pool's pages."""
    pages = pool.view(-1, PAGE_TOKENS * pool.shape[1] * pool.shape[2])
    gathered = pages.index_select(0, seen.pages)
    return gathered.view(num_tiles, -1, *pool.shape[1:]).transpose(1, 2)
