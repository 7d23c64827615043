"""The slots' memory on the device, and what a batch needs of it: adapters of one layout stacked side by side.

On a CPU the device is host memory, so a slot refers to the packed blob without a copy; a stack of several is copied once and kept
while the same adapters go on sitting together, which in decoding is hundreds of steps.
"""

from __future__ import annotations

from collections import OrderedDict

import torch

from .layout import Layout, PackedAdapter, site_views

MAX_STACKS = 8

Views = tuple[list[torch.Tensor | None], list[torch.Tensor | None]]


class SlotBank:
    """`load` fills a slot, `stack` gives views over several slots."""

    def __init__(self) -> None:
        self._slots: dict[int, tuple[int, PackedAdapter]] = {}
        self._stacks: OrderedDict[tuple[tuple[int, int], ...], Views] = OrderedDict()
        self._layouts: dict[int, tuple[Layout, int]] = {}
        self._next_number = 0

    def load(self, slot: int, generation: int, packed: PackedAdapter) -> None:
        """Put an adapter into a slot, over what was there."""
        self.clear(slot)
        self._slots[slot] = generation, packed
        numbers = dict(self._layouts.values())
        if packed.layout not in numbers:
            self._next_number += 1
        self._layouts[slot] = packed.layout, numbers.get(packed.layout, self._next_number)

    def clear(self, slot: int) -> None:
        """Empty a slot and forget the stacks it was part of."""
        self._slots.pop(slot, None)
        self._layouts.pop(slot, None)
        for key in [key for key in self._stacks if any(member == slot for member, _ in key)]:
            del self._stacks[key]

    def layout_number(self, slot: int) -> int:
        """A small number equal for slots of equal layout, to sort by."""
        return self._layouts[slot][1]

    def stack(self, slots: tuple[int, ...]) -> Views:
        """Per site the shrinks and expands of `slots`, which share one layout."""
        key = tuple((slot, self._slots[slot][0]) for slot in slots)
        views = self._stacks.get(key)
        if views is None:
            views = self._build(slots)
            self._stacks[key] = views
            if len(self._stacks) > MAX_STACKS:
                self._stacks.popitem(last=False)
        self._stacks.move_to_end(key)
        return views

    def _build(self, slots: tuple[int, ...]) -> Views:
        members = [self._slots[slot][1] for slot in slots]
        blobs = members[0].blob.unsqueeze(0) if len(members) == 1 else torch.stack([member.blob for member in members])
        return site_views(members[0].layout, blobs)
