"""Keeps the slots' memory on a processor, and gives a batch what it needs of it: a table of
addresses for the executor, dense stacks for the torch twin.

On a CPU the device is host memory, so a slot refers to the packed blob without a copy. The twin's
stack of several adapters of one layout is copied once and kept while the same adapters go on
sitting together, which in decoding is hundreds of steps. Decides no slot; slots.py does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..count import round_up
from .apply import SiteWeights
from .ends import Ends
from .layout import Layout, PackedAdapter, Placed, dense_expand, shrink_view, vector_view

MAX_STACKS = 8


@dataclass(frozen=True)
class CopyDone:
    """The bytes of a placement are in their slot, unless another has taken it meanwhile."""

    generation: int
    copy_ms: float


@dataclass(frozen=True)
class Table:
    """An adapter as the executor reads it.

    entries: [parts and norms, 5] int64: rank, then the addresses of shrink, expand, gain and shift
    (0: none).
    address: of the entries.
    shrunk_words: the most 32-bit words that shrinking one row for one site gives.
    """

    entries: NDArray[np.int64]
    address: int
    shrunk_words: int


class Bank(Protocol):
    """The slots' memory as the engine asks for it, wherever it lies; each executor asks its own
    bank for more.
    """

    def size_of(self, packed: PackedAdapter) -> int:
        """Return the bytes that the adapter takes of the arena."""

    def load(self, slot: int, generation: int, packed: PackedAdapter, offset: int = 0) -> bool:
        """Put an adapter into a slot, over what was there.

        Returns False when it is on its way; CopyDone announces when it is there.
        """

    def clear(self, slot: int) -> None:
        """Empty a slot."""

    def layout_number(self, slot: int) -> int:
        """Return a small number by which rows of slots are sorted."""

    def ends(self, slot: int) -> Ends | None:
        """Return what the slot's adapter changes outside the layers, where the executor's tensors
        are.
        """


@dataclass
class _Number:
    """A number that stands for a layout while slots have it."""

    value: int
    slots: int = 0


class SlotBank:
    """The bank of host memory: `load` fills a slot, `table` gives it as it lies, `stack` gives
    dense weights over several slots.
    """

    def __init__(self) -> None:
        self._slots: dict[int, tuple[int, PackedAdapter]] = {}
        self._tables: dict[int, Table] = {}
        self._stacks: OrderedDict[tuple[tuple[int, int], ...], list[SiteWeights]] = OrderedDict()
        self._layouts: dict[int, tuple[Layout, _Number]] = {}
        self._numbers: dict[Layout, _Number] = {}
        self._next_number = 0

    def size_of(self, packed: PackedAdapter) -> int:
        """Return the bytes of host memory, since a slot keeps them from being freed."""
        return packed.size_bytes

    def load(self, slot: int, generation: int, packed: PackedAdapter, offset: int = 0) -> bool:
        """Put a reference into a slot, which is there at once; always returns True."""
        self.clear(slot)
        self._slots[slot] = generation, packed
        self._tables[slot] = address_table(packed)
        number = self._numbers.get(packed.layout)
        if number is None:
            self._next_number += 1
            number = self._numbers[packed.layout] = _Number(self._next_number)
        number.slots += 1
        self._layouts[slot] = packed.layout, number
        return True

    def clear(self, slot: int) -> None:
        """Empty a slot and forget the stacks it was part of."""
        self._slots.pop(slot, None)
        self._tables.pop(slot, None)
        layout, number = self._layouts.pop(slot, (None, None))
        if layout is not None and number is not None:
            number.slots -= 1
            if number.slots == 0:
                del self._numbers[layout]
        for key in [key for key in self._stacks if any(member == slot for member, _ in key)]:
            del self._stacks[key]

    def packed(self) -> Iterator[PackedAdapter]:
        """Yield the adapter of each slot that has one."""
        return (packed for _, packed in self._slots.values())

    def layout_number(self, slot: int) -> int:
        """Return a small number that is equal for slots of equal layout, to sort by."""
        return self._layouts[slot][1].value

    def ends(self, slot: int) -> Ends | None:
        """Return what the slot's adapter changes outside the layers, in host memory."""
        return self._slots[slot][1].ends

    def table(self, slot: int) -> Table:
        """Return the addresses of the slot's weights; valid until the slot is cleared or loaded
        again.
        """
        return self._tables[slot]

    def stack(self, slots: tuple[int, ...]) -> list[SiteWeights]:
        """Return per site, and then per norm, the dense weights of `slots`, which share one
        layout.
        """
        key = tuple((slot, self._slots[slot][0]) for slot in slots)
        sites = self._stacks.get(key)
        if sites is None:
            sites = _dense_sites([self._slots[slot][1] for slot in slots])
            self._stacks[key] = sites
            if len(self._stacks) > MAX_STACKS:
                self._stacks.popitem(last=False)
        self._stacks.move_to_end(key)
        return sites


def address_table(packed: PackedAdapter, address: int | None = None) -> Table:
    """Return the adapter's parts as the executor reads them, where its blob lies or at another
    `address`.

    Valid as long as they lie there.
    """
    first = packed.blob.data_ptr() if address is None else address
    offsets, is_placed = packed.layout.offsets
    entries = offsets + first * is_placed
    return Table(entries, entries.ctypes.data, packed.layout.shrunk_words)


def _dense_sites(members: list[PackedAdapter]) -> list[SiteWeights]:
    layout = members[0].layout
    blobs = torch.stack([member.blob for member in members])
    sites = [*layout.sites, *([placed] for placed in layout.norms)]
    return [_dense_site(layout, placed, blobs) for placed in sites]


def _dense_site(layout: Layout, parts: list[Placed], blobs: torch.Tensor) -> SiteWeights:
    """Lay a site's parts out densely: A's side by side, B's block-diagonally, vectors side by side.

    A part without a gain or shift has 1 or 0 there. Of parts that each expert has, those of one
    adapter's experts follow one another.
    """
    num = len(blobs) * parts[0].part.count
    width = sum(placed.part.width_out for placed in parts)
    rank = sum(placed.rank for placed in parts)
    shrink = expand = gain = shift = None
    if rank:
        # Rounded up to 4: in float32 an odd width makes a row's bits depend on its place among the
        # rows (measured).
        shrink = torch.zeros(num, parts[0].part.width_in, round_up(rank, 4), dtype=layout.dtype)
        expand = torch.zeros(num, shrink.shape[2], width, dtype=layout.dtype)
    if any(placed.gain_at is not None for placed in parts):
        gain = torch.ones(num, 1, width)
    if any(placed.shift_at is not None for placed in parts):
        shift = torch.zeros(num, 1, width)
    row = column = 0
    for placed in parts:
        columns = slice(column, column + placed.part.width_out)
        if placed.rank and shrink is not None and expand is not None:
            shrink[:, :, row : row + placed.rank] = shrink_view(layout, placed, blobs).transpose(
                1, 2
            )
            expand[:, row : row + placed.rank, columns] = dense_expand(layout, placed, blobs)
        if placed.gain_at is not None and gain is not None:
            gain[:, 0, columns] = vector_view(placed.gain_at, placed, blobs)
        if placed.shift_at is not None and shift is not None:
            shift[:, 0, columns] = vector_view(placed.shift_at, placed, blobs)
        row = row + placed.rank
        column = columns.stop
    return SiteWeights(shrink, expand, gain, shift)
