"""Asks one peer of the DHT one thing, and reads its answer within bounds.

The wire is libp2p's kad-dht as it is. Decides neither whom to ask nor what is believed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.pb.kademlia_pb2 import Message, Record
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr

from .errors import PeerTimeout, PeerUnreachable, ProtocolRefused, StreamClosed
from .hardening import HardenedHost

MULTISTREAM = b"/multistream/1.0.0\n"
READ_BYTES = 16 << 10
MAX_LINE_BYTES = 1024
MAX_ANSWER_BYTES = 256 << 10
MAX_NAMED = 20  # peers taken from one answer as closer, and as many as providers
MAX_ADDRESSES = 8
MAX_ADDRESS_BYTES = 256
MAX_ID_BYTES = 64
ADDRESS_TTL_S = 900
ECHO_TIMEOUT_S = 0.5
_CLOSE_TIMEOUT_S = 0.2
_MAX_VARINT_BITS = 28
_LIBRARY_ERRORS = (
    BaseLibp2pError,
    OSError,
    ValueError,
    trio.ClosedResourceError,
    trio.BrokenResourceError,
)


@dataclass(frozen=True)
class Named:
    """A peer that an answer names, and where it is said to be. Nothing of it is certain."""

    peer: bytes
    addresses: tuple[Multiaddr, ...]


@dataclass(frozen=True)
class Answer:
    """What a peer said. `value` is what it stores under the key, unchecked."""

    closer: tuple[Named, ...]
    providers: tuple[Named, ...] = ()
    value: bytes | None = None


class Queries:
    """Questions to single peers, each with a deadline.

    Every method raises PeerUnreachable or PeerTimeout for a peer that seems gone, ProtocolRefused
    or StreamClosed for one that is there and gives no answer.
    """

    def __init__(self, host: HardenedHost) -> None:
        self._host = host
        self._protocol = host.dht_protocol.encode() + b"\n"
        self._preface = b"".join(
            encode_uvarint(len(line)) + line for line in (MULTISTREAM, self._protocol)
        )

    async def find_node(self, peer: ID, key: bytes, deadline_s: float) -> Answer:
        """Ask who is close to a key of at most 50 bytes."""
        return await self._ask(peer, Message(type=Message.FIND_NODE, key=key), deadline_s)

    async def get_value(self, peer: ID, key: bytes, deadline_s: float) -> Answer:
        """Ask for a value."""
        return await self._ask(peer, Message(type=Message.GET_VALUE, key=key), deadline_s)

    async def get_providers(self, peer: ID, key: bytes, deadline_s: float) -> Answer:
        """Ask who has something."""
        return await self._ask(peer, Message(type=Message.GET_PROVIDERS, key=key), deadline_s)

    async def put_value(self, peer: ID, key: bytes, value: bytes, deadline_s: float) -> None:
        """Have a peer store a value; StreamClosed when it does not take it."""
        record = Record(key=key, value=value)
        message = Message(type=Message.PUT_VALUE, key=key, record=record)
        echo = await self._exchange(peer, message, deadline_s)
        if echo.type != Message.PUT_VALUE or echo.key != key:
            raise StreamClosed(f"{peer} answered something else")

    async def add_provider(self, peer: ID, key: bytes, deadline_s: float) -> None:
        """Tell a peer that this node has something.

        Our peers say so when they took it; others say nothing, and are believed to have taken it.
        """
        message = Message(type=Message.ADD_PROVIDER, key=key)
        own = message.providerPeers.add()
        own.id = self._host.get_id().to_bytes()
        own.addrs.extend(address.to_bytes() for address in self._host.get_addrs())
        with _deadline(peer, deadline_s):
            async with self._asked(peer, message) as reader:
                with trio.move_on_after(ECHO_TIMEOUT_S):
                    await reader.message()

    def place(self, named: Named) -> bool:
        """Note where a peer is said to be, unless that is known; return whether it was noted."""
        peer = ID(named.peer)
        if not named.addresses or self._is_placed(peer):
            return False
        self._host.peerstore.add_addrs(peer, list(named.addresses), ADDRESS_TTL_S)
        return True

    def _is_placed(self, peer: ID) -> bool:
        try:
            return bool(self._host.peerstore.addrs(peer))
        except PeerStoreError:
            return False

    async def _ask(self, peer: ID, message: Message, deadline_s: float) -> Answer:
        answer = await self._exchange(peer, message, deadline_s)
        if answer.type != message.type:
            raise StreamClosed(f"{peer} answered something else")
        return Answer(
            closer=_named(answer.closerPeers),
            providers=_named(answer.providerPeers),
            value=answer.record.value if answer.HasField("record") else None,
        )

    async def _exchange(self, peer: ID, message: Message, deadline_s: float) -> Message:
        with _deadline(peer, deadline_s):
            async with self._asked(peer, message) as reader:
                return await reader.message()

    @asynccontextmanager
    async def _asked(self, peer: ID, message: Message) -> AsyncIterator[_Reader]:
        """Open a stream and say everything in one write: the version of multistream, the protocol
        and the question. So an answer takes one round trip and not three.
        """
        try:
            stream = await self._host.get_network().new_stream(peer)
        except (BaseLibp2pError, OSError) as error:
            raise PeerUnreachable(f"{peer} is not reachable: {error}") from error
        try:
            data = message.SerializeToString()
            await _write(stream, self._preface + encode_uvarint(len(data)) + data)
            reader = _Reader(stream)
            await reader.agree(self._protocol)
            yield reader
        finally:
            await _end(stream)


class _Reader:
    """Reads what comes back on one stream: the protocol agreed on, then messages."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def agree(self, protocol: bytes) -> None:
        """Read both lines of multistream; ProtocolRefused when the peer does not speak ours."""
        for expected in (MULTISTREAM, protocol):
            line = await self._delimited(MAX_LINE_BYTES)
            if line != expected:
                raise ProtocolRefused(f"the peer does not serve {protocol[:-1].decode()}")

    async def message(self) -> Message:
        """Read one message."""
        data = await self._delimited(MAX_ANSWER_BYTES)
        answer = Message()
        try:
            answer.ParseFromString(data)
        except DecodeError as error:
            raise StreamClosed(f"the peer answered with something else: {error}") from error
        return answer

    async def _delimited(self, max_bytes: int) -> bytes:
        """Read one piece behind its length, a varint."""
        length = shift = 0
        while True:
            byte = (await self._take(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > _MAX_VARINT_BITS:
                raise StreamClosed("the peer sent a length that is none")
        if length > max_bytes:
            raise StreamClosed(f"the peer announced {length} bytes; the limit is {max_bytes}")
        return await self._take(length)

    async def _take(self, num_bytes: int) -> bytes:
        while len(self._buffer) < num_bytes:
            try:
                data = await self._stream.read(READ_BYTES)
            except _LIBRARY_ERRORS as error:
                raise StreamClosed(f"the peer gave no answer: {error}") from error
            if not data:
                raise StreamClosed("the peer ended the stream")
            self._buffer += data
        taken = bytes(self._buffer[:num_bytes])
        del self._buffer[:num_bytes]
        return taken


@contextmanager
def _deadline(peer: ID, deadline_s: float) -> Iterator[None]:
    try:
        with trio.fail_after(deadline_s):
            yield
    except trio.TooSlowError:
        raise PeerTimeout(f"{peer} did not answer within {deadline_s:.1f} s") from None


async def _write(stream: INetStream, data: bytes) -> None:
    try:
        await stream.write(data)
    except _LIBRARY_ERRORS as error:
        raise StreamClosed(f"the question was not taken: {error}") from error


async def _end(stream: INetStream) -> None:
    """Close our side where the other listens, else drop the stream; whoever waits is not held."""
    with (
        trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_TIMEOUT_S),
        suppress(*_LIBRARY_ERRORS),
    ):
        await stream.close()


def _named(peers: Iterable[Message.Peer]) -> tuple[Named, ...]:
    """Read the first peers of a list, and leave out the addresses that are none."""
    return tuple(
        Named(peer.id, tuple(_addresses(peer.addrs)))
        for peer in islice(peers, MAX_NAMED)
        if 0 < len(peer.id) <= MAX_ID_BYTES
    )


def _addresses(raw: Iterable[bytes]) -> Iterator[Multiaddr]:
    for data in islice(raw, MAX_ADDRESSES):
        if len(data) <= MAX_ADDRESS_BYTES:
            try:
                yield Multiaddr(data)
            except Exception:  # multiaddr raises several unrelated kinds
                continue
