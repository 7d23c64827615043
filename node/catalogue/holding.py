"""Every adapter this daemon holds or has heard of: publish one, find one by a text, make one
servable. Knows no requests and no money.

publish:  folder → manifest signed by the creator + blocks in the store → provider record, signed
          name, announcement
hold:     CID → manifest → base checked → blocks from all providers → files → engine → provider
          record
"""

from __future__ import annotations

import difflib
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio
from trio_typing import TaskStatus

from p2p.blocks.client import fetch_block, fetch_blocks
from p2p.blocks.exchange import BlockRef
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import FetchFailed, InvalidInput, P2pError
from p2p.gossip import Verdict
from p2p.host import Host
from p2p.identity import Identity, peer_id_of, public_key_of
from p2p.names import check_name, sign_name
from p2p.peers import PeerAddress
from proofs.attribution.shares import SharePolicy
from proofs.manifest import MAX_MANIFEST_BYTES, Manifest, ManifestError, parse_manifest

from ..api import AdapterInfo, PullReport
from ..engine_host import EngineHost
from ..engine_link import AdapterFiles
from ..errors import AdapterError, EngineError, NoProvider, UnknownModel, WrongBase
from ..money.metering import ShareRow, expected_shares
from ..telemetry import Telemetry
from .packaging import (
    CONFIG_FILE,
    VERIFICATION_FILE,
    WEIGHTS_FILE,
    BaseIdentity,
    Package,
    load_package,
)
from .popularity import Popularity

TOPIC = "adapters"
BASE_NAMES = ("base", "")
MAX_ADAPTER_BYTES = 2 << 30
MAX_KNOWN = 4096
NAME_CACHE_S = 20.0
NAME_DEADLINE_S = 4.0
PROVIDERS_DEADLINE_S = 4.0
MANIFEST_DEADLINE_S = 15.0
FETCH_DEADLINE_S = 300.0
MAX_PROVIDERS = 8
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, VERIFICATION_FILE)
"""The last is optional."""


@dataclass
class Pulled:
    """One adapter that is servable here, and how it came: times in milliseconds."""

    cid: Cid
    manifest: Manifest
    providers: Sequence[PeerAddress] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    blocks_by_peer: dict[str, int] = field(default_factory=dict)
    rejected: tuple[tuple[str, str, str], ...] = ()

    def add(self, part: str, ms: float) -> None:
        """Count time towards a part."""
        self.timings_ms[part] = self.timings_ms.get(part, 0.0) + ms


class Adapters:
    """The adapters of one daemon.

    `base` is the digest of the base served or asked for here; `engine` None holds bytes only.
    """

    def __init__(
        self,
        home: Path,
        host: Host,
        store: BlockStore,
        engine: EngineHost | None,
        identity: Identity,
        publishers: Sequence[str],
        base: BaseIdentity,
        base_name: str,
        telemetry: Telemetry,
    ) -> None:
        self._folder = home / "adapters"
        self._host = host
        self._store = store
        self._engine = engine
        self._identity = identity
        self._publishers = tuple(dict.fromkeys((*publishers, identity.peer_id)))
        self._base = base
        self.base = base.base
        self.base_name = base_name
        self._telemetry = telemetry
        self._policy = SharePolicy()
        self._held: dict[Cid, Manifest] = {}
        self._own_names: dict[str, Cid] = {}
        self._known: OrderedDict[Cid, Manifest] = OrderedDict()
        self._names: dict[tuple[str, str], tuple[Cid, float]] = {}
        self._locks: dict[Cid, trio.Lock] = {}
        self._popularity = Popularity(self.providers)

    # --- finding ---

    async def resolve(self, model: str) -> Cid | None:
        """Give the CID that a model text means, None for the bare base; raises UnknownModel within
        seconds.
        """
        if model in (*BASE_NAMES, self.base_name, str(Cid(self.base))):
            return None
        try:
            return Cid.parse(model)
        except InvalidInput:
            pass
        owners, name = self._owners_of(model)
        for target in await self._find_names(owners, name):
            if target is not None:
                return target
        raise UnknownModel(model, self._closest(model))

    async def manifest(self, cid: Cid) -> Manifest:
        """The signed description behind a CID, fetched when it is not here."""
        found = self._held.get(cid) or self._known.get(cid)
        if found is None:
            found = await self._fetch_manifest(cid, await self.providers(cid))
            self._learn(cid, found)
        return found

    async def providers(self, cid: Cid) -> list[PeerAddress]:
        """Peers that say they serve this adapter (or base)."""
        return await self._host.dht.find_providers(
            cid, limit=MAX_PROVIDERS, deadline_s=PROVIDERS_DEADLINE_S
        )

    async def listing(self) -> list[AdapterInfo]:
        """Everything held or heard of, with how many peers provide it."""
        manifests = {**self._known, **self._held}
        others = await self._popularity.count(list(manifests))
        return [
            _describe(
                cid,
                manifest,
                self._state(cid) if cid in self._held else "known",
                others[cid] + (cid in self._held),
            )
            for cid, manifest in manifests.items()
        ]

    def shares(self, owner: bytes, manifest: Manifest | None) -> list[ShareRow]:
        """Who shares a fee that `owner`'s node earns with this adapter; None is the bare base."""
        return expected_shares(self._policy, owner, manifest)

    def _owners_of(self, model: str) -> tuple[Sequence[str], str]:
        owner, _, name = model.rpartition("/")
        try:
            if owner:
                public_key_of(owner)
            return ((owner,) if owner else self._publishers), check_name(name)
        except InvalidInput as error:
            raise UnknownModel(model, self._closest(model)) from error

    async def _find_names(self, owners: Sequence[str], name: str) -> list[Cid | None]:
        """Ask for the name under every owner at once; answers in the owners' order."""
        found: list[Cid | None] = [None] * len(owners)

        async def find(index: int, owner: str) -> None:
            found[index] = await self._find_name(owner, name)

        async with trio.open_nursery() as nursery:
            for index, owner in enumerate(owners):
                nursery.start_soon(find, index, owner)
        return found

    async def _find_name(self, owner: str, name: str) -> Cid | None:
        if owner == self._identity.peer_id and name in self._own_names:
            return self._own_names[name]
        cached = self._names.get((owner, name))
        if cached and cached[1] > time.monotonic():
            return cached[0]
        try:
            record = await self._host.dht.find_name(owner, name, deadline_s=NAME_DEADLINE_S)
        except P2pError as error:
            self._telemetry.log(f"adapters: looking for {name} of {owner[-8:]}: {error}")
            return None
        if record is None:
            return None
        if len(self._names) >= MAX_KNOWN:
            self._names.clear()
        self._names[owner, name] = (record.target, time.monotonic() + NAME_CACHE_S)
        return record.target

    def _closest(self, model: str) -> list[str]:
        names = {manifest.name for manifest in (*self._held.values(), *self._known.values())}
        return difflib.get_close_matches(model.rpartition("/")[2], sorted(names), n=3)

    def _state(self, cid: Cid) -> str:
        return "ready" if self._engine is not None else "held"

    # --- holding ---

    async def pull(self, model: str) -> PullReport:
        """Resolve a text and make that adapter servable here."""
        started = time.perf_counter()
        cid = await self.resolve(model)
        if cid is None:
            raise AdapterError("the bare base needs no pull")
        lookup_ms = _since_ms(started)
        pulled = await self.hold(cid)
        times = pulled.timings_ms
        return PullReport(
            pulled.manifest.name,
            str(cid),
            _size_bytes(pulled.manifest),
            lookup_ms + times.get("lookup", 0.0),
            fetch_ms=times.get("fetch", 0.0),
            verify_ms=times.get("verify", 0.0),
            load_ms=times.get("load", 0.0),
            blocks_by_peer=pulled.blocks_by_peer,
            rejected=pulled.rejected,
        )

    async def hold(self, cid: Cid) -> Pulled:
        """Make an adapter servable: whatever is missing or broken is fetched, checked and loaded.

        Returns at once when it already is.
        """
        lock = self._locks.setdefault(cid, trio.Lock())
        try:
            async with lock:
                if cid in self._held and (self._engine is None or self._engine.serves(cid.digest)):
                    return Pulled(cid, self._held[cid])
                return await self._hold(cid)
        finally:
            if not lock.locked():
                self._locks.pop(cid, None)

    async def _hold(self, cid: Cid) -> Pulled:
        pulled = await self._start_pull(cid)
        self._check_base(pulled.manifest)
        await self._fetch_blocks(pulled)
        files = await trio.to_thread.run_sync(self._assemble, cid, pulled.manifest)
        if self._engine is not None:
            await self._engine.wait_up()
            pulled.timings_ms["load"] = (await self._engine.load(files)).load_ms
        self._held[cid] = pulled.manifest
        self._host.dht.provide_soon(cid)
        self._telemetry.count("adapters_pulled")
        return pulled

    async def _start_pull(self, cid: Cid) -> Pulled:
        """The manifest, from the store or from a provider; who provides is asked once, for the
        blocks as well.
        """
        data = self._store.get(cid)
        if data is not None:
            return Pulled(cid, parse_manifest(data))
        started = time.perf_counter()
        providers = await self.providers(cid)
        found = time.perf_counter()
        manifest = await self._fetch_manifest(cid, providers)
        return Pulled(
            cid,
            manifest,
            providers,
            {"lookup": (found - started) * 1000, "fetch": _since_ms(found)},
        )

    async def _fetch_manifest(self, cid: Cid, providers: Sequence[PeerAddress]) -> Manifest:
        if not providers:
            raise NoProvider(f"no node provides {cid}; its publisher may be offline")
        try:
            data = await fetch_block(
                self._host,
                self._store,
                cid,
                MAX_MANIFEST_BYTES,
                providers=providers,
                deadline_s=MANIFEST_DEADLINE_S,
            )
            return parse_manifest(data)
        except (FetchFailed, P2pError) as error:
            raise NoProvider(f"the manifest {cid} could not be fetched: {error}") from error
        except ManifestError as error:
            raise AdapterError(f"{cid} is no valid adapter manifest: {error}") from error

    def _check_base(self, manifest: Manifest) -> None:
        if manifest.base != self.base:
            raise WrongBase(
                f"adapter {manifest.name!r} was made for base {manifest.base.hex()[:16]}…; this"
                f" node serves {self.base.hex()[:16]}…"
            )
        if _size_bytes(manifest) > MAX_ADAPTER_BYTES:
            raise AdapterError(
                f"adapter {manifest.name!r} has {_size_bytes(manifest)} bytes; the limit is"
                f" {MAX_ADAPTER_BYTES}"
            )

    async def _fetch_blocks(self, pulled: Pulled) -> None:
        """Bring the missing blocks here from all providers at once; every one is verified on
        arrival.
        """
        wanted = [
            BlockRef(Cid(digest), size)
            for file in pulled.manifest.files
            for digest, size in file.blocks
        ]
        missing = [ref for ref in wanted if not self._store.has(ref.cid)]
        if not missing:
            return
        if not pulled.providers:
            started = time.perf_counter()
            pulled.providers = await self.providers(pulled.cid)
            pulled.add("lookup", _since_ms(started))
        try:
            report = await fetch_blocks(
                self._host, self._store, missing, pulled.providers, deadline_s=FETCH_DEADLINE_S
            )
        except FetchFailed as error:
            raise NoProvider(
                f"adapter {pulled.manifest.name!r} could not be fetched: {error}"
            ) from error
        pulled.add("fetch", report.seconds * 1000)
        pulled.add("verify", report.verify_s * 1000)
        pulled.blocks_by_peer = dict(report.blocks_by_peer)
        for peer, count in report.blocks_by_peer.items():
            self._telemetry.count(f"blocks_fetched:{peer}", count)
        pulled.rejected = tuple((peer, str(cid), reason) for peer, cid, reason in report.rejected)
        for peer, block, reason in pulled.rejected:
            self._telemetry.reject("block", peer, f"{reason}: {block}")

    def _assemble(self, cid: Cid, manifest: Manifest) -> AdapterFiles:
        """Write the adapter's files from verified blocks, whole or not at all, unless they are here
        and hash to them. Runs in a thread.
        """
        folder = self._folder / str(cid)
        if not all(
            _is_whole(folder / _safe_name(file.name), file.blocks) for file in manifest.files
        ):
            draft = self._folder / f".{cid}.{os.getpid()}"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            for file in manifest.files:
                _write_file(draft / _safe_name(file.name), self._store, file.blocks)
            shutil.rmtree(folder, ignore_errors=True)  # what is broken
            draft.rename(folder)
        return AdapterFiles(cid.digest, folder / ADAPTER_FILES[0], folder / ADAPTER_FILES[1])

    # --- publishing ---

    async def publish(self, folder: Path, creator: Identity | None = None) -> AdapterInfo:
        """Sign and offer a PEFT folder; it is servable here, too, when this node has an engine for
        its base.

        A name under another key than this node's own is not renewed by it: that key is not kept.
        Its creator publishes again in time.
        """
        creator = creator or self._identity
        package = await trio.to_thread.run_sync(load_package, folder, creator.secret, self._base)
        cid = await trio.to_thread.run_sync(self._store_package, package)
        await self.hold(cid)
        await self._provide(cid)  # before its name: whoever finds the name finds a provider
        if creator.peer_id == self._identity.peer_id:
            self._own_names[package.manifest.name] = cid
        await self._publish_name(creator, package.manifest.name, cid)
        await self._announce(cid)
        self._telemetry.log(f"adapters: published {package.manifest.name} as {cid}")
        return _describe(cid, package.manifest, self._state(cid), 1)

    def _store_package(self, package: Package) -> Cid:
        for block in package.blocks():
            self._store.put(block)
        return self._store.put(package.manifest_bytes)

    async def _publish_name(self, creator: Identity, name: str, cid: Cid) -> None:
        """Say on the network that the name is this adapter; the time is the sequence, so that later
        wins.
        """
        try:
            await self._host.dht.put_name(sign_name(creator, name, int(time.time()), cid))
        except P2pError as error:
            self._telemetry.log(
                f"adapters: the name {name} was not published now: {error}; it is tried again"
            )

    async def _announce(self, cid: Cid) -> None:
        manifest = self._store.get(cid)
        if manifest is not None:
            await self._host.gossip.publish(TOPIC, manifest)

    async def _provide(self, cid: Cid) -> None:
        try:
            await self._host.dht.provide(cid)
        except P2pError as error:
            self._telemetry.log(f"adapters: {cid} was not provided now: {error}; it is tried again")

    async def run_republish(self, interval_s: float) -> None:
        """Say again, every interval, what this node provides and named, until cancelled."""
        while True:
            await trio.sleep(interval_s)
            if self._engine is not None:
                await self._provide(Cid(self.base))
            for cid in list(self._held):
                await self._provide(cid)
            for name, cid in list(self._own_names.items()):
                await self._publish_name(self._identity, name, cid)
                await self._announce(cid)

    # --- starting and listening ---

    async def restore(self) -> None:
        """Serve again what the folder holds from before a restart; one adapter that fails does not
        stop the others.
        """
        for folder in sorted(self._folder.glob("bafkrei*")) if self._folder.exists() else []:
            try:
                pulled = await self.hold(Cid.parse(folder.name))
            except (AdapterError, EngineError, NoProvider, ManifestError, InvalidInput) as error:
                self._telemetry.log(f"adapters: {folder.name} is not served: {error}")
                continue
            if peer_id_of(pulled.manifest.creator) == self._identity.peer_id:
                self._own_names[pulled.manifest.name] = pulled.cid
                await self._publish_name(self._identity, pulled.manifest.name, pulled.cid)

    async def offer_base(self) -> None:
        """Say that this node computes on the base."""
        await self._provide(Cid(self.base))

    def hear(self, manifest_bytes: bytes) -> None:
        """An announcement came: remember the adapter."""
        self._learn(Cid.of(manifest_bytes), parse_manifest(manifest_bytes))

    def _learn(self, cid: Cid, manifest: Manifest) -> None:
        self._known[cid] = manifest
        self._known.move_to_end(cid)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


async def run_announcements(
    host: Host,
    adapters: Adapters | None,
    telemetry: Telemetry,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Forward announcements whose creator signed them, and learn from them, until cancelled.

    Also for daemons that hold no adapters.
    """

    def judge(data: bytes, from_peer: str) -> Verdict:
        try:
            parse_manifest(data)
        except ManifestError as error:
            telemetry.reject("announcement", from_peer, str(error))
            return Verdict.REJECT
        return Verdict.ACCEPT

    announcements = await host.gossip.subscribe(TOPIC, judge)
    task_status.started()
    async for message in announcements:
        telemetry.count("announcements_heard")
        if adapters is not None:
            adapters.hear(message.data)


def _describe(cid: Cid, manifest: Manifest, state: str, num_providers: int) -> AdapterInfo:
    return AdapterInfo(
        manifest.name,
        str(cid),
        peer_id_of(manifest.creator),
        state,
        size_bytes=_size_bytes(manifest),
        licence=manifest.licence,
        providers=num_providers,
    )


def _size_bytes(manifest: Manifest) -> int:
    return sum(file.size for file in manifest.files)


def _safe_name(name: str) -> str:
    """Only the known files may be written; a manifest cannot choose a path."""
    if name not in ADAPTER_FILES:
        raise AdapterError(
            f"the manifest names a file {name!r}; an adapter has {', '.join(ADAPTER_FILES)}"
        )
    return name


def _is_whole(path: Path, blocks: Sequence[tuple[bytes, int]]) -> bool:
    try:
        with path.open("rb") as file:
            return all(
                Cid(digest).matches(file.read(size)) for digest, size in blocks
            ) and not file.read(1)
    except OSError:
        return False


def _write_file(path: Path, store: BlockStore, blocks: Sequence[tuple[bytes, int]]) -> None:
    with path.open("wb") as file:
        for digest, size in blocks:
            data = store.get(Cid(digest))
            if data is None or len(data) != size:
                raise AdapterError(
                    f"block {Cid(digest)} of {path.name} is missing or has another size than the"
                    " manifest says"
                )
            file.write(data)


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
