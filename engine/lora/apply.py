"""Applies adapters to a linear's output: rows come sorted by adapter, equal shapes go together,
bare rows are never touched. Decides no order and knows no slot.

The torch twin of what engine/executor does inside its products: for each group of segments with one
layout and one length, two batched products. `y = gain * (W @ x) + base_bias + shift + expand @
(shrink @ x)`
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from ..model.layers import bmm_floor, pad_rows


@dataclass(frozen=True)
class SiteWeights:
    """A site's dense weights of n adapters: shrink [n, in, rank], expand [n, rank, out] in the
    model's dtype; gain, shift [n, 1, out] float32. Of experts' linears shrink and expand are
    [n * experts, …].
    """

    shrink: torch.Tensor | None
    expand: torch.Tensor | None
    gain: torch.Tensor | None
    shift: torch.Tensor | None


@dataclass(frozen=True)
class LoraGroup:
    """`num_segments` adapters of one layout with `num_rows` consecutive rows each, from row
    `first`; `sites` by site number.
    """

    first: int
    num_segments: int
    num_rows: int
    sites: list[SiteWeights]

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Return the group's rows of `x [rows, width]` as [num_segments, num_rows, width],
        a view.
        """
        return x[self.first : self.first + self.num_segments * self.num_rows].view(
            self.num_segments, self.num_rows, -1
        )


def apply_gain(out: torch.Tensor, site: int, groups: list[LoraGroup]) -> None:
    """Multiply the base's product in place, before its bias is added; a gain that is narrower than
    a row multiplies each of its heads.
    """
    for group in groups:
        gain = group.sites[site].gain
        if gain is not None:
            group.rows(out).view(group.num_segments, -1, gain.shape[2]).mul_(gain)


def apply_lora(out: torch.Tensor, x: torch.Tensor, site: int, groups: list[LoraGroup]) -> None:
    """Add to `out` in place, for every group with weights here: `out[rows] += shift + x[rows] @
    shrink @ expand`.
    """
    for group in groups:
        weights = group.sites[site]
        if weights.shift is not None:
            group.rows(out).add_(weights.shift)
        if weights.shrink is not None and weights.expand is not None:
            _apply_pair(group.rows(out), group.rows(x), weights.shrink, weights.expand)


def apply_to_expert(
    out: torch.Tensor,
    x: torch.Tensor,
    origins: torch.Tensor,
    expert: tuple[int, int],
    site: int,
    groups: list[LoraGroup],
) -> None:
    """Add to `out` in place what adapters change about the rows of one expert, which come from the
    step's rows `origins`, ascending. expert: its number, and how many there are.
    """
    number, count = expert
    for group in groups:
        weights = group.sites[site]
        if weights.shrink is None or weights.expand is None:
            continue
        bounds = group.first + group.num_rows * torch.arange(group.num_segments + 1)
        ends = torch.searchsorted(origins, bounds).tolist()
        for member, (first, end) in enumerate(pairwise(ends)):
            if end > first:
                own = slice(member * count + number, member * count + number + 1)
                _apply_pair(
                    out[None, first:end],
                    x[None, first:end],
                    weights.shrink[own],
                    weights.expand[own],
                )


def _apply_pair(
    out: torch.Tensor, x: torch.Tensor, shrink: torch.Tensor, expand: torch.Tensor
) -> None:
    rows = x.shape[1]
    floor = max(bmm_floor(shrink), bmm_floor(expand))
    if rows >= floor:
        out.baddbmm_(torch.bmm(x, shrink), expand)
    else:
        out.copy_(
            pad_rows(out, floor).baddbmm_(torch.bmm(pad_rows(x, floor), shrink), expand)[:, :rows]
        )
