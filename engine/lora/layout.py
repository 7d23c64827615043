"""Lays an adapter out in memory: one contiguous blob, everything that the executor reads at fixed,
aligned offsets.

Per adapted linear of a layer (a *part*), in the model's dtype unless it says otherwise; V is how
many numbers share 32 bits. Of a part that each expert has, shrink and expand of all experts follow
one another, all of one rank:

    shrink  [rank, width_in]                                A, rows padded to ROW_STEP columns
    expand  [width_out / 16, rank / V, 16, V]               B by blocks of 16 columns, its scale
            folded in
    gain    [width_out] float32, only where it is given     multiplies the base's product
    shift   [width_out] float32, only where it is given     is added to the output

What an adapter does to a norm of a layer is a gain alone, by which what is normalised is
multiplied (of a norm of heads each head). Parts lie in the order of model/entries.py: norms follow
the linears of all layers.

The parts that are fused into one linear lie together: first the shrink of each, which one pass over
an input reads, then the rest. Nothing is padded to a largest rank and nothing is stored for a part
that the adapter leaves alone. Adapters with the same shape everywhere share a layout; the torch
twin stacks those. Decides no place for the blob itself.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..count import ceil_div, round_up
from ..model.config import ModelConfig
from ..model.entries import expert_layers
from ..model.parts import Part, expert_parts, layer_parts, norm_width, norms_of, parts_of

if TYPE_CHECKING:
    from .ends import Ends

ALIGN_BYTES = 64
PAGE_BYTES = 4096
"""A blob in host memory has its pages for itself, so that a device's driver can pin them where they
are.
"""
ROOM_BYTES = 2 * PAGE_BYTES
"""How much more than a blob is allocated for that."""
BLOCK_COLUMNS = 16
ROW_STEP = 32
NORM = -1
"""The kind of site that a norm is said to be."""


@dataclass(frozen=True)
class PartWeights:
    """The change of an adapter to one linear, float32: `y = gain * (W @ x) + base_bias + shift + b
    @ (a @ x)`.

    a: [rank, in]; b: [out, rank] with the scale (and for DoRA the gain) multiplied in; gain, shift:
    [out]. Of a part that each expert has: a [experts, rank, in], b [experts, out, rank].
    """

    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    gain: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Return the rows of `a`; 0 without one."""
        return 0 if self.a is None else self.a.shape[-2]


@dataclass(frozen=True)
class Placed:
    """The place of one part, in byte offsets into the blob.

    `gain_at` and `shift_at` are None where there is none. `rank` 0: no pair.
    """

    part: Part
    rank: int
    shrink_at: int
    expand_at: int
    gain_at: int | None
    shift_at: int | None


@dataclass(frozen=True)
class Layout:
    """All parts of an adapter in the order of model/entries.py, of which the last `num_norms` are
    norms, and the blob's length.

    Equal layouts can be stacked.
    """

    parts: tuple[Placed, ...]
    size_bytes: int
    dtype: torch.dtype
    num_norms: int = 0

    @property
    def linears(self) -> tuple[Placed, ...]:
        """Return the parts that are linears."""
        return self.parts[: len(self.parts) - self.num_norms]

    @property
    def norms(self) -> tuple[Placed, ...]:
        """Return the parts that are norms."""
        return self.parts[len(self.parts) - self.num_norms :]

    @property
    def sites(self) -> list[list[Placed]]:
        """Return the linears by what is fused; sites that follow one another differ in kind."""
        return [list(site) for _, site in groupby(self.linears, lambda placed: placed.part.kind)]

    # Hashing hundreds of parts for every look-up of a stack would cost more than the look-up.
    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.parts, self.size_bytes, self.dtype))

    @cached_property
    def offsets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return two tables [parts, 5] int64: rank, then where shrink, expand, gain and shift lie
        in the blob; and 1 where the first has such a place.
        """
        places = [
            (part.shrink_at, part.expand_at, part.gain_at, part.shift_at) for part in self.parts
        ]
        table = np.array(
            [
                (part.rank, *(at or 0 for at in each))
                for part, each in zip(self.parts, places, strict=True)
            ],
            np.int64,
        )
        return table, np.array([(0, *(at is not None for at in each)) for each in places], np.int64)

    @cached_property
    def shrunk_words(self) -> int:
        """Return the most 32-bit words that shrinking one row for one site gives."""
        lane = lane_width(self.dtype)
        words = (sum(ceil_div(placed.rank, lane) for placed in site) for site in self.sites)
        return max(words, default=0)


@dataclass(frozen=True)
class PackedAdapter:
    """A checked adapter in its final form.

    `blob` is [layout.size_bytes] uint8; `ends` are its changes outside the layers.
    """

    layout: Layout
    blob: torch.Tensor
    rank: int
    ends: Ends | None = None

    def digest(self) -> bytes:
        """Return the SHA-256 of content and shape: equal for equal answers on one base."""
        shape = repr([(p.rank, p.gain_at, p.shift_at) for p in self.layout.parts]).encode()
        ends = self.ends.digest() if self.ends else b""
        return hashlib.sha256(
            shape + ends + hashlib.sha256(self.blob.numpy().data).digest()
        ).digest()

    @property
    def size_bytes(self) -> int:
        """Return the bytes it occupies in memory."""
        return self.blob.numel() + (self.ends.size_bytes if self.ends else 0)


@dataclass(frozen=True)
class Loaded:
    """A packed adapter with its digest, which costs as much as reading it and so is taken once."""

    packed: PackedAdapter
    digest: bytes


def pack(
    config: ModelConfig,
    parts: dict[tuple[int, str], PartWeights],
    dtype: torch.dtype,
    ends: Ends | None = None,
) -> PackedAdapter:
    """Pack checked weights, by (layer, name of the part or norm), into one blob; the norm behind
    all layers is that of one more.
    """
    layout = make_layout(config, parts, dtype)
    blob = on_own_pages(
        torch.zeros(layout.size_bytes + ROOM_BYTES, dtype=torch.uint8)
    )  # zeros cost nothing here until they are written over
    places = dict(zip(_keys(config), layout.parts, strict=True))
    for key, weights in parts.items():
        placed = places[key]
        if weights.a is not None and weights.b is not None:
            shrink_view(layout, placed, blob[None]).copy_(weights.a)
            each = weights.b if weights.b.dim() == 3 else weights.b[None]
            for blocks, b in zip(expand_view(layout, placed, blob[None]), each, strict=True):
                _write_expand(blocks, b)
        for at, vector, fill in (
            (placed.gain_at, weights.gain, 1.0),
            (placed.shift_at, weights.shift, 0.0),
        ):
            if at is not None and vector is not None:
                padded = blob[at : at + num_blocks(placed.part) * BLOCK_COLUMNS * 4].view(
                    torch.float32
                )
                padded.fill_(fill)[: len(vector)] = vector
    return PackedAdapter(
        layout, blob, max((weights.rank for weights in parts.values()), default=0), ends
    )


def on_own_pages(room: torch.Tensor) -> torch.Tensor:
    """Return the part of `room [n + ROOM_BYTES]` uint8 that begins on a page and shares
    none, [n].
    """
    return room[-room.data_ptr() % PAGE_BYTES :][: len(room) - ROOM_BYTES]


def make_layout(
    config: ModelConfig, parts: dict[tuple[int, str], PartWeights], dtype: torch.dtype
) -> Layout:
    """Place every part and norm of every layer."""
    placed: list[Placed] = []
    at = 0
    for layer, parts_there in _layers(config):
        for _, site in groupby(parts_there, key=lambda part: part.kind):
            fused = [(part, parts.get((layer, part.name), PartWeights())) for part in site]
            # All shrinks of a site come first: one pass over an input reads them in a row.
            shrinks = [
                part.count * weights.rank * padded_in(part) * dtype.itemsize
                for part, weights in fused
            ]
            starts = list(accumulate(map(_aligned, shrinks), initial=at))
            at = starts.pop()
            for (part, weights), shrink_at in zip(fused, starts, strict=True):
                place, at = _place(part, weights, dtype, shrink_at, at)
                placed.append(place)
    num_linears = len(placed)
    for key in list(_keys(config))[num_linears:]:
        width = norm_width(config, key[1])
        norm = Part(key[1], width, width, NORM)
        place, at = _place(norm, parts.get(key, PartWeights()), dtype, at, at)
        placed.append(place)
    return Layout(tuple(placed), at, dtype, len(placed) - num_linears)


def _keys(config: ModelConfig) -> Iterator[tuple[int, str]]:
    """Yield layer and name of every part and norm, in the order of a layout."""
    yield from ((layer, part.name) for layer, parts in _layers(config) for part in parts)
    yield from ((layer, name) for layer in range(config.layers) for name in norms_of(config))
    yield config.layers, "norm"


def _layers(config: ModelConfig) -> Iterator[tuple[int, tuple[Part, ...]]]:
    """Yield each layer and its parts, then each layer with experts and what it has besides."""
    yield from ((layer, parts_of(config)) for layer in range(config.layers))
    yield from ((layer, expert_parts(config)) for layer in expert_layers(config))


def _place(
    part: Part, weights: PartWeights, dtype: torch.dtype, shrink_at: int, at: int
) -> tuple[Placed, int]:
    """Place what follows the shrinks of a site, from `at` on; return it and where it ends."""
    lane = lane_width(dtype)
    lanes = part.count * num_blocks(part) * ceil_div(weights.rank, lane)
    expand_bytes = lanes * BLOCK_COLUMNS * lane * dtype.itemsize
    vector_bytes = num_blocks(part) * BLOCK_COLUMNS * 4
    expand_at = at
    at = at + _aligned(expand_bytes)
    gain_at, at = (at, at + _aligned(vector_bytes)) if weights.gain is not None else (None, at)
    shift_at, at = (at, at + _aligned(vector_bytes)) if weights.shift is not None else (None, at)
    return Placed(part, weights.rank, shrink_at, expand_at, gain_at=gain_at, shift_at=shift_at), at


def lane_width(dtype: torch.dtype) -> int:
    """Return V: how many numbers of `dtype` share 32 bits."""
    return 4 // dtype.itemsize


def shrink_view(layout: Layout, placed: Placed, blobs: torch.Tensor) -> torch.Tensor:
    """View A of stacked blobs [n, size_bytes] as [n * count, rank, width_in]; of several blobs and
    experts it is a copy.
    """
    width = padded_in(placed.part)
    count = placed.part.count
    end = placed.shrink_at + count * placed.rank * width * layout.dtype.itemsize
    numbers = blobs[:, placed.shrink_at : end].view(layout.dtype)
    whole = numbers.reshape(len(blobs) * count, placed.rank, width)
    return whole[:, :, : placed.part.width_in]


def expand_view(layout: Layout, placed: Placed, blobs: torch.Tensor) -> torch.Tensor:
    """View B of stacked blobs [n, size_bytes] as [n * count, blocks, ceil(rank / V), 16, V]; of
    several blobs and experts it is a copy.
    """
    lane = lane_width(layout.dtype)
    count = placed.part.count
    blocks, lanes = num_blocks(placed.part), ceil_div(placed.rank, lane)
    end = placed.expand_at + count * blocks * lanes * BLOCK_COLUMNS * 4
    numbers = blobs[:, placed.expand_at : end].view(layout.dtype)
    return numbers.reshape(len(blobs) * count, blocks, lanes, BLOCK_COLUMNS, lane)


def dense_expand(layout: Layout, placed: Placed, blobs: torch.Tensor) -> torch.Tensor:
    """Copy B of stacked blobs into [n * count, rank, width_out]."""
    blocks = expand_view(layout, placed, blobs)
    dense = blocks.permute(0, 2, 4, 1, 3).reshape(len(blocks), -1, blocks.shape[1] * BLOCK_COLUMNS)
    return dense[:, : placed.rank, : placed.part.width_out]


def vector_view(at: int, placed: Placed, blobs: torch.Tensor) -> torch.Tensor:
    """View gain or shift of stacked blobs as [n, width_out] float32."""
    return blobs[:, at : at + placed.part.width_out * 4].view(torch.float32)


def numbers_at(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """View what lies at `address` in host memory, without a copy."""
    memory = (ctypes.c_uint8 * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _write_expand(blocks: torch.Tensor, b: torch.Tensor) -> None:
    """Scatter b [out, rank] into [blocks, ceil(rank / V), 16, V], which is zero where it is
    padded.
    """
    num_blocks, num_lanes, columns, lane = blocks.shape
    out, rank = b.shape
    if out == num_blocks * columns and rank == num_lanes * lane:
        blocks.copy_(b.view(num_blocks, columns, num_lanes, lane).transpose(1, 2))
        return
    padded = torch.nn.functional.pad(b, (0, num_lanes * lane - rank, 0, num_blocks * columns - out))
    blocks.copy_(padded.view(num_blocks, columns, num_lanes, lane).transpose(1, 2))


def padded_in(part: Part) -> int:
    """Return the columns of a row of shrink, padding included."""
    return round_up(part.width_in, ROW_STEP)


def num_blocks(part: Part) -> int:
    """Return the number of blocks of expand."""
    return ceil_div(part.width_out, BLOCK_COLUMNS)


def adapter_numbers(config: ModelConfig, rank: int) -> int:
    """Return how many numbers an adapter of that rank on all linears takes, within a few cache
    lines.
    """
    return rank * sum(
        padded_in(part) + num_blocks(part) * BLOCK_COLUMNS
        for layer in range(config.layers)
        for part in layer_parts(config, layer)
    )


def _aligned(count: int) -> int:
    return round_up(count, ALIGN_BYTES)
