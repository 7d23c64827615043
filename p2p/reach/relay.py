"""Carries bytes for hosts behind routers: the relay's side of circuit relay v2 (HOP).

Serves RESERVE and CONNECT, and passes on what both sides of a circuit say, within the limits of
reservations.py. Cannot read what it carries: the two ends speak Noise with each other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from multiaddr import Multiaddr

from ..errors import InvalidInput, P2pError, PeerUnreachable
from ..hardening import HardenedHost, StreamGuard
from ..swarm import HardenedSwarm, is_relayed
from ..transport.stream import FastYamuxStream
from .messages import STREAM_ERRORS, fast_stream, read_message, write_message
from .reservations import Circuit, Pace, Refused, RelayLimits, Reservations

HOP = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
HOP_STREAMS_PER_PEER = 16
MESSAGE_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 8.0
STALLED_WRITE_S = 60.0
HALF_CLOSED_S = 5.0

logger = logging.getLogger(__name__)


class Relay:
    """The circuits that this host carries. `offer` and `withdraw` say whether it takes new ones."""

    def __init__(
        self,
        library: HardenedHost,
        swarm: HardenedSwarm,
        limits: RelayLimits,
        addresses: Callable[[], list[Multiaddr]],
    ) -> None:
        self.reservations = Reservations(limits)
        self.is_offered = False
        self.bytes_carried = 0
        self._library = library
        self._swarm = swarm
        self._limits = limits
        self._addresses = addresses
        self._pace = Pace(limits.bytes_per_s)

    def offer(self) -> None:
        """Take reservations from now on."""
        guard = StreamGuard(self._serve, HOP_STREAMS_PER_PEER)
        self._library.set_stream_handler(HOP, guard)
        self.is_offered = True

    def withdraw(self) -> None:
        """Take no more; circuits that are open go on."""
        self._library.remove_stream_handler(HOP)
        self.is_offered = False

    async def _serve(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        try:
            request = await read_message(stream, pb.HopMessage, MESSAGE_TIMEOUT_S)
            if _is_over_relay(stream):
                await self._say(stream, pb.PERMISSION_DENIED)
            elif request.type == pb.HopMessage.RESERVE:
                await self._reserve(stream, peer)
            elif request.type == pb.HopMessage.CONNECT:
                await self._connect(stream, peer, request.peer.id)
                return
            else:
                await self._say(stream, pb.UNEXPECTED_MESSAGE)
            await stream.close()
        except (P2pError, *STREAM_ERRORS) as error:
            logger.debug("relay: %s: %s", peer, error)
            await stream.reset()

    async def _say(self, stream: INetStream, status: pb.Status.ValueType) -> None:
        answer = pb.HopMessage(type=pb.HopMessage.STATUS, status=status)
        await write_message(stream, answer, MESSAGE_TIMEOUT_S)

    async def _reserve(self, stream: INetStream, peer: ID) -> None:
        remote = stream.get_remote_address() or ("", 0)
        given = self.reservations.reserve(str(peer), remote[0], trio.current_time())
        if isinstance(given, Refused):
            logger.debug("relay: no place for %s: %s", peer, given.reason)
            await self._say(stream, pb.RESERVATION_REFUSED)
            return
        own = Multiaddr(f"/p2p/{self._library.get_id()}")
        answer = pb.HopMessage(
            type=pb.HopMessage.STATUS,
            status=pb.OK,
            reservation=pb.Reservation(
                expire=int(time.time() + given - trio.current_time()),
                addrs=[address.encapsulate(own).to_bytes() for address in self._addresses()],
            ),
            limit=self._limit(),
        )
        await write_message(stream, answer, MESSAGE_TIMEOUT_S)

    def _limit(self) -> pb.Limit:
        return pb.Limit(duration=int(self._limits.circuit_s), data=self._limits.circuit_bytes)

    async def _connect(self, stream: INetStream, source: ID, target_bytes: bytes) -> None:
        try:
            target = ID(target_bytes)
        except Exception as error:  # the library's peer ids raise several unrelated kinds
            raise InvalidInput("the peer to connect to is none") from error
        taken = self.reservations.open_circuit(str(source), str(target), trio.current_time())
        if isinstance(taken, Refused):
            logger.debug("relay: no circuit %s → %s: %s", source, target, taken.reason)
            full = pb.RESOURCE_LIMIT_EXCEEDED if taken.is_full else pb.NO_RESERVATION
            await self._say(stream, full)
            await stream.close()
            return
        try:
            try:
                onward = await self._stop(source, target)
            except (P2pError, *STREAM_ERRORS, trio.TooSlowError) as error:
                logger.debug("relay: %s does not take a circuit: %s", target, error)
                await self._say(stream, pb.CONNECTION_FAILED)
                await stream.close()
                return
            try:
                answer = pb.HopMessage(type=pb.HopMessage.STATUS, status=pb.OK, limit=self._limit())
                await write_message(stream, answer, MESSAGE_TIMEOUT_S)
                await self._carry_both(stream, onward, taken)
            finally:
                await _end(onward)
        finally:
            self.reservations.close_circuit(taken)

    async def _stop(self, source: ID, target: ID) -> INetStream:
        """Ask the target, over its own connection, to take a circuit."""
        if not self._swarm.has_direct(target):
            self.reservations.drop(str(target))
            raise PeerUnreachable(f"{target} is no longer connected")
        with trio.fail_after(STOP_TIMEOUT_S):
            onward = await self._library.new_stream(target, [STOP])
        try:
            ask = pb.StopMessage(
                type=pb.StopMessage.CONNECT,
                peer=pb.PeerId(id=source.to_bytes()),
                limit=self._limit(),
            )
            await write_message(onward, ask, STOP_TIMEOUT_S)
            answer = await read_message(onward, pb.StopMessage, STOP_TIMEOUT_S)
            if answer.type != pb.StopMessage.STATUS or answer.status != pb.OK:
                raise PeerUnreachable(f"it answered with status {answer.status}")
        except BaseException:  # cancelled or failed: the other end learns it
            await _end(onward)
            raise
        return onward

    async def _carry_both(self, one: INetStream, other: INetStream, circuit: Circuit) -> None:
        """Pass bytes on in both directions until both sides have ended, or one broke, or the
        circuit's time or bytes are spent.
        """
        with trio.move_on_after(circuit.ends_at - trio.current_time()) as scope:
            async with trio.open_nursery() as nursery:

                async def carry(source: INetStream, target: INetStream) -> None:
                    if await self._carry(fast_stream(source), fast_stream(target), circuit):
                        scope.deadline = min(scope.deadline, trio.current_time() + HALF_CLOSED_S)
                    else:
                        scope.cancel()

                nursery.start_soon(carry, one, other)
                nursery.start_soon(carry, other, one)
        await _end(one)

    async def _carry(
        self, source: FastYamuxStream, target: FastYamuxStream, circuit: Circuit
    ) -> bool:
        """Pass bytes on until the source has said all; False when it broke before."""
        try:
            while True:
                try:
                    data = await source.receive()
                except MuxedStreamEOF:
                    await target.close()
                    return True
                if not circuit.spend(len(data)):
                    logger.info("relay: %s → %s is spent", circuit.source, circuit.target)
                    return False
                self.bytes_carried += len(data)
                if (delay := self._pace.delay(len(data), trio.current_time())) > 0:
                    await trio.sleep(delay)
                await target.write(memoryview(data), stall_s=STALLED_WRITE_S)
        except STREAM_ERRORS as error:
            logger.debug("relay: %s → %s ended: %r", circuit.source, circuit.target, error)
            return False


async def _end(stream: INetStream) -> None:
    """Reset a stream, even under cancellation. Harmless when repeated."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
        await stream.reset()


def _is_over_relay(stream: INetStream) -> bool:
    return is_relayed(stream.muxed_conn)  # type: ignore[arg-type]  # yamux says it as well
