"""Opens a node's place in the network: `async with open_host(identity, config) as host`.

Runs what library.py builds: identify, ping, Kademlia and gossipsub; every mend is in hardening.py.
Knows bytes and peers, not their meaning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.exceptions import StreamFailure
from libp2p.peer.id import ID
from trio_typing import TaskStatus

from .addresses import check_free, parse_address, split_peer
from .banned import Banned
from .dht import Dht
from .dialling import Realm, realm_of
from .errors import (
    BanRefused,
    HostFailed,
    P2pError,
    PeerTimeout,
    PeerUnreachable,
    ProtocolRefused,
    sole_error,
)
from .gossip import Gossip
from .hardened_gossip import HardenedPubsub, new_router
from .hardening import (
    HardenedHost,
    StreamGuard,
    run_service,
)  # isort: skip  # mends first
from .identity import Identity, public_key_of
from .kademlia import BoundedKademlia
from .library import NetworkConfig, new_library
from .meeting import Meeting
from .peers import BanList, PeerAddress
from .reach.known import KnownPeers
from .reach.mdns import Neighbours
from .reach.service import Reach, Reachability
from .streams import FrameStream
from .swarm import HardenedSwarm
from .transport import Meter

STREAMS_PER_PEER = 16  # of one protocol, inbound
SHUTDOWN_TIMEOUT_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectedPeer:
    """A peer with an open connection. `protocols` is empty until it has identified itself; one that
    then serves no DHT is a visitor, such as a page. `received_bytes` from it and `sent_bytes` to it
    count all its connections since this host began; `heard_at` is when something came last, in Unix
    seconds.
    """

    peer_id: str
    address: str
    protocols: tuple[str, ...]
    is_visitor: bool
    received_bytes: int = 0
    sent_bytes: int = 0
    heard_at: float = 0.0


StreamHandler = Callable[[FrameStream], Awaitable[None]]


class Host:
    """The open host, made by `open_host`. Every method that waits has a deadline."""

    def __init__(
        self,
        library: HardenedHost,
        swarm: HardenedSwarm,
        dht: Dht,
        gossip: Gossip,
        reach: Reach,
    ) -> None:
        self.peer_id = str(library.get_id())
        self.dht = dht
        self.gossip = gossip
        self.bans = BanList()  # by trio.current_time()
        self._library = library
        self._swarm = swarm
        self._reach = reach
        self._noted: set[ID] = set()  # DHT servers that are in the routing table

    def lacks_relays(self) -> bool:
        """Return whether this host should be reached by relays and has too few."""
        return self._reach.lacks_relays

    def reachability(self) -> Reachability:
        """Say how others reach this host now."""
        return self._reach.describe()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the addresses at which peers can reach this host, each ending in /p2p/PEERID."""
        return tuple(str(address) for address in self._library.get_addrs())

    def peers(self) -> list[ConnectedPeer]:
        """List the peers that are connected now."""
        return [
            self._describe(peer, connections)
            for peer, connections in self._swarm.get_connections_map().items()
            if connections
        ]

    def _describe(self, peer: ID, connections: Sequence[INetConn]) -> ConnectedPeer:
        best = self._swarm.live_connections(peer) or connections
        addresses = best[0].get_transport_addresses()
        protocols = self._library.protocols_of(peer)
        is_visitor = bool(protocols) and not self._library.serves_dht(peer)
        meter = self._swarm.meters.find(str(peer)) or Meter()
        return ConnectedPeer(
            str(peer),
            str(addresses[0]) if addresses else "",
            protocols,
            is_visitor,
            received_bytes=meter.received_bytes,
            sent_bytes=meter.sent_bytes,
            heard_at=meter.heard_s,
        )

    def has_peers(self) -> bool:
        """Return whether anybody is connected."""
        return bool(self._swarm.get_connections())

    def direct_peers(self) -> list[PeerAddress]:
        """List the peers that no relay carries, with the addresses that they tell."""
        peers = [one for one in self._library.get_connected_peers() if self._swarm.has_direct(one)]
        return [
            PeerAddress(str(peer), tuple(f"{one}/p2p/{peer}" for one in told))
            for peer in peers
            if (told := self._library.told_by(peer))
        ]

    def is_connected(self, peer_id: str) -> bool:
        """Return whether a connection to this peer is open."""
        return any(
            not connection.is_closed
            for connection in self._swarm.get_connections(_library_id(peer_id))
        )

    def is_direct(self, peer_id: str) -> bool:
        """Return whether a connection to this peer is open that no relay carries."""
        return self._swarm.has_direct(_library_id(peer_id))

    async def connect(self, address: str, deadline_s: float) -> str:
        """Connect to a full address (…/p2p/PEERID) and return the peer id found there.

        Raises InvalidAddress, PeerUnreachable, PeerTimeout.
        """
        peer_id, transport = split_peer(address)
        if realm_of(transport) == Realm.LOOPBACK:
            self._swarm.knows_loopback = True
        await self.connect_to(PeerAddress(peer_id, (address,)), deadline_s)
        return peer_id

    async def connect_to(self, peer: PeerAddress, deadline_s: float) -> None:
        """Connect to this peer by any of its addresses, whatever failed before; return at once if
        connected.

        Raises PeerUnreachable, PeerTimeout.
        """
        peer_id = _library_id(peer.peer_id)
        if peer.peer_id == self.peer_id:
            raise PeerUnreachable("that is this node itself")
        if self.is_connected(peer.peer_id):
            return
        told = [parse_address(address, peer.peer_id) for address in peer.addresses]
        try:
            with trio.fail_after(deadline_s):
                await self._swarm.dial_peer(peer_id, told)
        except trio.TooSlowError:
            self.dht.note_failed(peer.peer_id)
            raise PeerTimeout(
                f"{peer.peer_id} did not answer within {deadline_s:.1f} s at"
                f" {', '.join(peer.addresses) or 'any known address'}"
            ) from None
        except BaseLibp2pError as error:
            self.dht.note_failed(peer.peer_id)
            raise PeerUnreachable(f"{peer.peer_id} is not reachable: {error}") from error
        self.dht.note_alive(peer.peer_id)

    async def take_websocket(self, below: trio.abc.Stream, remote: tuple[str, int]) -> None:
        """Serve a connection that came elsewhere and asks for a WebSocket, until it ends; closes
        it. `remote` is where it came from.
        """
        await self._swarm.beside.take(below, remote)

    async def disconnect(self, peer_id: str) -> None:
        """Close every connection to this peer."""
        await self._swarm.close_peer(_library_id(peer_id))

    def banned(self) -> list[Banned]:
        """List whom the operator banned, the latest first."""
        return self._swarm.banned.listing()

    async def ban(self, peer_id: str, reason: str) -> None:
        """Close every connection to this peer and take and open none, until `unban`.

        Raises InvalidPeerId, BanRefused.
        """
        peer = _library_id(peer_id)
        if peer_id == self.peer_id:
            raise BanRefused("that is this node itself")
        self._swarm.banned.add(peer_id, reason, time.time())
        await self._swarm.close_peer(peer)

    def unban(self, peer_id: str) -> None:
        """Let a peer come back. Raises BanRefused."""
        self._swarm.banned.lift(peer_id)

    def serve(
        self, protocol: str, handler: StreamHandler, *, streams_per_peer: int = STREAMS_PER_PEER
    ) -> None:
        """Run `handler` for each inbound stream of a protocol.

        When it returns the stream is closed; when it raises, reset.
        """

        async def handle(stream: INetStream) -> None:
            framed = FrameStream(stream, str(stream.muxed_conn.peer_id))
            try:
                await handler(framed)
                await framed.close()
            except P2pError as error:
                logger.debug("%s with %s ended: %s", protocol, framed.remote, error)
            except Exception:  # the top of one stream: our bug resets it and no other
                logger.exception(
                    "the handler of %s failed; the stream of %s is reset", protocol, framed.remote
                )
            finally:
                await framed.end()

        self._library.set_stream_handler(TProtocol(protocol), StreamGuard(handle, streams_per_peer))

    @asynccontextmanager
    async def open_stream(
        self, peer_id: str, protocol: str, deadline_s: float
    ) -> AsyncIterator[FrameStream]:
        """Open a stream to a connected peer or to one whose address is known.

        Raises PeerUnreachable, ProtocolRefused, PeerTimeout.

        A block that ends without an exception closes our side, so that all it sent arrives. One
        that is left by an exception or a cancellation resets the stream, so that the peer notices
        at once.
        """
        framed = FrameStream(
            await self._negotiate(_library_id(peer_id), protocol, deadline_s), peer_id
        )
        try:
            yield framed
            await framed.close()
        finally:
            await framed.end()

    async def _negotiate(self, peer_id: ID, protocol: str, deadline_s: float) -> INetStream:
        try:
            with trio.fail_after(deadline_s):
                return await self._library.new_stream(peer_id, [TProtocol(protocol)])
        except trio.TooSlowError:
            raise PeerTimeout(
                f"{peer_id} did not open a stream of {protocol} within {deadline_s:.1f} s"
            ) from None
        except StreamFailure as error:
            raise ProtocolRefused(
                f"{peer_id} does not speak {protocol}, or has enough streams of ours"
            ) from error
        except (BaseLibp2pError, OSError) as error:
            raise PeerUnreachable(f"no stream of {protocol} to {peer_id}: {error}") from error

    async def shut_down(self) -> None:
        """Cancel what the library left running outside any nursery, then close all connections
        together.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * SHUTDOWN_TIMEOUT_S):
            self._swarm.begin_closing()
            await self._library.stop_background()
            await self.close_connections()
            await self._swarm.close_listeners()

    async def note_dht_servers(self, *, all_again: bool) -> None:
        """Put the connected peers that serve the DHT's protocol into its routing table, those that
        were put there before only if `all_again`.
        """
        connected = self._library.get_connected_peers()
        protocol = self._library.dht_protocol
        servers = {peer for peer in connected if protocol in self._library.protocols_of(peer)}
        for peer in servers if all_again else servers - self._noted:
            await self.dht.routing.add_server(peer)
        self._noted = servers

    async def close_connections(self) -> None:
        """Close all connections at once, within a second."""
        with trio.move_on_after(SHUTDOWN_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for connection in self._swarm.get_connections():
                    nursery.start_soon(connection.close)


@asynccontextmanager
async def open_host(identity: Identity, config: NetworkConfig) -> AsyncIterator[Host]:
    """Listen, meet the bootstrap peers, and run everything until the block ends.

    Leaving takes about a second. Raises HostFailed.
    """
    is_over = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            host: Host = await nursery.start(_run_host, identity, config, is_over)
            try:
                yield host
            finally:
                is_over.set()
    except BaseExceptionGroup as group:
        raise sole_error(group) from None


async def _run_host(
    identity: Identity, config: NetworkConfig, is_over: trio.Event, task_status: TaskStatus[Host]
) -> None:
    for address in config.listen:
        check_free(address)
    library, swarm = new_library(identity, config)
    gossip = Gossip(config.network)
    router = new_router()
    pubsub = HardenedPubsub(library, router, gossip.judge, gossip.deliver)
    gossip.attach(pubsub)
    kademlia = BoundedKademlia(library, is_server=config.dht_server)
    reach = Reach(
        library,
        swarm,
        announce=[parse_address(address, identity.peer_id) for address in config.announce],
        beside=[parse_address(address, identity.peer_id) for address in config.beside],
        relay=config.relay,
        port_mapping=config.port_mapping,
    )
    dht = Dht(library, kademlia)
    host = Host(library, swarm, dht, gossip, reach)
    meeting = Meeting(host, config.bootstrap, KnownPeers(config.known_peers))
    reach.on_new_addresses = dht.addresses_changed
    with trio.CancelScope() as scope:
        async with AsyncExitStack() as stack:
            stack.callback(pubsub.seen_messages.stop)
            await stack.enter_async_context(run_service(swarm))
            if config.listen and not await swarm.listen(
                *(parse_address(address, identity.peer_id) for address in config.listen)
            ):
                raise HostFailed(f"cannot listen on {', '.join(config.listen)}; is the port taken?")
            stack.push_async_callback(host.shut_down)
            await stack.enter_async_context(run_service(pubsub))
            await stack.enter_async_context(run_service(router))
            await pubsub.wait_until_ready()
            await meeting.meet()
            await stack.enter_async_context(run_service(kademlia))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.dht.routing.keep_routing)
                nursery.start_soon(host.dht.keep_providing)
                nursery.start_soon(reach.run)
                nursery.start_soon(meeting.keep_in_touch, pubsub.heal)
                if config.mdns:
                    neighbours = Neighbours(identity.peer_id, lambda: list(host.addresses))
                    nursery.start_soon(meeting.meet_neighbours, neighbours)
                # from here on `is_over` ends it, in order: cancelled in the middle, the library
                # would leak its sockets
                scope.shield = True
                task_status.started(host)
                await is_over.wait()
                await meeting.remember()
                nursery.cancel_scope.cancel()


def _library_id(peer_id: str) -> ID:
    public_key_of(peer_id)
    return ID.from_base58(peer_id)


__all__ = ["ConnectedPeer", "Host", "NetworkConfig", "PeerAddress", "StreamHandler", "open_host"]
