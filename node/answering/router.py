"""Decides who should answer: this node's engine, or which peer, and how long one is waited for.
Pure; asks and dials nobody.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from p2p.cid import Cid
from p2p.peers import PeerAddress

BENCH_S = 30.0  # a node that failed us is asked last for this long
MAX_BENCHED = 1024
REMEMBER_S = 15.0  # who provides something is asked of the network again after this long
MAX_REMEMBERED = 1024
UNKNOWN_OFFER_S = 0.25  # how long to wait for the offer of a node that was not asked lately
MIN_PATIENCE_S = 0.1
PATIENCE = 3.0  # times its usual
MEASURED_S = 120.0  # how long a measured latency counts
SAME = 1.5  # latencies within this factor are alike
MAX_MEASURED = 1024


@dataclass(frozen=True)
class There:
    """Peers to try, best first."""

    peers: tuple[PeerAddress, ...]


@dataclass
class Router:
    """Ranks nodes.

    Remembers for a short while which peers provide what and which failed; `now_s` is any clock that
    does not go backwards.
    """

    own_peer_id: str
    has_engine: bool
    _benched: dict[str, float] = field(default_factory=dict)
    _providers: dict[Cid, tuple[tuple[PeerAddress, ...], float]] = field(default_factory=dict)
    _offers: dict[str, tuple[float, float]] = field(default_factory=dict)  # seconds, and until when

    def serves_here(self, named_node: str | None) -> bool:
        """Return whether this node's own engine should answer: it has one, and no other node was
        named.
        """
        return self.has_engine and named_node in (None, self.own_peer_id)

    def recall(self, cid: Cid, now_s: float) -> tuple[PeerAddress, ...]:
        """Return who was recently found to provide this; empty when that has expired or all of them
        failed since.
        """
        peers, until = self._providers.get(cid, ((), 0.0))
        return (
            peers
            if until > now_s and not all(self._is_benched(peer.peer_id, now_s) for peer in peers)
            else ()
        )

    def remember(self, cid: Cid, peers: Iterable[PeerAddress], now_s: float) -> None:
        """Record who provides this now."""
        if len(self._providers) >= MAX_REMEMBERED:
            self._providers.pop(next(iter(self._providers)))
        self._providers[cid] = (tuple(peers), now_s + REMEMBER_S)

    def rank(
        self, candidates: Iterable[PeerAddress], connected: Collection[str], now_s: float
    ) -> There:
        """Order providers: first those that did not fail recently, then those already connected,
        then those that answer fast, as far as that was measured; otherwise as found.
        """
        unique = {peer.peer_id: peer for peer in candidates if peer.peer_id != self.own_peer_id}
        order = sorted(
            unique.values(),
            key=lambda peer: (
                self._is_benched(peer.peer_id, now_s),
                peer.peer_id not in connected,
                self._class_of(peer.peer_id, now_s),
            ),
        )
        return There(tuple(order))

    def offered(self, peer_id: str, took_s: float, now_s: float) -> None:
        """Record how long a peer took to make an offer."""
        before = self._usual(peer_id, now_s)
        self._note(peer_id, took_s if before is None else (3 * before + took_s) / 4, now_s)

    def late(self, peer_id: str, waited_s: float, now_s: float) -> None:
        """Record that a peer made no offer for so long, and was left for another one."""
        self._note(peer_id, max(self._usual(peer_id, now_s) or 0.0, waited_s), now_s)

    def patience(self, peer_id: str, now_s: float) -> float:
        """Return how long (s) to wait for a peer's offer before another one is asked as well."""
        usual = self._usual(peer_id, now_s)
        return UNKNOWN_OFFER_S if usual is None else max(MIN_PATIENCE_S, PATIENCE * usual)

    def failed(self, peer_id: str, now_s: float) -> None:
        """Record that a peer vanished, cheated or refused; it is asked last for a while."""
        if len(self._benched) >= MAX_BENCHED:
            self._benched.pop(next(iter(self._benched)))
        self._benched[peer_id] = now_s + BENCH_S

    def _note(self, peer_id: str, usual_s: float, now_s: float) -> None:
        if len(self._offers) >= MAX_MEASURED:
            self._offers.pop(next(iter(self._offers)))
        self._offers[peer_id] = (usual_s, now_s + MEASURED_S)

    def _usual(self, peer_id: str, now_s: float) -> float | None:
        usual, until = self._offers.get(peer_id, (None, 0.0))
        return usual if until > now_s else None

    def _class_of(self, peer_id: str, now_s: float) -> int:
        """Of how slow nodes a peer is; one that is not known counts as fast, so it is tried."""
        usual = max(self._usual(peer_id, now_s) or 0.0, MIN_PATIENCE_S / PATIENCE)
        return int(math.log(usual * PATIENCE / MIN_PATIENCE_S, SAME))

    def _is_benched(self, peer_id: str, now_s: float) -> bool:
        return self._benched.get(peer_id, 0.0) > now_s
