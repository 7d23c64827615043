"""Decides which of a peer's addresses are dialled, and in which order. Pure; opens no connection.

What a stranger says of itself is a hint: nowhere-addresses are dropped, loopback is believed among
peers of one machine only, and a relay comes after every direct way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import IntEnum

from multiaddr import Multiaddr

MAX_ADDRESSES_PER_DIAL = 8
MAX_CIRCUITS_PER_DIAL = 3
CIRCUIT = "p2p-circuit"
NAME_PROTOCOLS = ("dns", "dns4", "dns6", "dnsaddr")
_IPV4_MAPPED = "::ffff:"


class Realm(IntEnum):
    """How far an address is heard: what is larger reaches further."""

    NOWHERE = 0  # 0.0.0.0, ::, multicast
    LOOPBACK = 1
    PRIVATE = 2  # a local network's, or the link's
    PUBLIC = 3


def realm_of_ip(ip: str) -> Realm:
    """Say how far an IP address is heard; NOWHERE for what is none."""
    try:
        parsed = ipaddress.ip_address(ip.partition("%")[0].removeprefix(_IPV4_MAPPED))
    except ValueError:
        return Realm.NOWHERE
    if parsed.is_unspecified or parsed.is_multicast:
        return Realm.NOWHERE
    if parsed.is_loopback:
        return Realm.LOOPBACK
    return Realm.PUBLIC if parsed.is_global else Realm.PRIVATE


def ip_of(address: Multiaddr | str) -> str | None:
    """Return the IP address with which a multiaddress begins, or None if it begins with a name."""
    parts = str(address).split("/", 3)
    return parts[2] if len(parts) > 2 and parts[1] in ("ip4", "ip6") else None


def realm_of(address: Multiaddr | str) -> Realm:
    """Say how far an address is heard; a host name counts as public."""
    ip = ip_of(address)
    return Realm.PUBLIC if ip is None else realm_of_ip(ip)


def is_circuit(address: Multiaddr | str) -> bool:
    """Return whether an address leads through a relay."""
    return f"/{CIRCUIT}" in str(address)


def is_named(address: Multiaddr | str) -> bool:
    """Return whether an address begins with a host name, to be looked up before it is dialled."""
    return str(address).split("/", 2)[1] in NAME_PROTOCOLS


def is_websocket(address: Multiaddr | str) -> bool:
    """Return whether an address is a WebSocket's, with TLS or without."""
    return not {"ws", "wss"}.isdisjoint(str(address).split("/"))


def to_address(ip: str, port: int) -> str:
    """Write a TCP address as a multiaddress."""
    ip = ip.removeprefix(_IPV4_MAPPED)
    return f"/{'ip6' if ':' in ip else 'ip4'}/{ip}/tcp/{port}"


def dial_order(addresses: Iterable[Multiaddr], *, with_loopback: bool) -> list[Multiaddr]:
    """Order what is worth dialling: TCP as it was given, then WebSockets, then relays.

    At most MAX_ADDRESSES_PER_DIAL, so that a peer cannot make this node knock at many doors.
    """
    least = Realm.LOOPBACK if with_loopback else Realm.PRIVATE
    heard = list(dict.fromkeys(address for address in addresses if realm_of(address) >= least))
    circuits = [address for address in heard if is_circuit(address)][:MAX_CIRCUITS_PER_DIAL]
    direct = [address for address in heard if not is_circuit(address)]
    direct.sort(key=is_websocket)  # what one node needs of another costs more there
    return direct[: MAX_ADDRESSES_PER_DIAL - len(circuits)] + circuits
