"""Decides which adapter a text means: a CID, OWNER/NAME, or a bare name by a creator this node
trusts.

    text → the base's own names → a CID as it is → the name under each publisher, asked at once
         → the first of them that has it, else UnknownModel with similar names

Remembers for a few seconds what was found. Asks through `Lookup`; fetches nothing.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import trio

from p2p.cid import Cid
from p2p.errors import InvalidInput, P2pError
from p2p.identity import public_key_of
from p2p.names import NameRecord, check_name

from ..errors import UnknownModel

MAX_CACHED = 4096
CACHE_S = 20.0
LOOKUP_DEADLINE_S = 4.0
MAX_SUGGESTED = 3


class Lookup(Protocol):
    """What is asked for the meaning of a name: implemented by p2p.dht.Dht."""

    async def find_name(self, owner: str, name: str, deadline_s: float) -> NameRecord | None:
        """Find the newest record of a name. Raises P2pError."""


class Names:
    """What texts mean to one node.

    `base_texts` mean the bare base. `publishers` are the peer ids whose names need no owner in
    front, in order of precedence; this node's own names come last. `suggest` returns the names that
    exist.
    """

    def __init__(
        self,
        lookup: Lookup,
        own_peer_id: str,
        publishers: Sequence[str],
        base_texts: Collection[str],
        suggest: Callable[[], Iterable[str]],
        *,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self._own_peer_id = own_peer_id
        self._publishers = tuple(dict.fromkeys((*publishers, own_peer_id)))
        self._base_texts = frozenset(base_texts)
        self._suggest = suggest
        self._log = log
        self._clock = clock
        self._own: dict[str, Cid] = {}
        self._cache: dict[tuple[str, str], tuple[Cid, float]] = {}

    async def resolve(self, text: str) -> Cid | None:
        """Return the CID that a text names, None for the bare base.

        Raises UnknownModel within seconds.
        """
        if text in self._base_texts:
            return None
        try:
            return Cid.parse(text)
        except InvalidInput:
            pass
        owners, name = self._split(text)
        for target in await self._find_under_all(owners, name):
            if target is not None:
                return target
        raise self._unknown(text)

    def claim(self, name: str, cid: Cid) -> None:
        """Remember a name that this node's own key publishes."""
        self._own[name] = cid

    def own(self) -> list[tuple[str, Cid]]:
        """List the names that this node's own key publishes."""
        return list(self._own.items())

    def _split(self, text: str) -> tuple[Sequence[str], str]:
        """Return the owners to ask, and the name. Raises UnknownModel for a text that cannot be
        either.
        """
        owner, _, name = text.rpartition("/")
        try:
            if owner:
                public_key_of(owner)
            return ((owner,) if owner else self._publishers), check_name(name)
        except InvalidInput as error:
            raise self._unknown(text) from error

    async def _find_under_all(self, owners: Sequence[str], name: str) -> list[Cid | None]:
        """Ask for the name under every owner at once; return the answers in the owners' order."""
        found: list[Cid | None] = [None] * len(owners)

        async def find(index: int, owner: str) -> None:
            found[index] = await self._find(owner, name)

        async with trio.open_nursery() as nursery:
            for index, owner in enumerate(owners):
                nursery.start_soon(find, index, owner)
        return found

    async def _find(self, owner: str, name: str) -> Cid | None:
        if owner == self._own_peer_id and name in self._own:
            return self._own[name]
        cached = self._cache.get((owner, name))
        if cached and cached[1] > self._clock():
            return cached[0]
        try:
            record = await self._lookup.find_name(owner, name, deadline_s=LOOKUP_DEADLINE_S)
        except P2pError as error:
            self._log(f"names: looking for {name} of {owner[-8:]}: {error}")
            return None
        if record is None:
            return None
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[owner, name] = (record.target, self._clock() + CACHE_S)
        return record.target

    def _unknown(self, text: str) -> UnknownModel:
        names = sorted(set(self._suggest()))
        return UnknownModel(
            text, difflib.get_close_matches(text.rpartition("/")[2], names, n=MAX_SUGGESTED)
        )
