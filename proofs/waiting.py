"""Holds receipts that came ahead of their turn, or whose grace is not over.

Bounded and forgetful: senders keep their receipts until they are promised. Quotas are by payer, and
who has most gives way, so nobody's receipts keep out another's. Does not know which receipt is
next.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .attribution.shares import AdapterTerms
from .envelope import Place, VerifiedEnvelope

MAX_WAITING_PER_PAYER = 256
MAX_WAITING = 8_192
WAITING_S = 600


@dataclass(frozen=True)
class Waiter:
    """A verified envelope, the terms of its adapter, and since when (Unix seconds) it waits."""

    envelope: VerifiedEnvelope
    terms: AdapterTerms | None
    since: int


class WaitingRoom:
    """Waiters by place, one for each, the oldest first."""

    def __init__(self) -> None:
        self._waiters: dict[Place, Waiter] = {}
        self._num_by_payer: Counter[bytes] = Counter()

    def find(self, place: Place) -> Waiter | None:
        """Return who waits for this place, or None."""
        return self._waiters.get(place)

    def add(self, waiter: Waiter) -> bool:
        """Let it wait, instead of whoever waits for its place; return whether there was room."""
        self._expire(waiter.since)
        self.remove(waiter.envelope.place)
        if self._num_by_payer[waiter.envelope.payer] >= MAX_WAITING_PER_PAYER:
            return False
        if len(self._waiters) >= MAX_WAITING and not self._make_room(waiter.envelope.payer):
            return False
        self._waiters[waiter.envelope.place] = waiter
        self._num_by_payer[waiter.envelope.payer] += 1
        return True

    def remove(self, place: Place) -> None:
        """Forget who waits for this place, if anybody does."""
        waiter = self._waiters.pop(place, None)
        if waiter is None:
            return
        self._num_by_payer[waiter.envelope.payer] -= 1
        if not self._num_by_payer[waiter.envelope.payer]:
            del self._num_by_payer[waiter.envelope.payer]

    def check(self) -> None:
        """Raise AssertionError unless the counts are right and within their limits."""
        assert (
            Counter(waiter.envelope.payer for waiter in self._waiters.values())
            == self._num_by_payer
        )
        assert len(self._waiters) <= MAX_WAITING
        assert all(num <= MAX_WAITING_PER_PAYER for num in self._num_by_payer.values())
        assert all(waiter.envelope.place == place for place, waiter in self._waiters.items())

    def _expire(self, now: int) -> None:
        while self._waiters:
            place = next(iter(self._waiters))
            if self._waiters[place].since + WAITING_S > now:
                return
            self.remove(place)

    def _make_room(self, payer: bytes) -> bool:
        """Forget the newest of whoever has most; false when that would be this payer itself."""
        most = max(self._num_by_payer.values())
        mine = self._num_by_payer[payer]
        if mine and most <= mine + 1:
            return False
        # The newest: many payers who come with one receipt each push out one another.
        for place in reversed(self._waiters):
            if self._num_by_payer[self._waiters[place].envelope.payer] == most:
                self.remove(place)
                return True
        raise AssertionError("somebody has most")
