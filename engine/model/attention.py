"""Attends each query row to its own sequence's pages, in tiles of fixed size, so that
its bits depend on its sequence alone.

The pool of one layer is [2 * kv_heads, pages, page_tokens, head_dim]: keys first, then values. Page
0 is always zero and fills the last tile.

    tile 0              tile 1              tile 2 (partly masked)
    [0 ........ 127]    [128 ...... 255]    [256 .. p | masked ]
    scores per tile  →  one softmax over all tiles  →  values per tile  →  summed pairwise,
                     (0+1)+(2+3)

A masked tail adds exact zeros, and the pairwise sum does not change when zero tiles are appended.
Knows no sequence beyond its pages, and no weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..count import ceil_div
from ..kv.pages import ZERO_PAGE
from .layers import bmm

TILE_TOKENS = 128
SINK_COLUMNS = 16
"""Of numbers that a processor adds up together."""


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences of one shape: `num_sequences` by `num_queries` rows over `num_tiles` tiles each.

    rows: [num_sequences * num_queries] int64, indices into the batch, sequence by sequence.
    pages: [num_sequences * num_tiles * TILE_TOKENS / page_tokens] int64.
    mask: [num_sequences, num_queries, 1, num_tiles * TILE_TOKENS] float32, 0 where the query may
    look, -inf elsewhere.
    """

    rows: torch.Tensor
    num_sequences: int
    num_queries: int
    num_tiles: int
    pages: torch.Tensor
    mask: torch.Tensor
    in_order: bool = False
    """Whether `rows` are simply all rows of the batch, 0, 1, 2 …"""


class Rows(Protocol):
    """Consecutive rows of one sequence, as executor/step.py describes them."""

    @property
    def first(self) -> int:
        """Return the first row."""

    @property
    def count(self) -> int:
        """Return the number of rows."""

    @property
    def start(self) -> int:
        """Return the first row's position."""

    @property
    def pages(self) -> Sequence[int]:
        """Return the pages in which the sequence's keys and values lie."""


@dataclass(frozen=True)
class Scoring:
    """What a score is of the product of a query and a key: `scale` times it, then bent to within
    `cap` where there is one (cap * tanh(score / cap)).

    sinks: a score of each head, [heads] float32, that has its part of the softmax and no value.
    """

    scale: float
    cap: float | None = None
    sinks: torch.Tensor | None = None

    def bend(self, scores: torch.Tensor) -> torch.Tensor:
        """Return scores, scaled already, within the cap."""
        return scores if self.cap is None else self.cap * torch.tanh(scores / self.cap)

    def weigh(self, scores: torch.Tensor, by_head: tuple[int, ...]) -> torch.Tensor:
        """Return the softmax over the last dimension of scores, those of sinks among them.

        by_head: the shape in which `sinks` go with all dimensions but the last.
        """
        if self.sinks is None:
            return torch.softmax(scores, -1)
        # a whole vector more, so that a row's sum runs in the same order whatever its length
        more = scores.new_full((*scores.shape[:-1], SINK_COLUMNS), float("-inf"))
        more[..., 0] = self.sinks.view(by_head)
        return torch.softmax(torch.cat((scores, more), -1), -1)[..., :-SINK_COLUMNS]


def group_runs(
    runs: Sequence[Rows], num_rows: int, page_tokens: int, window: int | None = None
) -> list[AttentionGroup]:
    """Put runs of equal length and tile count together; order inside a group is row order.

    window: how many tokens a token sees, itself among them; None: all.
    """
    shapes: dict[tuple[int, int], list[Rows]] = {}
    for run in runs:
        shapes.setdefault((run.count, ceil_div(run.start + run.count, TILE_TOKENS)), []).append(run)
    return [
        _group(count, tiles, members, num_rows, page_tokens=page_tokens, window=window)
        for (count, tiles), members in shapes.items()
    ]


def _group(
    count: int,
    tiles: int,
    members: list[Rows],
    num_rows: int,
    *,
    page_tokens: int,
    window: int | None,
) -> AttentionGroup:
    rows = [row for run in members for row in range(run.first, run.first + count)]
    per_sequence = tiles * TILE_TOKENS // page_tokens
    pages = [page for run in members for page in _filled(run.pages, per_sequence)]
    last_seen = torch.tensor([run.start for run in members])[:, None] + torch.arange(count)[None]
    hidden = unseen(tiles * TILE_TOKENS, last_seen, window)
    mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, :, None]
    return AttentionGroup(
        torch.tensor(rows),
        len(members),
        count,
        tiles,
        pages=torch.tensor(pages),
        mask=mask,
        in_order=len(rows) == num_rows,
    )


def _filled(pages: Sequence[int], count: int) -> list[int]:
    return [*pages[:count], *[ZERO_PAGE] * (count - len(pages))]


def unseen(num_tokens: int, last_seen: torch.Tensor, window: int | None) -> torch.Tensor:
    """Return which tokens are not seen from each of the positions `last_seen [...]`, which see
    `window` tokens, themselves among them: [..., num_tokens] bool.
    """
    tokens = torch.arange(num_tokens)
    last = last_seen[..., None]
    late = tokens > last
    return late if window is None else late | (tokens <= last - window)


def attend(
    query: torch.Tensor, pool: torch.Tensor, group: AttentionGroup, scoring: Scoring | None = None
) -> torch.Tensor:
    """Attend `query [rows of the group, heads, head_dim]` to `pool` (one layer).

    Returns [rows of the group, heads * head_dim]. scoring None: scaled by head_dim ** -0.5.
    """
    kv_heads = pool.shape[0] // 2
    head_dim = pool.shape[-1]
    sequences = group.num_sequences
    queries = group.num_queries
    tiles = group.num_tiles
    keys, values = pool.index_select(1, group.pages).view(
        2, kv_heads * sequences * tiles, TILE_TOKENS, head_dim
    )
    # [kv_heads, sequences, tiles, queries * heads per kv head, …]
    q = query.view(sequences, queries, kv_heads, -1, head_dim).permute(2, 0, 1, 3, 4)
    q = (
        q.reshape(kv_heads, sequences, 1, -1, head_dim)
        .expand(-1, -1, tiles, -1, -1)
        .reshape(kv_heads * sequences * tiles, -1, head_dim)
    )
    scores = bmm(q, keys.transpose(1, 2)).view(kv_heads, sequences, tiles, queries, -1, TILE_TOKENS)
    scores = scores.permute(0, 1, 3, 4, 2, 5).reshape(
        kv_heads, sequences, queries, -1, tiles * TILE_TOKENS
    )
    scoring = scoring or Scoring(head_dim**-0.5)
    if scoring.cap is not None:
        scores = group.mask + scoring.bend(scores.float() * scoring.scale)
    else:
        scores = torch.add(group.mask, scores, alpha=scoring.scale)
    weights = scoring.weigh(scores, (kv_heads, 1, 1, -1)).to(query.dtype)
    weights = (
        weights.reshape(kv_heads, sequences, -1, tiles, TILE_TOKENS)
        .transpose(2, 3)
        .reshape(kv_heads * sequences * tiles, -1, TILE_TOKENS)
    )
    parts = bmm(weights, values).view(kv_heads, sequences, tiles, queries, -1, head_dim)
    return sum_pairwise(parts).permute(1, 2, 0, 3, 4).reshape(sequences * queries, -1)


def sum_pairwise(parts: torch.Tensor) -> torch.Tensor:
    """Sum over dimension 2 as a binary tree in float32; appended zeros change no bit.

    Keeps the dtype.
    """
    if parts.shape[2] == 1:
        return parts[:, :, 0]
    total = parts.float()
    while total.shape[2] > 1:
        odd = total[:, :, -1:] if total.shape[2] % 2 else total[:, :, :0]
        total = torch.cat((total[:, :, 0:-1:2] + total[:, :, 1::2], odd), 2)
    return total[:, :, 0].to(parts.dtype)


def attend_plainly(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    first_position: int,
    *,
    scoring: Scoring | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Attend one sequence plainly: the ten-line reference for tests.

    `query [n, heads, d]`, `keys` and `values` [tokens, kv_heads, d], causal from `first_position`,
    each seeing `window` tokens.
    """
    group = query.shape[1] // keys.shape[1]
    scoring = scoring or Scoring(query.shape[-1] ** -0.5)
    keys = keys.repeat_interleave(group, 1)
    values = values.repeat_interleave(group, 1)
    scores = scoring.bend(torch.einsum("qhd,khd->hqk", query, keys) * scoring.scale)
    positions = torch.arange(first_position, first_position + query.shape[0])
    scores = scores.masked_fill(unseen(len(keys), positions, window)[None], float("-inf"))
    return torch.einsum("hqk,khd->qhd", scoring.weigh(scores, (-1, 1)), values).flatten(1)
