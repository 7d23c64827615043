"""The keys' and values' memory. Moves bytes; decides nothing (kv/pages.py does)."""

from __future__ import annotations

import torch

from ..model.config import ModelConfig


class KvCache:
    """`pool`: [layers, 2 * kv_heads, 1 + num_pages, page_tokens, head_dim]; page 0 stays zero."""

    def __init__(self, config: ModelConfig, num_pages: int, page_tokens: int, dtype: torch.dtype) -> None:
        # empty, not zeros: the operating system hands out memory page by page as sequences touch it.
        self.pool = torch.empty(config.layers, 2 * config.kv_heads, 1 + num_pages, page_tokens, config.head_dim, dtype=dtype)
        self.page_tokens = page_tokens
        self.clean([0])

    def clean(self, pages: list[int]) -> None:
        """Zero pages before a new owner uses them: a masked weight is 0, but 0 * NaN left by somebody else would be NaN."""
        self.pool.index_fill_(2, torch.tensor(pages), 0)
