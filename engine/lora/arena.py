"""Decides where things of different sizes lie in one run of bytes.

Moves no bytes and knows no adapter.

    0                                                   size_bytes
    [ owner a | hole | owner b | owner c | …… hole …… ]

A region is contiguous and never moves, so a new one needs a hole or neighbours that leave: of all
neighbours that could make room together, those leave that are worth least. With regions of one size
that is the one that is worth least.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import NamedTuple

from ..count import round_up

ALIGN_BYTES = 256
"""Regions begin at multiples of it, which suits any load of the device."""


class Region(NamedTuple):
    """Bytes from `offset` on, up to `offset + size_bytes`, and whose they are."""

    offset: int
    size_bytes: int
    owner: bytes

    @property
    def end(self) -> int:
        """Return the first byte behind it."""
        return self.offset + self.size_bytes


class Arena:
    """`find_hole` asks, `put` does, `remove` takes back. Sizes are rounded up to ALIGN_BYTES."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes // ALIGN_BYTES * ALIGN_BYTES
        self._regions: list[Region] = []
        self._by_owner: dict[bytes, Region] = {}

    @property
    def owners(self) -> set[bytes]:
        """Return all owners of a region."""
        return set(self._by_owner)

    def find_hole(self, size_bytes: int) -> int | None:
        """Return where the smallest hole begins that has room for so many bytes, or None."""
        needed = rounded(size_bytes)
        end = 0
        smallest: tuple[int, int] | None = None
        for region in [*self._regions, Region(self.size_bytes, 0, b"")]:
            hole = region.offset - end, end
            if hole[0] >= needed and (smallest is None or hole < smallest):
                smallest = hole
            end = region.end
        return None if smallest is None else smallest[1]

    def put(self, owner: bytes, size_bytes: int) -> int:
        """Take a hole for `owner`, who has none; return its offset.

        The caller asked `find_hole` first.
        """
        offset = self.find_hole(size_bytes)
        assert offset is not None, f"no hole for {size_bytes} bytes"
        assert owner not in self._by_owner, "an owner has a region already"
        region = Region(offset, rounded(size_bytes), owner)
        insort(self._regions, region)
        self._by_owner[owner] = region
        return offset

    def remove(self, owner: bytes) -> None:
        """Make an owner's region a hole."""
        self._regions.remove(self._by_owner.pop(owner))

    def find_victims(
        self, size_bytes: int, worth: Callable[[bytes], tuple[float, int] | None]
    ) -> list[bytes] | None:
        """Find the neighbours that leave room for so many bytes behind and are worth least.

        Returns None if none do. `worth` is None for one that may not leave; of several, the first
        numbers add up, and of equal sums the one with the lowest second wins.
        """
        needed = rounded(size_bytes)
        best: tuple[float, int, list[bytes]] | None = None
        window: list[tuple[Region, float, int]] = []
        begin = 0  # of the bytes that are free once the window's regions have left
        ends = [region.offset for region in self._regions[1:]] + [self.size_bytes]
        for region, end in zip(
            self._regions, ends, strict=False
        ):  # without regions there are no victims
            value = worth(region.owner)
            if value is None:
                # One that may not leave cuts the run: no window reaches across it.
                window = []
                begin = region.end
                continue
            window.append((region, *value))
            # The shortest window that ends here is the cheapest, for every worth adds to the sum.
            while len(window) > 1 and end - window[0][0].end >= needed:
                begin = window.pop(0)[0].end
            if end - begin >= needed:
                cost = sum(each[1] for each in window), max(each[2] for each in window)
                best = (
                    (*cost, [each[0].owner for each in window])
                    if best is None or cost < best[:2]
                    else best
                )
        return None if best is None else best[2]

    def check(self) -> None:
        """Assert that regions lie in order, inside, and do not overlap."""
        assert sorted(self._by_owner.values()) == self._regions, "an owner and its region disagree"
        end = 0
        for region in self._regions:
            assert region.offset >= end, "two regions overlap"
            assert region.offset % ALIGN_BYTES == region.size_bytes % ALIGN_BYTES == 0
            end = region.end
        assert end <= self.size_bytes, "a region lies outside"


def rounded(size_bytes: int) -> int:
    """Return the bytes that a region of `size_bytes` takes."""
    return max(ALIGN_BYTES, round_up(size_bytes, ALIGN_BYTES))
