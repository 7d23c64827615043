"""Publishes adapters: signs and offers a folder, and repeats what was published.

    publish:    folder → manifest signed by its creator + blocks in the store → held →
                provider record → signed name → announcement
    republish:  all of it again, every interval
    restore:    after a restart, hold again what is on the disk

Decides when to speak. Fetches nothing itself; holding.py decides how adapters are held.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import InvalidInput
from p2p.identity import Identity, peer_id_of

from ..errors import AdapterError, EngineError, NoProvider
from .announcements import Announcer
from .fetching import Pulled
from .holding import Holdings
from .names import Names
from .packaging import BaseIdentity, Package, load_package


class Publisher:
    """What one node offers to others under its own key `identity`."""

    def __init__(
        self,
        identity: Identity,
        base: BaseIdentity,
        store: BlockStore,
        holdings: Holdings,
        names: Names,
        *,
        announcer: Announcer,
        log: Callable[[str], None],
    ) -> None:
        self._identity = identity
        self._base = base
        self._store = store
        self._holdings = holdings
        self._names = names
        self._announcer = announcer
        self._log = log

    async def publish(self, folder: Path, creator: Identity | None = None) -> Pulled:
        """Sign and offer a PEFT folder; this node holds it too.

        `creator` None is this node. A name under another key is not renewed by this node, since
        that key is not kept: its creator must publish again in time. Raises AdapterError.
        """
        creator = creator or self._identity
        package = await trio.to_thread.run_sync(load_package, folder, creator.secret, self._base)
        cid = await trio.to_thread.run_sync(self._store_package, package)
        pulled = await self._holdings.hold(cid)
        name = package.manifest.name
        await self._announcer.provide(cid)  # before its name: who finds the name finds a provider
        if creator.peer_id == self._identity.peer_id:
            self._names.claim(name, cid)
        await self._announcer.put_name(creator, name, cid)
        await self._announcer.announce(package.manifest_bytes)
        self._log(f"publishing: {name} is {cid}")
        return pulled

    def _store_package(self, package: Package) -> Cid:
        cid = self._store.put(package.manifest_bytes)
        self._holdings.place(cid, package.manifest, package.blocks())
        return cid

    async def run_republish(self, interval_s: float) -> None:
        """Repeat every interval what this node provides and has named, until cancelled."""
        while True:
            await trio.sleep(interval_s)
            if self._holdings.computes:
                await self.offer_base()
            for cid, _ in self._holdings.held():
                await self._announcer.provide(cid)
            for name, cid in self._names.own():
                await self._announcer.put_name(self._identity, name, cid)
                manifest = self._store.get(cid)
                if manifest is not None:
                    await self._announcer.announce(manifest)

    async def restore(self) -> None:
        """Hold again what was on the disk before a restart; one adapter that fails does not stop
        the others.
        """
        for text in self._holdings.written():
            try:
                pulled = await self._holdings.restore(Cid.parse(text))
            except (AdapterError, EngineError, NoProvider, InvalidInput, OSError) as error:
                self._log(f"publishing: {text} is not served: {error}")
                continue
            if peer_id_of(pulled.manifest.creator) == self._identity.peer_id:
                self._names.claim(pulled.manifest.name, pulled.cid)
                await self._announcer.put_name(self._identity, pulled.manifest.name, pulled.cid)

    async def offer_base(self) -> None:
        """Publish that this node computes on the base."""
        await self._announcer.provide(Cid(self._base.base))
