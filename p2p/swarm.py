"""Dials and accepts connections: the library's swarm with our way of choosing addresses.

- Every inbound stream is guarded, and an inbound connection gives its slot back when it ends (the
  library keeps it until the host stops: deaf after 300 connections). Who may stay: entrance.py.
- A dial starts one address after the other, a quarter of a second apart, and takes the first that
  answers; one that failed does not block a corrected one. Names are looked up, relays come last.
- Nobody is dialled by the library itself, and nobody who is banned by anything.

Does not know what a relay is: circuits.py dials through one, and is called from here.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import filterfalse
from typing import Any
from weakref import WeakSet

import libp2p.network.swarm as swarm_module
import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import StreamHandlerFn
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.security.pnet.psk_conn import PskConn
from multiaddr import Multiaddr

from .addresses import own_ipv4, own_ipv6
from .admission import MAX_HANDSHAKES, MAX_INBOUND
from .banned import BannedPeers
from .dialling import Realm, dial_order, ip_of, is_circuit, is_named, is_websocket, realm_of_ip
from .entrance import Entrance
from .hardening import StreamGuard
from .resolving import resolve
from .transport import FastUpgrader, Meters
from .websocket.listener import WebSocketListener

OPEN_TIMEOUT_S = 5.0
DIAL_ADDRESS_TIMEOUT_S = 5.0
DIAL_CIRCUIT_TIMEOUT_S = 10.0
DIAL_STAGGER_S = 0.25
DIAL_NEAR_STAGGER_S = 0.05  # what is on this network answers at once
FAILED_ADDRESS_MEMORY_S = 20.0
ADDRESS_TTL_S = 3600
MAX_FAILED_ADDRESSES = 10_000
_BESIDE = Multiaddr("/ws")  # where it listens, it knows who does
_PORT_IS_BUSY = (errno.EADDRNOTAVAIL, errno.EADDRINUSE)

logger = logging.getLogger(__name__)

CircuitDialler = Callable[[Multiaddr, ID], Awaitable[INetConn]]


class NoAutoConnector(AutoConnector):
    """Dials nobody.

    The library's would fill up to 150 connections with whoever it ever heard of, dead or alive.
    """

    async def maybe_connect(self) -> None:
        """Do nothing."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Do nothing."""


class ProtectedConn(PskConn):
    """A connection under a pre-shared key that says where it leads (the library's forgets)."""

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Return the addresses of the connection below."""
        return self._conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Return whether the connection below is direct."""
        return self._conn.get_connection_type()


def _remote_address(self: TrioTCPStream) -> tuple[str, int] | None:
    """Return the other end's IP and port; the library knows IPv4 only."""
    if self._cached_remote_address is None:
        try:
            name = self.stream.socket.getpeername()
        except (AttributeError, OSError):
            return None
        self._cached_remote_address = (str(name[0]), int(name[1]))
    return self._cached_remote_address


TrioTCPStream.get_remote_address = _remote_address  # type: ignore[method-assign]
swarm_module.new_protected_conn = ProtectedConn  # type: ignore[attr-defined]  # by this name


class HardenedSwarm(Swarm):
    """Guards every inbound stream, frees inbound slots, and races the addresses of a peer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed_until: dict[tuple[str, str], float] = {}
        self._dialling: dict[ID, trio.Lock] = {}
        self.auto_connector = NoAutoConnector(self)
        self.dial_circuit: CircuitDialler | None = None
        self.entrance = Entrance(self._hang_up)
        self.banned = BannedPeers(None)
        """With whom no connection is kept, whoever opened it."""
        self.beside = WebSocketListener(self._receive_beside)
        """Takes WebSockets that came to a port of somebody else's."""
        # the library would count both as one, so that handshakes kept out who could stay
        self._inbound_limiter = trio.CapacityLimiter(MAX_INBOUND + MAX_HANDSHAKES)
        self.shows_listen_port = True  # dial from it, so that peers see where a router maps it
        self.knows_loopback = False  # the operator named a peer on this machine
        self.from_listen_port: WeakSet[INetConn] = WeakSet()
        self.turned: dict[tuple[str, int], ID] = {}
        """Who may come in from where with the roles of a dial turned round (see punch.py)."""

    @property
    def meters(self) -> Meters:
        """Return what counts each peer's bytes."""
        assert isinstance(self.upgrader, FastUpgrader)
        return self.upgrader.meters

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        """Install the handler of all inbound streams, guarded."""
        self.common_stream_handler = StreamGuard(stream_handler)

    # --- accepting ---

    async def _receive_beside(self, stream: ReadWriteCloser) -> None:
        await self._handle_inbound_connection(stream, _BESIDE)

    async def upgrade_inbound_raw_conn(
        self, raw_conn: IRawConnection, maddr: Multiaddr
    ) -> IMuxedConn:
        """Serve an inbound connection to its end, then free its slot (the library would wait for
        the host to stop).
        """
        await self.entrance.receive(raw_conn, partial(self._shake_hands, raw_conn, maddr))
        # The library gives a slot back when this method fails; so it has to fail, once the
        # connection is over.
        raise SwarmException("the connection has ended")

    async def _shake_hands(self, raw_conn: IRawConnection, maddr: Multiaddr) -> IMuxedConn:
        expected = self.turned.get(raw_conn.get_remote_address() or ("", 0))
        if expected is None:
            return await self.upgrade_as_server(raw_conn, maddr)
        protected = self.protected(raw_conn)
        return (await self.upgrade_outbound_raw_conn(protected, expected)).muxed_conn

    async def _hang_up(self, muxed: IMuxedConn) -> None:
        for connection in self.get_connections(muxed.peer_id):
            if connection.muxed_conn is muxed:
                await connection.close()
        await muxed.close()

    async def upgrade_as_server(self, raw_conn: IRawConnection, maddr: Multiaddr) -> IMuxedConn:
        """Take the answering side of the handshakes over any raw connection; return when it is
        open.
        """
        return await super().upgrade_inbound_raw_conn(raw_conn, maddr)

    def protected(self, raw_conn: IRawConnection) -> IRawConnection:
        """Put the network's key, if it has one, over an outbound raw connection."""
        return raw_conn if self.psk is None else ProtectedConn(raw_conn, self.psk)

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Register a connection, unless it ended as it began: the library would list it after it
        had been taken off the list, and so for ever. One of a peer that is banned is closed.
        """
        if self.banned.holds(str(muxed_conn.peer_id)):
            await muxed_conn.close()
            raise SwarmException(f"{muxed_conn.peer_id} is banned here")
        connection = await super().add_conn(muxed_conn, direction)
        if connection.is_closed and connection in self.get_connections(muxed_conn.peer_id):
            self.remove_conn(connection)
            await self.notify_disconnected(connection)
            raise SwarmException("the connection ended as it began")
        return connection

    def begin_closing(self) -> None:
        """Take and dial no more connections."""
        self._closing = True

    async def close_listeners(self) -> None:
        """Stop listening everywhere."""
        for listener in list(self.listeners.values()):
            await listener.close()

    async def close_peer(self, peer_id: ID) -> None:
        """Close this peer's connections, and those that somebody opened meanwhile (the library
        would forget these and leave them open).
        """
        while connections := self.get_connections(peer_id):
            for connection in connections:
                await connection.close()  # takes itself off the list

    def live_connections(self, peer_id: ID) -> list[INetConn]:
        """List the open connections of a peer, direct ones first."""
        alive = [one for one in self.get_connections(peer_id) if not one.is_closed]
        return sorted(alive, key=is_relayed)

    def has_direct(self, peer_id: ID) -> bool:
        """Return whether a connection to this peer is open that no relay carries."""
        return any(not is_relayed(connection) for connection in self.live_connections(peer_id))

    async def _open_stream_on_connection(
        self, connection: INetConn, connections: list[INetConn], peer_id: ID
    ) -> INetStream:
        """Open a stream on a connection that is there. A cancellation waits until the stream is
        handed over: the library would list one that nobody has for as long as the connection lasts.
        """
        with trio.CancelScope(deadline=trio.current_time() + OPEN_TIMEOUT_S, shield=True):
            return await super()._open_stream_on_connection(connection, connections, peer_id)
        raise SwarmException(f"{peer_id} takes no more streams now")

    # --- dialling ---

    def forget_failures(self, peer_id: ID) -> None:
        """Let the next dial of this peer try every address."""
        for key in [key for key in self._failed_until if key[0] == str(peer_id)]:
            del self._failed_until[key]

    async def dial_peer(
        self, peer_id: ID, told: Sequence[Multiaddr] | None = None
    ) -> list[INetConn]:
        """Return the peer's open connections, or a new one to the first address that answers: of
        those that did not fail lately; with `told`, of these and then all that are known.

        Raises SwarmException.
        """
        if self.banned.holds(str(peer_id)):
            raise SwarmException("it is banned here; `lorikeet peers unban` lifts that")
        # One dial per peer at a time: two tasks that want it would open two connections.
        lock = self._dialling.setdefault(peer_id, trio.Lock())
        try:
            async with lock:
                if told is not None:
                    # Only here: a dial that was waited for may have failed and forgotten them.
                    self._remember(peer_id, told)
                    self.forget_failures(peer_id)
                return self.live_connections(peer_id) or [await self._dial_any(peer_id)]
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._dialling.pop(peer_id, None)

    def _remember(self, peer_id: ID, told: Sequence[Multiaddr]) -> None:
        """Put addresses before those known: these may be of a machine that has moved."""
        if not told:
            return
        store = self.peerstore
        is_known = store.has_peer(peer_id) and peer_id in store.peers_with_addrs()
        known = store.addrs(peer_id) if is_known else []
        store.clear_addrs(peer_id)
        store.add_addrs(peer_id, [*told, *(one for one in known if one not in told)], ADDRESS_TTL_S)

    async def dial_directly(self, peer_id: ID) -> INetConn:
        """Open one more connection to a peer, which no relay carries, at any address that is known
        and did not fail lately. Raises SwarmException.
        """
        addresses = [one for one in self._dialable(peer_id) if not is_circuit(one)]
        if not addresses:
            raise SwarmException(f"no direct address of {peer_id} to try")
        return await self._race(peer_id, addresses)

    async def _dial_any(self, peer_id: ID) -> INetConn:
        """Try the addresses one after the other without waiting for the slow ones."""
        addresses = self._dialable(peer_id)
        if not addresses:
            raise SwarmException(
                f"no address of {peer_id} to try: none is known, or all failed within"
                f" {FAILED_ADDRESS_MEMORY_S:.0f} s"
            )
        return await self._race(peer_id, addresses)

    async def _race(self, peer_id: ID, addresses: list[Multiaddr]) -> INetConn:
        won: list[INetConn] = []
        async with trio.open_nursery() as nursery:

            async def attempt(address: Multiaddr, is_over: trio.Event) -> None:
                try:
                    won.append(await self._dial_one(address, peer_id))
                    nursery.cancel_scope.cancel()
                except Exception as error:  # a hostile handshake makes the library raise anything
                    logger.debug("dialling %s at %s: %r", peer_id, address, error)
                    self._note_failure(peer_id, address)
                finally:
                    is_over.set()

            for address in addresses:
                is_over = trio.Event()
                nursery.start_soon(attempt, address, is_over)
                is_near = realm_of_ip(ip_of(address) or "") == Realm.PRIVATE
                with trio.move_on_after(DIAL_NEAR_STAGGER_S if is_near else DIAL_STAGGER_S):
                    await is_over.wait()
        if not won:
            raise SwarmException(f"none of {len(addresses)} addresses of {peer_id} answered")
        return won[0]

    async def _dial_one(self, address: Multiaddr, peer_id: ID) -> INetConn:
        if is_circuit(address):
            if self.dial_circuit is None:
                raise SwarmException("this host uses no relays")
            with trio.fail_after(DIAL_CIRCUIT_TIMEOUT_S):
                return await self.dial_circuit(address, peer_id)
        if is_named(address):
            found = dial_order(await resolve(address), with_loopback=True)
            if not found:
                raise SwarmException(f"{address} names no host that is known")
            return await self._race(peer_id, found)
        with trio.fail_after(DIAL_ADDRESS_TIMEOUT_S):
            return await self._dial_direct(address, peer_id)

    async def dial_address(self, address: Multiaddr, peer_id: ID) -> INetConn:
        """Open one more connection to a peer, at this direct address. Raises SwarmException."""
        return await self._dial_direct(address, peer_id)

    async def _dial_direct(self, address: Multiaddr, peer_id: ID) -> INetConn:
        is_shown = not is_websocket(address) and self._is_translated_to(address)
        source = self.listen_source(address) if is_shown else None
        if source is not None:
            try:
                connection = await self._dial_addr_single_attempt(address, peer_id, source)
                self.from_listen_port.add(connection)
                return connection
            except SwarmException as error:
                if not _is_busy_port(error):
                    raise
        return await self._dial_addr_single_attempt(address, peer_id)

    def _is_translated_to(self, address: Multiaddr) -> bool:
        """Return whether a router must stand between us and an address: ours are private, it is
        not. Where none does, two hosts that dial each other from these ports would collide.
        """
        ip = ip_of(address) or ""
        own = own_ipv6() if ":" in ip else own_ipv4()
        is_private = all(realm_of_ip(one) < Realm.PUBLIC for one in own)
        return self.shows_listen_port and is_private and realm_of_ip(ip) == Realm.PUBLIC

    def listen_source(self, address: Multiaddr) -> tuple[str, int] | None:
        """Return the local IP and port to dial this address from, so that a router maps the port
        on which we listen; None where there is no such port, and on loopback.
        """
        ip = ip_of(address)
        if ip is None or realm_of_ip(ip) <= Realm.LOOPBACK:
            return None
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        for listener in self.listeners.values():
            for listening in filterfalse(is_websocket, listener.get_addrs()):
                own = ip_of(listening) or ""
                if (":" in own) == (family == socket.AF_INET6) and (
                    realm_of_ip(own) != Realm.LOOPBACK
                ):
                    return own, int(listening.value_for_protocol("tcp") or 0)
        return None

    async def dial_from_listen_port(self, address: Multiaddr) -> IRawConnection:
        """Open a raw connection from the port on which we listen. Raises SwarmException."""
        source = self.listen_source(address)
        transport = self.transport_manager.transport_for_dialing(address)
        if source is None or transport is None:
            raise SwarmException(f"there is no listening port from which {address} can be dialled")
        try:
            raw: IRawConnection = await transport.dial_with_source(address, source)  # type: ignore[attr-defined]
        except Exception as error:  # the library's transports raise several unrelated kinds
            raise SwarmException(f"{address} does not answer: {error}") from error
        return raw

    def _dialable(self, peer_id: ID) -> list[Multiaddr]:
        if peer_id == self.self_id:
            raise SwarmException("a node does not dial itself")
        try:
            known = self.peerstore.addrs(peer_id)
        except PeerStoreError:
            return []
        now = time.monotonic()
        fresh = (
            address
            for address in known
            if self._failed_until.get((str(peer_id), str(address)), 0.0) < now
            and (
                is_circuit(address)
                or self.transport_manager.transport_for_dialing(address) is not None
            )
        )
        return dial_order(fresh, with_loopback=self.is_among_loopback_peers())

    def is_among_loopback_peers(self) -> bool:
        """Return whether this host stands in a network on one machine: only there can an address
        on loopback be another node's.
        """
        listening = [
            ip_of(one) or "" for each in self.listeners.values() for one in each.get_addrs()
        ]
        only_here = all(realm_of_ip(ip) == Realm.LOOPBACK for ip in listening)
        if self.knows_loopback or (listening and only_here):
            return True
        return any(
            realm_of_ip(ip_of(address) or "") == Realm.LOOPBACK
            for connection in self.get_connections()
            for address in connection.get_transport_addresses()[:1]
        )

    def _note_failure(self, peer_id: ID, address: Multiaddr) -> None:
        # Forgetting all only costs a few dials more; choosing whom to forget would cost a second
        # index.
        if len(self._failed_until) >= MAX_FAILED_ADDRESSES:
            self._failed_until.clear()
        self._failed_until[str(peer_id), str(address)] = time.monotonic() + FAILED_ADDRESS_MEMORY_S


def is_relayed(connection: INetConn) -> bool:
    """Return whether a relay carries this connection."""
    return connection.get_connection_type() == ConnectionType.RELAYED


def _is_busy_port(error: BaseException | None) -> bool:
    """Return whether a dial failed because our own port is in use towards that address."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _PORT_IS_BUSY:
            return True
        error = error.__cause__
    return False
