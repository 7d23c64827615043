"""Adds what adapters change about a fused linear: `out = gain * out + bias + shift + expand @
(shrink @ x)` per row, each row with its own adapter.

Rows come sorted by adapter in tiles of at most TILE_ROWS (tables.py). Weights lie as lora/layout.py
packs them; `entries` says where. Counts that change from step to step are not specialised, as in
attention.py. Decides how a product is cut into blocks; does not know which adapter sits in which
slot.

Sources: LoRA, Hu et al. (arXiv:2106.09685); rows of many adapters in one launch, Chen et al.,
Punica (arXiv:2310.18547).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..count import ceil_div, round_up
from ..lora.layout import BLOCK_COLUMNS, ROW_STEP, lane_width, numbers_at
from .tables import TILE_ROWS

SPLIT_COLUMNS = 1024
"""Columns of x that one block of the shrink kernel takes; a row's partial sums are added in the
order of the columns.
"""
STEP_COLUMNS = 256
"""Columns of x that a product of several rows takes at once."""
RANK_BLOCK = 16
"""Ranks that a block takes at once: the least that a tensor core takes."""
EXPAND_COLUMNS = 256
"""Columns of out that one block of the expand kernel writes: with RANK_BLOCK, 8 KB of bfloat16
weights, 128 bytes a thread.
"""
FEW_COLUMNS = 64
"""Columns of out that a product of several rows takes at once."""
MAX_PARTS = 3
"""Most parts of a site: q, k and v."""


def scratch_numbers(rows: int, max_rank: int, width_in: int, num_parts: int) -> int:
    """Return how many float32 `scratch` of a site must hold at least: [num_parts, pieces of x,
    rows, max_rank].

    Take the largest over all sites: they use it one after another.
    """
    return num_parts * ceil_div(width_in, SPLIT_COLUMNS) * rows * max_rank


class _ShrinkRowsArguments(NamedTuple):
    """What _shrink_rows is given when it is launched, in the order of its parameters."""

    x: torch.Tensor
    tiles: torch.Tensor
    entries: torch.Tensor
    scratch: torch.Tensor
    first_part: int
    num_tiles: int
    slot_stride: int
    x_stride: int
    rows: int
    max_rank: int
    width_in: int


def shrink_site(
    x: torch.Tensor,
    tiles: torch.Tensor,
    entries: torch.Tensor,
    first_part: int,
    num_parts: int,
    scratch: torch.Tensor,
    max_rank: int,
) -> None:
    """Compute `shrink @ x` of each of a site's parts, in pieces of x, into `scratch`, for the rows
    that `tiles` cover; expand_site reads it there.

    x: [rows, width_in]. tiles: [3, num_tiles] int32, see tables.py. first_part: layer * PARTS + the
    place of the site's first part. entries: [num_slots, parts, 5] int64 as lora/bank.address_table
    gives it, its addresses on this device. scratch: float32, see scratch_numbers. max_rank: no
    adapter of `tiles` may have a larger rank; it only says how scratch is laid out, so a graph can
    be captured with room to spare.

    Grid [num_tiles, num_parts, pieces of x], one launch, which depends on nothing but x. Weights
    are read once per tile; 64 tiles of rank 16 at the shapes of Llama-3.1-8B, bfloat16 (expected;
    an H200 takes 34 µs for the four shrinks of a layer and 37 for the expands, where these add up
    to 19 and 21):

            site        shrink reads      expand reads
            q, k, v     25 MB, 5.9 µs     13 MB, 2.9 µs
            out          8 MB, 2.0 µs      8 MB, 2.0 µs
            gate, up    17 MB, 3.9 µs     59 MB, 13.7 µs
            down        29 MB, 6.8 µs      8 MB, 2.0 µs

    A row alone in its tile is multiplied by ordinary instructions, its weights on their way from
    memory to registers all at once; where rows share a tile, tensor cores multiply 16 at a time and
    the shrunk rows are rounded to x's dtype in between.
    """
    num_tiles = tiles.shape[1]
    width_in = x.shape[1]
    assert scratch.numel() >= scratch_numbers(len(x), max_rank, width_in, num_parts), (
        "scratch is too small: see scratch_numbers"
    )
    _shrink_rows[(num_tiles, num_parts, ceil_div(width_in, SPLIT_COLUMNS))](
        *_ShrinkRowsArguments(
            x=x,
            tiles=tiles,
            entries=entries,
            scratch=scratch,
            first_part=first_part,
            num_tiles=num_tiles,
            slot_stride=entries.stride(0),
            x_stride=x.stride(0),
            rows=len(x),
            max_rank=max_rank,
            width_in=width_in,
        ),
        dtype=triton_type(x.dtype),
        tile_rows=TILE_ROWS,
        rank_block=RANK_BLOCK,
        split=SPLIT_COLUMNS,
        step=STEP_COLUMNS,
        row_step=ROW_STEP,
        num_warps=4,
        num_stages=3,
    )


class _ExpandRowsArguments(NamedTuple):
    """What _expand_rows is given when it is launched, in the order of its parameters."""

    out: torch.Tensor
    tiles: torch.Tensor
    entries: torch.Tensor
    scratch: torch.Tensor
    bias: torch.Tensor
    first_part: int
    num_tiles: int
    slot_stride: int
    out_stride: int
    rows: int
    max_rank: int
    width0: int
    width1: int
    width2: int
    chunk1: int
    chunk2: int


def expand_site(
    out: torch.Tensor,
    tiles: torch.Tensor,
    entries: torch.Tensor,
    first_part: int,
    width_in: int,
    widths: Sequence[int],
    bias: torch.Tensor | None,
    scratch: torch.Tensor,
    max_rank: int,
) -> None:
    """Compute `out [rows, sum(widths)] = gain * out + bias + shift + expand @ (what shrink_site
    left in scratch)` in place, for the rows of `tiles`.

    widths: the site's parts' widths, one to three. bias: [sum(widths)] in out's dtype where the
    linear has one and was computed without; rows without an adapter get nothing else. tiles,
    entries, first_part, scratch, max_rank and x's width_in as shrink_site was given them.

    Grid [num_tiles, blocks of EXPAND_COLUMNS over all parts], one launch; shrink_site has its
    times.
    """
    num_tiles = tiles.shape[1]
    dtype = triton_type(out.dtype)
    splits = ceil_div(width_in, SPLIT_COLUMNS)
    lane = lane_width(out.dtype)
    chunks = [ceil_div(width, EXPAND_COLUMNS) for width in widths]
    padded = [*widths, 0, 0][:MAX_PARTS]
    _expand_rows[(num_tiles, sum(chunks))](
        *_ExpandRowsArguments(
            out=out,
            tiles=tiles,
            entries=entries,
            scratch=scratch,
            bias=out if bias is None else bias,
            first_part=first_part,
            num_tiles=num_tiles,
            slot_stride=entries.stride(0),
            out_stride=out.stride(0),
            rows=len(out),
            max_rank=max_rank,
            width0=padded[0],
            width1=padded[1],
            width2=padded[2],
            chunk1=chunks[0],
            chunk2=sum(chunks[:2]),
        ),
        dtype=dtype,
        has_bias=bias is not None,
        splits=splits,
        splits_block=triton.next_power_of_2(splits),
        tile_rows=TILE_ROWS,
        one_rank=RANK_BLOCK,
        many_rank=RANK_BLOCK * lane,
        columns=EXPAND_COLUMNS,
        few_columns=FEW_COLUMNS,
        block=BLOCK_COLUMNS,
        lane=lane,
        num_warps=2,
        num_stages=1,
    )


def triton_type(dtype: torch.dtype) -> tl.dtype:
    """Return Triton's name for a type of weights."""
    return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}[
        dtype
    ]


@triton.jit(do_not_specialize=["first_part", "num_tiles", "rows"])
def _shrink_rows(
    x,
    tiles,
    entries,
    scratch,
    first_part,
    num_tiles,
    slot_stride,
    x_stride,
    rows,
    max_rank,
    width_in,
    dtype: tl.constexpr,
    tile_rows: tl.constexpr,
    rank_block: tl.constexpr,
    split: tl.constexpr,
    step: tl.constexpr,
    row_step: tl.constexpr,
):
    """Multiply a tile's rows by one part's A, over `split` columns of x, into scratch [parts,
    splits, rows, max_rank].
    """
    tile = tl.program_id(0)
    part = tl.program_id(1)
    piece = tl.program_id(2)
    slot = tl.load(tiles + tile)
    first = tl.load(tiles + num_tiles + tile)
    count = tl.load(tiles + 2 * num_tiles + tile)
    # keeps the three reads together; the compiler would put some behind the branch, one wait after
    # the other
    tl.debug_barrier()
    if (slot < 0) | (count == 0):
        return
    entry = entries + slot.to(tl.int64) * slot_stride + (first_part + part) * 5
    rank = tl.load(entry).to(tl.int32)
    address = tl.load(entry + 1)
    tl.debug_barrier()
    if rank == 0:
        return
    weights = tl.multiple_of(address.to(tl.pointer_type(dtype)), 64)
    stride = (width_in + row_step - 1) // row_step * row_step  # A's rows are padded
    begin = piece * split
    target = scratch + ((part * tl.num_programs(2) + piece).to(tl.int64) * rows + first) * max_rank
    if count == 1:
        _shrink_one(
            x + first.to(tl.int64) * x_stride,
            weights,
            target,
            rank,
            begin,
            width_in,
            stride,
            rank_block,
            split,
        )
    else:
        _shrink_many(
            x + first.to(tl.int64) * x_stride,
            weights,
            target,
            rank,
            begin,
            width_in,
            stride,
            count,
            x_stride,
            max_rank,
            tile_rows,
            rank_block,
            split,
            step,
        )


@triton.jit
def _shrink_one(
    x, weights, target, rank, begin, width_in, stride, rank_block: tl.constexpr, split: tl.constexpr
):
    """Compute target [rank] = A @ x over `split` columns, with 16 reads of 16 bytes a thread under
    way before the first is needed.
    """
    ranks = tl.arange(0, rank_block)
    column = begin + tl.arange(0, split)
    row = tl.load(x + column, column < width_in, 0.0).to(tl.float32)
    for low in range(0, rank, rank_block):
        inside = (low + ranks < rank)[:, None] & (column < width_in)[None, :]
        a = tl.load(weights + (low + ranks)[:, None] * stride + column[None, :], inside, 0.0)
        tl.store(
            target + low + ranks, tl.sum(a.to(tl.float32) * row[None, :], 1), low + ranks < rank
        )


@triton.jit
def _shrink_many(
    x,
    weights,
    target,
    rank,
    begin,
    width_in,
    stride,
    count,
    x_stride,
    max_rank,
    tile_rows: tl.constexpr,
    rank_block: tl.constexpr,
    split: tl.constexpr,
    step: tl.constexpr,
):
    """Compute target [count, rank] = x @ A^T over `split` columns, by tensor cores."""
    ranks = tl.arange(0, rank_block)
    line = tl.arange(0, tile_rows)
    source = x + line.to(tl.int64)[:, None] * x_stride
    for low in range(0, rank, rank_block):
        total = tl.zeros((tile_rows, rank_block), tl.float32)
        for at in range(begin, min(begin + split, width_in), step):
            column = at + tl.arange(0, step)
            rows = tl.load(
                source + column[None, :],
                (line < count)[:, None] & (column < width_in)[None, :],
                0.0,
            )
            inside = (low + ranks < rank)[None, :] & (column < width_in)[:, None]
            a = tl.load(weights + (low + ranks)[None, :] * stride + column[:, None], inside, 0.0)
            # "ieee": float32 operands are multiplied in full, not rounded to TF32
            total = tl.dot(rows, a, total, input_precision="ieee")
        tl.store(
            target + line[:, None] * max_rank + low + ranks[None, :],
            total,
            (line < count)[:, None] & (low + ranks < rank)[None, :],
        )


@triton.jit(do_not_specialize=["first_part", "num_tiles", "rows"])
def _expand_rows(
    out,
    tiles,
    entries,
    scratch,
    bias,
    first_part,
    num_tiles,
    slot_stride,
    out_stride,
    rows,
    max_rank,
    width0,
    width1,
    width2,
    chunk1,
    chunk2,
    dtype: tl.constexpr,
    has_bias: tl.constexpr,
    splits: tl.constexpr,
    splits_block: tl.constexpr,
    tile_rows: tl.constexpr,
    one_rank: tl.constexpr,
    many_rank: tl.constexpr,
    columns: tl.constexpr,
    few_columns: tl.constexpr,
    block: tl.constexpr,
    lane: tl.constexpr,
):
    """Compute a tile's rows of some columns of one part: sum the pieces of scratch in order,
    multiply by B, and add to out with gain, bias and shift.
    """
    tile = tl.program_id(0)
    chunk = tl.program_id(1)
    slot = tl.load(tiles + tile)
    first = tl.load(tiles + num_tiles + tile)
    count = tl.load(tiles + 2 * num_tiles + tile)
    tl.debug_barrier()
    if count == 0:
        return
    part = (chunk >= chunk1).to(tl.int32) + (chunk >= chunk2).to(tl.int32)
    width = tl.where(part == 0, width0, tl.where(part == 1, width1, width2))
    before = tl.where(part == 0, 0, tl.where(part == 1, width0, width0 + width1))
    first_column = (chunk - tl.where(part == 0, 0, tl.where(part == 1, chunk1, chunk2))) * columns
    rank = 0
    expand = tl.full((), 0, tl.int64)
    gain = tl.full((), 0, tl.int64)
    shift = tl.full((), 0, tl.int64)
    if slot >= 0:
        entry = entries + slot.to(tl.int64) * slot_stride + (first_part + part) * 5
        rank = tl.load(entry).to(tl.int32)
        expand = tl.load(entry + 2)
        gain = tl.load(entry + 3)
        shift = tl.load(entry + 4)
    if (not has_bias) & (rank == 0) & (gain == 0) & (shift == 0):
        return
    weights = tl.multiple_of(expand.to(tl.pointer_type(tl.int32)), 64)
    # short types lie two ranks to a 32-bit word (lora/layout.py), so B is read as words of int32
    lanes = (rank + lane - 1) // lane
    pieces = scratch + (part.to(tl.int64) * splits * rows + first) * max_rank
    piece_stride = tl.cast(rows, tl.int64) * max_rank
    target = out + first.to(tl.int64) * out_stride + before
    if count == 1:
        _expand_one(
            target,
            weights,
            pieces,
            piece_stride,
            rank,
            lanes,
            first_column,
            width,
            gain,
            bias + before,
            shift,
            dtype,
            has_bias,
            splits,
            splits_block,
            one_rank,
            columns,
            block,
            lane,
        )
    else:
        for column in range(first_column, min(first_column + columns, width), few_columns):
            _expand_many(
                target,
                weights,
                pieces,
                piece_stride,
                rank,
                lanes,
                column,
                width,
                gain,
                bias + before,
                shift,
                count,
                out_stride,
                max_rank,
                dtype,
                has_bias,
                splits,
                tile_rows,
                many_rank,
                few_columns,
                block,
                lane,
            )


@triton.jit
def _affine(gain, bias, shift, flat, there, has_bias: tl.constexpr):
    """Return the factor for the base's product and what is added to it, both float32 [columns]."""
    # an address of 0 stands for no vector; the branch is the same for the whole block
    factor = tl.full(flat.shape, 1.0, tl.float32)
    addend = tl.zeros(flat.shape, tl.float32)
    if gain != 0:
        factor = tl.load(
            tl.multiple_of(gain.to(tl.pointer_type(tl.float32)), 64) + flat, there, 1.0
        )
    if has_bias:
        addend = tl.load(bias + flat, there, 0.0).to(tl.float32)
    if shift != 0:
        addend += tl.load(
            tl.multiple_of(shift.to(tl.pointer_type(tl.float32)), 64) + flat, there, 0.0
        )
    return factor, addend


@triton.jit
def _load_expand(
    weights, low, lanes, flat, width, step: tl.constexpr, block: tl.constexpr, lane: tl.constexpr
):
    """Load B for some columns as words [step, columns] of `lane` ranks each, from rank `low`.

    A column's lanes lie 64 bytes apart, so a thread takes four columns' words of every lane, and
    summing over lanes needs no other thread.
    """
    line = tl.arange(0, step)[:, None]
    place = (
        (flat // block)[None, :].to(tl.int64) * (lanes * block)
        + (low // lane + line) * block
        + (flat % block)[None, :]
    )
    return tl.load(weights + place, (low // lane + line < lanes) & (flat < width)[None, :], 0)


@triton.jit
def _number(words, index: tl.constexpr, dtype: tl.constexpr):
    """Extract the `index`-th number of each 32-bit word."""
    if dtype == tl.float32:
        number = words.to(tl.float32, bitcast=True)
    else:
        number = (words >> (16 * index)).to(tl.int16).to(dtype, bitcast=True)
    return number


@triton.jit
def _expand_one(
    target,
    weights,
    pieces,
    piece_stride,
    rank,
    lanes,
    first_column,
    width,
    gain,
    bias,
    shift,
    dtype: tl.constexpr,
    has_bias: tl.constexpr,
    splits: tl.constexpr,
    splits_block: tl.constexpr,
    rank_block: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    lane: tl.constexpr,
):
    """Compute `columns` of one row; each thread has 8 reads of 16 bytes under way at rank 16 and
    more.
    """
    step: tl.constexpr = rank_block // lane
    flat = first_column + tl.arange(0, columns)
    # requested here and not looked at before the loop is over, so that nothing waits for it
    base = tl.load(target + flat, flat < width, 0.0)
    total = tl.zeros((columns,), tl.float32)
    piece = tl.arange(0, splits_block)[:, None]
    line = tl.arange(0, step)[None, :]
    for low in range(0, rank, rank_block):
        words = _load_expand(weights, low, lanes, flat, width, step, block, lane)
        # without it the assembler waits for the shrunk row before it has requested all weights
        tl.debug_barrier()
        ranks = low + line * lane
        shrunk = tl.load(
            pieces + piece * piece_stride + ranks, (piece < splits) & (ranks < rank), 0.0
        )
        if lane == 2:
            odd = tl.load(
                pieces + piece * piece_stride + ranks + 1,
                (piece < splits) & (ranks + 1 < rank),
                0.0,
            )
            total += tl.sum(_number(words, 1, dtype).to(tl.float32) * tl.sum(odd, 0)[:, None], 0)
        total += tl.sum(_number(words, 0, dtype).to(tl.float32) * tl.sum(shrunk, 0)[:, None], 0)
    factor, addend = _affine(gain, bias, shift, flat, flat < width, has_bias)
    tl.store(
        target + flat,
        (base.to(tl.float32) * factor + addend + total).to(target.dtype.element_ty),
        flat < width,
    )


@triton.jit
def _expand_many(
    target,
    weights,
    pieces,
    piece_stride,
    rank,
    lanes,
    first_column,
    width,
    gain,
    bias,
    shift,
    count,
    out_stride,
    max_rank,
    dtype: tl.constexpr,
    has_bias: tl.constexpr,
    splits: tl.constexpr,
    tile_rows: tl.constexpr,
    rank_block: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    lane: tl.constexpr,
):
    """Compute the same for up to `tile_rows` rows and fewer columns, with tensor cores."""
    step: tl.constexpr = rank_block // lane
    line = tl.arange(0, tile_rows)[:, None]
    flat = first_column + tl.arange(0, columns)
    places = target + line.to(tl.int64) * out_stride + flat[None, :]
    inside = (line < count) & (flat < width)[None, :]
    base = tl.load(places, inside, 0.0)
    total = tl.zeros((tile_rows, columns), tl.float32)
    for low in range(0, rank, rank_block):
        words = _load_expand(weights, low, lanes, flat, width, step, block, lane)
        for index in tl.static_range(lane):
            ranks = low + tl.arange(0, step)[None, :] * lane + index
            shrunk = tl.zeros((tile_rows, step), tl.float32)
            # in the order of the columns, so that the sum has the same bits every time
            for piece in range(splits):
                shrunk += tl.load(
                    pieces + piece * piece_stride + line * max_rank + ranks,
                    (line < count) & (ranks < rank),
                    0.0,
                )
            total = tl.dot(
                shrunk.to(dtype), _number(words, index, dtype), total, input_precision="ieee"
            )
    factor, addend = _affine(gain, bias, shift, flat, flat < width, has_bias)
    tl.store(
        places,
        (base.to(tl.float32) * factor[None, :] + addend[None, :] + total).to(
            target.dtype.element_ty
        ),
        inside,
    )


def shrink_site_reference(
    x: torch.Tensor,
    tiles: torch.Tensor,
    entries: torch.Tensor,
    first_part: int,
    num_parts: int,
    scratch: torch.Tensor,
    max_rank: int,
) -> None:
    """Compute shrink_site in plain torch; the addresses in `entries` must be of host memory."""
    pieces = _pieces(scratch, len(x), max_rank, x.shape[1], num_parts=num_parts)
    for slot, first, count in tiles.T.tolist():
        for part in range(num_parts if slot >= 0 and count else 0):
            rank, shrink = entries[slot, first_part + part, :2].tolist()
            if rank:
                rows = x[first : first + count].float().split(SPLIT_COLUMNS, 1)
                weights = _shrink(shrink, rank, x).split(SPLIT_COLUMNS, 1)
                for piece, some, weight in zip(pieces[part], rows, weights, strict=True):
                    piece[first : first + count, :rank] = some @ weight.T


def expand_site_reference(
    out: torch.Tensor,
    tiles: torch.Tensor,
    entries: torch.Tensor,
    first_part: int,
    width_in: int,
    widths: Sequence[int],
    bias: torch.Tensor | None,
    scratch: torch.Tensor,
    max_rank: int,
) -> None:
    """Compute expand_site in plain torch; the addresses in `entries` must be of host memory."""
    pieces = _pieces(scratch, len(out), max_rank, width_in, num_parts=len(widths))
    for slot, first, count in tiles.T.tolist():
        rows = slice(first, first + count)
        column = 0
        for part, width in enumerate(widths):
            columns = slice(column, column + width)
            y = out[rows, columns].float()
            rank, _, expand, gain, shift = (
                (0,) * 5 if slot < 0 else entries[slot, first_part + part].tolist()
            )
            y = y * numbers_at(gain, (width,), torch.float32) if gain else y
            y = y + bias[columns].float() if bias is not None else y
            y = y + numbers_at(shift, (width,), torch.float32) if shift else y
            if rank:
                y = y + pieces[part, :, rows, :rank].sum(0) @ _expand(
                    expand, rank, width, out.dtype
                )
            out[rows, columns] = y.to(out.dtype)
            column += width


def _pieces(
    scratch: torch.Tensor, rows: int, max_rank: int, width_in: int, num_parts: int
) -> torch.Tensor:
    return scratch[: scratch_numbers(rows, max_rank, width_in, num_parts)].view(
        num_parts, -1, rows, max_rank
    )


def _shrink(address: int, rank: int, x: torch.Tensor) -> torch.Tensor:
    return numbers_at(address, (rank, round_up(x.shape[1], ROW_STEP)), x.dtype)[
        :, : x.shape[1]
    ].float()


def _expand(address: int, rank: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    lane = lane_width(dtype)
    blocks = numbers_at(
        address, (ceil_div(width, BLOCK_COLUMNS), ceil_div(rank, lane), BLOCK_COLUMNS, lane), dtype
    ).float()
    return blocks.permute(1, 3, 0, 2).reshape(-1, len(blocks) * BLOCK_COLUMNS)[:rank, :width]
