"""Serves blocks to anybody, and nothing else: `GET /lorikeet/v1/blocks/<64 hex digits>`, where the
operator wants that (`public_blocks`). Decides how much; what is in a block it does not know.

No body is read, nothing is changed, and whoever asks pays nothing: so connections, their time and
the requests of each address and of all together are bounded.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import trio
from hypercorn.config import Config as HypercornConfig
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from p2p.gossip import RateLimit

from ..api.daemon import Daemon
from ..errors import NotHere
from .problems import Problem, problem_of, problem_response
from .server import hypercorn_config, serve_app

PATH = re.compile(r"/lorikeet/v1/blocks/([0-9a-f]{64})")
MAX_CONNECTIONS = 32
MAX_CONNECTION_S = 60.0  # one block at 64 KiB/s takes 16
IDLE_S = 10.0
REQUESTS_PER_S = 8.0  # of all together; a block has at most 1 MiB
REQUESTS_AT_ONCE = 64
CLIENT_REQUESTS_PER_S = 4.0
CLIENT_REQUESTS_AT_ONCE = 32
MAX_CLIENTS = 4096
FOR_EVER = {"cache-control": "public, max-age=31536000, immutable"}  # a hash names one content
NOT_SERVED = Problem(404, "no_such_route", "only GET /lorikeet/v1/blocks/<digest> is served here")
TOO_MANY = Problem(429, "too_many_requests", "too many requests; ask again in a second")


class PublicBlocks:
    """The application. `clock` gives seconds."""

    def __init__(self, daemon: Daemon, clock: Callable[[], float] = trio.current_time) -> None:
        self._daemon = daemon
        self._clock = clock
        self._all = RateLimit(REQUESTS_PER_S, REQUESTS_AT_ONCE, 1)
        self._each = RateLimit(CLIENT_REQUESTS_PER_S, CLIENT_REQUESTS_AT_ONCE, MAX_CLIENTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; its body, if it has one, is not read."""
        if scope["type"] == "http":
            response = await self._answer(Request(scope))
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        now = self._clock()
        client = request.client.host if request.client else ""
        if not self._each.allow((client, ""), now) or not self._all.allow(("", ""), now):
            response = problem_response(TOO_MANY)
            response.headers["retry-after"] = "1"
            return response
        found = PATH.fullmatch(request.url.path)
        if found is None or request.method != "GET":
            return problem_response(NOT_SERVED)
        try:
            block = await self._daemon.block(found[1])
        except NotHere as error:
            return problem_response(problem_of(error))
        return Response(block, media_type="application/octet-stream", headers=FOR_EVER)


async def serve_blocks_to_anybody(daemon: Daemon, sock: socket.socket) -> None:
    """Serve until cancelled. Takes ownership of the socket and closes it."""
    app: ASGIApp = PublicBlocks(daemon)
    await serve_app(
        app,
        sock,
        config=public_config(),
        max_connections=MAX_CONNECTIONS,
        max_connection_s=MAX_CONNECTION_S,
    )


def public_config() -> HypercornConfig:
    """Configure connections that are kept for a short time only."""
    config = hypercorn_config()
    config.keep_alive_timeout = IDLE_S
    return config
