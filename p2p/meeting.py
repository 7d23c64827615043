"""Meets peers: the bootstrap peers at the start, those of the last run when none of them answers,
neighbours on the local network; and stays in touch.

Decides whom to dial and when; host.py dials. Knows no protocol.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from .addresses import split_peer
from .errors import InvalidInput, P2pError
from .peers import PeerAddress
from .reach.known import KnownPeers
from .reach.mdns import Neighbours

BOOTSTRAP_TIMEOUT_S = 3.0
KEEP_IN_TOUCH_S = 3.0
GREET_ALL_S = 60.0
MEET_AGAIN_S = 15.0
MAX_MEETING_TIMEOUT_S = 15.0
MAX_ALONE_PAUSE_S = 30.0
MAX_KNOWN_DIALLED = 12
MAX_NEIGHBOURS = 16

logger = logging.getLogger(__name__)


class Meets(Protocol):
    """What is needed of a host."""

    async def connect(self, address: str, deadline_s: float) -> str: ...  # noqa: D102
    async def connect_to(self, peer: PeerAddress, deadline_s: float) -> None: ...  # noqa: D102
    def is_connected(self, peer_id: str) -> bool: ...  # noqa: D102
    def has_peers(self) -> bool: ...  # noqa: D102
    def lacks_relays(self) -> bool: ...  # noqa: D102
    def direct_peers(self) -> list[PeerAddress]: ...  # noqa: D102
    async def note_dht_servers(self, *, all_again: bool) -> None: ...  # noqa: D102


class Meeting:
    """Whom this host meets, and meets again."""

    def __init__(self, host: Meets, bootstrap: Sequence[str], known: KnownPeers) -> None:
        for address in bootstrap:
            split_peer(address)
        self._host = host
        self._bootstrap = bootstrap
        self._known = known
        self._num_failed = 0  # meetings in a row after which nobody was connected

    async def meet(self) -> None:
        """Try all bootstrap peers at once for a few seconds, then, while nobody is connected, the
        peers of the last run. Those that do not answer are tried again later.
        """
        missing = [one for one in self._bootstrap if not self._host.is_connected(_owner(one))]
        async with trio.open_nursery() as nursery:
            for address in missing:
                nursery.start_soon(self._meet_bootstrap, address)
        if not self._host.has_peers():
            await self._meet_known()
        self._num_failed = 0 if self._host.has_peers() else self._num_failed + 1

    @property
    def _patience(self) -> float:
        """How many times as long to wait as at first: whom everybody asks at once, for a restart
        perhaps, needs longer, and would only be held up by those that ask again soon.
        """
        return float(2 ** min(self._num_failed, 6))

    async def _meet_bootstrap(self, address: str) -> None:
        timeout_s = min(BOOTSTRAP_TIMEOUT_S * self._patience, MAX_MEETING_TIMEOUT_S)
        try:
            await self._host.connect(address, timeout_s)
        except InvalidInput:
            raise
        except P2pError as error:
            logger.warning("bootstrap peer %s: %s", address, error)

    async def _meet_known(self) -> None:
        """Dial the peers of the last run. Where some answer, those that do not are forgotten."""
        peers = self._known.latest(MAX_KNOWN_DIALLED)
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(self._greet, peer)
        if self._host.has_peers():
            for peer in peers:
                if not self._host.is_connected(peer.peer_id):
                    self._known.forget(peer.peer_id)

    async def _greet(self, peer: PeerAddress) -> None:
        try:
            await self._host.connect_to(peer, BOOTSTRAP_TIMEOUT_S)
        except P2pError as error:
            logger.info("%s is not met: %s", peer.peer_id, error)

    async def keep_in_touch(self, heal: Callable[[bool], None]) -> None:
        """Put DHT servers into the routing table and heal gossip: for new peers soon, for all once
        a minute. Meet again while nobody, or too few relays, are connected; while nobody is, more
        seldom and more patiently each time. Runs until cancelled.
        """
        next_full = 0.0
        next_meeting = 0.0
        next_alone = 0.0
        while True:
            await trio.sleep(KEEP_IN_TOUCH_S)
            now = trio.current_time()
            is_full = now >= next_full
            await self._host.note_dht_servers(all_again=is_full)
            heal(is_full)
            if is_full:
                next_full = now + GREET_ALL_S
                await self.remember()
            is_alone = not self._host.has_peers()
            if now >= (next_alone if is_alone else next_meeting) and (
                is_alone or self._host.lacks_relays()
            ):
                next_meeting = now + MEET_AGAIN_S
                await self.meet()
                pause_s = min(KEEP_IN_TOUCH_S * self._patience, MAX_ALONE_PAUSE_S)
                next_alone = trio.current_time() + random.uniform(0.5, 1.0) * pause_s
            elif not is_alone:
                next_alone = 0.0
                self._num_failed = 0

    async def remember(self) -> None:
        """Write down who is connected, where that outlives us."""
        if not self._known.is_kept:
            return
        for peer in self._host.direct_peers():
            self._known.note(peer.peer_id, peer.addresses)
        try:
            await trio.to_thread.run_sync(self._known.save)
        except OSError as error:
            logger.warning("the peers for the next start are not written: %s", error)

    async def meet_neighbours(self, neighbours: Neighbours) -> None:
        """Connect to whoever is found on the local network. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(neighbours.run)
            limiter = trio.CapacityLimiter(MAX_NEIGHBOURS)

            async def greet(peer: PeerAddress) -> None:
                async with limiter:
                    await self._greet(peer)

            async for peer in neighbours.found:
                if not self._host.is_connected(peer.peer_id):
                    nursery.start_soon(greet, peer)


def _owner(address: str) -> str:
    return split_peer(address)[0]
