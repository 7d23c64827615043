"""Multiplies by weights in 4 or 8 bits: by one row, bound by reading the weight once, and by tiles
of rows; looks rows of them up.

Each function has its plain torch reference beside it. Decides how a product is cut into blocks;
does not know which linear it computes, nor any adapter.

    4 bits   a Quantised on the device: two codes a byte, a float16 scale and offset for each group
             of inputs
    8 bits   Whole: int8 with a float32 scale for each output

Every output is made by one block, over all inputs in order: the same bits every time. For one row
the sums over a group's codes are in float32, then scaled; for more rows a tile of the weight is
widened to x's dtype, as bfloat16 elsewhere is, and goes through tensor cores.

Not measured on a card yet. The times to expect of one row are the weight's bytes / 4.29 TB/s (what
an H200 copies) at the shapes of Llama-3.1-8B, groups of 32 (5 bits a number, scales and offsets
among them) and 8 bits; matvec.py has those of bfloat16:

    linear      weight [rows, columns]     4 bits     8 bits
    q, k, v        6,144 x 4,096           3.7 µs     5.9 µs
    out            4,096 x 4,096           2.4 µs     3.9 µs
    gate, up      28,672 x 4,096          17.1 µs    27.4 µs
    down           4,096 x 14,336          8.6 µs    13.7 µs
    head         128,256 x 4,096          76.6 µs   122.6 µs

Source: weight-only products that widen tiles on their way, Frantar et al., MARLIN
(arXiv:2408.11743).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch.nn import functional

from ..count import ceil_div
from ..model.layers import quantise_rows
from ..model.quantised import Quantised

READ_BYTES = 16
"""What a thread reads at once."""
ROWS = 4
"""Rows of the weight that a block takes for one row of x."""
WARP_COLUMNS = 1024
"""Columns of a piece that one warp takes: a read a thread and row of 4 bits, two of 8."""
MAX_WARPS = 4
PIECE_COLUMNS = 64
"""Columns of the weight that a tile takes at once, or a whole group where that is more."""
MIN_TILE_ROWS = 16
"""The least that a tensor core takes."""
MAX_TILE_ROWS = 64
TILE_OUTPUTS = 64
MAX_LOOKED_UP = 1024
"""Columns of a table that a block takes at once."""


@dataclass(frozen=True)
class Whole:
    """A weight [out, in] in 8 bits: numbers int8 [out, in], scales float32 [out]."""

    numbers: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> Whole:
        """Quantise each row of `weight [out, in]` float32 by its own largest value."""
        numbers, scales = quantise_rows(weight)
        return cls(numbers, scales.squeeze(1))

    @property
    def shape(self) -> tuple[int, int]:
        """Return the weight's rows and columns: outputs, inputs."""
        return self.numbers.shape[0], self.numbers.shape[1]

    def dequantise(self) -> torch.Tensor:
        """Return the weight, [out, in] in float32."""
        return self.numbers.float() * self.scales[:, None]


Narrow = Quantised | Whole


def narrow_matvec(
    x: torch.Tensor, weight: Narrow, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Compute `out [1, n] = x [1, width] @ weight[n, width].T + bias [n]` in float32; round once to
    out's dtype.

    Grid [n / ROWS].
    """
    assert len(x) == len(out) == 1, "this is for one row"
    width, width_in = weight.shape
    warps = max(1, min(MAX_WARPS, int(triton.next_power_of_2(width_in)) // (2 * WARP_COLUMNS)))
    parts = _parts(weight)
    _narrow_row[(ceil_div(width, ROWS),)](
        x,
        parts.codes,
        parts.scales,
        parts.offsets,
        out if bias is None else bias,
        out,
        width,
        width_in=width_in,
        group=parts.group,
        bits=parts.bits,
        has_bias=bias is not None,
        rows=ROWS,
        columns=warps * WARP_COLUMNS,
        num_warps=warps,
        num_stages=1,
    )


def narrow_matvec_reference(
    x: torch.Tensor, weight: Narrow, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Compute narrow_matvec in plain torch."""
    out.copy_(functional.linear(x.float(), weight.dequantise(), _float(bias)))


def narrow_product(
    x: torch.Tensor, weight: Narrow, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Compute `out [rows, n] = x [rows, width] @ weight[n, width].T + bias [n]`, summed in float32;
    round once to out's dtype.

    Weights of 4 bits are rounded to x's dtype, as those in it are; those of 8 bits are whole
    numbers there, and scaled after they are summed. Grid [rows / tile, n / TILE_OUTPUTS], rows
    fastest, so that blocks that read the same of the weight run beside one another.
    """
    rows = len(x)
    width, width_in = weight.shape
    tile_rows = min(MAX_TILE_ROWS, max(MIN_TILE_ROWS, int(triton.next_power_of_2(rows))))
    parts = _parts(weight)
    _narrow_tile[(ceil_div(rows, tile_rows), ceil_div(width, TILE_OUTPUTS))](
        x,
        parts.codes,
        parts.scales,
        parts.offsets,
        out if bias is None else bias,
        out,
        rows,
        width,
        x.stride(0),
        out.stride(0),
        width_in=width_in,
        group=parts.group,
        bits=parts.bits,
        has_bias=bias is not None,
        tile_rows=tile_rows,
        tile_outputs=TILE_OUTPUTS,
        piece=max(PIECE_COLUMNS, parts.group),
        num_warps=4,
        num_stages=3,
    )


def narrow_product_reference(
    x: torch.Tensor, weight: Narrow, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Compute narrow_product in plain torch."""
    if isinstance(weight, Whole):
        plain = functional.linear(x.float(), weight.numbers.float()) * weight.scales
        out.copy_(plain if bias is None else plain + bias.float())
    else:
        rounded = weight.dequantise().to(x.dtype).float()
        out.copy_(functional.linear(x.float(), rounded, _float(bias)))


def look_up(tokens: torch.Tensor, table: Quantised, out: torch.Tensor) -> None:
    """Compute `out [rows, width]` float32 = rows `tokens [rows]` of a table in 4 bits.

    Grid [rows].
    """
    parts = _parts(table)
    width = table.shape[1]
    _look_up[(len(tokens),)](
        tokens,
        parts.codes,
        parts.scales,
        parts.offsets,
        out,
        out.stride(0),
        width=width,
        group=parts.group,
        columns=min(MAX_LOOKED_UP, int(triton.next_power_of_2(width))),
        num_warps=4,
    )


def look_up_reference(tokens: torch.Tensor, table: Quantised, out: torch.Tensor) -> None:
    """Compute look_up in plain torch."""
    out.copy_(table.take(tokens).dequantise())


def _float(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.float()


@dataclass(frozen=True)
class _Parts:
    """What a kernel reads of a weight; `offsets` is not read where there are none."""

    codes: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor
    group: int
    bits: int


def _parts(weight: Narrow) -> _Parts:
    if isinstance(weight, Whole):
        return _Parts(weight.numbers, weight.scales, weight.scales, group=READ_BYTES, bits=8)
    assert weight.codes.is_contiguous(), "the weight's rows must lie one after the other"
    return _Parts(weight.codes, weight.scales, weight.offsets, group=weight.group, bits=4)


@triton.jit(do_not_specialize=["width"])
def _narrow_row(
    x,
    codes,
    scales,
    offsets,
    bias,
    out,
    width,
    width_in: tl.constexpr,
    group: tl.constexpr,
    bits: tl.constexpr,
    has_bias: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    """Compute `rows` numbers of out, each from one row of the weight.

    A piece is requested one round before it is added up, as in matvec.py and for its reason. With 8
    bits a group is what a thread reads at once.
    """
    place = tl.program_id(0) * rows + tl.arange(0, rows)
    row = tl.minimum(place, width - 1).to(tl.int64)  # beyond the last, read the last again
    part = tl.arange(0, columns // group)
    total = tl.zeros((rows, columns // group), tl.float32)
    numbers, piece, scale, offset = _load_groups(
        x, codes, scales, offsets, row, part, width_in, group, bits
    )
    for at in range(columns // group, tl.cdiv(width_in, group), columns // group):
        next_numbers, next_piece, next_scale, next_offset = _load_groups(
            x, codes, scales, offsets, row, at + part, width_in, group, bits
        )
        total += _add_groups(numbers, piece, scale, offset, bits)
        numbers = next_numbers
        piece = next_piece
        scale = next_scale
        offset = next_offset
    total += _add_groups(numbers, piece, scale, offset, bits)
    result = tl.sum(total, 1)
    if bits == 8:
        result *= tl.load(scales + row)
    if has_bias:
        result += tl.load(bias + row).to(tl.float32)
    tl.store(out + place, result.to(out.dtype.element_ty), place < width)


@triton.jit
def _load_groups(
    x,
    codes,
    scales,
    offsets,
    row,
    part,
    width_in: tl.constexpr,
    group: tl.constexpr,
    bits: tl.constexpr,
):
    """Load some groups: of x [groups, group], of the weight [rows, groups, bytes of a group] and,
    with 4 bits, their scales and offsets [rows, groups]; zeros beyond the last.

    x stays in the caches; the weight is read once, so it is marked to leave them first.
    """
    each: tl.constexpr = group * bits // 8
    column = part[:, None] * group + tl.arange(0, group)[None, :]
    numbers = tl.load(x + column, column < width_in, 0.0)
    byte = part[None, :, None] * each + tl.arange(0, each)[None, None, :]
    size: tl.constexpr = width_in * bits // 8
    piece = tl.load(
        codes + row[:, None, None] * size + byte, byte < size, 0, eviction_policy="evict_first"
    )
    scale = tl.zeros((1, 1), tl.float32)
    offset = scale
    if bits == 4:
        many: tl.constexpr = width_in // group
        place = row[:, None] * many + part[None, :]
        there = (part < many)[None, :]
        scale = tl.load(scales + place, there, 0.0, eviction_policy="evict_first").to(tl.float32)
        offset = tl.load(offsets + place, there, 0.0, eviction_policy="evict_first").to(tl.float32)
    return numbers, piece, scale, offset


@triton.jit
def _add_groups(numbers, piece, scale, offset, bits: tl.constexpr):
    """Multiply a piece of the weight with x and add up each group, [rows, groups]."""
    if bits == 8:
        sums = tl.sum(piece.to(tl.float32) * numbers.to(tl.float32)[None, :, :], 2)
    else:
        pairs = tl.reshape(numbers.to(tl.float32), (numbers.shape[0], numbers.shape[1] // 2, 2))
        even, odd = tl.split(pairs)
        low = (piece & 15).to(tl.float32)
        high = (piece >> 4).to(tl.float32)
        codes = tl.sum(low * even[None, :, :] + high * odd[None, :, :], 2)
        sums = scale * codes + offset * tl.sum(even + odd, 1)[None, :]
    return sums


@triton.jit(do_not_specialize=["num_rows", "width"])
def _narrow_tile(
    x,
    codes,
    scales,
    offsets,
    bias,
    out,
    num_rows,
    width,
    x_stride,
    out_stride,
    width_in: tl.constexpr,
    group: tl.constexpr,
    bits: tl.constexpr,
    has_bias: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_outputs: tl.constexpr,
    piece: tl.constexpr,
):
    """Compute a tile of out, [tile_rows, tile_outputs], `piece` columns of the weight at a time."""
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    place = tl.program_id(1) * tile_outputs + tl.arange(0, tile_outputs)
    output = tl.minimum(place, width - 1).to(tl.int64)  # beyond the last, read the last again
    size: tl.constexpr = width_in * bits // 8
    each: tl.constexpr = piece * bits // 8
    byte = tl.arange(0, each)
    total = tl.zeros((tile_rows, tile_outputs), tl.float32)
    for first in range(0, width_in, piece):
        column = first + tl.arange(0, piece)
        numbers = tl.load(
            x + row.to(tl.int64)[:, None] * x_stride + column[None, :],
            (row < num_rows)[:, None] & (column < width_in)[None, :],
            0.0,
        )
        at = first * bits // 8 + byte
        narrow = tl.load(codes + output[:, None] * size + at[None, :], (at < size)[None, :], 0)
        if bits == 8:
            wide = narrow.to(numbers.dtype)
        else:
            wide = _widen(
                narrow,
                scales,
                offsets,
                output,
                first // group,
                width_in,
                group,
                piece,
                tile_outputs,
            ).to(numbers.dtype)
        total = tl.dot(numbers, tl.trans(wide), total, input_precision="ieee")
    if bits == 8:
        total *= tl.load(scales + output)[None, :]
    if has_bias:
        total += tl.load(bias + output).to(tl.float32)[None, :]
    tl.store(
        out + row.to(tl.int64)[:, None] * out_stride + place[None, :],
        total.to(out.dtype.element_ty),
        (row < num_rows)[:, None] & (place < width)[None, :],
    )


@triton.jit
def _widen(
    narrow,
    scales,
    offsets,
    output,
    first_group,
    width_in: tl.constexpr,
    group: tl.constexpr,
    piece: tl.constexpr,
    tile_outputs: tl.constexpr,
):
    """Return the weights [tile_outputs, piece] of `narrow [tile_outputs, piece / 2]` in float32."""
    groups: tl.constexpr = piece // group
    many: tl.constexpr = width_in // group
    part = first_group + tl.arange(0, groups)
    place = output[:, None] * many + part[None, :]
    there = (part < many)[None, :]
    scale = tl.load(scales + place, there, 0.0).to(tl.float32)
    offset = tl.load(offsets + place, there, 0.0).to(tl.float32)
    whole = tl.interleave(narrow & 15, narrow >> 4).to(tl.float32)
    grouped = tl.reshape(whole, (tile_outputs, groups, group))
    return tl.reshape(grouped * scale[:, :, None] + offset[:, :, None], (tile_outputs, piece))


@triton.jit
def _look_up(
    tokens,
    codes,
    scales,
    offsets,
    out,
    out_stride,
    width: tl.constexpr,
    group: tl.constexpr,
    columns: tl.constexpr,
):
    """Widen one row of a table."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(tokens + row).to(tl.int64)
    for first in range(0, width, columns):
        byte = first // 2 + tl.arange(0, columns // 2)
        pairs = tl.load(codes + token * (width // 2) + byte, byte < width // 2, 0)
        column = first + tl.arange(0, columns)
        place = token * (width // group) + column // group
        scale = tl.load(scales + place, column < width, 0.0).to(tl.float32)
        offset = tl.load(offsets + place, column < width, 0.0).to(tl.float32)
        whole = tl.interleave(pairs & 15, pairs >> 4).to(tl.float32)
        tl.store(out + row * out_stride + column, whole * scale + offset, column < width)
