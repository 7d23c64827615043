"""Serves browsers on one port: the page, and the WebSocket by which it is a peer.

Hypercorn answers what is plain HTTP; a request for a WebSocket goes to the host with all that came,
so that it takes the same way, and the same limits, as on a port of the host's own. Decides how many
there may be and how long a request may take; knows neither Noise nor what is asked.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.utils import wrap_app
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from p2p.admission import Line
from p2p.gossip import RateLimit
from p2p.websocket.handshake import counted_ip

from ...api.daemon import Daemon
from ...api.sales import Bank
from ...errors import NodeError
from ..connection import Connection
from ..guard import MAX_BODY_BYTES
from ..page import files
from ..problems import Problem, problem_of, problem_response
from ..server import hypercorn_config
from .bank import bank_routes
from .certificate import Certificate
from .heads import END, MAX_HEAD_BYTES, asks_for_websocket, fields_of
from .places import Places, client_of

STATIC = Path(__file__).parent / "static"
SHARED = ("style.css", "icon.svg")  # of the page that the operator sees
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MAX_BROWSERS = 100
MAX_BROWSERS_EACH = 8  # tabs and their reloads; an office behind one address shares them
MAX_CONNECTIONS = 256  # browsers' WebSockets among them
MAX_CONNECTIONS_EACH = 32
MAX_BEGINNING = 64  # of more, the one that begins for longest is closed
HEAD_TIMEOUT_S = 10.0  # TLS and the request's head
REQUEST_TIMEOUT_S = 60.0
TOLD_FOR_S = 5.0
REQUESTS_PER_S = 4.0  # of one client; a visit is five
REQUESTS_AT_ONCE = 40
MAX_CLIENTS = 4096
FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
TOO_MANY = Problem(429, "too_many_requests", "too many requests; ask again in a second")
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

logger = logging.getLogger(__name__)


async def serve_web(
    daemon: Daemon,
    sock: socket.socket,
    certificate: Certificate | None = None,
    bank: Bank | None = None,
) -> None:
    """Serve until cancelled. Takes ownership of the socket and closes it. `bank`: what the page's
    deposits are relayed by, where answers are paid.
    """
    face = Face(daemon, certificate, bank)

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await face.serve(stream)
        except _GONE as error:
            logger.debug("a browser's connection ended: %r", error)
        except Exception:  # the top of one connection: our bug closes it and no other
            logger.exception("a connection was closed after an error of ours")
        finally:
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(serve, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])


class Face:
    """What answers one connection after the other. `clock` gives seconds."""

    def __init__(
        self,
        daemon: Daemon,
        certificate: Certificate | None,
        bank: Bank | None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._daemon = daemon
        self._certificate = certificate
        self._line = Line(MAX_BEGINNING)
        self._connections = Places(MAX_CONNECTIONS, MAX_CONNECTIONS_EACH)
        self._browsers = Places(MAX_BROWSERS, MAX_BROWSERS_EACH)
        app = make_app(daemon, bank, clock)
        self._app = wrap_app(app, MAX_BODY_BYTES, "asgi")  # type: ignore[arg-type]  # starlette and hypercorn type ASGI differently
        self._config = web_config()

    async def serve(self, below: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        name = below.socket.getpeername()
        remote = (str(name[0]), int(name[1]))
        with self._connections.one(remote[0]) as is_free:
            if is_free:
                await self._serve(below, remote)

    async def _serve(self, below: trio.SocketStream, remote: tuple[str, int]) -> None:
        begun = None
        with self._line.place(HEAD_TIMEOUT_S):
            stream = await self._secured(below)
            begun = await read_head(stream)
        if begun is None:
            return
        replayed = Replayed(stream, begun)
        if asks_for_websocket(begun):
            with self._browsers.one(counted_ip(remote, fields_of(begun)) or remote[0]) as is_free:
                if is_free:
                    await self._daemon.take_websocket(replayed, remote)
                else:
                    await stream.send_all(FULL)
            return
        with trio.move_on_after(REQUEST_TIMEOUT_S):
            await Connection(self._app, self._config, replayed, below.socket).run()

    async def _secured(self, below: trio.SocketStream) -> trio.abc.Stream:
        if self._certificate is None:
            return below
        secured = trio.SSLStream(
            below, self._certificate.context(), server_side=True, https_compatible=True
        )
        await secured.do_handshake()
        return secured


class Replayed(trio.abc.HalfCloseableStream):
    """A stream that gives first what was read of it already."""

    def __init__(self, below: trio.abc.Stream, begun: bytes) -> None:
        self._below = below
        self._begun = begun

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return some bytes, b"" at the end."""
        if not self._begun:
            return await self._below.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        most = len(self._begun) if max_bytes is None else max_bytes
        given = self._begun[:most]
        self._begun = self._begun[most:]
        return given

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        await self._below.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until more may be sent."""
        await self._below.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing follows; TLS says so only when it closes."""
        if isinstance(self._below, trio.abc.HalfCloseableStream):
            await self._below.send_eof()

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._below.aclose()


async def read_head(stream: trio.abc.Stream) -> bytes | None:
    """Read until a request's head is whole, and what came with it; None where it never is."""
    begun = b""
    while END not in begun:
        if len(begun) > MAX_HEAD_BYTES:
            return None
        more = await stream.receive_some(MAX_HEAD_BYTES)
        if not more:
            return None
        begun += more
    return begun


def web_config() -> HypercornConfig:
    """Configure connections of one request each: the next may ask for a WebSocket, and goes
    elsewhere.
    """
    config = hypercorn_config()
    config.keep_alive_max_requests = 1
    return config


def make_app(daemon: Daemon, bank: Bank | None, clock: Callable[[], float]) -> ASGIApp:
    """Put the page's files and what it is told behind a bound for each client."""
    shared = {name: (files.STATIC / name).read_bytes() for name in SHARED}
    file = files.serve_files(files.read_files(STATIC) | shared, POLICY)
    routes = [
        Route("/", file),
        Route("/page/{name:path}", file),
        Route("/node.json", Told(daemon, clock).answer),
        *(bank_routes(bank) if bank is not None else ()),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _nothing_here})
    limit = RateLimit(REQUESTS_PER_S, REQUESTS_AT_ONCE, MAX_CLIENTS)

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        remote = scope["client"] or ("", 0)
        client = client_of(counted_ip(tuple(remote), scope["headers"]) or remote[0])
        if client is None or limit.allow((client, ""), clock()):
            await app(scope, receive, send)
        else:
            await problem_response(TOO_MANY)(scope, receive, send)

    return bounded


class Told:
    """What a page has to know of its node, made anew every few seconds."""

    def __init__(self, daemon: Daemon, clock: Callable[[], float]) -> None:
        self._daemon = daemon
        self._clock = clock
        self._body = b""
        self._fresh_until = -1.0

    async def answer(self, request: Request) -> Response:
        """Answer /node.json."""
        if self._clock() >= self._fresh_until:
            try:
                told = await self._daemon.web()
            except NodeError as error:
                return problem_response(problem_of(error))
            self._body = msgspec.json.encode(dataclasses.asdict(told))
            self._fresh_until = self._clock() + TOLD_FOR_S
        headers = {"cache-control": "no-store"}
        return Response(self._body, media_type="application/json", headers=headers)


async def _nothing_here(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    told = f"{request.method} {request.url.path} is not served here; the page is at /"
    return problem_response(Problem(status, "no_such_route", told))
