"""Asks peers to dial us back, and does it for them: AutoNAT version 1.

Whoever asks is dialled at its own IP address only, seldom, and for the length of one handshake, so
that nobody makes this host knock at a third one's door.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.autonat.pb import autonat_pb2 as pb
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from ..dialling import Realm, ip_of, is_circuit, realm_of_ip
from ..errors import P2pError
from ..hardening import HardenedHost, StreamGuard
from ..swarm import HardenedSwarm, is_relayed
from .messages import STREAM_ERRORS, read_message, write_message

AUTONAT = TProtocol("/libp2p/autonat/1.0.0")
STREAMS_PER_PEER = 2
MAX_ADDRESSES = 4
DIAL_BACK_TIMEOUT_S = 2.5
ANSWER_TIMEOUT_S = 8.0
MIN_INTERVAL_S = 5.0  # between two dials for one peer
MAX_DIALS_PER_MINUTE = 60  # for all peers together
MAX_REMEMBERED = 1000

logger = logging.getLogger(__name__)


class DialBack:
    """Serves dial-backs from its first moment; `ask` has one done for us."""

    def __init__(self, library: HardenedHost, swarm: HardenedSwarm) -> None:
        self._library = library
        self._swarm = swarm
        self._last: OrderedDict[str, float] = OrderedDict()
        library.set_stream_handler(AUTONAT, StreamGuard(self._serve, STREAMS_PER_PEER))

    async def ask(self, peer: ID, addresses: list[str]) -> tuple[Realm, str | None] | None:
        """Have a peer dial us at these addresses; return how far away it is, and the address that
        works or None. None if it does not say.
        """
        realm = self._realm_of(peer)
        if realm is None or not addresses:
            return None
        request = pb.Message(
            type=pb.Message.DIAL,
            dial=pb.Message.Dial(
                peer=pb.Message.PeerInfo(
                    id=self._library.get_id().to_bytes(),
                    addrs=[Multiaddr(address).to_bytes() for address in addresses],
                )
            ),
        )
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                stream = await self._library.new_stream(peer, [AUTONAT])
            try:
                await write_message(stream, request, ANSWER_TIMEOUT_S)
                answer = (await read_message(stream, pb.Message, ANSWER_TIMEOUT_S)).dialResponse
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                    await stream.reset()
        except (P2pError, *STREAM_ERRORS, trio.TooSlowError) as error:
            logger.debug("%s did not dial us back: %s", peer, error)
            return None
        if answer.status == pb.Message.E_DIAL_ERROR:
            return realm, None
        works = _text(answer.addr)
        return (realm, works) if answer.status == pb.Message.OK and works in addresses else None

    def _realm_of(self, peer: ID) -> Realm | None:
        """Say how far away a peer is, None if no direct connection leads there."""
        for connection in self._swarm.live_connections(peer):
            for address in connection.get_transport_addresses()[:1]:
                if not is_relayed(connection):
                    return realm_of_ip(ip_of(address) or "")
        return None

    async def _serve(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        try:
            request = await read_message(stream, pb.Message, ANSWER_TIMEOUT_S)
            status, address = await self._dial_back(peer, stream, request)
            answer = pb.Message(
                type=pb.Message.DIAL_RESPONSE,
                dialResponse=pb.Message.DialResponse(status=status, addr=address),
            )
            await write_message(stream, answer, ANSWER_TIMEOUT_S)
            await stream.close()
        except (P2pError, *STREAM_ERRORS) as error:
            logger.debug("dial-back for %s: %s", peer, error)
            await stream.reset()

    async def _dial_back(
        self, peer: ID, stream: INetStream, request: pb.Message
    ) -> tuple[pb.Message.ResponseStatus.ValueType, bytes | None]:
        if request.type != pb.Message.DIAL or request.dial.peer.id != peer.to_bytes():
            return pb.Message.E_BAD_REQUEST, None
        remote = stream.get_remote_address()
        wanted = [_text(raw) for raw in request.dial.peer.addrs[: 4 * MAX_ADDRESSES]]
        if remote is None or not self._may_dial(str(peer)):
            return pb.Message.E_DIAL_REFUSED, None
        own_ip = remote[0].removeprefix("::ffff:")
        allowed = [text for text in wanted if text and ip_of(text) == own_ip]
        if not allowed:
            return pb.Message.E_DIAL_REFUSED, None
        for text in allowed[:MAX_ADDRESSES]:
            if await self._reaches(peer, Multiaddr(text)):
                return pb.Message.OK, Multiaddr(text).to_bytes()
        return pb.Message.E_DIAL_ERROR, None

    def _may_dial(self, peer: str) -> bool:
        now = trio.current_time()
        lately = sum(at > now - 60 for at in self._last.values())
        if self._last.get(peer, -MIN_INTERVAL_S) > now - MIN_INTERVAL_S:
            return False
        if lately >= MAX_DIALS_PER_MINUTE:
            return False
        self._last[peer] = now
        self._last.move_to_end(peer)
        while len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)
        return True

    async def _reaches(self, peer: ID, address: Multiaddr) -> bool:
        """Shake hands at an address and hang up: only the peer itself can answer so."""
        transport = self._swarm.transport_manager.transport_for_dialing(address)
        if transport is None:
            return False
        try:
            with trio.fail_after(DIAL_BACK_TIMEOUT_S):
                raw = self._swarm.protected(await transport.dial(address))
                try:
                    await self._swarm.upgrader.upgrade_security(raw, True, peer)
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                        await raw.close()
        except Exception as error:  # a hostile handshake makes the library raise anything
            logger.debug("%s is not reached at %s: %r", peer, address, error)
            return False
        return True


def _text(raw: bytes) -> str | None:
    """Read a TCP address without a peer id or a relay in it; None for anything else."""
    try:
        text = str(Multiaddr(raw)).partition("/p2p/")[0]
    except Exception:  # multiaddr raises several unrelated kinds
        return None
    return text if ip_of(text) and "/tcp/" in text and not is_circuit(text) else None
