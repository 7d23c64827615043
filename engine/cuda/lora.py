"""What adapters add to a fused linear: `out = gain * out + bias + shift + expand @ (shrink @ x)` per row, each row with its own adapter.

Rows come sorted by adapter in tiles of at most TILE_ROWS (tables.py). Weights lie as lora/layout.py packs them; `entries` says where.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from ..lora.layout import BLOCK_COLUMNS, ROW_STEP, lane_width

SPLIT_COLUMNS = 1024
"""How much of a row of x one block of the shrink kernel takes; partial sums of a row are added in order of the columns."""


def scratch_numbers(rows: int, max_rank: int, width_in: int, num_parts: int) -> int:
    """How many float32 `scratch` of apply_site must hold at least. Take the largest over all sites: they use it one after another."""
    return num_parts * -(-width_in // SPLIT_COLUMNS) * rows * max_rank


def apply_site(
    x: torch.Tensor,
    out: torch.Tensor,
    tiles: torch.Tensor,
    entries: torch.Tensor,
    first_part: int,
    widths: Sequence[int],
    bias: torch.Tensor | None,
    scratch: torch.Tensor,
    max_rank: int,
) -> None:
    """`out [rows, sum(widths)] = gain * out + bias + shift + expand @ (shrink @ x)` in place, for the rows that `tiles` cover.

    x: [rows, width_in]. tiles: [3, num_tiles] int32, see tables.py; those without an adapter only get the bias.
    entries: [num_slots, parts, 5] int64 as lora/bank.address_table gives it, its addresses on this device.
    first_part: the site's first part among an adapter's, layer * PARTS + its place. widths: the site's parts' widths, one to three.
    bias: [sum(widths)] in out's dtype where the linear has one and was computed without. scratch: float32, see scratch_numbers.
    max_rank: no adapter of `tiles` may have a larger rank; it only says how scratch is laid out, so a graph can be captured with plenty.
    """
    apply_site_reference(x, out, tiles, entries, first_part, widths, bias, scratch, max_rank)


def apply_site_reference(
    x: torch.Tensor,
    out: torch.Tensor,
    tiles: torch.Tensor,
    entries: torch.Tensor,
    first_part: int,
    widths: Sequence[int],
    bias: torch.Tensor | None,
    scratch: torch.Tensor,
    max_rank: int,
) -> None:
    """See apply_site; host memory only."""
    for slot, first, count in tiles.T.tolist():
        rows, column = slice(first, first + count), 0
        for part, width in enumerate(widths):
            columns = slice(column, column + width)
            y = out[rows, columns].float()
            rank, shrink, expand, gain, shift = (0,) * 5 if slot < 0 else entries[slot, first_part + part].tolist()
            y = y * _numbers(gain, (width,), torch.float32) if gain else y
            y = y + bias[columns].float() if bias is not None else y
            y = y + _numbers(shift, (width,), torch.float32) if shift else y
            if rank:
                y = y + x[rows].float() @ _shrink(shrink, rank, x).T @ _expand(expand, rank, width, x.dtype)
            out[rows, columns] = y.to(out.dtype)
            column += width


def _shrink(address: int, rank: int, x: torch.Tensor) -> torch.Tensor:
    return _numbers(address, (rank, -(-x.shape[1] // ROW_STEP) * ROW_STEP), x.dtype)[:, : x.shape[1]].float()


def _expand(address: int, rank: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    lane = lane_width(dtype)
    blocks = _numbers(address, (-(-width // BLOCK_COLUMNS), -(-rank // lane), BLOCK_COLUMNS, lane), dtype).float()
    return blocks.permute(1, 3, 0, 2).reshape(-1, len(blocks) * BLOCK_COLUMNS)[:rank, :width]


def _numbers(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What lies at `address` in host memory."""
    count = 1
    for size in shape:
        count *= size
    memory = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
