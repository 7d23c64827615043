"""Listens for WebSockets on a port of its own, and takes those that came to somebody else's.

A socket that does not ask for its WebSocket in time is closed, and of too many that are asking the
one that asks for longest: idle sockets keep nobody out. Knows no peer; what it opened it hands on.
"""

from __future__ import annotations

import logging

import trio
from libp2p.abc import IListener
from libp2p.custom_types import THandler
from libp2p.io.exceptions import IOException
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from ..admission import Line
from ..dialling import to_address
from .address import read_address
from .handshake import accept

ASKING_TIMEOUT_S = 5.0
MAX_ASKING = 128

logger = logging.getLogger(__name__)


class WebSocketListener(IListener):
    """One listening address. `background_nursery` is the swarm's, which sets it before `listen`."""

    background_nursery: trio.Nursery

    def __init__(self, handler: THandler) -> None:
        self._handler = handler
        self._line = Line(MAX_ASKING)
        self._listeners: list[trio.SocketListener] = []
        self._scope = trio.CancelScope()
        self._is_over = trio.Event()

    async def listen(self, maddr: Multiaddr) -> None:
        """Open the port and serve it in the background. Raises OpenConnectionError."""
        address = read_address(maddr)
        if address is None or address.server_name is not None:
            raise OpenConnectionError(f"cannot listen on {maddr}; TLS is for a proxy in front")
        try:
            self._listeners += await trio.open_tcp_listeners(address.port, host=address.host)
        except OSError as error:
            raise OpenConnectionError(f"cannot listen on {maddr}: {error}") from error
        self.background_nursery.start_soon(self._run)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """List where this listens."""
        names = [listener.socket.getsockname() for listener in self._listeners]
        return tuple(Multiaddr(f"{to_address(name[0], name[1])}/ws") for name in names)

    async def close(self) -> None:
        """Stop listening, and hang up on whoever is still asking."""
        self._scope.cancel()
        if self._listeners:
            await self._is_over.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                await trio.serve_listeners(self._serve, self._listeners)
        finally:
            for listener in self._listeners:
                listener.socket.close()
            self._is_over.set()

    async def _serve(self, socket: trio.SocketStream) -> None:
        try:
            name = socket.socket.getpeername()
        except OSError:  # it is gone already
            await trio.aclose_forcefully(socket)
        else:
            await self.take(socket, (str(name[0]), int(name[1])))

    async def take(self, below: trio.abc.Stream, remote: tuple[str, int]) -> None:
        """Serve one connection to its end, beginning with its request. Closes it."""
        try:
            with self._line.place(ASKING_TIMEOUT_S) as asking:
                stream = await accept(below, remote)
            if not asking.cancelled_caught:
                await self._handler(stream)
        except (IOException, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            logger.debug("a WebSocket failed: %r", error)
        except Exception as error:  # the top of one connection: the library may raise anything
            logger.info("a WebSocket failed: %r", error)
        finally:
            await trio.aclose_forcefully(below)
