"""Reads the multiaddresses that WebSockets have. Pure.

    /ip4/192.0.2.1/tcp/4102/ws
    /dns4/node.example.org/tcp/443/tls/ws      the certificate is the name's
    /ip4/192.0.2.1/tcp/443/tls/sni/node.example.org/ws
    /dns4/node.example.org/tcp/443/wss         an older way to write /tls/ws

Anybody may announce anything: what is none of these is None, and never an error.
"""

from __future__ import annotations

from dataclasses import dataclass

from multiaddr import Multiaddr

_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


@dataclass(frozen=True)
class WebSocketAddress:
    """Where a WebSocket is. `server_name` is whom the certificate must name; None: without TLS."""

    host: str
    port: int
    server_name: str | None


def read_address(address: Multiaddr | str) -> WebSocketAddress | None:
    """Take a WebSocket's address apart, with or without its /p2p/ ending."""
    parts = str(address).split("/")[1:]
    if len(parts) > 2 and parts[-2] == "p2p":
        parts = parts[:-2]
    if len(parts) < 5 or parts[0] not in _HOSTS or parts[2] != "tcp" or not parts[3].isdigit():
        return None
    host = parts[1]
    match parts[4:]:
        case ["ws"]:
            server_name = None
        case ["wss"] | ["tls", "ws"]:
            server_name = host
        case ["tls", "sni", name, "ws"]:
            server_name = name
        case _:
            return None
    return WebSocketAddress(host, int(parts[3]), server_name)
