"""Yamux frames: cuts what arrives into them, and queues what a stream has not read yet.

Sans-IO: bytes in, events out; every length is judged before its bytes are kept. Does not know which
streams there are. The format: https://github.com/hashicorp/yamux/blob/master/spec.md
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

HEADER_BYTES: Final = 12
_HEADER = struct.Struct("!BBHII")  # version, type, flags, stream, length

MIN_SHARED_BYTES = 4 << 10
MAX_TAIL_BYTES = 64 << 10


class BadFrame(Exception):
    """A peer sent what is no Yamux frame; nothing after it can be understood."""


class Frame(NamedTuple):
    """A frame's header. `value` is what its length field says: of DATA, how many bytes follow."""

    kind: int
    flags: int
    stream_id: int
    value: int


class Payload(NamedTuple):
    """The next bytes of a DATA frame; the last ones bring the frame's FIN and RST."""

    stream_id: int
    data: memoryview
    flags: int


def encode_header(kind: int, flags: int, stream_id: int, value: int) -> bytes:
    """Encode one header."""
    return _HEADER.pack(0, kind, flags, stream_id, value)


class FrameReader:
    """Cuts a byte stream into headers and payloads. Holds less than one header."""

    def __init__(self, max_data_bytes: int) -> None:
        self._max_data_bytes = max_data_bytes
        self._head = b""
        self._frame = Frame(PING, 0, 0, 0)
        self._left = 0  # bytes of the DATA frame that are still to come

    def feed(self, data: bytes | memoryview) -> Iterator[Frame | Payload]:
        """Yield what these bytes complete, in order. Raises BadFrame."""
        view = memoryview(data)
        at = 0
        while at < len(view):
            if self._left:
                part = view[at : at + self._left]
                at += len(part)
                yield self._payload(part)
                continue
            head = view[at : at + HEADER_BYTES - len(self._head)]
            at += len(head)
            self._head += head
            if len(self._head) == HEADER_BYTES:
                yield self._next_frame()

    def _payload(self, part: memoryview) -> Payload:
        self._left -= len(part)
        ends = 0 if self._left else self._frame.flags & (FIN | RST)
        return Payload(self._frame.stream_id, part, ends)

    def _next_frame(self) -> Frame:
        version, *fields = _HEADER.unpack(self._head)
        self._head = b""
        self._frame = frame = Frame(*fields)
        if version or frame.kind > GO_AWAY:
            raise BadFrame(f"a frame of version {version} and type {frame.kind}")
        if frame.kind == DATA:
            if frame.value > self._max_data_bytes:
                raise BadFrame(
                    f"a frame of {frame.value} bytes; no window is over {self._max_data_bytes}"
                )
            self._left = frame.value
        return frame


class ByteQueue:
    """Bytes that arrived and were not read. Holds at most about twice what it counts.

    Large parts, of at least half of the message they came in, are kept as they are; a view of less
    would keep the whole message in memory. Others are copied together, so that many small frames
    cost no more than their bytes.
    """

    def __init__(self) -> None:
        self._parts: deque[memoryview | bytearray] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, part: memoryview) -> None:
        """Take bytes off the wire."""
        if not part:
            return
        self._size += len(part)
        if len(part) >= MIN_SHARED_BYTES and 2 * len(part) >= len(part.obj):  # type: ignore[arg-type]
            self._parts.append(part)
            return
        tail = self._parts[-1] if self._parts else None
        if isinstance(tail, bytearray) and len(tail) < MAX_TAIL_BYTES:
            tail += part
        else:
            self._parts.append(bytearray(part))

    def pop(self) -> memoryview | bytearray:
        """Give the next bytes, as many as lie together."""
        part = self._parts.popleft()
        self._size -= len(part)
        return part

    def read(self, max_bytes: int | None) -> bytes:
        """Give up to this many bytes; all of them if not said."""
        left = self._size if max_bytes is None else min(max_bytes, self._size)
        taken: list[memoryview | bytearray] = []
        while left:
            part = self.pop()
            if len(part) > left:
                whole = memoryview(part)
                part = whole[:left]
                self._parts.appendleft(whole[left:])
                self._size += len(whole) - left
            taken.append(part)
            left -= len(part)
        return b"".join(taken)

    def clear(self) -> None:
        """Forget everything."""
        self._parts.clear()
        self._size = 0
