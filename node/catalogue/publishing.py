"""Publishes adapters: signs and offers a folder, and repeats what was published.

    publish:    folder → manifest signed by its creator + blocks in the store → held →
                provider record → signed names (`law@2`, then `law`) → announcement
    roll back:  `law` means an earlier version again
    retract:    a version is withdrawn: nodes take no new request for it
    republish:  all of it again, every interval
    restore:    after a restart, hold again what is on the disk

Decides when to speak, and which version a name means. Fetches nothing itself; holding.py decides
how adapters are held, book.py keeps the names.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import InvalidInput, InvalidNameRecord, NameRefused, StaleName
from p2p.identity import Identity
from p2p.names import NameRecord, check_name, version_name
from proofs.manifest import Manifest, ManifestError, parse_manifest
from proofs.registration import Registration
from proofs.signing import Signer

from ..api.adapters import PushTold
from ..errors import AdapterError, BadRequest, EngineError, NoProvider
from .about import Announcement, about_of, make_announcement
from .announcements import Announcer
from .book import NameBook
from .fetching import Pulled
from .holding import Holdings
from .known import Known
from .names import Names
from .packaging import BaseIdentity, Package, load_package

RENEW_S = 12 * 3600.0
"""A name is signed anew after this; the DHT forgets it 24 hours after it took it."""
NAMES_INTERVAL_S = 600.0
"""A name that others hold is not said again within this."""


class Publisher:
    """What one node offers to others under its own key `identity`.

    `base_blocks` lists what stands in the DHT for the base's own blocks, where they are here.
    """

    def __init__(
        self,
        identity: Identity,
        base: BaseIdentity,
        store: BlockStore,
        holdings: Holdings,
        names: Names,
        *,
        book: NameBook,
        known: Known,
        announcer: Announcer,
        log: Callable[[str], None],
        base_blocks: Callable[[], Sequence[Cid]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._base = base
        self._store = store
        self._holdings = holdings
        self._names = names
        self._book = book
        self._known = known
        self._announcer = announcer
        self._log = log
        self._base_blocks = base_blocks
        self._clock = clock
        self._said_at: dict[tuple[str, str], float] = {}
        for record in book.records():
            self._learn(record)

    async def publish(
        self,
        folder: Path,
        creator: Identity | None = None,
        told: PushTold | None = None,
        *,
        in_place: bool = False,
        register: Callable[[Cid], Awaitable[object]] | None = None,
        owed: Sequence[Registration] = (),
    ) -> Pulled:
        """Sign and offer a PEFT folder; this node holds it too, with `in_place` without a copy.

        `creator` None is this node. `register` is done before anybody is told of it. `owed`: the
        registrations of what it is made of, which its manifest pays. Raises AdapterError, also
        where it is published and others do not believe its name.
        """
        creator = creator or self._identity
        next_version = partial(self._next_version, creator)
        load = partial(load_package, next_version=next_version, owed=owed)
        package = await trio.to_thread.run_sync(load, folder, creator.secret, self._base, told)
        if in_place:
            self._check_source(creator, package)
        package = self._as_published(creator, package)
        cid = await trio.to_thread.run_sync(self._store_package, package, in_place)
        pulled = await self._holdings.hold(cid)
        if register is not None:
            await register(cid)
        name = package.manifest.name
        await self._announcer.provide(cid)  # before its name: who finds the name finds a provider
        await self._announce(cid)
        await self._say(creator, _version_of(package.manifest), cid)
        await self._say(creator, name, cid)
        self._log(f"publishing: {name}@{package.manifest.adapter_version} is {cid}")
        return pulled

    def signer(self, creator: Identity | None) -> Signer:
        """Return what signs as a creator; None is this node."""
        return Signer((creator or self._identity).secret)

    def has_published(self, cid: Cid) -> bool:
        """Return whether an adapter was published here."""
        return any(record.target == cid for record in self._book.records())

    # --- versions ---

    async def roll_back(self, text: str, creator: Identity | None = None) -> NameRecord:
        """Have NAME mean the version NAME@VERSION again, for everybody.

        Raises BadRequest for a version that is unknown or withdrawn, AdapterError where others do
        not believe it.
        """
        creator = creator or self._identity
        name, record = await self._own_version(creator, text)
        if record.target is None:
            raise BadRequest(f"{text} is withdrawn; `lorikeet versions {name}` lists what is not")
        return await self._say(creator, name, record.target)

    async def retract(self, text: str, creator: Identity | None = None) -> NameRecord:
        """Withdraw NAME@VERSION: nobody takes new requests for it; what runs ends.

        Where NAME meant it, NAME means the latest version that is left, if any.
        """
        creator = creator or self._identity
        name, record = await self._own_version(creator, text)
        withdrawn = await self._say(creator, record.name, None)
        meant = await self._names.find(creator.peer_id, name)
        if meant is not None and meant.target in (record.target, None):
            left = [one for one in self.versions(creator.peer_id, name) if one.target is not None]
            await self._say(creator, name, left[-1].target if left else None)
        return withdrawn

    async def retract_others(
        self, kept: Cid, name: str, creator: Identity | None = None
    ) -> list[NameRecord]:
        """Withdraw every version of a name but one."""
        creator = creator or self._identity
        others = [
            one
            for one in self.versions(creator.peer_id, name)
            if one.target is not None and one.target != kept
        ]
        return [await self._say(creator, one.name, None) for one in others]

    def versions(self, owner: str, name: str) -> list[NameRecord]:
        """List the versions of a name that are known here, the oldest first."""
        return self._known.versions(owner, name)

    async def _own_version(self, creator: Identity, text: str) -> tuple[str, NameRecord]:
        name, mark, version = text.rpartition("@")
        if not mark:
            raise BadRequest(f"{text!r} names no version; say NAME@VERSION, for example {text}@1")
        try:
            record = await self._names.find(creator.peer_id, version_name(name, version))
        except InvalidInput as error:
            raise BadRequest(str(error)) from error
        if record is None:
            raise BadRequest(
                f"{text} is no version that this key published; `lorikeet versions {name}` lists"
                " them, and --key names another creator's key"
            )
        return name, record

    def _next_version(self, creator: Identity, name: str) -> str:
        """Return the version that a folder has where it says none: one more than the last."""
        taken = [one.name.rpartition("@")[2] for one in self.versions(creator.peer_id, name)]
        return str(1 + max((int(version) for version in taken if version.isdecimal()), default=0))

    def _as_published(self, creator: Identity, package: Package) -> Package:
        """Return the package as it was signed before, if it was: what a version is never changes.

        Raises AdapterError for other files under a version that is published.
        """
        versions = self.versions(creator.peer_id, package.manifest.name)
        if package.states_version:
            name = _version_of(package.manifest)
            versions = [record for record in versions if record.name == name]
        if not versions:
            return package
        before = versions[-1].target
        data = self._store.get(before) if before is not None else None
        if data is not None and package.equals(parse_manifest(data)):
            return package.signed_before(data)
        if package.states_version:
            raise AdapterError(
                f"{versions[-1].name} is published already, as {before or 'withdrawn'}, and what a"
                " version is never changes; raise version in lorikeet.toml, or leave it out"
            )
        return package

    def _check_source(self, creator: Identity, package: Package) -> None:
        """Raise AdapterError where the name is of another adapter, of which this is no version."""
        name, source = package.manifest.name, package.manifest.source
        versions = self.versions(creator.peer_id, name)
        data = self._store.get(versions[-1].target) if versions and versions[-1].target else None
        before = parse_manifest(data).source.partition("@")[0] if data is not None else None
        if before is not None and before != source.partition("@")[0]:
            raise AdapterError(
                f"the name {name!r} is taken: this key published it from"
                f" {before or 'another folder'}; choose another with --as"
            )

    # --- saying ---

    async def _say(self, creator: Identity, name: str, target: Cid | None) -> NameRecord:
        """Sign a name, keep it and tell everybody. Raises AdapterError where nobody believes it."""
        record = self._sign(creator, name, target)
        try:
            try:
                num_holders = await self._announcer.put_name(record)
            except StaleName as stale:  # the same key published elsewhere
                record = self._sign(creator, name, target, above=stale.sequence)
                num_holders = await self._announcer.put_name(record)
        except (StaleName, NameRefused, InvalidNameRecord) as error:
            what = target or "withdrawn"
            raise AdapterError(
                f"{name} is {what} here, and others do not see it: {error}"
            ) from error
        if num_holders:
            self._said_at[record.owner, record.name] = self._clock()
        return record

    def _sign(
        self, creator: Identity, name: str, target: Cid | None, *, above: int = 0
    ) -> NameRecord:
        record = self._book.sign(creator, name, target, above=above)
        self._learn(record)
        return record

    def _learn(self, record: NameRecord) -> None:
        try:
            self._known.learn_name(record)
        except InvalidNameRecord as error:
            self._log(f"publishing: {error}; this machine's clock was wrong, so publish again")

    async def run_republish(self, interval_s: float) -> None:
        """Repeat every interval what this node provides and has named, until cancelled."""
        while True:
            await trio.sleep(interval_s)
            await self.offer_base()
            await self._drop_changed()
            for cid, _ in self._holdings.held():
                await self._announcer.provide(cid)
            for record in self._book.records():
                await self._repeat(record)
                if record.target is not None and "@" not in record.name:
                    await self._announce(record.target)

    async def _drop_changed(self) -> None:
        """Offer nothing any more of which a file was changed or removed behind this node's back."""
        for cid, manifest, path in await self._holdings.find_changed():
            self._holdings.drop(cid)
            self._log(
                f"publishing: {_version_of(manifest)} ({manifest.source or 'no source'}) is not"
                f" served any more: {path} was changed or removed; import it again, or `lorikeet"
                f" pull {cid}`"
            )

    async def _repeat(self, record: NameRecord) -> None:
        """Say a name again where that is due; learn of a newer one that the same key signed."""
        place = (record.owner, record.name)
        now = self._clock()
        if now - self._said_at.get(place, 0.0) < NAMES_INTERVAL_S:
            return
        if record.owner == self._identity.peer_id and now - record.sequence > RENEW_S:
            record = self._sign(self._identity, record.name, record.target)
        try:
            if await self._announcer.put_name(record):
                self._said_at[place] = now
        except StaleName as error:
            self._log(f"publishing: {error}")
            newer = await self._names.look_up(*place)
            if newer is not None:
                self._book.adopt(newer)
        except (NameRefused, InvalidNameRecord) as error:
            self._log(f"publishing: {error}")

    async def _announce(self, cid: Cid) -> None:
        announcement = self._announcement(cid)
        if announcement is not None:
            self._known.learn(announcement, self._identity.peer_id)
            await self._announcer.announce(announcement)

    def _announcement(self, cid: Cid) -> Announcement | None:
        data = self._store.get(cid)
        if data is None:
            return None
        try:
            page = about_of(parse_manifest(data))
            return make_announcement(data, self._store.get(page) if page else None)
        except ManifestError as error:
            self._log(f"publishing: {cid} is not announced: {error}")
            return None

    def _store_package(self, package: Package, in_place: bool) -> Cid:
        cid = self._store.put(package.manifest_bytes)
        if in_place:
            self._holdings.link(cid, package.manifest, package.paths, package.about_bytes)
        else:
            self._holdings.place(cid, package.manifest, package.blocks())
        return cid

    async def restore(self) -> None:
        """Hold again what was on the disk before a restart, and say its names; one adapter that
        fails does not stop the others.
        """
        for text in self._holdings.written():
            try:
                await self._holdings.restore(Cid.parse(text))
            except (AdapterError, EngineError, NoProvider, InvalidInput, OSError) as error:
                self._log(f"publishing: {text} is not served: {error}")
        for record in self._book.records():
            await self._repeat(record)

    async def offer_base(self) -> None:
        """Publish that this node computes on the base, and that it has its blocks."""
        if self._holdings.computes:
            await self._announcer.provide(Cid(self._base.base))
        for cid in self._base_blocks():
            await self._announcer.provide(cid)


def _version_of(manifest: Manifest) -> str:
    return version_name(check_name(manifest.name), manifest.adapter_version)
