"""Holds adapters: fetches what is missing of one, checks it, writes it, and gives it to the engine.

    hold:  CID → manifest → base and files checked → its configuration, read → its weights,
               each block where it belongs → engine → offered to others, out of the files

"Held" means here: its bytes are on this disk and, where there is an engine, it serves them. What
strangers asked for, or may ask for, is a *guest*: all guests together have a bounded place, the one
that nobody wanted for longest makes room, and nothing is left of one that came to nothing. Those
that were fetched ahead take half of the place at most, and none from whoever was wanted lately.
Knows neither names nor requests, and no money.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from engine import messages as m
from engine.errors import BadAdapter as ConfigRefused
from engine.lora.adapter_config import parse_config
from p2p.blocks.draft import Draft
from p2p.cid import Cid
from proofs.cocktail import WEIGHT_UNIT, Cocktail
from proofs.manifest import File, Manifest

from ..engine_link import AdapterFiles, CocktailFiles, Files
from ..errors import AdapterError, EngineBusy, RegisteredElsewhere, WrongBase
from .fetching import Pulled
from .folders import AdapterFolders, Guest
from .packaging import CONFIG_FILE, check_files

MAX_GUEST_BYTES = 8 << 30
AHEAD_PART = 0.5  # of that
MAX_MIXED = 64  # cocktails in the engine
SPARED_NS = 3600 * 10**9  # who was wanted within this makes no room for what is fetched ahead


class Source(Protocol):
    """Where an adapter's bytes come from: implemented by catalogue.fetching.Fetcher."""

    async def fetch_manifest(self, cid: Cid) -> Pulled:
        """Fetch the manifest unless it is here. Raises NoProvider, AdapterError."""

    async def fetch_blocks(self, pulled: Pulled, files: Sequence[File]) -> None:
        """Have all blocks of some of its files in the store; raises NoProvider."""


class Engine(Protocol):
    """What serves an adapter's files: implemented by engine_host.EngineHost."""

    async def wait_up(self) -> m.Ready:
        """Wait until it takes commands. Raises EngineLost."""

    async def load(self, files: Files) -> m.AdapterHeld:
        """Serve an adapter. Raises AdapterError, EngineLost."""

    def serves(self, adapter: bytes) -> bool:
        """Return whether it serves an adapter."""

    def release(self, adapter: bytes) -> None:
        """Serve an adapter no longer."""


Admit = Callable[[Cid, Manifest, tuple[Path, Path]], Awaitable[None]]
"""Raises RegisteredElsewhere for an adapter that may not be served, by its configuration and
weights: catalogue.owning.Ownership.admit.
"""


async def admit_all(cid: Cid, manifest: Manifest, files: tuple[Path, Path]) -> None:
    """Refuse nothing: there is no registry."""


@dataclass
class Mixed:
    """A cocktail that the engine serves: how much memory it takes, and how long mixing took."""

    cocktail: Cocktail
    size_bytes: int
    load_ms: float
    used_at: float = 0.0


class Holdings:
    """The adapters that one daemon holds.

    `base` is the digest of the base served or asked for here; `engine` None holds bytes only;
    `on_held` hears of each adapter that can now be had here; `guest_bytes` is what strangers'
    adapters may take on the disk; `admit` may refuse one whose files are here, by its weights.
    """

    def __init__(
        self,
        base: bytes,
        source: Source,
        folders: AdapterFolders,
        engine: Engine | None,
        on_held: Callable[[Cid], None],
        *,
        guest_bytes: int = MAX_GUEST_BYTES,
        admit: Admit = admit_all,
    ) -> None:
        self.base = base
        self._source = source
        self._folders = folders
        self._engine = engine
        self._on_held = on_held
        self._guest_bytes = guest_bytes
        self._admit = admit
        self._held: dict[Cid, Manifest] = {}
        self._locks: dict[Cid, trio.Lock] = {}
        self._arriving: dict[Cid, Manifest] = {}  # guests that are not written yet
        self._filling: dict[Cid, Pulled] = {}  # whose files are being fetched
        self._mixed: dict[Cid, Mixed] = {}  # the one unused for longest first

    async def hold(self, cid: Cid) -> Pulled:
        """Make an adapter servable; returns at once when it already is. It stays.

        Raises NoProvider, AdapterError (WrongBase among them) and EngineError.
        """
        pulled = await self.restore(cid)
        self._folders.unmark_guest(cid)
        self._folders.note_used(cid)
        return pulled

    def unpin(self, cid: Cid) -> Manifest:
        """Let an adapter make room for others, as if strangers had wanted it now.

        Raises AdapterError for one that is not here.
        """
        manifest = self._held.get(cid)
        if manifest is None:
            raise AdapterError(f"{cid} is not held here; `lorikeet ps` lists what is")
        self._folders.mark_guest(cid, [cid])
        return manifest

    async def restore(self, cid: Cid) -> Pulled:
        """The same, but a guest stays a guest."""
        async with self._lock(cid):
            if self._is_servable(cid):
                return Pulled(cid, self._held[cid])
            pulled = await self._source.fetch_manifest(cid)
            files = await self._bring(pulled, self._source)
            try:
                await self._serve(pulled, files)
            except RegisteredElsewhere:
                self._evict(cid)
                raise
            return pulled

    async def hold_guest(self, cid: Cid) -> Pulled:
        """Make an adapter servable for a stranger, until others need its place.

        Raises as `hold` does, and EngineBusy when there is no place now.
        """
        if self._folders.is_own(cid):
            self._folders.note_used(cid)
            return await self.restore(cid)
        async with self._lock(cid):
            if not self._is_servable(cid):
                return await self._invite(cid, self._source)
            self._folders.mark_guest(cid)
            return Pulled(cid, self._held[cid])

    async def fetch_ahead(self, cid: Cid, source: Source) -> int:
        """Make an adapter servable for strangers who may ask for it, from a source of its own;
        return the bytes of its files, 0 where it was held.

        Raises as `hold_guest` does.
        """
        async with self._lock(cid):
            if cid in self._held or self._folders.is_own(cid):
                return 0
            return size_of((await self._invite(cid, source, is_ahead=True)).manifest)

    def arriving(self) -> list[tuple[Cid, Manifest, int]]:
        """List the adapters whose files are being fetched, and how many bytes of them are here."""
        return [
            (cid, pulled.manifest, _bytes_here(pulled.manifest, pulled.draft))
            for cid, pulled in self._filling.items()
            if pulled.draft is not None
        ]

    def is_ahead(self, cid: Cid) -> bool | None:
        """Return whether a guest was fetched ahead and not asked for yet; None for what is none."""
        return self._folders.find_guest(cid)

    def used_at(self, cid: Cid) -> float | None:
        """Return when an adapter was wanted last, or came here (Unix seconds)."""
        return self._folders.used_at(cid)

    async def _invite(self, cid: Cid, source: Source, *, is_ahead: bool = False) -> Pulled:
        """Bring a guest, or leave nothing of it."""
        pulled = await source.fetch_manifest(cid)
        files = None
        try:
            self._check(pulled.manifest)
            self._make_room(cid, pulled.manifest, is_ahead=is_ahead)
            # a crash leaves a draft of a guest
            self._folders.mark_guest(cid, pulled.fetched, is_ahead=is_ahead)
            files = await self._bring(pulled, source)
            self._folders.mark_guest(cid, pulled.fetched, is_ahead=is_ahead)
        finally:  # whoever asked may have gone
            self._arriving.pop(cid, None)
            if files is None:
                self._folders.drop_draft(cid)
                self._folders.discard(pulled.fetched - self._blocks_beside(cid))
        try:
            await self._serve(pulled, files)
        except AdapterError:
            self._evict(cid)
            raise
        return pulled

    async def _bring(self, pulled: Pulled, source: Source) -> AdapterFiles:
        """Check, fetch and write; the weights come once the configuration was read."""
        manifest = pulled.manifest
        self._check(manifest)
        folders = self._folders
        draft = await trio.to_thread.run_sync(folders.open_draft, pulled.cid, manifest)
        if draft is None:
            return folders.give_out(pulled.cid, manifest)
        try:
            with draft:
                await self._fill(draft, pulled, source)
                return folders.finish(pulled.cid, manifest, draft)
        except OSError:  # half an adapter must not keep a full disk full
            folders.drop_draft(pulled.cid)
            raise

    async def _fill(self, draft: Draft, pulled: Pulled, source: Source) -> None:
        manifest = pulled.manifest
        pulled.draft = draft
        self._filling[pulled.cid] = pulled
        try:
            [config] = [file for file in manifest.files if file.name == CONFIG_FILE]
            await source.fetch_blocks(pulled, [config])
            _check_config(manifest, _read(config, draft))
            await source.fetch_blocks(pulled, manifest.files)
        finally:
            pulled.draft = None
            del self._filling[pulled.cid]

    async def _serve(self, pulled: Pulled, files: AdapterFiles) -> None:
        await self._admit(pulled.cid, pulled.manifest, (files.config, files.weights))
        if self._engine is not None:
            await self._engine.wait_up()
            pulled.timings_ms["load"] = (await self._engine.load(files)).load_ms
        self._held[pulled.cid] = pulled.manifest
        self._on_held(pulled.cid)

    # --- cocktails ---

    async def mix(self, cid: Cid, cocktail: Cocktail) -> Mixed:
        """Have the engine serve a cocktail whose parents are held; it lives in memory alone.

        Raises AdapterError with the engine's reason, EngineBusy where a parent has made room again,
        and EngineError.
        """
        async with self._lock(cid):
            mixed = self._mixed.pop(cid, None)
            if mixed is None or (self._engine and not self._engine.serves(cid.digest)):
                mixed = await self._mix(cid, cocktail)
            self._mixed[cid] = mixed
            mixed.used_at = time.time()
            while len(self._mixed) > MAX_MIXED:
                self._drop_mixed(next(iter(self._mixed)))
            return mixed

    async def _mix(self, cid: Cid, cocktail: Cocktail) -> Mixed:
        parents = []
        for parent in cocktail.parents:
            manifest = self._held.get(Cid(parent.digest))
            if manifest is None:
                raise EngineBusy(
                    f"{parent.parsed.name!r} has made room for others while the cocktail was mixed;"
                    " ask again"
                )
            config, weights = self._folders.engine_files(Cid(parent.digest))
            part = m.ParentFiles(
                str(config), str(weights), parent.weight / WEIGHT_UNIT, manifest.name
            )
            parents.append(part)
        if self._engine is None:
            return Mixed(cocktail, 0, 0.0)
        await self._engine.wait_up()
        held = await self._engine.load(CocktailFiles(cid.digest, tuple(parents)))
        return Mixed(cocktail, held.size_bytes, held.load_ms)

    def mixed(self) -> list[tuple[Cid, Mixed]]:
        """List the cocktails that are held."""
        return list(self._mixed.items())

    def find_mixed(self, cid: Cid) -> Mixed | None:
        """Return a held cocktail, or None."""
        return self._mixed.get(cid)

    def _drop_mixed(self, cid: Cid) -> None:
        del self._mixed[cid]
        if self._engine is not None:
            self._engine.release(cid.digest)

    def place(self, cid: Cid, manifest: Manifest, blocks: Iterable[bytes]) -> None:
        """Write the files of an adapter that is published here, for `hold` to find.

        Reads and writes the disk. Raises as `hold` does.
        """
        self._check(manifest)
        draft = self._folders.open_draft(cid, manifest)
        if draft is not None:
            with draft:
                for block in blocks:
                    draft.put(block)

    def link(self, cid: Cid, manifest: Manifest, paths: Iterable[Path], page: bytes) -> None:
        """The same, out of files that stay where they lie; `page` is its about.json, if any."""
        self._check(manifest)
        self._folders.link(cid, manifest, paths, page)

    async def find_changed(self) -> list[tuple[Cid, Manifest, Path]]:
        """List the held adapters of which a file was changed or removed."""
        changed = []
        for cid, manifest in self.held():
            if self._folders.is_touched(cid, manifest):
                path = await trio.to_thread.run_sync(self._folders.find_broken, cid, manifest)
                if path is not None:
                    changed.append((cid, manifest, path))
        return changed

    # --- room for guests ---

    def _make_room(self, cid: Cid, manifest: Manifest, *, is_ahead: bool = False) -> None:
        """See that the guests and this one fit into their place; it is taken from now on."""
        size_bytes = size_of(manifest)
        if size_bytes > self._guest_bytes:
            raise AdapterError(
                f"adapter {manifest.name!r} takes {size_bytes} bytes; this node keeps no more than"
                f" {self._guest_bytes} of what strangers ask for (max_guest_bytes)"
            )
        coming = {cid, *self._arriving}
        guests = [guest for guest in self._folders.guests() if guest.cid not in coming]
        arriving = sum(size_of(other) for other in self._arriving.values())
        taken = arriving + sum(guest.size_bytes for guest in guests)
        if is_ahead:
            self._check_part(size_bytes, guests)
        spared_ns = time.time_ns() - SPARED_NS if is_ahead else math.inf
        for guest in guests:
            if taken + size_bytes <= self._guest_bytes:
                break
            if guest.used_ns < spared_ns:
                self._evict(guest.cid)
                taken -= guest.size_bytes
        if taken + size_bytes > self._guest_bytes:
            raise EngineBusy("other adapters are on their way and need the place; ask again")
        self._arriving[cid] = manifest

    def _check_part(self, size_bytes: int, guests: Sequence[Guest]) -> None:
        """Raise EngineBusy where what was fetched ahead has its part of the place already."""
        ahead = sum(guest.size_bytes for guest in guests if guest.is_ahead)
        if ahead + size_bytes > AHEAD_PART * self._guest_bytes:
            raise EngineBusy("what was fetched ahead has its part of max_guest_bytes")

    def _evict(self, cid: Cid) -> None:
        self.drop(cid)
        self._folders.delete(cid, self._blocks_beside(cid))

    def _blocks_beside(self, cid: Cid) -> set[Cid]:
        """What other adapters, held or on their way, need of the store."""
        others = {**self._held, **self._arriving}
        others.pop(cid, None)
        blocks = {
            Cid(digest)
            for manifest in others.values()
            for file in manifest.files
            for digest, _ in file.blocks
        }
        return blocks | set(others)

    # --- what is held ---

    @asynccontextmanager
    async def _lock(self, cid: Cid) -> AsyncIterator[None]:
        """One task at a time brings an adapter."""
        lock = self._locks.setdefault(cid, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(cid, None)

    @property
    def computes(self) -> bool:
        """Return whether there is an engine that serves what is held."""
        return self._engine is not None

    def find(self, cid: Cid) -> Manifest | None:
        """Return the manifest of a held adapter, or None."""
        return self._held.get(cid)

    def held(self) -> list[tuple[Cid, Manifest]]:
        """List the held adapters."""
        return list(self._held.items())

    def paths(self, cid: Cid) -> tuple[Path, Path]:
        """Return where a held adapter's configuration and weights lie."""
        return self._folders.engine_files(cid)

    def layout(self, cid: Cid, manifest: Manifest) -> Mapping[Path, File]:
        """Return where the files of an adapter lie while it is held."""
        return self._folders.layout(cid, manifest)

    def drop(self, cid: Cid) -> None:
        """Hold an adapter no longer whose files broke; the next `hold` mends them."""
        self._held.pop(cid, None)
        if self._engine is not None:
            self._engine.release(cid.digest)
        for mixed_cid, mixed in self.mixed():  # the engine could not read it again
            if any(parent.digest == cid.digest for parent in mixed.cocktail.parents):
                self._drop_mixed(mixed_cid)

    def written(self) -> list[str]:
        """List the CIDs, as text, whose files are here, held or not."""
        return self._folders.written()

    def _is_servable(self, cid: Cid) -> bool:
        """Return whether it is held and the engine has not dropped it since (its files may have
        broken).
        """
        return cid in self._held and (self._engine is None or self._engine.serves(cid.digest))

    def _check(self, manifest: Manifest) -> None:
        if manifest.base != self.base:
            raise WrongBase(
                f"adapter {manifest.name!r} was made for base {manifest.base.hex()[:16]}…; this"
                f" node serves {self.base.hex()[:16]}…"
            )
        check_files(manifest)


def size_of(manifest: Manifest) -> int:
    """Return the total bytes of an adapter's files."""
    return sum(file.size for file in manifest.files)


def _check_config(manifest: Manifest, data: bytes) -> None:
    """Raise AdapterError unless the engine could serve an adapter that is so configured."""
    try:
        parse_config(data)
    except ConfigRefused as error:
        raise AdapterError(f"adapter {manifest.name!r} cannot be served: {error}") from error


def _bytes_here(manifest: Manifest, draft: Draft) -> int:
    blocks = (block for file in manifest.files for block in file.blocks)
    return sum(size_bytes for digest, size_bytes in blocks if draft.has(Cid(digest)))


def _read(file: File, draft: Draft) -> bytes:
    """Return a file's bytes. Raises AdapterError for a block that is missing."""
    found = []
    for digest, _ in file.blocks:
        data = draft.get(Cid(digest))
        if data is None:
            raise AdapterError(f"block {Cid(digest)} of {file.name} is missing")
        found.append(data)
    return b"".join(found)
