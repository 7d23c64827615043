"""Remembers peers across restarts: whom we connected to, and where, in one small file.

Bounded, written whole or not at all, and read as if a stranger had written it. Dials nobody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..addresses import split_peer
from ..dialling import Realm, realm_of
from ..errors import InvalidInput
from ..peers import PeerAddress

MAX_KNOWN_PEERS = 128
MAX_ADDRESSES = 4
MAX_FILE_BYTES = 512 << 10


class KnownPeers:
    """Peers that were reached, the latest last. `path` None: nothing outlives the process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._peers: dict[str, tuple[str, ...]] = {} if path is None else _read(path)
        self._is_saved = True

    @property
    def is_kept(self) -> bool:
        """Return whether there is a file."""
        return self._path is not None

    def note(self, peer_id: str, addresses: Sequence[str]) -> None:
        """Remember where a peer is reached; addresses on loopback are of another network."""
        kept = tuple(one for one in addresses if realm_of(one) > Realm.NOWHERE)[:MAX_ADDRESSES]
        if not kept or self._peers.get(peer_id) == kept:
            return
        self._peers.pop(peer_id, None)
        self._peers[peer_id] = kept
        while len(self._peers) > MAX_KNOWN_PEERS:
            del self._peers[next(iter(self._peers))]
        self._is_saved = False

    def forget(self, peer_id: str) -> None:
        """Forget a peer that is not there any more."""
        if self._peers.pop(peer_id, None) is not None:
            self._is_saved = False

    def latest(self, limit: int) -> list[PeerAddress]:
        """List the peers noted last, the last one first."""
        found = list(self._peers.items())[::-1][:limit]
        return [PeerAddress(peer_id, addresses) for peer_id, addresses in found]

    def save(self) -> None:
        """Write the file if anything has changed. Raises OSError."""
        if self._path is None or self._is_saved:
            return
        text = json.dumps({peer: list(found) for peer, found in self._peers.items()}, indent=1)
        draft = self._path.with_suffix(".new")
        draft.write_text(text)
        os.replace(draft, self._path)
        self._is_saved = True


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    """Read the file; what is not as we write it is left out."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return {}
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    kept: dict[str, tuple[str, ...]] = {}
    entries = found.items() if isinstance(found, dict) else ()
    for peer_id, addresses in list(entries)[-MAX_KNOWN_PEERS:]:
        if isinstance(addresses, list):
            good = tuple(one for one in addresses[:MAX_ADDRESSES] if _is_of(one, peer_id))
            if good:
                kept[peer_id] = good
    return kept


def _is_of(address: object, peer_id: str) -> bool:
    try:
        return isinstance(address, str) and split_peer(address)[0] == peer_id
    except InvalidInput:
        return False
