"""Opens a WebSocket over a connected stream: one HTTP request, one answer, each bounded.

The caller sets the deadline, and closes the stream when this fails.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import trio
from libp2p.io.exceptions import ConnectionClosedError
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, Request
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from ..dialling import Realm, realm_of_ip
from .stream import WebSocketStream

MAX_HEADER_BYTES = 16 << 10
READ_BYTES = 4 << 10
_HINT = b"This is a libp2p node's WebSocket, not a web page.\n"
_NO_PAGE = (
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(_HINT), _HINT)
)
_BAD_REQUEST = (RemoteProtocolError, LocalProtocolError, UnicodeError)


async def accept(below: trio.abc.Stream, remote: tuple[str, int] | None) -> WebSocketStream:
    """Take the answering side. Raises ConnectionClosedError."""
    protocol = WSConnection(ConnectionType.SERVER)
    try:
        event = await _first_event(below, protocol)
        if isinstance(event, Request):
            await below.send_all(protocol.send(AcceptConnection()))
            ip = counted_ip(remote, event.extra_headers)
            return WebSocketStream(below, protocol, remote, ip)
    except _BAD_REQUEST as error:
        await below.send_all(_NO_PAGE)
        raise ConnectionClosedError(f"no WebSocket was asked for: {error}") from error
    raise ConnectionClosedError("no WebSocket was asked for")


async def ask(below: trio.abc.Stream, host: str, remote: tuple[str, int] | None) -> WebSocketStream:
    """Take the asking side; `host` is what stands in the header. Raises ConnectionClosedError."""
    protocol = WSConnection(ConnectionType.CLIENT)
    try:
        await below.send_all(protocol.send(Request(host=host, target="/")))
        if isinstance(await _first_event(below, protocol), AcceptConnection):
            return WebSocketStream(below, protocol, remote)
    except _BAD_REQUEST as error:
        raise ConnectionClosedError(f"it speaks no WebSocket: {error}") from error
    raise ConnectionClosedError("it refused a WebSocket")


async def _first_event(below: trio.abc.Stream, protocol: WSConnection) -> Event:
    """Read until something happens; whatever came after it stays in `protocol`."""
    num_bytes = 0
    while num_bytes <= MAX_HEADER_BYTES:
        data = await below.receive_some(READ_BYTES)
        if not data:
            raise ConnectionClosedError("it hung up in its handshake")
        num_bytes += len(data)
        protocol.receive_data(bytes(data))
        for event in protocol.events():
            return event
    raise ConnectionClosedError(f"a header of more than {MAX_HEADER_BYTES} bytes")


def counted_ip(
    remote: tuple[str, int] | None, headers: Iterable[tuple[bytes, bytes]]
) -> str | None:
    """Return whose place a connection takes: whom a proxy on this network says it came from.

    Nobody else is believed, and it counts for nothing but places.
    """
    if remote is None or realm_of_ip(remote[0]) == Realm.PUBLIC:
        return None
    told = [value for name, value in headers if name.lower() == b"x-forwarded-for"]
    try:
        last = told[-1].decode("ascii").rpartition(",")[2].strip()
        return str(ipaddress.ip_address(last))
    except (IndexError, ValueError):
        return None
