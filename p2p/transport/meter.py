"""Counts what each peer sends and takes, over all its connections, and when it was heard last.

Bounded: of too many peers the one that was silent longest is forgotten. Pure: time comes in.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_METERS = 1_024  # more than there may be connections, so that whoever is here is counted


@dataclass(eq=False)
class Meter:
    """The traffic with one peer in bytes on the wire, sealed as they are there; `heard_s` on the
    caller's clock, in seconds.
    """

    received_bytes: int = 0
    sent_bytes: int = 0
    heard_s: float = 0.0

    def take(self, size: int, now: float) -> None:
        """So many bytes came."""
        self.received_bytes += size
        self.heard_s = now


class Meters:
    """A meter for each peer that was connected, by its peer id."""

    def __init__(self, max_meters: int = MAX_METERS) -> None:
        self._meters: dict[str, Meter] = {}
        self._max_meters = max_meters

    def of(self, peer_id: str, now: float) -> Meter:
        """Return the meter of a peer that connects."""
        meter = self._meters.get(peer_id)
        if meter is None:
            if len(self._meters) >= self._max_meters:
                del self._meters[min(self._meters, key=lambda one: self._meters[one].heard_s)]
            meter = self._meters[peer_id] = Meter()
        meter.heard_s = now
        return meter

    def find(self, peer_id: str) -> Meter | None:
        """Return a peer's meter, None where it was forgotten or never connected."""
        return self._meters.get(peer_id)

    def __len__(self) -> int:
        return len(self._meters)
