"""A stream of frames to one peer, with a deadline on everything.

The only view of a stream that the rest of the program has. Does not know what a frame holds.

- `receive` may be cancelled or run out of time and be called again: no byte is lost. Its deadline
  raises PeerTimeout and leaves the stream open.
- `send` waits while the peer's window is full (back-pressure). A send that is cancelled or too slow
  has cut a frame: the stream is reset.
- `close` ends our side and lets what was sent arrive; `reset` ends both sides at once and drops
  what is under way.
"""

from __future__ import annotations

from math import inf

import trio
from libp2p.abc import INetStream
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.stream.net_stream import NetStream

from .errors import PeerTimeout, StreamClosed
from .transport import FastYamuxStream
from .wire import MAX_FRAME_BYTES, FrameDecoder, encode_frame

CLOSE_TIMEOUT_S = 2.0
MAX_UNTIMED_BYTES = 1 << 20
_LIBRARY_ERRORS = (
    StreamError,
    IOException,
    BaseLibp2pError,
    OSError,
    trio.ClosedResourceError,
    trio.BrokenResourceError,
)


class FrameStream:
    """Frames to and from `remote` (a peer id).

    One task may send while another receives; two may not receive.
    """

    def __init__(self, stream: INetStream, remote: str, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.remote = remote
        assert isinstance(stream, NetStream)
        assert isinstance(stream.muxed_stream, FastYamuxStream)
        self._stream = stream
        self._muxed = stream.muxed_stream
        self._max_bytes = max_bytes
        self._decoder = FrameDecoder(max_bytes)
        self._send_lock = trio.Lock()
        self._closed = False
        self._ended = False
        self._num_untimed = 0  # bytes of frames that were received without a turn for others

    @property
    def is_relayed(self) -> bool:
        """Return whether a relay carries it."""
        return self._muxed.conn.get_connection_type() == ConnectionType.RELAYED

    async def send(self, frame: bytes | memoryview, deadline_s: float) -> None:
        """Write one frame. Raises StreamClosed, PeerTimeout, FrameTooLarge."""
        data = encode_frame(frame, self._max_bytes)
        with trio.move_on_after(deadline_s):
            async with self._send_lock:
                await self._write(data)
                return
        raise PeerTimeout(f"{self.remote} took nothing for {deadline_s:.1f} s")

    async def _write(self, data: bytes) -> None:
        if self._closed:
            raise StreamClosed(f"the stream to {self.remote} is closed here")
        try:
            await self._muxed.write(data, stall_s=inf)  # the deadline is the caller's
        except _LIBRARY_ERRORS as error:
            await self.reset()
            raise StreamClosed(f"{self.remote} ended the stream: {error}") from error
        except BaseException:  # a frame is cut, by a cancellation too: no more can be understood
            await self.reset()
            raise

    async def receive(self, deadline_s: float, *, max_bytes: int | None = None) -> bytes:
        """Read one frame of at most `max_bytes` (the stream's own limit if not given).

        Raises StreamClosed, PeerTimeout, FrameTooLarge.
        """
        with trio.move_on_after(deadline_s):
            if self._num_untimed > MAX_UNTIMED_BYTES:
                self._num_untimed = 0
                await trio.lowlevel.checkpoint()
            while (frame := self._decoder.next_frame(max_bytes)) is None:
                await self._read()
            self._num_untimed += len(frame)
            return frame
        raise PeerTimeout(f"{self.remote} sent no frame for {deadline_s:.1f} s")

    async def _read(self) -> None:
        if self._ended or self._closed:
            raise StreamClosed(f"the stream with {self.remote} has ended")
        try:
            data = await self._muxed.receive()
        except _LIBRARY_ERRORS as error:
            self._ended = True
            how = (
                "ended the stream" if self._decoder.is_empty else "ended the stream inside a frame"
            )
            raise StreamClosed(f"{self.remote} {how}") from error
        self._decoder.feed(data)

    async def close(self) -> None:
        """End our side; what was sent still arrives. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        with trio.move_on_after(CLOSE_TIMEOUT_S) as scope:
            try:
                await self._stream.close()
            except _LIBRARY_ERRORS:
                return
        if scope.cancelled_caught:
            self._closed = False
            await self.reset()

    async def end(self) -> None:
        """Reset the stream unless it was closed properly; for every `finally`."""
        if not self._closed:
            await self.reset()

    async def reset(self) -> None:
        """End both sides at once, even under cancellation.

        Harmless when repeated or after `close`.
        """
        if self._closed and self._ended:
            return
        self._closed = self._ended = True
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
            await self._stream.reset()  # the library swallows its own errors here
