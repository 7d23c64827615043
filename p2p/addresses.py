"""Reads multiaddresses, and turns what a host listens on into what it may tell others.

Knows this machine's interfaces. Knows no peers and opens no connection.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from multiaddr import Multiaddr

from .errors import HostFailed, InvalidAddress
from .identity import public_key_of

MAX_ADDRESS_CHARS = 512


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
    if "/p2p/" in address:
        owner, address = split_peer(address)
        if owner != peer_id:
            raise InvalidAddress(f"{address} is said to be of {peer_id} but names {owner}")
    try:
        return Multiaddr(address)
    except Exception as error:  # multiaddr raises several unrelated kinds
        raise InvalidAddress(f"{address[:120]!r} is no multiaddress: {error}") from error


def advertised(listening: Sequence[Multiaddr]) -> list[Multiaddr]:
    """List the addresses to tell others. 0.0.0.0 becomes this machine's own addresses, first the
    one that leads outside.
    """
    result: dict[str, Multiaddr] = {}
    for address in listening:
        text = str(address)
        for concrete in (
            (f"/ip4/{ip}/" for ip in _own_ips()) if text.startswith("/ip4/0.0.0.0/") else ("",)
        ):
            replaced = text.replace("/ip4/0.0.0.0/", concrete, 1) if concrete else text
            result.setdefault(replaced, Multiaddr(replaced))
    return list(result.values())


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
    ):
        raise HostFailed(f"cannot listen on {address}; expected for example /ip4/0.0.0.0/tcp/4101")
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


def _own_ips() -> tuple[str, ...]:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(
                ("192.0.2.1", 9)
            )  # sends nothing; asks the routing table which address leads outside
            outward: str = probe.getsockname()[0]
    except OSError:
        return ("127.0.0.1",)
    return tuple(dict.fromkeys((outward, "127.0.0.1")))
