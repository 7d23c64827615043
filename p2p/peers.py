"""Says where a peer is, which peers not to ask for a while, and which seem gone. Pure: time comes
in, bounded; knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_BANS = 10_000
GONE_S = 30.0
SLOW_ONCE_S = 5.0


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


@dataclass(frozen=True)
class _Silence:
    is_gone: bool
    since: float


class Silences:
    """Peers that did not answer, by their bytes.

    One that could not be reached is gone, for `GONE_S`. One that was slow once is left out for a
    moment, since it may be busy, or this machine may be; slow twice in a row, it is gone.
    """

    def __init__(self, max_peers: int = MAX_BANS) -> None:
        self._silences: dict[bytes, _Silence] = {}
        self._max_peers = max_peers

    def note(self, peer: bytes, now: float, *, is_sure: bool, counts: bool = True) -> bool:
        """Note one more silence; return whether the peer counts as gone now.

        One that does not count makes nobody gone, however often it comes.
        """
        known = self._silences.pop(peer, None)
        is_again = known is not None and now - known.since < GONE_S
        is_gone = is_sure or (is_again and (counts or (known is not None and known.is_gone)))
        self._silences[peer] = _Silence(is_gone, now)
        while len(self._silences) > self._max_peers:
            del self._silences[next(iter(self._silences))]
        return is_gone

    def lift(self, peer: bytes) -> None:
        """The peer answered."""
        self._silences.pop(peer, None)

    def is_silent(self, peer: bytes, now: float) -> bool:
        """Return whether not to ask this peer now."""
        known = self._silences.get(peer)
        if known is None:
            return False
        return now - known.since < (GONE_S if known.is_gone else SLOW_ONCE_S)

    def is_gone(self, peer: bytes, now: float) -> bool:
        """Return whether this peer is believed to be gone."""
        known = self._silences.get(peer)
        return known is not None and known.is_gone and now - known.since < GONE_S
