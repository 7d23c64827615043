"""An open WebSocket as a stream of bytes, which is what Noise wants.

Where one message ends and the next begins means nothing. Text is refused, and so is a message over
MAX_MESSAGE_BYTES; what is kept unread is what one read of the socket brought. Never waits for the
other side to say goodbye.
"""

from __future__ import annotations

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from wsproto import WSConnection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from ..transport.frames import ByteQueue

MAX_MESSAGE_BYTES = 256 << 10
SENT_MESSAGE_BYTES = 64 << 10
READ_BYTES = 256 << 10
CLOSE_TIMEOUT_S = 0.1
_WIRE_ERRORS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
_PROTOCOL_ERRORS = (LocalProtocolError, RemoteProtocolError, UnicodeError)


class WebSocketStream(ReadWriteCloser):
    """Bytes over a WebSocket whose handshake is done. One task may read while another writes.

    `counted_ip` is whose place a connection takes: behind a proxy on this network, its client's.
    """

    def __init__(
        self,
        below: trio.abc.Stream,
        protocol: WSConnection,
        remote: tuple[str, int] | None,
        counted_ip: str | None = None,
    ) -> None:
        self._below = below
        self._protocol = protocol
        self._remote = remote
        self.counted_ip = counted_ip or (remote[0] if remote else None)
        self._queue = ByteQueue()
        self._num_message = 0  # bytes of the message that is arriving
        self._pong: bytes | None = None
        self._is_over = False
        self._writing = trio.Lock()

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, b"" at the end. Raises ConnectionClosedError."""
        if n == 0:
            return b""
        self._take(b"")  # some may have come with the handshake
        while not self._queue and not self._is_over:
            try:
                data = await self._below.receive_some(READ_BYTES)
            except _WIRE_ERRORS as error:
                raise _closed(error) from error
            self._is_over = not data
            self._take(data)
            if self._pong is not None and not self._writing.locked():
                async with self._writing:
                    await self._send(b"")
        return self._queue.read(n)

    def _take(self, data: bytes | bytearray) -> None:
        try:
            if data:
                self._protocol.receive_data(bytes(data))
            for event in self._protocol.events():
                self._take_event(event)
        except _PROTOCOL_ERRORS as error:
            self._is_over = True
            raise _closed(error) from error

    def _take_event(self, event: Event) -> None:
        if isinstance(event, BytesMessage):
            self._num_message += len(event.data)
            if self._num_message > MAX_MESSAGE_BYTES:
                raise RemoteProtocolError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
            if event.message_finished:
                self._num_message = 0
            self._queue.append(memoryview(event.data))
        elif isinstance(event, TextMessage):
            raise RemoteProtocolError("a text message; libp2p speaks in bytes")
        elif isinstance(event, Ping):  # of several, the last is the one to answer
            self._pong = self._protocol.send(event.response())
        elif isinstance(event, CloseConnection):
            self._is_over = True

    async def write(self, data: bytes) -> None:
        """Write all of it. Cancelled, it ends the connection. Raises ConnectionClosedError."""
        view = memoryview(data)
        async with self._writing:
            if self._is_over:
                raise ConnectionClosedError("the WebSocket has ended")
            try:
                messages = [
                    self._protocol.send(BytesMessage(bytes(view[at : at + SENT_MESSAGE_BYTES])))
                    for at in range(0, len(view), SENT_MESSAGE_BYTES)
                ]
            except LocalProtocolError as error:
                raise _closed(error) from error
            await self._send(b"".join(messages))

    async def _send(self, data: bytes) -> None:
        """Write whole frames, and the answer to a ping that came meanwhile."""
        try:
            await self._below.send_all(data)
            while self._pong is not None:
                pong = self._pong
                self._pong = None
                await self._below.send_all(pong)
        except _WIRE_ERRORS as error:
            self._is_over = True
            raise _closed(error) from error
        except BaseException:  # cancelled: a frame may be cut
            self._is_over = True
            raise

    async def close(self) -> None:
        """Say goodbye if that costs no time, and hang up."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(CLOSE_TIMEOUT_S):
                if not self._is_over and not self._writing.locked():
                    self._is_over = True
                    await self._say_goodbye()
            self._is_over = True
            await trio.aclose_forcefully(self._below)

    async def _say_goodbye(self) -> None:
        try:
            await self._below.send_all(self._protocol.send(CloseConnection(code=1000)))
        except (*_WIRE_ERRORS, LocalProtocolError):
            return

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the other end's IP and port; behind a proxy, the proxy's."""
        return self._remote


def _closed(error: BaseException) -> ConnectionClosedError:
    return ConnectionClosedError(f"the WebSocket broke: {error}", transport="websocket")
