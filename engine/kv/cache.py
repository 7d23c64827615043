"""Holds the memory of keys and values.

Moves bytes; decides nothing (kv/pages.py does), and knows no layout inside a page (the executor
does).
"""

from __future__ import annotations

import torch


class KvCache:
    """The memory of all pages.

    `pool`: [layers, 2 * kv_heads, 1 + pages, numbers of a page], as the executor made it; page 0
    stays zero.

    masked: the executor reads no cell that its sequence has not written, so nothing needs to be
    cleaned.
    """

    def __init__(self, pool: torch.Tensor, page_tokens: int, masked: bool = False) -> None:
        # Made empty, not zeroed: the operating system hands out memory page by page as sequences
        # touch it.
        self.pool = pool
        self.page_tokens = page_tokens
        self._masked = masked
        self.clean([0])

    # the pool may be a tensor of that mode, which refuses to be written in another
    @torch.inference_mode()
    def clean(self, pages: list[int]) -> None:
        """Zero pages before a new owner uses them.

        A masked weight is 0, but 0 times a NaN that an earlier owner left would be NaN.
        """
        if not self._masked:
            self.pool.index_fill_(2, torch.tensor(pages), 0)
