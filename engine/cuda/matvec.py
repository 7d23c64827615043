"""A linear of one row, bound by reading its weight once. Each function has its plain torch reference beside it.

A block makes a few outputs by itself, over all columns and in a fixed order: the same bits every time. The expected times are the weight's
bytes / 3.0 TB/s (what an H100 copies) at the shapes of Llama-3.1-8B, bfloat16; none is measured yet:

    linear      weight [rows, columns]     bytes      time
    q, k, v        6,144 x 4,096           50 MB     16.8 µs
    out            4,096 x 4,096           34 MB     11.2 µs
    gate, up      28,672 x 4,096          235 MB     78.3 µs
    down           4,096 x 14,336         117 MB     39.1 µs
    head         128,256 x 4,096         1051 MB    350.2 µs
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch.nn import functional

READ_BYTES = 16
"""What a thread asks for at once; it adds that much up by itself before it adds to what it had."""
WARP_COLUMNS = 256
"""Columns of a piece that one warp takes: 16 bytes a thread and row in the short types."""
MOST_ROWS, MOST_WARPS = 8, 4
ENOUGH_BLOCKS = 512
"""About four for each of 132 multiprocessors, all of them there at once."""


class Shape(NamedTuple):
    """What a block takes of a weight: `rows` of it, in pieces of `columns`, with `warps` warps."""

    rows: int
    columns: int
    warps: int


def choose_shape(rows: int, columns: int) -> Shape:
    """For a weight of so many rows and columns; unmeasured. Few columns still make some pieces: the compiler reads ahead only around a loop."""
    warps = max(1, min(MOST_WARPS, triton.next_power_of_2(columns) // (4 * WARP_COLUMNS)))
    return Shape(max(2, min(MOST_ROWS, _power_below(rows // ENOUGH_BLOCKS))), warps * WARP_COLUMNS, warps)


def _power_below(number: int) -> int:
    """The largest power of two that is no larger; 0 for 0."""
    return 1 << number.bit_length() >> 1


def matvec(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """`out [1, n] = x [1, width] @ weight[n, width].T + bias [n]` in float32, rounded once to out's dtype.

    x and weight have one dtype; the weight's rows lie one after the other.
    """
    _launch(x, weight, bias, out, choose_shape(*weight.shape), folds=False)


def matvec_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """See matvec."""
    out.copy_(_product(x, weight, bias))


def matvec_swiglu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """`out [1, n]` = silu(first half) * second half of `x [1, width] @ weight[2 * n, width].T + bias [2 * n]`, in float32, rounded once.

    So gate and up are not rounded, as they are between a linear and elementwise.swiglu.
    """
    _launch(x, weight, bias, out, choose_shape(*weight.shape), folds=True)


def matvec_swiglu_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """See matvec_swiglu."""
    gate, up = _product(x, weight, bias).chunk(2, -1)
    out.copy_(functional.silu(gate) * up)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return functional.linear(x.float(), weight.float(), None if bias is None else bias.float())


def _launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, shape: Shape, folds: bool) -> None:
    assert len(x) == len(out) == 1, "this is for one row"
    assert weight.is_contiguous(), "the weight's rows must lie one after the other"
    width, rows = out.shape[1], shape.rows // 2 if folds else shape.rows
    _matvec[(triton.cdiv(width, rows),)](
        x, weight, weight if bias is None else bias, out, width,
        width_in=weight.shape[1], has_bias=bias is not None, folds=folds, rows=rows, columns=shape.columns,
        lane=READ_BYTES // weight.element_size(), num_warps=shape.warps, num_stages=1,
    )  # fmt: skip


@triton.jit(do_not_specialize=["width"])
def _matvec(
    x, weight, bias, out, width,
    width_in: tl.constexpr, has_bias: tl.constexpr, folds: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, lane: tl.constexpr,
):  # fmt: skip
    """`rows` numbers of out, each of one row of the weight or, with `folds`, of two that are `width` apart.

    A piece is asked for one round before it is added up. Otherwise the assembler, saving registers, would ask for a row or two and wait for
    them before it asks for the next, whatever barrier is in between; so every thread's reads of a piece are under way at once.
    """
    place = tl.program_id(0) * rows + tl.arange(0, rows)
    row = tl.minimum(place, width - 1)  # beyond the last the last is read again: no mask over rows
    first = weight + row.to(tl.int64)[:, None] * width_in
    second = first + tl.cast(width, tl.int64) * width_in
    column = tl.arange(0, columns)[None, :]
    total, other = tl.zeros((rows, columns // lane), tl.float32), tl.zeros((rows, columns // lane), tl.float32)
    numbers, piece, paired = _load_piece(x, first, second, column, width_in, folds)
    for at in range(columns, width_in + columns, columns):
        next_numbers, next_piece, next_paired = _load_piece(x, first, second, at + column, width_in, folds)
        total += _fold(piece, numbers, rows, columns, lane)
        if folds:
            other += _fold(paired, numbers, rows, columns, lane)
        numbers, piece, paired = next_numbers, next_piece, next_paired
    result = tl.sum(total, 1)
    if has_bias:
        result += tl.load(bias + row).to(tl.float32)
    if folds:
        up = tl.sum(other, 1)
        if has_bias:
            up += tl.load(bias + width + row).to(tl.float32)
        small = tl.exp(-tl.abs(result))  # of the other sign it would overflow
        result = result * tl.where(result >= 0, 1.0, small) / (1.0 + small) * up
    tl.store(out + place, result.to(out.dtype.element_ty), place < width)


@triton.jit
def _load_piece(x, first, second, column, width_in: tl.constexpr, folds: tl.constexpr):
    """Some columns of x [1, columns] and of the weight's rows [rows, columns], zeros beyond the last; x stays in the caches, the weight need not."""
    inside = column < width_in
    numbers = tl.load(x + column, inside, 0.0)
    piece = tl.load(first + column, inside, 0.0, eviction_policy="evict_first")
    paired = piece
    if folds:
        paired = tl.load(second + column, inside, 0.0, eviction_policy="evict_first")
    return numbers, piece, paired


@triton.jit
def _fold(piece, numbers, rows: tl.constexpr, columns: tl.constexpr, lane: tl.constexpr):
    """A piece's products with x, added up as far as a thread has them: [rows, columns / lane]."""
    return tl.sum(tl.reshape(piece.to(tl.float32) * numbers.to(tl.float32), (rows, columns // lane, lane)), 2)
