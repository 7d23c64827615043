"""Decides who is worth least in a cache whose entries differ in size, use and cost of reloading.

As in GreedyDual-Size-Frequency (Cherkasova, 1998): the value of an entry is uses * reload cost,
above a clock that rises to the value of each entry that leaves, so that yesterday's favourite
leaves at last. Knows neither what the entries are nor how much room a cache has.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Worth:
    """What is known of one entry: the milliseconds of reading it again, a byte of it; how often it
    was used; the value that follows.
    """

    reload_cost: float
    uses: int = 0
    value: float = 0.0


class Clock:
    """The clock of one cache; starts at 0 and never goes back."""

    def __init__(self) -> None:
        self._now = 0.0

    def use(self, worth: Worth) -> None:
        """Count a use, and set the value to what it is now."""
        worth.uses += 1
        self.renew(worth)

    def renew(self, worth: Worth) -> None:
        """Set the value to what it is now."""
        worth.value = self._now + worth.uses * worth.reload_cost

    def leave(self, worth: Worth) -> None:
        """Rise to the value of an entry that leaves for another."""
        self._now = max(self._now, worth.value)


def reload_cost(reload_ms: float, size_bytes: int) -> float:
    """Return what reading an entry again costs, by its size: large ones leave sooner."""
    return reload_ms / max(1, size_bytes)
