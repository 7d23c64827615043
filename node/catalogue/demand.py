"""Counts who wants which adapters that are not here, and says which of them are wanted enough to be
fetched ahead.

Each asker counts once for an adapter, by half less every HALF_LIFE_S since it asked. Who has paid
this node counts whole; all others together count for less than is needed, so that made-up peers
alone bring nothing here. Bounded, whatever is asked: the least wanted make room. Pure; fetches
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from p2p.cid import Cid

HALF_LIFE_S = 600.0
LEAST_WORTH = 1.5  # two who pay, or one and strangers
STRANGER_WORTH = 0.25
MAX_STRANGERS_WORTH = 1.0
MAX_WANTED = 1024  # adapters
MAX_ASKERS = 16  # of one adapter
MAX_OF_PEER = 32  # adapters that one peer asked for
MAX_REFUSED = 1024
REFUSED_S = 3600.0  # an adapter that could not be served is not wanted again before
DROPPED_AT_ONCE = MAX_WANTED // 8


@dataclass(frozen=True)
class _Ask:
    at: float
    pays: bool


class Demand:
    """Who asked for what. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asks: dict[Cid, dict[str, _Ask]] = {}
        self._of_peer: dict[str, dict[Cid, None]] = {}  # oldest ask first
        self._refused: dict[Cid, float] = {}

    def note(self, cid: Cid, peer_id: str, *, pays: bool) -> None:
        """Note that a peer wants an adapter that is not here."""
        now = self._clock()
        if self._refused.get(cid, 0.0) > now:
            return
        self._drop_ask(cid, peer_id)
        self._asks.setdefault(cid, {})[peer_id] = _Ask(now, pays)
        self._of_peer.setdefault(peer_id, {})[cid] = None
        if len(self._of_peer[peer_id]) > MAX_OF_PEER:
            self._drop_ask(next(iter(self._of_peer[peer_id])), peer_id)
        if len(self._asks[cid]) > MAX_ASKERS:
            self._drop_ask(cid, min(self._asks[cid], key=lambda one: _order(self._asks[cid][one])))
        if len(self._asks) > MAX_WANTED:
            for least in sorted(self._asks, key=self.worth)[:DROPPED_AT_ONCE]:
                self.forget(least)

    def worth(self, cid: Cid) -> float:
        """Return how much an adapter is wanted now."""
        now = self._clock()
        paying = strangers = 0.0
        for ask in self._asks.get(cid, {}).values():
            weight = 0.5 ** ((now - ask.at) / HALF_LIFE_S)
            if ask.pays:
                paying += weight
            else:
                strangers += STRANGER_WORTH * weight
        return paying + min(strangers, MAX_STRANGERS_WORTH)

    def wanted(self) -> list[Cid]:
        """List the adapters that are wanted enough, the most wanted first."""
        worths = {cid: self.worth(cid) for cid in self._asks}
        enough = [cid for cid, worth in worths.items() if worth >= LEAST_WORTH]
        return sorted(enough, key=lambda cid: -worths[cid])

    def forget(self, cid: Cid) -> None:
        """Forget who asked for an adapter: it is here."""
        for peer_id in list(self._asks.get(cid, {})):
            self._drop_ask(cid, peer_id)

    def refuse(self, cid: Cid) -> None:
        """Note that an adapter cannot be served here, whoever asks."""
        self.forget(cid)
        self._refused.pop(cid, None)
        if len(self._refused) >= MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[cid] = self._clock() + REFUSED_S

    def check(self) -> None:
        """Raise AssertionError unless both tables tell the same, within their bounds."""
        told = {(cid, peer) for cid, asks in self._asks.items() for peer in asks}
        assert told == {(cid, peer) for peer, cids in self._of_peer.items() for cid in cids}
        assert len(self._asks) <= MAX_WANTED
        assert all(0 < len(asks) <= MAX_ASKERS for asks in self._asks.values())
        assert all(0 < len(cids) <= MAX_OF_PEER for cids in self._of_peer.values())
        assert len(self._refused) <= MAX_REFUSED

    def _drop_ask(self, cid: Cid, peer_id: str) -> None:
        if self._asks.get(cid, {}).pop(peer_id, None) is None:
            return
        if not self._asks[cid]:
            del self._asks[cid]
        del self._of_peer[peer_id][cid]
        if not self._of_peer[peer_id]:
            del self._of_peer[peer_id]


def _order(ask: _Ask) -> tuple[bool, float]:
    """Sort strangers before those who pay, the oldest first."""
    return (ask.pays, ask.at)
