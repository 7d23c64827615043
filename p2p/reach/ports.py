"""Asks the router to map a port: NAT-PMP first (two small packets), then UPnP.

Knows the two protocols. Whether the port is then reached, peers say (dialback.py).
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from pathlib import Path

import trio
from libp2p.discovery.upnp.upnp import UpnpManager

from ..dialling import Realm, realm_of_ip, to_address

LIFETIME_S = 3600
RETRY_S = 600.0
UPNP_TIMEOUT_S = 10.0
NAT_PMP_PORT = 5351
NAT_PMP_TRIES = (0.25, 0.5, 1.0)  # RFC 6886, 3.1: each wait is twice the last
_MAP_TCP = 2
_ANSWER = 128

logger = logging.getLogger(__name__)


class PortMapper:
    """The port that a router maps to ours: `address` once there is one."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.renew_after_s = 5.0

    async def map(self, port: int) -> None:
        """Ask for a mapping; `address` is None afterwards if there is no router that gives one."""
        self.address = await self._map(port)
        self.renew_after_s = LIFETIME_S / 2 if self.address else RETRY_S
        if self.address:
            logger.info("the router maps %s to our port %d", self.address, port)

    async def _map(self, port: int) -> str | None:
        gateway = default_gateway()
        if gateway is not None:
            try:
                found = await map_by_nat_pmp(gateway, port)
            except OSError as error:
                logger.debug("NAT-PMP: %s", error)
                found = None
            if found is not None:
                return to_address(*found)
        with trio.move_on_after(UPNP_TIMEOUT_S):
            upnp = UpnpManager()
            if await upnp.discover() and await upnp.add_port_mapping(port, "TCP"):
                ip = upnp.get_external_ip()
                return to_address(ip, port) if ip else None
        return None


def default_gateway(routes: str | None = None) -> str | None:
    """Return the IPv4 address of this machine's router, from /proc/net/route."""
    if routes is None:
        try:
            routes = Path("/proc/net/route").read_text()
        except OSError:
            return None
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 2 and fields[1] == "00000000" and fields[2] != "00000000":
            return socket.inet_ntoa(struct.pack("<I", int(fields[2], 16)))
    return None


async def map_by_nat_pmp(
    gateway: str, port: int, *, server_port: int = NAT_PMP_PORT
) -> tuple[str, int] | None:
    """Have a router map a TCP port by NAT-PMP (RFC 6886); return its address and port, or None.

    Raises OSError when the router refuses the packet.
    """
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        await udp.connect((gateway, server_port))
        outside = await _exchange(udp, bytes(2), 12)
        if outside is None:
            return None
        ip = socket.inet_ntoa(outside[8:12])
        asked = struct.pack("!HHI", port, port, LIFETIME_S)
        mapped = await _exchange(udp, bytes((0, _MAP_TCP, 0, 0)) + asked, 16)
    if mapped is None or realm_of_ip(ip) != Realm.PUBLIC:
        return None
    inside, given = struct.unpack("!HH", mapped[8:12])
    return (ip, given) if inside == port and given else None


async def _exchange(udp: trio.socket.SocketType, request: bytes, length: int) -> bytes | None:
    """Send a request until its answer comes; None if none comes or it says no."""
    for wait_s in NAT_PMP_TRIES:
        await udp.send(request)
        with trio.move_on_after(wait_s):
            while True:
                try:
                    answer = await udp.recv(64)
                except ConnectionRefusedError as error:
                    raise OSError(errno.ECONNREFUSED, "no NAT-PMP here") from error
                if len(answer) >= length and answer[1] == _ANSWER + request[1]:
                    return answer if answer[2:4] == b"\0\0" else None
    return None
