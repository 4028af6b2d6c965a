"""The KV pool: keys and values of all texts and canvases in flight, in pages, allocated once.

Full layers have one set of page numbers, sliding layers another. Row t of page p is row
p * PAGE_TOKENS + t of the tensors of each layer of its kind. Which page is whose is decided elsewhere
(kv_pages.py). Memory that was never written holds zeros, never NaN: a masked key's value still
counts, times 0.
"""

import torch
from torch import Tensor

from dgq.kernels.page import PAGE_TOKENS

from .config import ModelConfig
from .kv_pages import PageCounts


class KVPool:
    """Per layer, keys (already rotated) and values [num_pages * PAGE_TOKENS, num_kv_heads, head_dim]."""

    def __init__(
        self, config: ModelConfig, page_counts: PageCounts, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        for layer in range(len(config.layer_types)):
            full = config.is_full(layer)
            heads = config.num_key_value_heads_full if full else config.num_key_value_heads
            shape = (
                (page_counts.full if full else page_counts.sliding) * PAGE_TOKENS,
                heads,
                config.head_dim_full if full else config.head_dim,
            )
            keys = torch.zeros(shape, dtype=dtype, device=device)
            self.layers.append((keys, torch.zeros_like(keys)))
