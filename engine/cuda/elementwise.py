"""Computes the small operations between products: norms, rotation and storing, folding gate and up.

Each kernel has its plain torch reference beside it. Decides how a row is spread over blocks; knows
no layer, no adapter and no sequence.

Rows are contiguous; a tensor's rows may lie further apart than they are wide. Expected times are
bytes moved / 4.3 TB/s (what an H200 copies) at the shapes of Llama-3.1-8B. Below some 100 rows a
launch's own 2 µs are more: on an H200 each takes 2.1 to 2.4 µs at 64 rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch.nn import functional

from ..count import ceil_div
from ..lora.layout import numbers_at
from ..model import layers
from ..model.families import GELU_TANH

HEADS_PER_BLOCK = 8
"""Heads that one block of rotate_and_store takes: one warp's worth of 16-byte reads at head_dim 128
is two heads.
"""
FOLD_BLOCK = 1024
"""Columns that one block of fold takes."""


@dataclass(frozen=True)
class HeadNorms:
    """Weights of the norms of each query and each key head (Qwen3), [head_dim] float32."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


@dataclass(frozen=True)
class HeadGains:
    """By what adapters multiply the norms of heads.

    slots: [rows] int32, each row's slot, -1: none. entries: [num_slots, parts, 5] int64 as
    lora/bank.address_table gives it, its addresses on this device. entry: which of the parts is the
    queries' norm; the keys' follows.
    """

    slots: torch.Tensor
    entries: torch.Tensor
    entry: int


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """Normalise `hidden [rows, width]` by its root mean square and scale by `weight [width]`
    float32, into `out [rows, width]`, which may be hidden itself; round once.

    Grid [rows]: one block per row, the row in registers. 64 rows of 4096: 1.6 MB, 0.4 µs.

    Source: Zhang & Sennrich, Root Mean Square Layer Normalization (arXiv:1910.07467).
    """
    _launch_norm(hidden, None, weight, eps, out=out)


def rms_norm_reference(
    hidden: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor
) -> None:
    """Compute rms_norm with torch's own operation."""
    out.copy_(functional.rms_norm(hidden.float(), (hidden.shape[-1],), weight, eps))


def add_rms_norm(
    hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor
) -> None:
    """Add `delta [rows, width]` to `hidden [rows, width]` float32 in place, then normalise as
    rms_norm does.

    Grid [rows]. 64 rows of 4096: 3.1 MB, 0.7 µs.
    """
    _launch_norm(hidden, delta, weight, eps, out=out)


class _NormArguments(NamedTuple):
    """What _norm is given when it is launched, in the order of its parameters."""

    hidden: torch.Tensor
    delta: torch.Tensor
    weight: torch.Tensor
    out: torch.Tensor
    hidden_stride: int
    delta_stride: int
    out_stride: int
    width: int
    eps: float


def _launch_norm(
    hidden: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
) -> None:
    rows, width = hidden.shape
    block = triton.next_power_of_2(width)
    other = hidden if delta is None else delta
    _norm[(rows,)](
        *_NormArguments(
            hidden=hidden,
            delta=other,
            weight=weight,
            out=out,
            hidden_stride=hidden.stride(0),
            delta_stride=other.stride(0),
            out_stride=out.stride(0),
            width=width,
            eps=eps,
        ),
        adds=delta is not None,
        block=block,
        num_warps=max(4, min(16, block // 512)),
        num_stages=1,
    )


@triton.jit(do_not_specialize=["eps"])
def _norm(
    hidden,
    delta,
    weight,
    out,
    hidden_stride,
    delta_stride,
    out_stride,
    width,
    eps,
    adds: tl.constexpr,
    block: tl.constexpr,
):
    """Compute rms_norm of row program_id(0), after adding delta where `adds`.

    block: a power of two, at least `width`; columns beyond it are masked, and add 0 to the sum.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    scale = tl.load(weight + columns, inside, 0.0)
    x = tl.load(hidden + row * hidden_stride + columns, inside, 0.0).to(tl.float32)
    if adds:
        x += tl.load(delta + row * delta_stride + columns, inside, 0.0).to(tl.float32)
        tl.store(hidden + row * hidden_stride + columns, x, inside)
    inverse = tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    tl.store(
        out + row * out_stride + columns, (x * inverse * scale).to(out.dtype.element_ty), inside
    )


def add_rms_norm_reference(
    hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor
) -> None:
    """Compute add_rms_norm in plain torch."""
    hidden += delta
    rms_norm_reference(hidden, weight, eps, out)


class _RotateAndStoreArguments(NamedTuple):
    """What _rotate_and_store is given when it is launched, in the order of its parameters."""

    qkv: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    positions: torch.Tensor
    cells: torch.Tensor
    pool: torch.Tensor
    query_norm: torch.Tensor
    key_norm: torch.Tensor
    slots: torch.Tensor
    entries: torch.Tensor
    qkv_stride: int
    head_stride: int
    slot_stride: int
    entry: int
    eps: float


def rotate_and_store(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    positions: torch.Tensor,
    cells: torch.Tensor,
    pool_layer: torch.Tensor,
    heads: int,
    kv_heads: int,
    norms: HeadNorms | None,
    gains: HeadGains | None = None,
) -> None:
    """Norm and rotate the queries of `qkv [rows, (heads + 2 * kv_heads) * head_dim]` in place;
    store keys (normed, rotated) and values in the pool.

    cos, sin: [context, head_dim / 2] float32 by position, sines unsigned; both None: no rotation.
    Halves are rotated, as in layers.rotate. positions, cells: [rows] int32; cell < 0: a padding
    row, nothing is stored. pool_layer: [2 * kv_heads, num_pages, page_tokens * head_dim]. norms:
    None where heads are not normed. gains: of such norms, where an adapter of the step changes any.
    Everything between reading and writing is float32. The keys inside `qkv` are left as they were.

    Grid [rows, all heads / HEADS_PER_BLOCK]. 64 rows of 32 + 16 heads of 128, bfloat16: 1.6 MB, 0.4
    µs.

    Source: Su et al., RoFormer (arXiv:2104.09864); the norms of heads as in Qwen3
    (arXiv:2505.09388).
    """
    head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
    all_heads = heads + 2 * kv_heads
    rotates = cos is not None and sin is not None
    any_weight = qkv  # stands for a table that the kernel does not read
    query_norm, key_norm, eps = (
        (any_weight, any_weight, 0.0) if norms is None else (norms.query, norms.key, norms.eps)
    )
    _rotate_and_store[(len(qkv), ceil_div(all_heads, HEADS_PER_BLOCK))](
        *_RotateAndStoreArguments(
            qkv=qkv,
            cos=any_weight if cos is None else cos,
            sin=any_weight if sin is None else sin,
            positions=positions,
            cells=cells,
            pool=pool_layer,
            query_norm=query_norm,
            key_norm=key_norm,
            slots=any_weight if gains is None else gains.slots,
            entries=any_weight if gains is None else gains.entries,
            qkv_stride=qkv.stride(0),
            head_stride=pool_layer.stride(0),
            slot_stride=0 if gains is None else gains.entries.stride(0),
            entry=0 if gains is None else gains.entry,
            eps=eps,
        ),
        heads=heads,
        kv_heads=kv_heads,
        half=head_dim // 2,
        half_block=triton.next_power_of_2(head_dim // 2),
        heads_block=HEADS_PER_BLOCK,
        rotates=rotates,
        norms=norms is not None,
        adapted=norms is not None and gains is not None,
        num_warps=2,
        num_stages=1,
    )


@triton.jit(do_not_specialize=["entry", "eps"])
def _rotate_and_store(
    qkv,
    cos,
    sin,
    positions,
    cells,
    pool,
    query_norm,
    key_norm,
    slots,
    entries,
    qkv_stride,
    head_stride,
    slot_stride,
    entry,
    eps,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    half: tl.constexpr,
    half_block: tl.constexpr,
    heads_block: tl.constexpr,
    rotates: tl.constexpr,
    norms: tl.constexpr,
    adapted: tl.constexpr,
):
    """Take `heads_block` heads of row program_id(0), as rotate_and_store says.

    `x` and `y` are a head's two halves, [heads_block, half]. Each head is a query, a key or a value
    by its number, so one block may hold all three kinds, and what applies to one kind is masked for
    the others.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * heads_block + tl.arange(0, heads_block)[:, None]
    at = tl.arange(0, half_block)[None, :]
    inside = (head < heads + 2 * kv_heads) & (at < half)
    is_query = head < heads
    is_value = head >= heads + kv_heads
    position = tl.load(positions + row)
    cell = tl.load(cells + row).to(tl.int64)
    source = qkv + row * qkv_stride + head * (2 * half) + at
    # A value passes through unchanged, so it is not rounded anew: its bits are copied.
    first = tl.load(source, inside, 0.0)
    second = tl.load(source + half, inside, 0.0)
    x = first.to(tl.float32)
    y = second.to(tl.float32)
    if norms:
        # "+ 0 * head" spreads the one vector over all heads of the block before it is masked
        inverse = tl.rsqrt((tl.sum(x * x, 1) + tl.sum(y * y, 1)) / (2 * half) + eps)[:, None]
        for_query = inside & is_query
        for_key = inside & (head >= heads) & (head < heads + kv_heads)
        x *= inverse * (
            tl.load(query_norm + at + 0 * head, for_query, 0.0)
            + tl.load(key_norm + at + 0 * head, for_key, 0.0)
        )
        y *= inverse * (
            tl.load(query_norm + half + at + 0 * head, for_query, 0.0)
            + tl.load(key_norm + half + at + 0 * head, for_key, 0.0)
        )
        if adapted:
            slot = tl.load(slots + row)
            query_gain = tl.full((), 0, tl.int64)
            key_gain = tl.full((), 0, tl.int64)
            if slot >= 0:
                place = entries + slot.to(tl.int64) * slot_stride + entry * 5 + 3
                query_gain = tl.load(place)
                key_gain = tl.load(place + 5)
            x *= tl.where(
                is_query, _gain(query_gain, at, at < half), _gain(key_gain, at, at < half)
            )
            y *= tl.where(
                is_query,
                _gain(query_gain, half + at, at < half),
                _gain(key_gain, half + at, at < half),
            )
    if rotates:
        table = position.to(tl.int64) * half + at
        c = tl.load(cos + table, at < half, 0.0)
        s = tl.load(sin + table, at < half, 0.0)
        x, y = x * c - y * s, y * c + x * s
    x = tl.where(is_value, first, x.to(first.dtype))
    y = tl.where(is_value, second, y.to(first.dtype))
    tl.store(source, x, inside & is_query)
    tl.store(source + half, y, inside & is_query)
    stored = inside & (head >= heads) & (cell >= 0)
    target = pool + (head - heads).to(tl.int64) * head_stride + cell * (2 * half) + at
    tl.store(target, x, stored)
    tl.store(target + half, y, stored)


@triton.jit
def _gain(address, at, there):
    """Load some numbers of an adapter's gain; an address of 0 stands for ones."""
    # the branch is the same for the whole block
    gain = tl.full(at.shape, 1.0, tl.float32)
    if address != 0:
        gain = tl.load(tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 64) + at, there, 1.0)
    return gain


def rotate_and_store_reference(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    positions: torch.Tensor,
    cells: torch.Tensor,
    pool_layer: torch.Tensor,
    heads: int,
    kv_heads: int,
    norms: HeadNorms | None,
    gains: HeadGains | None = None,
) -> None:
    """Compute rotate_and_store in plain torch; the addresses in `gains` must be of host memory."""
    by_head = qkv.view(len(qkv), heads + 2 * kv_heads, -1)
    query = by_head[:, :heads].float()
    key = by_head[:, heads : heads + kv_heads].float()
    if norms is not None:
        query = functional.rms_norm(query, query.shape[-1:], norms.query, norms.eps)
        key = functional.rms_norm(key, key.shape[-1:], norms.key, norms.eps)
    if norms is not None and gains is not None:
        _multiply_heads(query, gains, 0)
        _multiply_heads(key, gains, 1)
    if cos is not None and sin is not None:
        query, key = (
            _rotated(part, cos[positions][:, None], sin[positions][:, None])
            for part in (query, key)
        )
    by_head[:, :heads] = query
    stored = cells >= 0
    by_cell = pool_layer.view(2 * kv_heads, -1, query.shape[-1])
    by_cell[:, cells[stored].long()] = torch.cat(
        (key.to(qkv.dtype), by_head[:, heads + kv_heads :]), 1
    )[stored].transpose(0, 1)


def _multiply_heads(heads: torch.Tensor, gains: HeadGains, norm: int) -> None:
    """Multiply `heads [rows, n, head_dim]` in place, by the queries' gain (0) or the keys' (1)."""
    for row, slot in enumerate(gains.slots.tolist()):
        address = int(gains.entries[slot, gains.entry + norm, 3]) if slot >= 0 else 0
        if address:
            heads[row] *= numbers_at(address, heads.shape[2:], torch.float32)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def fold(gate_up: torch.Tensor, out: torch.Tensor, activation: str) -> None:
    """Compute `out [rows, n]` = activation(first half) * second half of `gate_up [rows, 2 * n]`, in
    float32; round once. activation: families.SILU or GELU_TANH.

    Grid [rows, n / FOLD_BLOCK]. 64 rows of 2 * 14336, bfloat16: 5.5 MB, 1.3 µs.

    Source: Shazeer, GLU Variants Improve Transformer (arXiv:2002.05202).
    """
    rows, width = out.shape
    _fold_gate[(rows, ceil_div(width, FOLD_BLOCK))](
        gate_up,
        out,
        gate_up.stride(0),
        out.stride(0),
        width,
        gelu=activation == GELU_TANH,
        block=FOLD_BLOCK,
        num_warps=4,
        num_stages=1,
    )


@triton.jit
def activate(gate, gelu: tl.constexpr):
    """Compute GELU by way of a tanh, or else SiLU, of float32 numbers: gate / (1 + exp(-x))."""
    # (1 + tanh u) / 2 is 1 / (1 + exp(-2u))
    x = 1.5957691216057307 * (gate + 0.044715 * gate * gate * gate) if gelu else gate
    small = tl.exp(-tl.abs(x))  # exp(-x) itself would overflow for large negative x
    return gate * tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def _fold_gate(
    gate_up, out, source_stride, out_stride, width, gelu: tl.constexpr, block: tl.constexpr
):
    """Compute `block` columns of row program_id(0)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    gate = tl.load(gate_up + row * source_stride + columns, inside, 0.0).to(tl.float32)
    up = tl.load(gate_up + row * source_stride + width + columns, inside, 0.0).to(tl.float32)
    folded = activate(gate, gelu) * up
    tl.store(out + row * out_stride + columns, folded.to(out.dtype.element_ty), inside)


def fold_reference(gate_up: torch.Tensor, out: torch.Tensor, activation: str) -> None:
    """Compute fold in plain torch."""
    gate, up = gate_up.float().chunk(2, -1)
    out.copy_(layers.activate(gate, activation) * up)
