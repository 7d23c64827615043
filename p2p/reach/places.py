"""Keeps places at relays for as long as this host needs them: chooses, prolongs, tests, replaces.

Decides which relays; circuits.py speaks with them.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from ..errors import P2pError
from ..hardening import HardenedHost
from ..swarm import HardenedSwarm
from .circuits import Circuits, Reserved
from .relay import HOP
from .retries import Retries

WANTED_PLACES = 2
SHUNNED_S = 600.0
PROBE_INTERVAL_S = 60.0
PROBE_AGAIN_S = 2.0  # after a circuit broke
MAX_SHUNNED = 256

logger = logging.getLogger(__name__)


@dataclass
class Place:
    """A reservation that is held."""

    reserved: Reserved
    renew_at: float
    probe_at: float


class Places:
    """The relays at which we can be dialled. `tend` does what is due; call it whenever something
    changed, and every second.
    """

    def __init__(
        self, library: HardenedHost, swarm: HardenedSwarm, on_change: Callable[[], None]
    ) -> None:
        self._library = library
        self._swarm = swarm
        self._on_change = on_change
        self._held: dict[ID, Place] = {}
        self._shunned: dict[ID, float] = {}
        self._refused = Retries()

    @property
    def addresses(self) -> list[Multiaddr]:
        """List our addresses through relays, one relay after the other."""
        return [one for place in self._held.values() for one in place.reserved.addresses]

    @property
    def relays(self) -> list[str]:
        """List the peer ids of our relays."""
        return [str(relay) for relay in self._held]

    def is_relay(self, peer: ID) -> bool:
        """Return whether we have a place there."""
        return peer in self._held

    def strike(self, relay: ID) -> None:
        """Note that a circuit through this relay broke, by whose fault ever: test it soon."""
        place = self._held.get(relay)
        if place is not None:
            place.probe_at = min(place.probe_at, trio.current_time() + PROBE_AGAIN_S)

    async def tend(self, circuits: Circuits, *, are_wanted: bool) -> None:
        """Leave relays that are gone; take, prolong and test places while they are wanted."""
        for relay in [one for one in self._held if not self._swarm.has_direct(one)]:
            self._leave(relay, "it is gone", 0.0)
        if not are_wanted:
            for relay in list(self._held):
                self._leave(relay, "we are reached directly", 0.0)
            return
        now = trio.current_time()
        async with trio.open_nursery() as nursery:
            for relay, place in list(self._held.items()):
                if place.renew_at <= now:
                    nursery.start_soon(self._take, circuits, relay)
                if place.probe_at <= now:
                    place.probe_at = now + PROBE_INTERVAL_S
                    nursery.start_soon(self._probe, circuits, relay)
            missing = WANTED_PLACES - len(self._held)
            for relay in self._candidates()[: max(0, missing)]:
                nursery.start_soon(self._take, circuits, relay)

    def _candidates(self) -> list[ID]:
        now = trio.current_time()
        self._shunned = {one: until for one, until in self._shunned.items() if until > now}
        found = [
            peer
            for peer in self._library.get_connected_peers()
            if peer not in self._held
            and peer not in self._shunned
            and self._refused.are_due(peer, now)
            and HOP in self._library.protocols_of(peer)
            and self._swarm.has_direct(peer)
        ]
        random.shuffle(found)
        return found

    async def _take(self, circuits: Circuits, relay: ID) -> None:
        try:
            reserved = await circuits.reserve(relay)
        except P2pError as error:
            logger.debug("no place at %s: %s", relay, error)
            self._refused.note_failure(relay, trio.current_time())
            self._leave(relay, "it gives no place", 0.0)
            return
        self._refused.note_success(relay)
        is_new = relay not in self._held
        now = trio.current_time()
        probe_at = now if is_new else self._held[relay].probe_at
        self._held[relay] = Place(reserved, now + reserved.expires_s / 2, probe_at)
        if is_new:
            logger.info("others reach us through the relay %s", relay)
            self._on_change()

    async def _probe(self, circuits: Circuits, relay: ID) -> None:
        if not await circuits.probe(relay):
            self._leave(relay, "it loses or mixes up bytes", SHUNNED_S)

    def _leave(self, relay: ID, why: str, shunned_s: float) -> None:
        if len(self._shunned) < MAX_SHUNNED and shunned_s:
            self._shunned[relay] = trio.current_time() + shunned_s
        if self._held.pop(relay, None) is not None:
            logger.info("we leave the relay %s: %s", relay, why)
            self._on_change()
