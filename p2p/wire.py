"""Frames: a 4-byte big-endian length, then that many bytes.

Sans-IO: bytes in, frames out; a length is judged before its bytes are kept. Does not know what a
frame holds.
"""

from __future__ import annotations

from .errors import FrameTooLarge
from .transport.frames import ByteQueue

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
        self._queue = ByteQueue()
        self._length: int | None = None  # of the frame whose header was read

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes off the wire. They are kept as they are, so they must not change."""
        self._queue.append(memoryview(data))

    def next_frame(self, max_bytes: int | None = None) -> bytes | None:
        """Return the next whole frame, or None until more bytes are fed.

        `max_bytes` can only lower the decoder's limit.
        """
        if self._length is None:
            if len(self._queue) < HEADER_BYTES:
                return None
            self._length = int.from_bytes(self._queue.read(HEADER_BYTES), "big")
        limit = self._max_bytes if max_bytes is None else min(max_bytes, self._max_bytes)
        if self._length > limit:
            raise FrameTooLarge(
                f"the peer announced a frame of {self._length} bytes; the limit is {limit}"
            )
        if len(self._queue) < self._length:
            return None
        frame = self._queue.read(self._length)
        self._length = None
        return frame

    @property
    def is_empty(self) -> bool:
        """Return whether the stream may end here without cutting a frame."""
        return not self._queue and self._length is None
