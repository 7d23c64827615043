"""Holds receipts that came ahead of their turn.

Bounded and forgetful: senders keep their receipts until they are promised. Does not know which
receipt is next.
"""

from __future__ import annotations

from .envelope import VerifiedEnvelope

MAX_WAITING_PER_CHANNEL = 64
MAX_WAITING = 4_096


class WaitingRoom:
    """Verified envelopes by channel and sequence, one for each place."""

    def __init__(self) -> None:
        self._by_channel: dict[bytes, dict[int, VerifiedEnvelope]] = {}
        self._size = 0

    def find(self, channel_id: bytes, sequence: int) -> VerifiedEnvelope | None:
        """Return the envelope that waits for this place, or None."""
        return self._by_channel.get(channel_id, {}).get(sequence)

    def add(self, envelope: VerifiedEnvelope) -> bool:
        """Add an envelope if there is room and its place is free; return whether it was added."""
        receipt = envelope.receipt.receipt
        places = self._by_channel.get(receipt.channel_id, {})
        if (
            receipt.sequence in places
            or len(places) >= MAX_WAITING_PER_CHANNEL
            or self._size >= MAX_WAITING
        ):
            return False
        self._by_channel.setdefault(receipt.channel_id, places)[receipt.sequence] = envelope
        self._size += 1
        return True

    def take(self, channel_id: bytes, sequence: int) -> VerifiedEnvelope | None:
        """Remove and return the envelope that waits for this place, or None."""
        places = self._by_channel.get(channel_id, {})
        envelope = places.pop(sequence, None)
        if envelope is not None:
            self._size -= 1
            if not places:
                del self._by_channel[channel_id]
        return envelope

    def check(self) -> None:
        """Raise AssertionError unless the counts are right and within their limits."""
        sizes = [len(places) for places in self._by_channel.values()]
        assert sum(sizes) == self._size <= MAX_WAITING
        assert all(1 <= size <= MAX_WAITING_PER_CHANNEL for size in sizes)
