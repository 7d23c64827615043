"""Remembers the cocktails that were asked for here, by their CIDs, and keeps those that receipts
name.

A cocktail says all of itself (proofs/cocktail.py), so nothing is fetched for it but its parents.
Bounded: the one unused for longest is forgotten first; who wants it again says it again.
"""

from __future__ import annotations

from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from proofs.cocktail import Cocktail, is_cocktail, parse_cocktail
from proofs.errors import ManifestError

from ..errors import AdapterError

MAX_REMEMBERED = 512


class Cocktails:
    """The cocktails that one daemon knows; `store` keeps some for good."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._known: dict[Cid, tuple[bytes, Cocktail]] = {}

    def learn(self, data: bytes) -> Cid:
        """Remember a cocktail from bytes nobody vouched for. Raises AdapterError."""
        cid = Cid.of(data)
        known = self._known.pop(cid, None)
        try:
            self._known[cid] = known or (data, parse_cocktail(data))
        except ManifestError as error:
            raise AdapterError(f"this cocktail cannot be made: {error}") from error
        if len(self._known) > MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        return cid

    def keep(self, cid: Cid) -> None:
        """Give a cocktail to others from now on: a receipt will name it."""
        data, _ = self._known[cid]
        self._store.put(data)

    def find(self, cid: Cid) -> Cocktail | None:
        """Return a cocktail that was asked for or kept here; None for what is none."""
        if cid not in self._known:
            data = self._store.get(cid)
            if data is None or not is_cocktail(data):
                return None
            self.learn(data)
        return self._known[cid][1]

    def bytes_of(self, cid: Cid) -> bytes:
        """Return what a cocktail is made of; empty for what is none."""
        return self._known[cid][0] if self.find(cid) is not None else b""

    def parent(self, cid: Cid) -> bytes | None:
        """Return the manifest of an adapter that a cocktail is mixed of."""
        found = (
            parent.manifest
            for _, cocktail in self._known.values()
            for parent in cocktail.parents
            if parent.digest == cid.digest
        )
        return next(found, None)
