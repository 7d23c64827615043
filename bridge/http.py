"""Asks one server over HTTP/1.1, a connection for each question. Bounds and deadlines, no meaning.

h11 knows the protocol; an answer is read piece by piece, and leaving it closes its connection, at
which vLLM stops computing. (httpx reads a stream by generators within generators, which nobody can
close when an answer is left in its middle.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import h11
import trio

from .errors import ServerBroke, ServerLost

CONNECT_DEADLINE_S = 5.0
READ_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 16
MAX_BODY_BYTES = 16 << 20
MAX_LINE_BYTES = 1 << 20

Stream = trio.SocketStream | trio.SSLStream


class Silent(ServerBroke):
    """The server said nothing in time."""


class Http:
    """The way to one server; `url` has no path. `key` is sent as a bearer's."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._is_secret = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_secret else 80)
        self._headers = [("host", parts.netloc), ("connection", "close")]
        self._headers += [("authorization", f"Bearer {key}")] if key else []

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, body: bytes | None, silence_s: float
    ) -> AsyncIterator[Reply]:
        """Send a question, and give the answer from its status on.

        Raises ServerLost where nobody takes it, Silent after `silence_s` without a word,
        ServerBroke for what is no HTTP.
        """
        stream = await self._connect()
        try:
            reply = Reply(stream, silence_s)
            await reply.send(self._request(method, path, body), body)
            yield reply
        finally:
            await trio.aclose_forcefully(stream)

    def _request(self, method: str, path: str, body: bytes | None) -> h11.Request:
        headers = [*self._headers]
        if body is not None:
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        return h11.Request(method=method, target=path, headers=headers)

    async def _connect(self) -> Stream:
        opener = trio.open_ssl_over_tcp_stream if self._is_secret else trio.open_tcp_stream
        try:
            with trio.fail_after(CONNECT_DEADLINE_S):
                stream = await opener(self._host, self._port)
                if isinstance(stream, trio.SSLStream):
                    await stream.do_handshake()
                return stream
        except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
            why = str(error) or str(error.__cause__ or "it is silent")  # TLS says why in the cause
            raise ServerLost(
                f"vLLM cannot be reached at {self._host}:{self._port}: {why}"
            ) from error


class Reply:
    """An answer: its `status`, then its bytes."""

    def __init__(self, stream: Stream, silence_s: float) -> None:
        self._stream = stream
        self._silence_s = silence_s
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._rest = bytearray()
        self.status = 0

    async def send(self, request: h11.Request, body: bytes | None) -> None:
        """Send the question whole, and wait for the status."""
        data = self._http.send(request) or b""
        data += (self._http.send(h11.Data(data=body)) or b"") if body else b""
        data += self._http.send(h11.EndOfMessage()) or b""
        with _said_by_the_server(self._silence_s):
            await self._stream.send_all(data)
        while not isinstance(event := await self._next(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise ServerBroke("vLLM broke off before its answer")
        self.status = event.status_code

    async def read_some(self) -> bytes:
        """Wait for the next bytes; none at the answer's end."""
        event = await self._next()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            return b""
        raise ServerBroke("vLLM broke off")

    async def read_all(self) -> bytes:
        """Read the answer whole."""
        data = bytearray()
        while part := await self.read_some():
            data += part
            if len(data) > MAX_BODY_BYTES:
                raise ServerBroke(f"vLLM sent more than {MAX_BODY_BYTES} bytes at once")
        return bytes(data)

    async def read_line(self) -> bytes | None:
        """Wait for the next line, without its end; None after the last."""
        while (at := self._rest.find(b"\n")) < 0:
            if len(self._rest) > MAX_LINE_BYTES:
                raise ServerBroke(f"vLLM sent a line of more than {MAX_LINE_BYTES} bytes")
            part = await self.read_some()
            if not part:
                return None
            self._rest += part
        line = bytes(self._rest[:at])
        del self._rest[: at + 1]
        return line

    async def _next(self) -> object:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                with _said_by_the_server(self._silence_s):
                    self._http.receive_data(bytes(await self._stream.receive_some(READ_BYTES)))
        except h11.RemoteProtocolError as error:
            raise ServerBroke(f"vLLM broke off: {error}") from error
        return event


@contextmanager
def _said_by_the_server(silence_s: float) -> Iterator[None]:
    """Name what a socket does."""
    try:
        with trio.fail_after(silence_s):
            yield
    except trio.TooSlowError as error:
        raise Silent(f"vLLM said nothing for {silence_s:.0f} s") from error
    except trio.BrokenResourceError as error:
        raise ServerBroke("vLLM broke off") from error
