"""Punches holes: two hosts behind routers dial each other at the same moment, so that each router
takes the other's connection for an answer (DCUtR over TCP).

The one that was dialled through the relay begins; the one that dialled is the client in the
handshakes that follow, whoever's packet came first. What fails costs nothing: the relay goes on.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio
from libp2p.abc import INetStream, IRawConnection
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.relay.circuit_v2.pb import dcutr_pb2 as pb
from multiaddr import Multiaddr

from ..dialling import Realm, ip_of, is_circuit, is_websocket, realm_of
from ..errors import InvalidInput, P2pError
from ..hardening import HardenedHost, StreamGuard
from ..swarm import HardenedSwarm
from .messages import STREAM_ERRORS, read_message, write_message

DCUTR = TProtocol("/libp2p/dcutr")
STREAMS_PER_PEER = 2
MESSAGE_TIMEOUT_S = 5.0
DIRECT_TIMEOUT_S = 1.5
HANDSHAKE_TIMEOUT_S = 3.0
WINDOW_S = 2.5
MAX_ROUNDS = 2
MAX_PUNCHED_ADDRESSES = 4
RETRY_S = (0.010, 0.080)  # at random: in step, two routers that reset refuse each other for ever

logger = logging.getLogger(__name__)


class Puncher:
    """Turns relayed connections into direct ones. `seen_at` gives where a router maps our port."""

    def __init__(
        self,
        library: HardenedHost,
        swarm: HardenedSwarm,
        seen_at: Callable[[], list[Multiaddr]],
    ) -> None:
        self.num_punched = 0
        self._library = library
        self._swarm = swarm
        self._seen_at = seen_at
        self._busy_with: set[ID] = set()
        library.set_stream_handler(DCUTR, StreamGuard(self._respond, STREAMS_PER_PEER))

    async def initiate(self, peer: ID) -> None:
        """Try to reach directly a peer that came through a relay. Returns when that is decided."""
        if peer in self._busy_with or self._swarm.has_direct(peer):
            return
        with self._busy(peer):
            if self._seen_at() and await self._punch_in_rounds(peer):
                self.num_punched += 1
            else:
                await self._dial_plainly(peer, Realm.PUBLIC)

    async def _punch_in_rounds(self, peer: ID) -> bool:
        try:
            for _ in range(MAX_ROUNDS):
                if await self._round(peer):
                    return True
        except (P2pError, *STREAM_ERRORS, trio.TooSlowError) as error:
            logger.debug("no hole towards %s: %s", peer, error)
        return False

    async def _dial_plainly(self, peer: ID, least: Realm) -> bool:
        """Dial a peer at the direct addresses that it tells, as one that is not behind a router."""
        try:
            told = self._library.peerstore.addrs(peer)
        except PeerStoreError:
            return False
        direct = [one for one in told if not is_circuit(one) and realm_of(one) >= least]
        for address in direct[:MAX_PUNCHED_ADDRESSES]:
            try:
                with trio.fail_after(DIRECT_TIMEOUT_S):
                    await self._swarm.dial_address(address, peer)
                return True
            except Exception as error:  # a hostile handshake makes the library raise anything
                logger.debug("%s is not reached at %s: %r", peer, address, error)
        return False

    async def _round(self, peer: ID) -> bool:
        with trio.fail_after(MESSAGE_TIMEOUT_S):
            stream = await self._library.new_stream(peer, [DCUTR])
        try:
            asked_at = trio.current_time()
            await write_message(stream, self._connect_message(), MESSAGE_TIMEOUT_S)
            addresses = await self._read_connect(stream)
            rtt_s = trio.current_time() - asked_at
            if not addresses:
                return False
            if await self._are_neighbours(peer, addresses):
                return True
            await write_message(stream, pb.HolePunch(type=pb.HolePunch.SYNC), MESSAGE_TIMEOUT_S)
            await trio.sleep(rtt_s / 2)
            return await self._punch(addresses, peer, is_client=False)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await stream.reset()

    async def _are_neighbours(self, peer: ID, addresses: list[Multiaddr]) -> bool:
        """Behind one and the same router, dial each other's private addresses."""
        own = {ip_of(address) for address in self._seen_at()}
        if not own & {ip_of(address) for address in addresses}:
            return False
        return await self._dial_plainly(peer, Realm.PRIVATE)

    async def _respond(self, stream: INetStream) -> None:
        """Punch with a peer that we reached through a relay, when it asks."""
        peer = stream.muxed_conn.peer_id
        try:
            if peer in self._busy_with and self._library.get_id().to_bytes() < peer.to_bytes():
                await stream.reset()  # both began: the smaller peer id's round counts
                return
            with self._busy(peer):
                addresses = await self._read_connect(stream)
                await write_message(stream, self._connect_message(), MESSAGE_TIMEOUT_S)
                sync = await read_message(stream, pb.HolePunch, MESSAGE_TIMEOUT_S)
                if sync.type != pb.HolePunch.SYNC:
                    raise InvalidInput("the second message is no SYNC")
                await self._punch(addresses, peer, is_client=True)
            await stream.close()
        except (P2pError, *STREAM_ERRORS, trio.TooSlowError) as error:
            logger.debug("no hole towards %s: %s", peer, error)
            await stream.reset()

    @contextmanager
    def _busy(self, peer: ID) -> Iterator[None]:
        self._busy_with.add(peer)
        try:
            yield
        finally:
            self._busy_with.discard(peer)

    def _connect_message(self) -> pb.HolePunch:
        addresses = [address.to_bytes() for address in self._seen_at()]
        return pb.HolePunch(type=pb.HolePunch.CONNECT, ObsAddrs=addresses)

    async def _read_connect(self, stream: INetStream) -> list[Multiaddr]:
        message = await read_message(stream, pb.HolePunch, MESSAGE_TIMEOUT_S)
        if message.type != pb.HolePunch.CONNECT:
            raise InvalidInput("the first message is no CONNECT")
        found = []
        for raw in message.ObsAddrs[: 2 * MAX_PUNCHED_ADDRESSES]:
            try:
                address = Multiaddr(str(Multiaddr(raw)).partition("/p2p/")[0])
            except Exception as error:  # multiaddr raises several unrelated kinds
                raise InvalidInput(f"an address is none: {error}") from error
            is_tcp = "/tcp/" in str(address) and not is_websocket(address)
            if realm_of(address) == Realm.PUBLIC and ip_of(address) and is_tcp:
                found.append(address)
        return found[:MAX_PUNCHED_ADDRESSES]

    async def _punch(self, addresses: list[Multiaddr], peer: ID, *, is_client: bool) -> bool:
        """Knock at all addresses until a connection stands or the window has passed."""
        with trio.move_on_after(WINDOW_S), self._turned(addresses, peer, is_client):
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    nursery.start_soon(self._knock, address, peer, is_client)
                while not self._swarm.has_direct(peer):  # noqa: ASYNC110  # no event tells it
                    await trio.sleep(0.02)
                nursery.cancel_scope.cancel()
        return self._swarm.has_direct(peer)

    @contextmanager
    def _turned(self, addresses: list[Multiaddr], peer: ID, is_client: bool) -> Iterator[None]:
        """As the client, be it also where the other's connection is let in by our listener."""
        ends = [(ip_of(one) or "", int(one.value_for_protocol("tcp") or 0)) for one in addresses]
        if is_client:
            self._swarm.turned.update(dict.fromkeys(ends, peer))
        try:
            yield
        finally:
            for end in ends:
                self._swarm.turned.pop(end, None)

    async def _knock(self, address: Multiaddr, peer: ID, is_client: bool) -> None:
        while not self._swarm.has_direct(peer):
            try:
                raw = await self._swarm.dial_from_listen_port(address)
                await self._shake_hands(raw, address, peer, is_client)
            except Exception as error:  # two that met half-way make the library raise anything
                logger.debug("knocking at %s: %r", address, error)
            await trio.sleep(random.uniform(*RETRY_S))

    async def _shake_hands(
        self, raw: IRawConnection, address: Multiaddr, peer: ID, is_client: bool
    ) -> None:
        """Make a connection of an open socket; not cancelled in the middle, since the library
        registers a connection before it has done with it.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + HANDSHAKE_TIMEOUT_S):
            try:
                if is_client:
                    await self._swarm.upgrade_outbound_raw_conn(self._swarm.protected(raw), peer)
                    return
                muxed = await self._swarm.upgrade_as_server(raw, address)
                if muxed.peer_id != peer:
                    await muxed.close()
            except BaseException:  # cancelled or failed: the other end learns it
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                    await raw.close()
                raise
