"""How adapters change a linear's output: rows come sorted by adapter, equal shapes go together, bare rows are never touched.

The reference (and today the only kernel): for each group of segments with one layout and one length, two batched products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..model.layers import ROW_FLOOR, bmm


@dataclass(frozen=True)
class LoraGroup:
    """`num_segments` adapters of one layout with `num_rows` consecutive rows each, from row `first`.

    shrink[site]: [num_segments, in, rank] or None; expand[site]: [num_segments, rank, out]; the scale is folded into expand.
    """

    first: int
    num_segments: int
    num_rows: int
    shrink: list[torch.Tensor | None]
    expand: list[torch.Tensor | None]


def apply_lora(out: torch.Tensor, x: torch.Tensor, site: int, groups: list[LoraGroup]) -> None:
    """`out[rows] += x[rows] @ shrink @ expand` in place, for every group that has weights at this site."""
    for group in groups:
        shrink, expand = group.shrink[site], group.expand[site]
        if shrink is not None and expand is not None:
            _apply_group(out, x, group, shrink, expand)


def _apply_group(out: torch.Tensor, x: torch.Tensor, group: LoraGroup, shrink: torch.Tensor, expand: torch.Tensor) -> None:
    end = group.first + group.num_segments * group.num_rows
    rows_in = x[group.first : end].view(group.num_segments, group.num_rows, -1)
    rows_out = out[group.first : end].view(group.num_segments, group.num_rows, -1)
    if ROW_FLOOR[x.dtype] == 1:
        rows_out.baddbmm_(torch.bmm(rows_in, shrink), expand)
    else:
        rows_out.add_(bmm(bmm(rows_in, shrink), expand))


def apply_plainly(out: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """The reference in PEFT's terms: `out + scale * x @ a.T @ b.T` with a [rank, in], b [out, rank]."""
    return out + scale * (x @ a.T @ b.T)
