"""What can be looked up of this network: names and providers.

A kind says what is known here, and how the network is asked. Knows no stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..cid import Cid
from ..dht import ENOUGH_RECORDS, Dht
from ..dialling import is_websocket
from ..errors import InvalidLookup
from ..names import NAMESPACE, encode_name
from ..peers import PeerAddress
from .messages import (
    MAX_ADDRESS_CHARS,
    MAX_ADDRESSES,
    MAX_FOUND,
    Provider,
    encode,
)

MAX_CANDIDATES = 60
NAME = "name"
PROVIDERS = "providers"


@dataclass(frozen=True)
class Known:
    """What was learnt, in the bytes that are told, and how long ago."""

    found: tuple[bytes, ...]
    age_s: float


class Kind(Protocol):
    """One kind of thing to look up. Both raise InvalidInput for a key that cannot be one."""

    def recall(self, key: bytes, max_age_s: float) -> Known | None:
        """Return what is known here and young enough; None: the network has to be asked."""

    async def search(self, key: bytes) -> Sequence[bytes]:
        """Ask the network. Cancelled when it takes too long."""


class NameKind:
    """The newest record of a name, by its key in the DHT."""

    def __init__(self, dht: Dht) -> None:
        self._dht = dht

    def recall(self, key: bytes, max_age_s: float) -> Known | None:
        """Return the record that this node holds."""
        held = self._dht.recall_name(*_owner_and_name(key))
        if held is None or held.age_s > max_age_s:
            return None
        return Known((encode_name(held.record),), held.age_s)

    async def search(self, key: bytes) -> Sequence[bytes]:
        """Ask for the newest record."""
        record = await self._dht.find_name(*_owner_and_name(key))
        return [] if record is None else [encode_name(record)]


def _owner_and_name(key: bytes) -> tuple[str, str]:
    try:
        empty, namespace, owner, name = key.decode().split("/")
    except ValueError:
        raise InvalidLookup(_NO_NAME) from None
    if empty or namespace != NAMESPACE:
        raise InvalidLookup(_NO_NAME)
    return owner, name


_NO_NAME = f"a name's key is /{NAMESPACE}/OWNER/NAME"


class ProviderKind:
    """Who has the bytes of a digest, this node included; first who has a WebSocket, since few have
    and a page can dial nobody else.
    """

    def __init__(self, dht: Dht) -> None:
        self._dht = dht

    def recall(self, key: bytes, max_age_s: float) -> Known | None:
        """List those that said so lately, where they are enough to choose among."""
        cid = _cid(key)
        young = [one for one in self._dht.recall_providers(cid) if one.age_s <= max_age_s]
        if len(young) < ENOUGH_RECORDS:
            return None
        told = sorted(young[:MAX_CANDIDATES], key=lambda one: not _has_websocket(one.peer))
        age_s = max(one.age_s for one in told[:MAX_FOUND])
        return Known(tuple(_encode(one.peer) for one in told[:MAX_FOUND]), age_s)

    async def search(self, key: bytes) -> Sequence[bytes]:
        """Ask who says so."""
        cid = _cid(key)
        own = [one.peer for one in self._dht.recall_providers(cid) if one.is_own]
        others = await self._dht.find_providers(cid, limit=MAX_CANDIDATES)
        found = sorted((*own, *others), key=lambda peer: not _has_websocket(peer))
        return [_encode(peer) for peer in found[:MAX_FOUND]]


def _cid(key: bytes) -> Cid:
    try:
        return Cid(key)
    except ValueError as error:
        raise InvalidLookup(str(error)) from error


def _has_websocket(peer: PeerAddress) -> bool:
    return any(map(is_websocket, peer.addresses))


def _encode(peer: PeerAddress) -> bytes:
    short = [one for one in peer.addresses if len(one) <= MAX_ADDRESS_CHARS]
    return encode(Provider(peer.peer_id, short[:MAX_ADDRESSES]))
