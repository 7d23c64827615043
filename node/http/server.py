"""Serves the routes on a loopback socket, as one task of the daemon's program.

Decides limits of connections and headers; does not know what the routes do.
"""

from __future__ import annotations

import logging
import math
import resource
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.utils import wrap_app
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp

from ..api.daemon import Daemon
from . import completions, control, datanets, embeddings, hub
from .connection import Connection, Places, turn_away
from .guard import MAX_BODY_BYTES, LoopbackGuard
from .messages import routes as messages_routes
from .ollama import routes as ollama_routes
from .openapi import openapi_route
from .origin import Origin, open_origin
from .page import file_routes, live_routes
from .problems import Problem
from .refusing import refuse
from .responses import routes as responses_routes
from .responses.store import ResponseStore
from .session import Session
from .tracing import Traced
from .training import routes as training_routes

MAX_HEADER_BYTES = 16 << 10
BACKLOG_CONNECTIONS = 1024
MAX_CONNECTIONS = 2000
KEEP_ALIVE_S = 75.0
METHOD_NOT_ALLOWED = 405
OUR_FAULT = Problem(500, "our_fault", "an error of this program; HOME/log has where it happened")

logger = logging.getLogger(__name__)


def make_app(
    daemon: Daemon,
    origin: Origin | None = None,
    log: Callable[[str], None] = logger.info,
    allowed_hosts: Collection[str] = (),
) -> ASGIApp:
    """Put every route of one daemon behind the guard."""
    hub_routes = hub.routes(daemon, origin, log)
    session = Session()
    routes = [
        *file_routes(),
        *live_routes(daemon),
        *session.routes(),
        *completions.routes(daemon),
        *embeddings.routes(daemon),
        *responses_routes.routes(daemon, ResponseStore()),
        *messages_routes.routes(daemon),
        *ollama_routes.routes(daemon),
        *control.routes(daemon),
        *datanets.routes(daemon),
        *training_routes(daemon),
        *hub_routes,
    ]
    routes.append(openapi_route(routes))
    app = Starlette(
        routes=routes, exception_handlers={HTTPException: no_such_route, Exception: our_fault}
    )
    app.router.redirect_slashes = False  # a path has one spelling
    return Traced(LoopbackGuard(app, session, allowed_hosts))


async def no_such_route(request: Request, error: Exception) -> Response:
    """Answer a wrong path or method in the shape of every other error there."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path
    told = f"{request.method} {path} is not served here"
    response = refuse(path, Problem(status, "no_such_route", told))
    if status == METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(methods_at(request))
    return response


def methods_at(request: Request) -> list[str]:
    """Return the methods that are served at a request's path: by the first route that has it, and
    others of its pattern.
    """
    found: Sequence[BaseRoute] = request.app.routes
    routes = [route for route in found if isinstance(route, Route)]
    path = next(
        (route.path for route in routes if route.matches(request.scope)[0] is not Match.NONE), ""
    )
    served = (route.methods or () for route in routes if route.path == path)
    return sorted({method for methods in served for method in methods})


async def our_fault(request: Request, _: Exception) -> Response:
    """Answer for an error of ours; starlette raises it again, and it is logged."""
    return refuse(request.url.path, OUR_FAULT)


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 lets the kernel choose.

    Raises OSError, e.g. when another daemon has the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG_CONNECTIONS)
    except OSError:
        sock.close()
        raise
    return sock


def url_of(sock: socket.socket) -> str:
    """Return the URL at which clients on this machine reach that socket."""
    host, port = sock.getsockname()[:2]
    if ip_address(host).is_unspecified:  # it listens everywhere, and everywhere is no host to name
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_http(
    daemon: Daemon,
    sock: socket.socket,
    hub_origin: str = "",
    log: Callable[[str], None] = logger.info,
    allowed_hosts: Collection[str] = (),
) -> None:
    """Serve every route until cancelled. Takes ownership of the socket and closes it.

    `hub_origin` is asked for what the swarm does not have; `log` hears which of them gave a file;
    `allowed_hosts` are names by which this machine may be called.
    """
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(open_origin(hub_origin)) if hub_origin else None
        app = make_app(daemon, origin, log, allowed_hosts)
        await serve_app(
            app, sock, config=hypercorn_config(), max_connections=room_for_connections()
        )


def room_for_connections() -> int:
    """Return how many clients may be connected: half of the files that may be open at most."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if allowed < 0 else min(MAX_CONNECTIONS, allowed // 2)


async def serve_app(
    app: ASGIApp,
    sock: socket.socket,
    *,
    config: HypercornConfig,
    max_connections: float = math.inf,
    max_connection_s: float = math.inf,
) -> None:
    """Serve one application until cancelled. Takes ownership of the socket and closes it.

    Where all connections are taken, one that asks nothing makes room, or the new one is refused;
    one that lasts too long is cut.
    """
    # Hypercorn's own worker would let one connection's failure end all others.
    wrapped = wrap_app(app, MAX_BODY_BYTES, "asgi")  # type: ignore[arg-type]  # starlette and hypercorn type ASGI differently
    places = Places(max_connections)

    async def serve_connection(stream: trio.SocketStream) -> None:
        connection = Connection(wrapped, config, stream, stream.socket)
        if not places.enter(connection):
            await turn_away(stream)
            return
        try:
            with trio.move_on_after(max_connection_s):
                await connection.run()
        except Exception:  # the top of one connection: our bug closes it and no other
            logger.exception("a connection was closed after an error of ours")
        finally:
            places.leave(connection)

    await trio.serve_listeners(
        serve_connection, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))]
    )


def hypercorn_config() -> HypercornConfig:
    """Configure HTTP/1.1 with bounded headers and no log of its own."""
    config = HypercornConfig()
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.errorlog = logger
    config.include_server_header = False
    return config
