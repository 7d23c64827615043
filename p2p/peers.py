"""Says where a peer is, and which peers not to ask for a while. Pure: time comes in, bounded; knows
no network.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_BANS = 10_000


@dataclass(frozen=True)
class PeerAddress:
    """A peer and the addresses at which it may be reached, best address first.

    Addresses may or may not end in /p2p/PEERID.
    """

    peer_id: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ban:
    """A reason not to ask a peer, and until when (on the caller's clock, seconds)."""

    until: float
    reason: str


class BanList:
    """Peers not to ask for a while.

    The longest ban of a peer wins; when full, the ban that ends first is forgotten first.
    """

    def __init__(self, max_bans: int = MAX_BANS) -> None:
        self._bans: dict[str, Ban] = {}
        self._max_bans = max_bans

    def ban(self, peer_id: str, reason: str, now: float, duration_s: float) -> None:
        """Do not ask this peer for `duration_s` seconds."""
        known = self._bans.get(peer_id)
        if known is None or known.until < now + duration_s:
            self._bans[peer_id] = Ban(now + duration_s, reason)
        if len(self._bans) > self._max_bans:
            self._forget(now)

    def find(self, peer_id: str, now: float) -> Ban | None:
        """Return the ban that holds for this peer now, or None."""
        ban = self._bans.get(peer_id)
        if ban is not None and ban.until <= now:
            del self._bans[peer_id]
            return None
        return ban

    def __len__(self) -> int:
        return len(self._bans)

    def _forget(self, now: float) -> None:
        self._bans = {peer: ban for peer, ban in self._bans.items() if ban.until > now}
        while len(self._bans) > self._max_bans:
            del self._bans[min(self._bans, key=lambda peer: self._bans[peer].until)]
