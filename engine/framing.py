"""Cuts the border's byte stream into messages, and joins messages into frames.

Both ends use it: the engine's process and the daemon that supervises it. A frame is a 4-byte
big-endian length and one MessagePack array (engine/messages.py). Pure: bytes in, messages out;
knows no socket and no thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec

from .errors import BorderError
from .messages import MAX_FRAME_BYTES, Message

READ_BYTES = 1 << 16  # what either end asks its socket for at a time
_HEADER_BYTES = 4

M = TypeVar("M")


def encode_frames(messages: Iterable[Message]) -> bytes:
    """Join messages, a frame each, into bytes that one call can send."""
    parts = []
    for message in messages:
        body = msgspec.msgpack.encode(message)
        parts += [len(body).to_bytes(_HEADER_BYTES, "big"), body]
    return b"".join(parts)


class MessageDecoder(Generic[M]):
    """Decodes arriving bytes into messages of one union, `ToEngine` or `FromEngine`.

    - `feed` bytes in pieces of any size, then call `next_message` until it returns None. - Holds at
    most one frame and what was fed beyond it; a length is checked before its bytes are awaited. -
    After a BorderError the stream cannot be read any further.
    """

    def __init__(self, kind: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes that came from the socket."""
        self._buffer += data

    def next_message(self) -> M | None:
        """Return the next whole message, or None until more bytes are fed.

        Raises BorderError for a frame over MAX_FRAME_BYTES, or one that is not a message.
        """
        if len(self._buffer) < _HEADER_BYTES:
            return None
        length = int.from_bytes(self._buffer[:_HEADER_BYTES], "big")
        if length > MAX_FRAME_BYTES:
            raise BorderError(f"a frame of {length} bytes; the limit is {MAX_FRAME_BYTES}")
        end = _HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            body = bytes(view[_HEADER_BYTES:end])
        del self._buffer[:end]
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise BorderError(f"a frame is not a message: {error}") from error

    @property
    def is_empty(self) -> bool:
        """Return whether the stream may end here without cutting a frame."""
        return not self._buffer
