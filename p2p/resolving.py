"""Turns an address with a host name into addresses with IP addresses: /dns, /dns4, /dns6, /dnsaddr.

Asks the machine's own resolver (so that its hosts file counts), and DNS for the TXT records of
/dnsaddr. Bounded in depth, number and time; dials nothing.
"""

from __future__ import annotations

import socket

import dns.asyncresolver
import dns.exception
import trio
from multiaddr import Multiaddr

from .dialling import is_named

RESOLVE_TIMEOUT_S = 4.0
MAX_RESOLVED = 8
MAX_DNSADDR_DEPTH = 3
MAX_TXT_RECORDS = 32
_FAMILIES = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6, "dns": socket.AF_UNSPEC}


async def resolve(address: Multiaddr) -> list[Multiaddr]:
    """List the addresses that a named one stands for, at most MAX_RESOLVED, [] when nothing is
    known within RESOLVE_TIMEOUT_S.
    """
    found: list[Multiaddr] = []
    with trio.move_on_after(RESOLVE_TIMEOUT_S):
        await _resolve(str(address), found, MAX_DNSADDR_DEPTH)
    return found[:MAX_RESOLVED]


async def _resolve(address: str, found: list[Multiaddr], depth: int) -> None:
    _, protocol, name, *rest = address.split("/", 3)
    tail = f"/{rest[0]}" if rest else ""
    if protocol == "dnsaddr":
        if depth > 0:
            for text in await _dnsaddr_records(name, tail):
                if is_named(text):
                    await _resolve(text, found, depth - 1)
                else:
                    _add(text, found)
        return
    if tail.endswith("/tls/ws") or tail.endswith("/wss"):  # the certificate is the name's
        tail = f"{tail.removesuffix('/wss').removesuffix('/tls/ws')}/tls/sni/{name}/ws"
    for ip in await _ips_of(name, _FAMILIES[protocol]):
        _add(f"/{'ip6' if ':' in ip else 'ip4'}/{ip}{tail}", found)


def _add(text: str, found: list[Multiaddr]) -> None:
    try:
        address = Multiaddr(text)
    except Exception:  # multiaddr raises several unrelated kinds; a record may hold anything
        return
    if len(found) < MAX_RESOLVED and address not in found:
        found.append(address)


async def _ips_of(name: str, family: int) -> list[str]:
    try:
        answers = await trio.socket.getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


async def _dnsaddr_records(name: str, tail: str) -> list[str]:
    """List the addresses under _dnsaddr.NAME; with a tail (/p2p/PEERID) only those that end so."""
    try:
        answer = await dns.asyncresolver.resolve(
            f"_dnsaddr.{name}", "TXT", lifetime=RESOLVE_TIMEOUT_S
        )
    except (dns.exception.DNSException, OSError):
        return []
    texts = [b"".join(record.strings).decode(errors="replace") for record in answer]
    addresses = [text.removeprefix("dnsaddr=") for text in texts if text.startswith("dnsaddr=/")]
    return [address for address in addresses if address.endswith(tail)][:MAX_TXT_RECORDS]
