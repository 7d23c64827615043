"""Decides who may stay connected, of those who connected to us.

So that neither a popular page nor one attacker locks nodes out: whoever serves nothing takes a part
of the places, one network a small part, and where all are taken, somebody of the network that has
most of them goes. Opens and closes nothing.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from .dialling import Realm, realm_of_ip

MAX_INBOUND = 240  # of the 300 connections; the rest is for those that we dial
MAX_VISITORS = 120  # of these, who serves no DHT: browsers, and whoever has not said yet
MAX_PER_NETWORK = 80  # an office behind one router has its nodes, and nobody has all places
MAX_HANDSHAKES = 200  # so many may come back at once when a node everybody knows has restarted
_IPV4_PREFIX = 24  # the smallest network that is routed, so what an attacker easily has whole
_IPV6_PREFIX = 64  # one subscriber's
_IPV4_MAPPED = "::ffff:"


def network_of(ip: str | None) -> str | None:
    """Return the network that an address is counted to.

    None for loopback and private ones, which are counted alone: behind them may stand a proxy or a
    router with everybody.
    """
    if ip is None or realm_of_ip(ip) != Realm.PUBLIC:
        return None
    bare = ip.partition("%")[0].removeprefix(_IPV4_MAPPED)
    prefix = _IPV6_PREFIX if ":" in bare else _IPV4_PREFIX
    return str(ipaddress.ip_network(f"{bare}/{prefix}", strict=False))


@dataclass(eq=False)
class Guest:
    """One inbound connection; `is_open` once its handshake is done. Compared by identity."""

    network: str | None
    is_open: bool = False


class Guests:
    """The inbound connections, oldest first. Pure."""

    def __init__(self) -> None:
        self._guests: dict[Guest, None] = {}
        self._per_network: Counter[str] = Counter()

    def enter(self, ip: str | None) -> Guest | None:
        """Count one more; None where its network has enough."""
        network = network_of(ip)
        if network is not None:
            if self._per_network[network] >= MAX_PER_NETWORK:
                return None
            self._per_network[network] += 1
        guest = Guest(network)
        self._guests[guest] = None
        return guest

    def leave(self, guest: Guest) -> None:
        """Count one less."""
        del self._guests[guest]
        if guest.network is not None:
            self._per_network[guest.network] -= 1
            if not self._per_network[guest.network]:
                del self._per_network[guest.network]

    def find_leaver(
        self, is_visitor: Callable[[Guest], bool], is_idle: Callable[[Guest], bool]
    ) -> Guest | None:
        """Return who has to go, None while everybody has a place.

        Of the network with most connections, first one that does nothing, first the oldest.
        """
        stay = [guest for guest in self._guests if guest.is_open]
        visitors = [guest for guest in stay if is_visitor(guest)]
        if len(visitors) > MAX_VISITORS:
            return self._choose(visitors, is_idle)
        return self._choose(stay, is_idle) if len(stay) > MAX_INBOUND else None

    def _choose(self, guests: list[Guest], is_idle: Callable[[Guest], bool]) -> Guest:
        def worth(guest: Guest) -> tuple[int, bool]:
            size = self._per_network[guest.network] if guest.network is not None else 1
            return (-size, not is_idle(guest))

        return min(guests, key=worth)

    def __len__(self) -> int:
        return len(self._guests)

    def check(self) -> None:
        """Raise AssertionError if the counts are not those of the guests."""
        networks = Counter(guest.network for guest in self._guests if guest.network is not None)
        assert networks == self._per_network
        assert all(count <= MAX_PER_NETWORK for count in networks.values())


class Line:
    """Those that have begun something and not ended it; of too many the oldest is cancelled.

    To refuse the newest instead would let idle ones keep everybody out.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._scopes: dict[trio.CancelScope, None] = {}

    @contextmanager
    def place(self, deadline_s: float) -> Iterator[trio.CancelScope]:
        """Run the block for so long at most; the scope says afterwards whether it was cancelled."""
        with trio.move_on_after(deadline_s) as scope:
            self._scopes[scope] = None
            if len(self._scopes) > self._max_waiting:
                oldest = next(iter(self._scopes))
                del self._scopes[oldest]
                oldest.cancel()
            try:
                yield scope
            finally:
                self._scopes.pop(scope, None)
