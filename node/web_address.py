"""Writes where browsers reach this node's page as a multiaddress, as peers and pages are told.

    web_address = "https://node.example.org"    /dns4/node.example.org/tcp/443/tls/ws
    web_listen = "0.0.0.0:4182"                 /ip4/0.0.0.0/tcp/4182/ws

Opens no port.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from .config import Config, split_address
from .errors import ConfigError


def web_addresses(config: Config) -> tuple[str, ...]:
    """Return the address of the page's WebSocket; nothing where there is no page. Raises
    ConfigError.
    """
    if not config.web_listen:
        return ()
    if not config.web_address:
        host, port = split_address(config.web_listen, "web_listen")
        return (_multiaddress(host, port, has_tls=bool(config.web_certificate)),)
    try:
        parts = urlsplit(config.web_address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigError(f"web_address is {config.web_address!r}: {error}") from error
    return (_multiaddress(parts.hostname or "", port, has_tls=parts.scheme == "https"),)


def _multiaddress(host: str, port: int, *, has_tls: bool) -> str:
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns4"
    return f"/{kind}/{host}/tcp/{port}{'/tls' if has_tls else ''}/ws"
