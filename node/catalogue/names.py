"""Decides which adapter a text means: a CID, OWNER/NAME, or a bare name by a creator this node
trusts; a version stands behind an @.

    text → the base's own names → a CID as it is → the name under each publisher, asked at once
         → the first of them that has it, whatever those behind it say, else UnknownModel with
           similar names

What this node published it knows; what it heard of lately it answers at once and has confirmed
meanwhile. Asks through `Lookup`; fetches nothing.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import trio

from p2p.cid import Cid
from p2p.errors import InvalidInput, P2pError
from p2p.identity import peer_id_of, public_key_of
from p2p.names import NameRecord, check_name, newest, version_name
from proofs.manifest import Manifest

from ..errors import UnknownModel
from ..together import Together
from .book import NameBook
from .known import Known

MAX_CACHED = 4096
CACHE_S = 20.0
LOOKUP_DEADLINE_S = 4.0
MAX_SUGGESTED = 3
MAX_UNCONFIRMED = 64
CONFIRM_PAUSE_S = 0.5  # the request that named it goes first


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
        book: NameBook,
        known: Known,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self.own_peer_id = own_peer_id
        self._publishers = tuple(dict.fromkeys((*publishers, own_peer_id)))
        self._base_texts = frozenset(base_texts)
        self._suggest = suggest
        self._book = book
        self._known = known
        self._log = log
        self._clock = clock
        self._looking = Together[tuple[str, str], NameRecord | None]()
        self._cache: dict[tuple[str, str], tuple[NameRecord, float]] = {}
        self._confirm, self._unconfirmed = trio.open_memory_channel[tuple[str, str]](
            MAX_UNCONFIRMED
        )

    def is_base(self, text: str) -> bool:
        """Return whether a text means the bare base."""
        return text in self._base_texts

    def is_trusted(self, owner: str) -> bool:
        """Return whether names of this peer need no owner in front."""
        return owner in self._publishers

    async def resolve(self, text: str) -> Cid | None:
        """Return the CID that a text names, None for the bare base.

        Raises UnknownModel within seconds.
        """
        if self.is_base(text):
            return None
        try:
            return Cid.parse(text)
        except InvalidInput:
            pass
        owners, name = self._split(text)
        records = await self._find_first(owners, name)
        last = records[-1]
        if last is not None and last.target is not None:
            return last.target
        raise self._unknown(text, is_withdrawn=any(records))

    def guess(self, text: str) -> Cid | None:
        """Return what a text meant when it was heard of last, without asking anybody."""
        try:
            owners, name = self._split(text)
        except UnknownModel:
            return None
        for owner in owners:
            record = self._book.find(owner, name) or self._known.find_name(owner, name)
            if record is not None and record.target is not None:
                return record.target
        return None

    async def find(self, owner: str, name: str) -> NameRecord | None:
        """Return the newest record of a name that is known here or to the network."""
        known = self._recall(owner, name)
        if known is not None:
            return known
        return await self._looking.get((owner, name), partial(self.look_up, owner, name))

    def _recall(self, owner: str, name: str) -> NameRecord | None:
        """Return a name's record without asking anybody, where that is sure enough."""
        own = self._book.find(owner, name)
        if own is not None and owner == self.own_peer_id:
            return own
        cached, until = self._cache.get((owner, name), (None, 0.0))
        if until > self._clock():
            return cached
        heard = self._known.find_name(owner, name, fresh=True)
        if heard is not None:
            self._remember(heard)
            self._confirm_soon(owner, name)
        return heard

    async def find_version(self, manifest: Manifest) -> NameRecord | None:
        """Return what its creator says of an adapter's version, None where he says nothing."""
        try:
            name = version_name(manifest.name, manifest.adapter_version)
        except InvalidInput:
            return None
        return await self.find(peer_id_of(manifest.creator), name)

    async def run(self) -> None:
        """Confirm what was answered from what was heard of, until cancelled."""
        async for owner, name in self._unconfirmed:
            await trio.sleep(CONFIRM_PAUSE_S)
            await self.look_up(owner, name)

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

    async def _find_first(self, owners: Sequence[str], name: str) -> list[NameRecord | None]:
        """Ask for the name under every owner at once; return what those say, in their order, up to
        the first that has it. Who comes after that one is not waited for, nor asked where nobody
        need be asked about those before.
        """
        known: list[NameRecord | None] = []
        while len(known) < len(owners) and (record := self._recall(owners[len(known)], name)):
            known.append(record)
            if record.target is not None:
                return known
        found: dict[int, NameRecord | None] = {}
        answered = [trio.Event() for _ in owners]

        async def find(index: int, owner: str) -> None:
            found[index] = await self.find(owner, name)
            answered[index].set()

        async with trio.open_nursery() as nursery:
            for index, owner in enumerate(owners):
                nursery.start_soon(find, index, owner)
            for index, has_answered in enumerate(answered):
                await has_answered.wait()
                record = found[index]
                if record is not None and record.target is not None:
                    nursery.cancel_scope.cancel()
                    return [found[one] for one in range(index + 1)]
        return [found[one] for one in range(len(owners))]

    async def look_up(self, owner: str, name: str) -> NameRecord | None:
        """Ask the network; what was heard of before counts where it is newer, or nobody answers."""
        try:
            found = await self._lookup.find_name(owner, name, deadline_s=LOOKUP_DEADLINE_S)
        except P2pError as error:
            self._log(f"names: looking for {name} of {owner[-8:]}: {error}")
            found = None
        if found is not None:
            self._known.learn_name(found)
        heard = self._known.find_name(owner, name)
        records = [record for record in (found, heard) if record is not None]
        if not records:
            return None
        record = records[newest(records)]
        self._remember(record)
        return record

    def _confirm_soon(self, owner: str, name: str) -> None:
        with suppress(trio.WouldBlock):  # the next question for it is soon enough
            self._confirm.send_nowait((owner, name))

    def _remember(self, record: NameRecord) -> None:
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[record.owner, record.name] = (record, self._clock() + CACHE_S)

    def _unknown(self, text: str, *, is_withdrawn: bool = False) -> UnknownModel:
        if is_withdrawn:
            return UnknownModel(text, is_withdrawn=True)
        names = sorted(set(self._suggest()))
        return UnknownModel(
            text, difflib.get_close_matches(text.rpartition("/")[2], names, n=MAX_SUGGESTED)
        )
