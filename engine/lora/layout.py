"""How an adapter lies in memory: one contiguous blob, each fused linear's shrink [in, rank] and expand [rank, out] at fixed offsets.

A fused linear (q, k and v together) gets the ranks of its parts side by side; expand is block-diagonal, so one product serves all parts:

    shrink  [in, r_q + r_k + r_v]          expand  [ B_q  0    0  ]   rows: r_q, r_k, r_v
                                                   [ 0    B_k  0  ]   columns: out_q, out_k, out_v
                                                   [ 0    0    B_v]
Adapters with the same ranks everywhere share a layout, and only those are ever stacked: nothing is padded to a largest rank. A site's
rank is rounded up to RANK_STEP with zeros: in float32 an odd width makes a row's bits depend on its place among the rows (measured).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch

from ..model.config import ModelConfig

ALIGN_ELEMENTS = 32
RANK_STEP = 4


@dataclass(frozen=True)
class Part:
    """One adaptable linear of a layer: PEFT's name for it, its width in and out, the site (0 to 3) it is fused into."""

    name: str
    width_in: int
    width_out: int
    kind: int


def parts_of(config: ModelConfig) -> tuple[Part, ...]:
    """The seven linears of a layer in the order in which they are fused (qkv, out, gate_up, down)."""
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return (
        Part("self_attn.q_proj", config.hidden, q, 0),
        Part("self_attn.k_proj", config.hidden, kv, 0),
        Part("self_attn.v_proj", config.hidden, kv, 0),
        Part("self_attn.o_proj", q, config.hidden, 1),
        Part("mlp.gate_proj", config.hidden, config.intermediate, 2),
        Part("mlp.up_proj", config.hidden, config.intermediate, 2),
        Part("mlp.down_proj", config.intermediate, config.hidden, 3),
    )


@dataclass(frozen=True)
class Site:
    """One fused linear's place in the blob; offsets count elements. `rank` 0 means the adapter leaves it alone."""

    width_in: int
    width_out: int
    rank: int
    shrink_at: int
    expand_at: int


@dataclass(frozen=True)
class Layout:
    """All sites of an adapter, layer by layer, and the blob's length. Equal layouts can be stacked."""

    sites: tuple[Site, ...]
    num_elements: int


@dataclass(frozen=True)
class PackedAdapter:
    """A checked adapter in its final form. `blob` is [layout.num_elements] in the model's dtype."""

    layout: Layout
    blob: torch.Tensor
    rank: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the blob."""
        return self.blob.numel() * self.blob.element_size()


def make_layout(config: ModelConfig, ranks: dict[tuple[int, str], int]) -> Layout:
    """Place every site. `ranks` maps (layer, part name) to its rank; absent is 0."""
    sites, at = [], 0
    for layer in range(config.layers):
        for kind in range(4):
            members = [part for part in parts_of(config) if part.kind == kind]
            rank = -(-sum(ranks.get((layer, part.name), 0) for part in members) // RANK_STEP) * RANK_STEP
            width_in, width_out = members[0].width_in, sum(part.width_out for part in members)
            expand_at = at + _aligned(width_in * rank)
            sites.append(Site(width_in, width_out, rank, at, expand_at))
            at = expand_at + _aligned(rank * width_out)
    return Layout(tuple(sites), at)


def pack(config: ModelConfig, pairs: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]], dtype: torch.dtype) -> PackedAdapter:
    """Write scaled pairs (A [rank, in], B [out, rank], float32, the scale already in B) into one blob."""
    layout = make_layout(config, {key: a.shape[0] for key, (a, _) in pairs.items()})
    blob = torch.zeros(layout.num_elements, dtype=dtype)
    shrinks, expands = site_views(layout, blob.unsqueeze(0))
    for kind in range(4):
        members = [part for part in parts_of(config) if part.kind == kind]
        columns = list(accumulate((part.width_out for part in members), initial=0))
        for layer in range(config.layers):
            shrink, expand = shrinks[layer * 4 + kind], expands[layer * 4 + kind]
            row = 0
            for part, column in zip(members, columns, strict=False):
                if shrink is None or expand is None or (layer, part.name) not in pairs:
                    continue
                a, b = pairs[layer, part.name]
                shrink[0, :, row : row + len(a)] = a.T
                expand[0, row : row + len(a), column : column + part.width_out] = b.T
                row += len(a)
    return PackedAdapter(layout, blob, max((len(a) for a, _ in pairs.values()), default=0))


def site_views(layout: Layout, blobs: torch.Tensor) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
    """Views of stacked blobs [segments, num_elements]: per site the shrink [segments, in, rank] and expand [segments, rank, out]."""
    num, stride = blobs.shape[0], blobs.stride(0)

    def view(at: int, rows: int, columns: int) -> torch.Tensor | None:
        return blobs.as_strided((num, rows, columns), (stride, columns, 1), blobs.storage_offset() + at) if rows and columns else None

    shrinks = [view(site.shrink_at, site.width_in, site.rank) for site in layout.sites]
    return shrinks, [view(site.expand_at, site.rank, site.width_out) for site in layout.sites]


def _aligned(count: int) -> int:
    return -(-count // ALIGN_ELEMENTS) * ALIGN_ELEMENTS
