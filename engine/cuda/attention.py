"""Paged attention over a step's runs (tables.py): a decode kernel for runs of one row, a prefill kernel for longer ones.

The pool of one layer is [2 * kv_heads, num_pages, page_tokens * head_dim], keys first; inside a page [page_tokens, head_dim]. Page
tables are ragged: `runs` says where in `pages` a run's pages begin, so nothing is padded to the longest context.
"""

from __future__ import annotations

import torch

from ..model.attention import attend_plainly


def decode_scratch_numbers(runs: int, heads: int, kv_heads: int, head_dim: int) -> int:
    """How many float32 `scratch` of attend_decode must hold at least; depends on no context length."""
    return runs * heads * 64 * (head_dim + 2)


def attend_decode(
    q: torch.Tensor, pool_layer: torch.Tensor, runs: torch.Tensor, pages: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor, page_tokens: int
) -> None:
    """For each run of exactly one row: its queries over all tokens up to its own, into its row of `out`. Other runs are left alone.

    q: [rows, heads * head_dim], the first columns of qkv. pool_layer: see above. runs: [4, num_runs] int32, pages int32: see tables.py.
    out: [rows, heads * head_dim]; rows of no run are not written. scratch: float32, see decode_scratch_numbers.
    """
    attend_decode_reference(q, pool_layer, runs, pages, out, scratch, page_tokens)


def attend_decode_reference(
    q: torch.Tensor, pool_layer: torch.Tensor, runs: torch.Tensor, pages: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor, page_tokens: int
) -> None:
    """See attend_decode."""
    for first, count, start, at in runs.T.tolist():
        if count == 1:
            _attend_run(q[first : first + 1], pool_layer, pages[at:], start, out[first : first + 1], page_tokens)


def attend_prefill(
    q: torch.Tensor,
    pool_layer: torch.Tensor,
    runs: torch.Tensor,
    pages: torch.Tensor,
    query_tiles: torch.Tensor,
    out: torch.Tensor,
    page_tokens: int,
) -> None:
    """For each run of several rows that `query_tiles` cover: each row's queries over all tokens up to its own, into its row of `out`.

    query_tiles: [2, num_tiles] int32, made with tables.queries_per_tile. Everything else: see attend_decode.
    """
    attend_prefill_reference(q, pool_layer, runs, pages, query_tiles, out, page_tokens)


def attend_prefill_reference(
    q: torch.Tensor,
    pool_layer: torch.Tensor,
    runs: torch.Tensor,
    pages: torch.Tensor,
    query_tiles: torch.Tensor,
    out: torch.Tensor,
    page_tokens: int,
) -> None:
    """See attend_prefill."""
    for index in sorted({index for index in query_tiles[0].tolist() if index >= 0}):
        first, count, start, at = runs[:, index].tolist()
        rows = slice(first, first + count)
        _attend_run(q[rows], pool_layer, pages[at:], start, out[rows], page_tokens)


def _attend_run(q: torch.Tensor, pool_layer: torch.Tensor, pages: torch.Tensor, start: int, out: torch.Tensor, page_tokens: int) -> None:
    tokens, kv_heads = start + len(q), len(pool_layer) // 2
    seen = pool_layer[:, pages[: -(-tokens // page_tokens)].long()].view(2, kv_heads, -1, pool_layer.shape[2] // page_tokens)[:, :, :tokens].float()
    keys, values = seen.transpose(1, 2)
    out.copy_(attend_plainly(q.float().view(len(q), -1, keys.shape[-1]), keys, values, start))
