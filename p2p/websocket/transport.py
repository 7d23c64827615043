"""Dials WebSockets, with TLS where the address says so, and makes listeners.

Reads no proxy from the environment. The certificate is checked as a browser would; who the peer is,
Noise checks.
"""

from __future__ import annotations

import ssl
from functools import cache

import trio
from libp2p.abc import IRawConnection, ITransport
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import THandler
from libp2p.io.exceptions import IOException
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from .address import WebSocketAddress, read_address
from .handshake import ask
from .listener import WebSocketListener

_ERRORS = (OSError, ssl.SSLError, ValueError, IOException, trio.BrokenResourceError)


class WebSockets(ITransport):
    """The transport, as the library's swarm wants it."""

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Open a WebSocket to an address with an IP. Raises OpenConnectionError."""
        address = read_address(maddr)
        if address is None:
            raise OpenConnectionError(f"{maddr} is no WebSocket's address")
        below: trio.abc.Stream | None = None
        try:
            below = await trio.open_tcp_stream(address.host, address.port)
            remote = (address.host, address.port)
            if address.server_name is not None:
                below = trio.SSLStream(
                    below,
                    _tls_context(),
                    server_hostname=address.server_name,
                    https_compatible=True,
                )
            stream = await ask(below, _host_header(address), remote)
        except BaseException as error:  # cancelled or failed: no socket stays open
            if below is not None:
                await trio.aclose_forcefully(below)
            if isinstance(error, _ERRORS):
                raise OpenConnectionError(f"{maddr} does not answer: {error}") from error
            raise
        bare = Multiaddr(str(maddr).partition("/p2p/")[0])
        return RawConnection(stream, True, ConnectionType.DIRECT, [bare])

    def create_listener(self, handler_function: THandler) -> WebSocketListener:
        """Make a listener."""
        return WebSocketListener(handler_function)

    def can_dial(self, maddr: Multiaddr) -> bool:
        """Return whether this is a WebSocket's address."""
        return read_address(maddr) is not None

    def can_listen(self, maddr: Multiaddr) -> bool:
        """Return whether this can be listened on: a WebSocket's address without TLS."""
        address = read_address(maddr)
        return address is not None and address.server_name is None

    def protocols(self) -> list[str]:
        """List what the library calls this."""
        return ["ws", "wss"]


def _host_header(address: WebSocketAddress) -> str:
    host = address.server_name or address.host
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()
