from __future__ import annotations

import pytest
import torch

from engine.model.attention import TILE_TOKENS, AttentionGroup, attend, attend_plainly

PAGE_TOKENS = 16
HEADS = 6
KV_HEADS = 2
HEAD_DIM = 8


@pytest.mark.parametrize(
    ("length", "queries"),
    [(1, 1), (5, 5), (TILE_TOKENS, 1), (TILE_TOKENS + 1, 7), (3 * TILE_TOKENS - 2, 2)],
)
def test_attention_over_scattered_pages_equals_the_plain_reference(
    length: int, queries: int
) -> None:
    torch.manual_seed(length)
    keys = torch.randn(length, KV_HEADS, HEAD_DIM)
    values = torch.randn(length, KV_HEADS, HEAD_DIM)
    query = torch.randn(queries, HEADS, HEAD_DIM)
    tiles = -(-length // TILE_TOKENS)
    num_taken = -(-length // PAGE_TOKENS)
    pool = torch.zeros(2 * KV_HEADS, num_taken + 1, PAGE_TOKENS, HEAD_DIM)
    taken = 1 + torch.randperm(num_taken)  # page 0 is the zero page
    cells = (
        taken.repeat_interleave(PAGE_TOKENS)[:length] * PAGE_TOKENS
        + torch.arange(length) % PAGE_TOKENS
    )
    pool.view(2 * KV_HEADS, -1, HEAD_DIM).index_copy_(
        1, cells, torch.cat((keys, values), 1).transpose(0, 1)
    )
    pages = torch.zeros(tiles * TILE_TOKENS // PAGE_TOKENS, dtype=torch.int64)
    pages[:num_taken] = taken
    first = length - queries
    may_look = torch.arange(tiles * TILE_TOKENS)[None] <= torch.arange(first, length)[:, None]
    mask = torch.zeros(1, queries, 1, tiles * TILE_TOKENS).masked_fill(
        ~may_look[None, :, None], float("-inf")
    )
    group = AttentionGroup(torch.arange(queries), 1, queries, tiles, pages=pages, mask=mask)
    torch.testing.assert_close(
        attend(query, pool, group), attend_plainly(query, keys, values, first), atol=1e-5, rtol=1e-5
    )
