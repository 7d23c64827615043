"""Decides who is promised something next, where an epoch has room for so much and no more.

Whatever is promised must fit the next epoch, so promises are given up to what one holds. Nobody may
have all of it, and whoever has nothing in it and found no room has a place kept once there is some:
who was refused first, first. So many payers make others wait in proportion to their number, not for
ever. Knows no receipt and no chain.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 4  # times what is left for others: as much may one payer have
MAX_LINE = 4_096  # payers that have a place in the line
LINE_S = 60  # who does not ask again for so long loses it


@dataclass
class Admission:
    """A room with `capacity` places, and the line of payers before it. Owned by one task."""

    capacity: int

    def __post_init__(self) -> None:
        self._line: dict[bytes, int] = {}  # by payer, in the order in which they came: last asked

    def admits(self, payer: bytes, held: int, num_taken: int, now: int) -> bool:
        """Return whether a payer that has `held` of the `num_taken` places that are taken may have
        one more; one that may not, and has none, stands in line.
        """
        free = self.capacity - num_taken - self._num_ahead(payer, now)
        if free > 0 and held < SHARE * free:
            self._line.pop(payer, None)
            return True
        if held == 0 and (payer in self._line or len(self._line) < MAX_LINE):
            self._line[payer] = now
        return False

    def _num_ahead(self, payer: bytes, now: int) -> int:
        """Count the payers before this one in the line; who gave up loses his place."""
        ahead = 0
        for other, asked_at in list(self._line.items()):
            if other == payer:
                break
            if asked_at + LINE_S < now:
                del self._line[other]
            else:
                ahead += 1
        return ahead
