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
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from engine import messages as m
from engine.errors import BadAdapter as ConfigRefused
from engine.lora.adapter_config import parse_config
from p2p.blocks.draft import Draft, Layout
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from proofs.manifest import File, Manifest

from ..engine_link import AdapterFiles
from ..errors import AdapterError, EngineBusy, WrongBase
from .about import ABOUT_FILE
from .fetching import Pulled
from .hashing import Stamp, stamp_of
from .linking import link_all
from .packaging import CONFIG_FILE, MAX_FILE_BYTES, WEIGHTS_FILE, check_files

MAX_GUEST_BYTES = 8 << 30
AHEAD_PART = 0.5  # of that
SPARED_NS = 3600 * 10**9  # who was wanted within this makes no room for what is fetched ahead
GUEST_FILE = ".guest"
"""In an adapter's folder: it is a guest, wanted last when this file was written. Holds the CIDs, as
text, of what was fetched for it, and AHEAD until a stranger asks for it.
"""
AHEAD = "ahead"


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

    async def load(self, files: AdapterFiles) -> m.AdapterHeld:
        """Serve an adapter. Raises AdapterError, EngineLost."""

    def serves(self, adapter: bytes) -> bool:
        """Return whether it serves an adapter."""

    def release(self, adapter: bytes) -> None:
        """Serve an adapter no longer."""


@dataclass(frozen=True)
class Guest:
    """An adapter that strangers wanted: its bytes on the disk, and when it was wanted last.

    `is_ahead`: it was fetched ahead, and nobody has asked for it here yet.
    """

    cid: Cid
    size_bytes: int
    used_ns: int
    is_ahead: bool = False


class AdapterFolders:
    """Keeps one folder per adapter, out of whose files the store gives blocks to others.

    A folder whose name begins with a dot is a draft. It lasts over a crash: a fetch goes on.
    """

    def __init__(self, folder: Path, store: BlockStore) -> None:
        self._folder = folder
        self._store = store
        self._stamps: dict[Cid, dict[Path, Stamp | None]] = {}

    def written(self) -> list[str]:
        """List the adapters that were written here, by their CIDs as text."""
        return sorted(path.name for path in self._folder.glob("bafkrei*"))

    def open_draft(self, cid: Cid, manifest: Manifest) -> Draft | None:
        """Begin an adapter's files, or go on with them, with what the store has; None when they are
        whole.

        The manifest's files have been checked (`check_files`). Reads and writes the disk.
        """
        if all(_is_whole(*file) for file in self._layout(cid, manifest).items()):
            return None
        draft = Draft(self._layout(cid, manifest, is_draft=True))
        for block in draft.missing:
            data = self._store.get(block)
            if data is not None:
                draft.put_verified(block, data)
        return draft

    def link(self, cid: Cid, manifest: Manifest, paths: Iterable[Path], page: bytes) -> None:
        """Have an adapter's files here, as links to files that lie elsewhere (linking.py).

        Raises AdapterError for files that changed meanwhile.
        """
        if all(_is_whole(*file) for file in self._layout(cid, manifest).items()):
            return
        folder = self._folder / f".link-{cid}"  # no draft: into that, missing blocks are written
        shutil.rmtree(folder, ignore_errors=True)
        try:
            link_all(paths, {ABOUT_FILE: page} if page else {}, folder)
            for file in manifest.files:
                if not _is_whole(folder / file.name, file.blocks):
                    raise AdapterError(f"{file.name} changed while it was read; import it again")
            shutil.rmtree(self._folder / str(cid), ignore_errors=True)  # what is broken
            folder.rename(self._folder / str(cid))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, cid: Cid, manifest: Manifest) -> AdapterFiles:
        """Have an adapter's files whole, of the blocks in its draft and in the store.

        Leaves them as they are when they match its blocks' hashes. Raises as `finish` does.
        """
        draft = self.open_draft(cid, manifest)
        if draft is None:
            return self.give_out(cid, manifest)
        with draft:
            return self.finish(cid, manifest, draft)

    def finish(self, cid: Cid, manifest: Manifest, draft: Draft) -> AdapterFiles:
        """Make a draft an adapter, all or nothing. Raises AdapterError for a missing block."""
        if draft.missing:
            raise AdapterError(
                f"{len(draft.missing)} blocks of adapter {manifest.name!r} are missing, first"
                f" {draft.missing[0]}"
            )
        shutil.rmtree(self._folder / str(cid), ignore_errors=True)  # what is broken
        self._draft_folder(cid).rename(self._folder / str(cid))
        return self.give_out(cid, manifest)

    def give_out(self, cid: Cid, manifest: Manifest) -> AdapterFiles:
        """Give blocks to others out of an adapter's files."""
        layout = self._layout(cid, manifest)
        self._store.adopt(layout)
        self._stamps[cid] = {path: _stamp(path) for path in layout}
        folder = self._folder / str(cid)
        return AdapterFiles(cid.digest, folder / CONFIG_FILE, folder / WEIGHTS_FILE)

    def is_touched(self, cid: Cid, manifest: Manifest) -> bool:
        """Say whether a file has another number, size or time than when it was given out."""
        now = {path: _stamp(path) for path in self._layout(cid, manifest)}
        return now != self._stamps.get(cid)

    def find_broken(self, cid: Cid, manifest: Manifest) -> Path | None:
        """Return a file that is not what it was, None where all are. Reads the files."""
        layout = self._layout(cid, manifest)
        stamps = {path: _stamp(path) for path in layout}
        for path, blocks in layout.items():
            if not _is_whole(path, blocks):
                return path.resolve()
        self._stamps[cid] = stamps
        return None

    def drop_draft(self, cid: Cid) -> None:
        """Leave nothing of an adapter that did not become whole."""
        shutil.rmtree(self._draft_folder(cid), ignore_errors=True)

    def _layout(self, cid: Cid, manifest: Manifest, *, is_draft: bool = False) -> Layout:
        folder = self._draft_folder(cid) if is_draft else self._folder / str(cid)
        assert all(file.name in MAX_FILE_BYTES for file in manifest.files), "a name is not checked"
        return {folder / file.name: file.blocks for file in manifest.files}

    def layout(self, cid: Cid, manifest: Manifest) -> Mapping[Path, File]:
        """Return where the files of an adapter lie that was written here."""
        return {self._folder / str(cid) / file.name: file for file in manifest.files}

    def _draft_folder(self, cid: Cid) -> Path:
        return self._folder / f".{cid}"

    def guests(self) -> list[Guest]:
        """List the adapters that strangers wanted, the one unused for longest first."""
        found = []
        for mark in self._folder.glob(f"*/{GUEST_FILE}"):
            files = [file for file in mark.parent.iterdir() if file.name in MAX_FILE_BYTES]
            size_bytes = sum(file.stat().st_size for file in files)
            used_ns = mark.stat().st_mtime_ns
            cid = Cid.parse(mark.parent.name.removeprefix("."))  # a draft that a crash left
            found.append(Guest(cid, size_bytes, used_ns, AHEAD in mark.read_text().split()))
        return sorted(found, key=lambda guest: guest.used_ns)

    def mark_guest(self, cid: Cid, fetched: Iterable[Cid] = (), *, is_ahead: bool = False) -> None:
        """Note that strangers want an adapter now, or that it is fetched ahead, and what was
        fetched for it. OSError where that is not known yet and the disk does not take it; what was
        known stays.
        """
        mark = self._mark(cid)
        known = self._read_mark(mark)
        everything = (known - {AHEAD}) | {*map(str, fetched)} | ({AHEAD} if is_ahead else set())
        if mark.exists():
            os.utime(mark)  # takes no room
        if mark.exists() and everything == known:
            return
        part = mark.with_suffix(".part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_text("\n".join(sorted(everything)))
            part.replace(mark)
        except OSError:
            if not mark.exists() or not everything <= known:
                raise
        finally:
            part.unlink(missing_ok=True)

    def note_used(self, cid: Cid) -> None:
        """Note that an adapter was wanted now whose files lie here."""
        with suppress(FileNotFoundError):
            os.utime(self._folder / str(cid))

    def find_guest(self, cid: Cid) -> bool | None:
        """Return whether a guest was fetched ahead and not asked for yet; None for what is none."""
        mark = self._mark(cid)
        return AHEAD in self._read_mark(mark) if mark.exists() else None

    def used_at(self, cid: Cid) -> float | None:
        """Return when an adapter was wanted last, or came here (Unix seconds)."""
        mark = self._mark(cid)
        place = mark if mark.exists() else mark.parent
        return place.stat().st_mtime if place.exists() else None

    def unmark_guest(self, cid: Cid) -> None:
        """This operator wants an adapter: it stays."""
        self._mark(cid).unlink(missing_ok=True)

    def is_own(self, cid: Cid) -> bool:
        """Say whether an adapter lies here that this operator wanted."""
        return (self._folder / str(cid)).is_dir() and not self._mark(cid).exists()

    def delete(self, cid: Cid, kept: set[Cid]) -> None:
        """Delete a guest's folder and what was fetched for it, but for `kept` blocks."""
        fetched = {Cid.parse(text) for text in self._fetched(cid)}
        self._store.forget(self._folder / str(cid))
        self._stamps.pop(cid, None)
        shutil.rmtree(self._folder / str(cid), ignore_errors=True)
        self.drop_draft(cid)
        self.discard(fetched - kept)

    def discard(self, blocks: Iterable[Cid]) -> None:
        """Delete blocks from the store."""
        for block in blocks:
            self._store.delete(block)

    def _fetched(self, cid: Cid) -> set[str]:
        return self._read_mark(self._mark(cid)) - {AHEAD}

    def _read_mark(self, mark: Path) -> set[str]:
        return set(mark.read_text().split()) if mark.exists() else set()

    def _mark(self, cid: Cid) -> Path:
        folder = self._folder / str(cid)
        return (folder if folder.is_dir() else self._draft_folder(cid)) / GUEST_FILE


class Holdings:
    """The adapters that one daemon holds.

    `base` is the digest of the base served or asked for here; `engine` None holds bytes only;
    `on_held` hears of each adapter that can now be had here; `guest_bytes` is what strangers'
    adapters may take on the disk.
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
    ) -> None:
        self.base = base
        self._source = source
        self._folders = folders
        self._engine = engine
        self._on_held = on_held
        self._guest_bytes = guest_bytes
        self._held: dict[Cid, Manifest] = {}
        self._locks: dict[Cid, trio.Lock] = {}
        self._arriving: dict[Cid, Manifest] = {}  # guests that are not written yet

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
            await self._serve(pulled, await self._bring(pulled, self._source))
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
        try:
            [config] = [file for file in manifest.files if file.name == CONFIG_FILE]
            await source.fetch_blocks(pulled, [config])
            _check_config(manifest, _read(config, draft))
            await source.fetch_blocks(pulled, manifest.files)
        finally:
            pulled.draft = None

    async def _serve(self, pulled: Pulled, files: AdapterFiles) -> None:
        if self._engine is not None:
            await self._engine.wait_up()
            pulled.timings_ms["load"] = (await self._engine.load(files)).load_ms
        self._held[pulled.cid] = pulled.manifest
        self._on_held(pulled.cid)

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

    def layout(self, cid: Cid, manifest: Manifest) -> Mapping[Path, File]:
        """Return where the files of an adapter lie while it is held."""
        return self._folders.layout(cid, manifest)

    def drop(self, cid: Cid) -> None:
        """Hold an adapter no longer whose files broke; the next `hold` mends them."""
        self._held.pop(cid, None)
        if self._engine is not None:
            self._engine.release(cid.digest)

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


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None


def _is_whole(path: Path, blocks: Sequence[tuple[bytes, int]]) -> bool:
    try:
        with path.open("rb") as file:
            return all(
                Cid(digest).matches(file.read(size)) for digest, size in blocks
            ) and not file.read(1)
    except OSError:
        return False


def _read(file: File, draft: Draft) -> bytes:
    """Return a file's bytes. Raises AdapterError for a block that is missing."""
    found = []
    for digest, _ in file.blocks:
        data = draft.get(Cid(digest))
        if data is None:
            raise AdapterError(f"block {Cid(digest)} of {file.name} is missing")
        found.append(data)
    return b"".join(found)
