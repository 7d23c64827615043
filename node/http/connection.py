"""One client's connection: hypercorn's HTTP/1.1, and how long a client may keep us waiting.

    nothing asked for `keep_alive_timeout` ──▶ closed
    an answer's next part not taken for MAX_STALL_S ──▶ closed
    bytes that are no HTTP/1.1, headers beyond their limit ──▶ refused as JSON, then closed
    an upgrade to WebSocket or HTTP/2 ──▶ answered in HTTP/1.1

Hypercorn's own class waits for ever for a client that does not read, and shields that from being
cancelled. Knows no route, and not how many connections there may be.
"""

from __future__ import annotations

from contextlib import suppress

import h11
import msgspec
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from .problems import Problem

MAX_STALL_S = 60.0
MAX_LINGER_S = 1.0
"""How long what a refused client still sends is read, so that it gets to read why."""
RECEIVE_BYTES = 64 << 10
SEND_BYTES = 64 << 10
HEADERS_TOO_LARGE = 431
TOO_MANY_CONNECTIONS = Problem(
    503, "too_many_connections", "all connections are taken by requests; ask again in a second"
)


class Http1(H11Protocol):
    """Hypercorn's protocol, without its ways to others, and with our form of an error."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Stay with HTTP/1.1, whatever the client would rather speak."""

    async def _create_stream(self, request: h11.Request) -> None:
        kept = [(name, value) for name, value in request.headers if name != b"upgrade"]
        await super()._create_stream(
            h11.Request(
                method=request.method,
                target=request.target,
                headers=kept,
                http_version=request.http_version,
            )
        )

    async def _send_error_response(self, status_code: int) -> None:
        body = msgspec.json.encode(problem_of_bytes(status_code).as_json())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(h11.Response(headers=headers, status_code=status_code))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    @property
    def is_owed(self) -> bool:
        """Whether the client has not sent the whole of a request."""
        return self.connection.their_state in (h11.IDLE, h11.SEND_BODY)


def problem_of_bytes(status: int) -> Problem:
    """Return what is wrong with bytes that became no request."""
    if status == HEADERS_TOO_LARGE:
        return Problem(status, "headers_too_large", "the request's headers are too large")
    return Problem(status, "bad_request", "these bytes are no HTTP/1.1 request")


class Connection:
    """A client, from its first byte to its last; `sock` is what its stream ends in. Closes that
    when it ends.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: HypercornConfig,
        stream: trio.abc.HalfCloseableStream,
        sock: trio.socket.SocketType,
    ) -> None:
        self._app = app
        self._config = config
        self._stream = stream
        self._sock = sock
        self._sending = trio.Lock()
        self._open = trio.CancelScope(deadline=trio.current_time() + config.keep_alive_timeout)
        self._protocol: Http1 | None = None
        self._lingers = False

    @property
    def is_owed(self) -> bool:
        """Whether nothing is being answered here: it waits for more of a request."""
        return self._protocol is None or self._protocol.is_owed

    def close(self) -> None:
        """Take no more from this client."""
        self._open.cancel()

    async def run(self) -> None:
        """Serve the client until it leaves, or has kept us waiting for too long."""
        sock = self._sock
        try:
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            async with TaskGroup() as group:
                self._protocol = protocol = Http1(
                    self._app,
                    self._config,
                    WorkerContext(None),
                    group,
                    ConnectionState({}),
                    ssl=False,
                    client=client,
                    server=server,
                    send=self._send,
                )
                with self._open:
                    await self._read(protocol)
                await protocol.handle(Closed())
            if self._lingers:
                await self._linger()
        except OSError:
            return  # it left before it was looked at
        finally:
            sock.close()

    async def _read(self, protocol: Http1) -> None:
        while True:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await protocol.handle(RawData(bytes(data)))
            if not data:
                return

    async def _send(self, event: Event) -> None:
        if isinstance(event, RawData):
            async with self._sending:
                is_sent = await self._send_all(event.data)
            if not is_sent:
                self._open.cancel()
        elif isinstance(event, Closed):
            self._lingers = True
            self._open.cancel()
        elif isinstance(event, Updated):
            wait_s = self._config.keep_alive_timeout if event.idle else float("inf")
            self._open.deadline = trio.current_time() + wait_s

    async def _send_all(self, data: bytes) -> bool:
        """Send it; False, and nothing more is sent, when the client does not take it."""
        is_sent = False
        try:
            for start in range(0, len(data), SEND_BYTES):
                with trio.fail_after(MAX_STALL_S):
                    await self._stream.send_all(memoryview(data)[start : start + SEND_BYTES])
            is_sent = True
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return False
        finally:
            if not is_sent:  # cancelled in the middle, too: nothing may follow half a part
                self._sock.close()
        return True

    async def _linger(self) -> None:
        """Say that nothing follows, and let the client finish what it was sending."""
        with trio.move_on_after(MAX_LINGER_S):
            try:
                await self._stream.send_eof()
                while await self._stream.receive_some(RECEIVE_BYTES):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return


async def turn_away(stream: trio.SocketStream) -> None:
    """Tell a client that there is no place for it, and close its connection."""
    body = msgspec.json.encode(TOO_MANY_CONNECTIONS.as_json())
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
        b"retry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    with trio.move_on_after(MAX_LINGER_S):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(head + body)
    stream.socket.close()


class Places:
    """Which connections are open, oldest first. Pure.

    When all places are taken, whoever has asked nothing yet makes room, the oldest first: who holds
    connections open without using them keeps nobody out.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._inside: dict[Connection, None] = {}

    def enter(self, connection: Connection) -> bool:
        """Give it a place, somebody else's if need be; False when all are being answered."""
        if len(self._inside) >= self._most:
            idle = next((one for one in self._inside if one.is_owed), None)
            if idle is None:
                return False
            del self._inside[idle]
            idle.close()
        self._inside[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        """Free its place, if it has one still."""
        self._inside.pop(connection, None)
