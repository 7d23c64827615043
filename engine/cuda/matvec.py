"""Multiplies a weight by one row, bound by reading the weight once.

Each function has its plain torch reference beside it. Decides how many warps share a row of the
weight; does not know which linear it computes, nor any adapter.

A block makes a few outputs by itself, over all columns and in a fixed order: the same bits every
time. The expected times are the weight's bytes / 4.29 TB/s (what an H200 copies) at the shapes of
Llama-3.1-8B, bfloat16; measured in a graph over weights that are in no cache:

    linear      weight [rows, columns]     bytes    expected    measured    torch.mm
    q, k, v        6,144 x 4,096           50 MB     11.7 µs     13.9 µs     16.2 µs
    out            4,096 x 4,096           34 MB      7.8 µs     10.1 µs     13.2 µs
    gate, up      28,672 x 4,096          235 MB     54.8 µs     54.5 µs     61.5 µs (with SwiGLU)
    down           4,096 x 14,336         117 MB     27.4 µs     28.5 µs     31.9 µs
    head         128,256 x 4,096         1051 MB    245.1 µs    231.2 µs    248.6 µs
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional

from ..count import ceil_div
from ..model import layers
from ..model.families import GELU_TANH
from .elementwise import activate

READ_BYTES = 16
"""What a thread reads at once; it adds that much up by itself before it adds to its total."""
ROWS = 2
"""Rows of the weight that a block takes: when it folds one of gate and the same of up."""
WARP_COLUMNS = 512
"""Columns of a piece that one warp takes: two reads a thread and row in the short types."""
MAX_WARPS = 4


def choose_warps(columns: int) -> int:
    """Choose the number of warps for a weight of so many columns.

    Few columns still make two pieces: the compiler reads ahead only around a loop.

    Of ten shapes on an H200 this one was the fastest for four of the five linears above, and 1 %
    behind for gate and up.
    """
    return max(1, min(MAX_WARPS, int(triton.next_power_of_2(columns)) // (2 * WARP_COLUMNS)))


def matvec(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Compute `out [1, n] = x [1, width] @ weight[n, width].T + bias [n]` in float32; round once to
    out's dtype.

    x and weight have one dtype; the weight's rows lie one after the other. Grid [n / ROWS].
    """
    _launch(x, weight, bias, out, activation=None)


def matvec_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Compute matvec in plain torch."""
    out.copy_(_product(x, weight, bias))


def matvec_fold(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    activation: str,
) -> None:
    """Compute `out [1, n]` = activation(first half) * second half of `x [1, width] @ weight[2 * n,
    width].T + bias [2 * n]`, in float32; round once. activation: families.SILU or GELU_TANH.

    So gate and up are not rounded, as they are between a linear and elementwise.fold. Grid [n]: a
    block takes a row of gate and the same row of up.
    """
    _launch(x, weight, bias, out, activation=activation)


def matvec_fold_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    activation: str,
) -> None:
    """Compute matvec_fold in plain torch."""
    gate, up = _product(x, weight, bias).chunk(2, -1)
    out.copy_(layers.activate(gate, activation) * up)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return functional.linear(x.float(), weight.float(), None if bias is None else bias.float())


def _launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    *,
    activation: str | None,
) -> None:
    folds = activation is not None
    assert len(x) == len(out) == 1, "this is for one row"
    assert weight.is_contiguous(), "the weight's rows must lie one after the other"
    width = out.shape[1]
    rows = ROWS // 2 if folds else ROWS
    warps = choose_warps(weight.shape[1])
    _matvec[(ceil_div(width, rows),)](
        x,
        weight,
        weight if bias is None else bias,
        out,
        width,
        width_in=weight.shape[1],
        has_bias=bias is not None,
        folds=folds,
        gelu=activation == GELU_TANH,
        rows=rows,
        columns=warps * WARP_COLUMNS,
        lane=READ_BYTES // weight.element_size(),
        num_warps=warps,
        num_stages=1,
    )


@triton.jit(do_not_specialize=["width"])
def _matvec(
    x,
    weight,
    bias,
    out,
    width,
    width_in: tl.constexpr,
    has_bias: tl.constexpr,
    folds: tl.constexpr,
    gelu: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    lane: tl.constexpr,
):
    """Compute `rows` numbers of out, each from one row of the weight or, with `folds`, from two
    that are `width` apart.

    A piece is requested one round before it is added up. Otherwise the assembler, saving registers,
    would request a row or two and wait for them before requesting the next, whatever barrier is in
    between; this way every thread's reads of a piece are under way at once.
    """
    place = tl.program_id(0) * rows + tl.arange(0, rows)
    row = tl.minimum(place, width - 1)  # beyond the last, read the last again: no mask over rows
    first = weight + row.to(tl.int64)[:, None] * width_in
    second = first + tl.cast(width, tl.int64) * width_in
    column = tl.arange(0, columns)[None, :]
    total = tl.zeros((rows, columns // lane), tl.float32)
    other = tl.zeros((rows, columns // lane), tl.float32)
    numbers, piece, paired = _load_piece(x, first, second, column, width_in, folds)
    for at in range(columns, width_in + columns, columns):
        next_numbers, next_piece, next_paired = _load_piece(
            x, first, second, at + column, width_in, folds
        )
        total += _fold(piece, numbers, rows, columns, lane)
        if folds:
            other += _fold(paired, numbers, rows, columns, lane)
        numbers = next_numbers
        piece = next_piece
        paired = next_paired
    result = tl.sum(total, 1)
    if has_bias:
        result += tl.load(bias + row).to(tl.float32)
    if folds:
        up = tl.sum(other, 1)
        if has_bias:
            up += tl.load(bias + width + row).to(tl.float32)
        result = activate(result, gelu) * up
    tl.store(out + place, result.to(out.dtype.element_ty), place < width)


@triton.jit
def _load_piece(x, first, second, column, width_in: tl.constexpr, folds: tl.constexpr):
    """Load some columns of x [1, columns] and of the weight's rows [rows, columns], zeros beyond
    the last.

    x stays in the caches; the weight is read once, so it is marked to leave them first.
    """
    inside = column < width_in
    numbers = tl.load(x + column, inside, 0.0)
    piece = tl.load(first + column, inside, 0.0, eviction_policy="evict_first")
    paired = piece
    if folds:
        paired = tl.load(second + column, inside, 0.0, eviction_policy="evict_first")
    return numbers, piece, paired


@triton.jit
def _fold(piece, numbers, rows: tl.constexpr, columns: tl.constexpr, lane: tl.constexpr):
    """Multiply a piece with x and add up as far as one thread has it: [rows, columns / lane]."""
    return tl.sum(
        tl.reshape(piece.to(tl.float32) * numbers.to(tl.float32), (rows, columns // lane, lane)), 2
    )
