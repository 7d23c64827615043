"""Frames: a 4-byte big-endian length, then that many bytes.

Sans-IO: bytes in, frames out; a length is judged before its bytes are kept. Does not know what a
frame holds.
"""

from __future__ import annotations

from .errors import FrameTooLarge

MAX_FRAME_BYTES = 1 << 20
HEADER_BYTES = 4


def encode_frame(payload: bytes | memoryview, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """Encode one frame, ready to write. Raises FrameTooLarge."""
    if len(payload) > max_bytes:
        raise FrameTooLarge(
            f"a frame of {len(payload)} bytes is over the limit of {max_bytes}; split it"
        )
    return b"".join((len(payload).to_bytes(HEADER_BYTES, "big"), payload))


class FrameDecoder:
    """Cuts a byte stream into frames. Holds at most one frame and what was fed beyond it.

    - `feed` what arrives, in pieces of any size; then call `next_frame` until it returns None.
    - A length over the limit raises FrameTooLarge at once and for ever: the stream cannot be
      resynchronised.
    """

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes off the wire."""
        self._buffer += data

    def next_frame(self, max_bytes: int | None = None) -> bytes | None:
        """Return the next whole frame, or None until more bytes are fed.

        `max_bytes` can only lower the decoder's limit.
        """
        if len(self._buffer) < HEADER_BYTES:
            return None
        length = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        limit = self._max_bytes if max_bytes is None else min(max_bytes, self._max_bytes)
        if length > limit:
            raise FrameTooLarge(
                f"the peer announced a frame of {length} bytes; the limit is {limit}"
            )
        end = HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            frame = bytes(view[HEADER_BYTES:end])
        del self._buffer[:end]
        return frame

    @property
    def is_empty(self) -> bool:
        """Return whether the stream may end here without cutting a frame."""
        return not self._buffer
