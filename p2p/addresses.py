"""Reads multiaddresses, and turns what a host listens on into what it may tell others.

Knows this machine's interfaces. Knows no peers and opens no connection.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from multiaddr import Multiaddr

from .dialling import CIRCUIT, Realm, is_websocket, realm_of, realm_of_ip
from .errors import HostFailed, InvalidAddress
from .identity import public_key_of

MAX_ADDRESS_CHARS = 512
_SIOCGIFADDR = 0x8915  # linux/sockios.h: an interface's IPv4 address
_GLOBAL_SCOPE = "00"  # in /proc/net/if_inet6


def split_peer(address: str) -> tuple[str, str]:
    """Split /…/p2p/PEERID into the peer id and the transport part. Raises InvalidAddress,
    InvalidPeerId.
    """
    transport, separator, peer_id = address.rpartition("/p2p/")
    if not separator or not transport or len(address) > MAX_ADDRESS_CHARS:
        raise InvalidAddress(
            f"{address[:120]!r} is no full address; expected for example"
            " /ip4/192.0.2.1/tcp/4101/p2p/16Uiu2HA…"
        )
    public_key_of(peer_id)
    return peer_id, transport


def parse_address(address: str, peer_id: str) -> Multiaddr:
    """Return the transport part of a peer's address, with or without its /p2p/ ending.

    Raises InvalidAddress.
    """
    if "/p2p/" in address and not address.endswith(f"/{CIRCUIT}"):
        owner, address = split_peer(address)
        if owner != peer_id:
            raise InvalidAddress(f"{address} is said to be of {peer_id} but names {owner}")
    try:
        return Multiaddr(address)
    except Exception as error:  # multiaddr raises several unrelated kinds
        raise InvalidAddress(f"{address[:120]!r} is no multiaddress: {error}") from error


def advertised(listening: Sequence[Multiaddr]) -> list[Multiaddr]:
    """List the addresses to tell others: 0.0.0.0 and :: become this machine's own addresses, and
    WebSockets come after TCP.

    Loopback is told only by a host that has nothing else to say.
    """
    concrete = [one for address in listening for one in _concrete(str(address))]
    far = [text for text in concrete if realm_of(text) > Realm.LOOPBACK]
    told = sorted(dict.fromkeys(far or concrete), key=is_websocket)
    return [Multiaddr(text) for text in told]


def _concrete(address: str) -> list[str]:
    for anything, ips, family in (
        ("/ip4/0.0.0.0/", own_ipv4, "ip4"),
        ("/ip6/::/", own_ipv6, "ip6"),
    ):
        if address.startswith(anything):
            return [address.replace(anything, f"/{family}/{ip}/", 1) for ip in ips()]
    return [address]


def check_free(address: str) -> None:
    """Raise HostFailed if another process listens here already.

    The library shares ports (SO_REUSEPORT), so two nodes on one port would each get half the peers.
    """
    parts = address.split("/")
    if (
        len(parts) < 5
        or parts[1] not in ("ip4", "ip6")
        or parts[3] != "tcp"
        or not parts[4].isdigit()
        or parts[5:] not in ([], ["ws"])
    ):
        raise HostFailed(
            f"cannot listen on {address}; expected for example /ip4/0.0.0.0/tcp/4101, or"
            " /ip4/0.0.0.0/tcp/4102/ws for browsers (for wss put a TLS proxy before that, and"
            " announce its address)"
        )
    family = socket.AF_INET if parts[1] == "ip4" else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((parts[2], int(parts[4])))
    except (OSError, OverflowError) as error:
        raise HostFailed(
            f"cannot listen on {address}: {error}; is another node running, or is it another"
            " machine's address?"
        ) from error


def own_ipv4() -> list[str]:
    """List this machine's IPv4 addresses: the one that leads outside, else those of its
    interfaces, else loopback.
    """
    outward = _outward(socket.AF_INET, "192.0.2.1")
    return [outward] if outward else _interface_ipv4() or ["127.0.0.1"]


def own_ipv6() -> list[str]:
    """List this machine's IPv6 addresses: the one that leads outside, else those of its
    interfaces, else loopback.
    """
    outward = _outward(socket.AF_INET6, "2001:db8::1")
    return [outward] if outward else _interface_ipv6() or ["::1"]


def _outward(family: int, target: str) -> str | None:
    """Ask the routing table which of our addresses leads outside; sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            ip: str = probe.getsockname()[0]
    except OSError:
        return None
    return ip if realm_of_ip(ip) > Realm.LOOPBACK else None


def _interface_ipv4() -> list[str]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:  # an interface without an address
                continue
            found.append(socket.inet_ntoa(answer[20:24]))
    return [ip for ip in found if realm_of_ip(ip) > Realm.LOOPBACK]


def _interface_ipv6() -> list[str]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return []
    whole = [line.split() for line in lines]
    ips = [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])) for row in whole]
    return [ip for ip, row in zip(ips, whole, strict=True) if row[3] == _GLOBAL_SCOPE]
