"""The bridge's end of the socket to its daemon: frames in, frames out.

Knows no message's meaning.
"""

from __future__ import annotations

import math

import trio

from engine.framing import READ_BYTES, MessageDecoder, encode_frames
from engine.messages import FromEngine, ToEngine

MAX_UNREAD = 1 << 16
"""Messages that the daemon may leave unread; tokens come no faster than it reads them otherwise."""


class DaemonGone(Exception):
    """The daemon closed its end, or reads no more."""


class Border:
    """Both directions. `run` writes until cancelled."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._frames = MessageDecoder[ToEngine](ToEngine)
        self._send, self._unsent = trio.open_memory_channel[FromEngine](MAX_UNREAD)

    def tell(self, message: FromEngine) -> None:
        """Queue a message for the daemon. Raises DaemonGone where it has stopped reading."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            raise DaemonGone(f"the daemon left {MAX_UNREAD} messages unread") from None

    async def receive(self) -> ToEngine:
        """Wait for the next message. Raises DaemonGone, and BorderError for what is none."""
        while (message := self._frames.next_message()) is None:
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except trio.BrokenResourceError as error:
                raise DaemonGone("the daemon's socket broke") from error
            if not data:
                raise DaemonGone("the daemon closed its socket")
            self._frames.feed(bytes(data))
        return message

    async def run(self) -> None:
        """Write what is queued, all that waits in one go. Raises DaemonGone."""
        async for message in self._unsent:
            waiting = [message]
            while self._unsent.statistics().current_buffer_used and len(waiting) < MAX_UNREAD:
                waiting.append(self._unsent.receive_nowait())
            await self.write(*waiting)

    async def write(self, *messages: FromEngine, deadline_s: float = math.inf) -> None:
        """Write messages at once. Raises DaemonGone."""
        try:
            with trio.move_on_after(deadline_s):
                await self._stream.send_all(encode_frames(messages))
        except trio.BrokenResourceError as error:
            raise DaemonGone("the daemon's socket broke") from error
