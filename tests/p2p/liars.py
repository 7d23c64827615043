"""Peers of the DHT that are silent, or answer with whatever a test wants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.utils.varint import encode_uvarint, read_varint_prefixed_bytes_limited

from p2p.host import Host

Reply = Callable[[Message], bytes]


def answer_dht(host: Host, handler: Callable[[object], Awaitable[None]]) -> None:
    """Have a host's part of the DHT played by `handler`, for each stream."""
    host._library.set_stream_handler(host._library.dht_protocol, handler)


def fall_silent(host: Host) -> list[object]:
    """Take questions and never answer. Returns the streams as they come."""
    streams: list[object] = []

    async def wait(stream: object) -> None:
        streams.append(stream)
        await trio.sleep_forever()

    answer_dht(host, wait)
    return streams


def reply_with(host: Host, reply: Reply) -> None:
    """Answer each question with these bytes."""

    async def answer(stream) -> None:
        question = Message()
        question.ParseFromString(await read_varint_prefixed_bytes_limited(stream, 1 << 20))
        await stream.write(reply(question))
        await trio.sleep_forever()

    answer_dht(host, answer)


def framed(message: Message) -> bytes:
    data = message.SerializeToString()
    return encode_uvarint(len(data)) + data
