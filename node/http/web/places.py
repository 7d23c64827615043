"""Decides how many browsers have a place at this node, so that one popular page, or one machine,
leaves room for others. Pure.

Beside this, whoever serves no DHT has a part of the host's places only (p2p/admission.py).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from p2p.dialling import Realm, realm_of_ip

_IPV6_PREFIX = 64  # one subscriber's


class Places:
    """Places for connections: so many in all, so many for each client."""

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._taken = 0
        self._by_client: Counter[str] = Counter()

    @contextmanager
    def one(self, ip: str) -> Iterator[bool]:
        """Take a place for the block; gives whether there was one."""
        client = client_of(ip)
        is_free = self._taken < self._most and (
            client is None or self._by_client[client] < self._most_each
        )
        if not is_free:
            yield False
            return
        self._taken += 1
        if client is not None:
            self._by_client[client] += 1
        try:
            yield True
        finally:
            self._taken -= 1
            if client is not None:
                self._by_client[client] -= 1
                self._by_client += Counter()  # forgets who has none


def client_of(ip: str) -> str | None:
    """Return by what a client is counted; None for loopback and private addresses, behind which
    may stand everybody.
    """
    if realm_of_ip(ip) != Realm.PUBLIC:
        return None
    parsed = ipaddress.ip_address(ip.partition("%")[0])
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network(f"{parsed}/{_IPV6_PREFIX}", strict=False))
