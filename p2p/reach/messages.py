"""Reads and writes libp2p's protobuf messages on a raw stream: a varint length, then that many
bytes, bounded and with a deadline.

Does not know what a message means.
"""

from __future__ import annotations

from typing import TypeVar

import trio
from google.protobuf.message import DecodeError, Message
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from ..errors import InvalidInput, PeerTimeout, StreamClosed
from ..transport.stream import FastYamuxStream

MAX_MESSAGE_BYTES = 8 << 10
STREAM_ERRORS = (
    BaseLibp2pError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)

M = TypeVar("M", bound=Message)


def fast_stream(stream: INetStream) -> FastYamuxStream:
    """Return the stream below the library's wrapper: it takes and gives bytes without copies, and
    waits for a slow peer as long as it is told to.
    """
    muxed = stream.muxed_stream  # type: ignore[attr-defined]
    assert isinstance(muxed, FastYamuxStream)
    return muxed


async def read_message(stream: INetStream, kind: type[M], deadline_s: float) -> M:
    """Read one message and not a byte more. Raises StreamClosed, PeerTimeout, InvalidInput."""
    message = kind()
    try:
        with trio.fail_after(deadline_s):
            message.ParseFromString(
                await read_varint_prefixed_bytes_limited(stream, MAX_MESSAGE_BYTES)
            )
    except trio.TooSlowError:
        raise PeerTimeout(f"no {kind.__name__} came within {deadline_s:.1f} s") from None
    except (DecodeError, ValueError) as error:
        raise InvalidInput(f"that is no {kind.__name__}: {error}") from error
    except STREAM_ERRORS as error:
        raise StreamClosed(f"the stream ended before a {kind.__name__}: {error}") from error
    return message


async def write_message(stream: INetStream, message: Message, deadline_s: float) -> None:
    """Write one message. Raises StreamClosed, PeerTimeout."""
    try:
        with trio.fail_after(deadline_s):
            await stream.write(encode_varint_prefixed(message.SerializeToString()))
    except trio.TooSlowError:
        raise PeerTimeout(f"a {type(message).__name__} was not taken") from None
    except STREAM_ERRORS as error:
        raise StreamClosed(f"the stream ended: {error}") from error
