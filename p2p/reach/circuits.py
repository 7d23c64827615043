"""Connects through relays: reserves a place at one, dials through one, and takes what comes by one.

The client's two sides of circuit relay v2. A circuit becomes a raw connection over which the two
ends shake hands as they would over TCP; a relay that changes a byte breaks it and nothing more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from multiaddr import Multiaddr

from ..dialling import CIRCUIT, is_circuit
from ..errors import InvalidAddress, P2pError, PeerUnreachable, StreamClosed
from ..hardening import HardenedHost, StreamGuard
from ..swarm import HardenedSwarm
from .messages import STREAM_ERRORS, fast_stream, read_message, write_message
from .relay import HOP, STALLED_WRITE_S, STOP

STOP_STREAMS_PER_PEER = 64
MESSAGE_TIMEOUT_S = 8.0
RELAY_DIAL_TIMEOUT_S = 5.0
PROBE_ROUNDS = 16
PROBE_TIMEOUT_S = 15.0
PROBE = bytes(range(256)) * 8
PROBE_ANSWER = b"".join(bytes((n, 255 - n, n ^ 90)) for n in range(250))  # read backwards, another
ADDRESS_TTL_S = 3600

logger = logging.getLogger(__name__)


class CircuitStream(ReadWriteCloser):
    """A stream to a relay, read and written as if it were a socket."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, b"" at the end."""
        try:
            return await fast_stream(self._stream).read(n)
        except MuxedStreamEOF:
            return b""
        except STREAM_ERRORS as error:
            raise ConnectionClosedError(f"the relay ended the circuit: {error}") from error

    async def write(self, data: bytes) -> None:
        """Write all of it."""
        try:
            await fast_stream(self._stream).write(data, stall_s=STALLED_WRITE_S)
        except STREAM_ERRORS as error:
            raise ConnectionClosedError(f"the relay ended the circuit: {error}") from error

    async def close(self) -> None:
        """End the circuit in both directions."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
            await self._stream.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return nothing: the relay's address is not the peer's."""
        return None


@dataclass(frozen=True)
class Reserved:
    """A place at a relay: the addresses at which we can be dialled there, and how long."""

    relay: ID
    addresses: tuple[Multiaddr, ...]
    expires_s: float


class Circuits:
    """Reserves, dials and accepts. `trusts` says at which relays this host has a place, and
    `on_broken` hears of a relay whose circuit broke in its handshake.
    """

    def __init__(
        self,
        library: HardenedHost,
        swarm: HardenedSwarm,
        *,
        trusts: Callable[[ID], bool],
        on_inbound: Callable[[ID], None],
        on_broken: Callable[[ID], None],
    ) -> None:
        self._library = library
        self._swarm = swarm
        self._trusts = trusts
        self._on_inbound = on_inbound
        self._on_broken = on_broken
        swarm.dial_circuit = self.dial
        library.set_stream_handler(STOP, StreamGuard(self._serve, STOP_STREAMS_PER_PEER))

    async def reserve(self, relay: ID) -> Reserved:
        """Ask a connected relay for a place, or prolong the one we have. Raises P2pError."""
        answer, stream = await self._hop(relay, pb.HopMessage(type=pb.HopMessage.RESERVE))
        await stream.reset()
        if answer.status != pb.OK:
            raise PeerUnreachable(f"{relay} gives no reservation (status {answer.status})")
        circuit = Multiaddr(f"/p2p/{relay}/{CIRCUIT}")
        addresses = tuple(address.encapsulate(circuit) for address in self._addresses_of(relay))
        if not addresses:
            raise PeerUnreachable(f"{relay} is known under no address that others could dial")
        # its clock may be wrong, so that only a sane duration is believed
        return Reserved(relay, addresses, expires_s=_duration(answer.reservation.expire))

    def _addresses_of(self, relay: ID) -> list[Multiaddr]:
        """List where others can dial a relay: what it tells of itself, and where we found it."""
        told = list(self._library.peerstore.addrs(relay))
        found = [
            address
            for connection in self._swarm.get_connections(relay)
            if connection.direction == Direction.OUTBOUND  # type: ignore[attr-defined]
            for address in connection.get_transport_addresses()
        ]
        bare = [_without_peer(address) for address in (*found, *told) if not is_circuit(address)]
        return list(dict.fromkeys(bare))[:3]

    async def dial(self, address: Multiaddr, peer: ID) -> INetConn:
        """Connect to a peer through a relay, by an address with /p2p/RELAY/p2p-circuit in it.

        Raises SwarmException.
        """
        try:
            relay, relay_address = split_circuit(address)
            if not self._swarm.has_direct(relay):
                self._library.peerstore.add_addrs(relay, [relay_address], ADDRESS_TTL_S)
                with trio.fail_after(RELAY_DIAL_TIMEOUT_S):
                    await self._swarm.dial_peer(relay)
            stream = await self._open(relay, peer)
        except (P2pError, *STREAM_ERRORS, trio.TooSlowError) as error:
            raise SwarmException(f"no circuit to {peer} by {address}: {error}") from error
        raw = self._raw(stream, relay_address, relay, is_initiator=True)
        try:
            return await self._swarm.upgrade_outbound_raw_conn(self._swarm.protected(raw), peer)
        except BaseException:  # cancelled or failed: the other end learns it
            await raw.close()
            raise

    async def probe(self, relay: ID) -> bool:
        """Send bytes to ourselves through a relay; False if they came back broken or never did.

        A relay that refuses circuits to oneself is believed.
        """
        try:
            stream = await self._open(relay, self._library.get_id())
        except P2pError:
            return True
        try:
            with trio.fail_after(PROBE_TIMEOUT_S):
                for _ in range(PROBE_ROUNDS):
                    await stream.write(PROBE)
                    if await _read_all(stream, len(PROBE_ANSWER)) != PROBE_ANSWER:
                        return False
                return True
        except (*STREAM_ERRORS, trio.TooSlowError):
            return False
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await stream.reset()

    async def _open(self, relay: ID, peer: ID) -> INetStream:
        ask = pb.HopMessage(type=pb.HopMessage.CONNECT, peer=pb.PeerId(id=peer.to_bytes()))
        answer, stream = await self._hop(relay, ask)
        if answer.status != pb.OK:
            await stream.reset()
            raise PeerUnreachable(f"{relay} carries nothing to {peer} (status {answer.status})")
        return stream

    async def _hop(self, relay: ID, ask: pb.HopMessage) -> tuple[pb.HopMessage, INetStream]:
        try:
            with trio.fail_after(MESSAGE_TIMEOUT_S):
                stream = await self._library.new_stream(relay, [HOP])
        except (BaseLibp2pError, OSError, trio.TooSlowError) as error:
            raise PeerUnreachable(f"{relay} relays nothing: {error}") from error
        try:
            await write_message(stream, ask, MESSAGE_TIMEOUT_S)
            return await read_message(stream, pb.HopMessage, MESSAGE_TIMEOUT_S), stream
        except BaseException:  # cancelled or failed: the other end learns it
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await stream.reset()
            raise

    def _raw(
        self, stream: INetStream, relay_address: Multiaddr, relay: ID, *, is_initiator: bool
    ) -> RawConnection:
        way = relay_address.encapsulate(Multiaddr(f"/p2p/{relay}/{CIRCUIT}"))
        return RawConnection(CircuitStream(stream), is_initiator, ConnectionType.RELAYED, [way])

    async def _serve(self, stream: INetStream) -> None:
        """Take a circuit that a relay brings, and stay with it to its end."""
        relay = stream.muxed_conn.peer_id
        try:
            ask = await read_message(stream, pb.StopMessage, MESSAGE_TIMEOUT_S)
            allowed = ask.type == pb.StopMessage.CONNECT and self._trusts(relay)
            status = pb.OK if allowed else pb.PERMISSION_DENIED
            answer = pb.StopMessage(type=pb.StopMessage.STATUS, status=status)
            await write_message(stream, answer, MESSAGE_TIMEOUT_S)
            if not allowed:
                await stream.close()
            elif ask.peer.id == self._library.get_id().to_bytes():
                await _answer_probe(stream)
            else:
                await self._accept(stream, relay)
        except (P2pError, *STREAM_ERRORS, trio.TooSlowError) as error:
            logger.debug("a circuit by %s failed: %s", relay, error)
            await stream.reset()

    async def _accept(self, stream: INetStream, relay: ID) -> None:
        addresses = self._addresses_of(relay) or [Multiaddr("/ip4/0.0.0.0/tcp/0")]
        raw = self._raw(stream, addresses[0], relay, is_initiator=False)
        try:
            muxed = await self._swarm.upgrade_as_server(raw, addresses[0])
        except Exception as error:  # a hostile handshake makes the library raise anything
            self._on_broken(relay)
            raise StreamClosed(f"its handshake broke: {error!r}") from error
        self._on_inbound(muxed.peer_id)
        await muxed.event_closed.wait()  # type: ignore[attr-defined]
        await raw.close()


async def _answer_probe(stream: INetStream) -> None:
    """Answer our own probe if it came as it was sent."""
    with trio.fail_after(PROBE_TIMEOUT_S):
        for _ in range(PROBE_ROUNDS):
            if await _read_all(stream, len(PROBE)) != PROBE:
                break
            await stream.write(PROBE_ANSWER)
    await stream.close()


async def _read_all(stream: INetStream, num_bytes: int) -> bytes:
    came = b""
    while len(came) < num_bytes:
        came += await stream.read(num_bytes - len(came))
    return came


def split_circuit(address: Multiaddr) -> tuple[ID, Multiaddr]:
    """Take a circuit address apart: the relay, and where it is. Raises InvalidAddress."""
    way, _, _ = str(address).partition(f"/{CIRCUIT}")
    transport, has_peer, relay = way.rpartition("/p2p/")
    if str(address).count(CIRCUIT) != 1 or not has_peer or not transport:
        raise InvalidAddress(f"{address} names no relay")
    try:
        return ID.from_string(relay), Multiaddr(transport)
    except Exception as error:  # the library's peer ids raise several unrelated kinds
        raise InvalidAddress(f"{address} names no relay: {error}") from error


def _without_peer(address: Multiaddr) -> Multiaddr:
    return Multiaddr(str(address).partition("/p2p/")[0])


def _duration(expire: int) -> float:
    return min(max(expire - time.time(), 60.0), 3600.0)
