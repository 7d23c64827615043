"""Holds adapters: fetches what is missing of one, checks it, writes it, and gives it to the engine.

    hold:  CID → manifest → base checked → blocks → files → engine → offered to others

"Held" means that an adapter's bytes are on this disk and, where there is an engine, that it serves
them. Decides what is held; knows no names, requests or money.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import trio

from engine import messages as m
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from proofs.manifest import Manifest

from ..engine_link import AdapterFiles
from ..errors import AdapterError, WrongBase
from .fetching import Pulled
from .packaging import CONFIG_FILE, MAX_FILE_BYTES, WEIGHTS_FILE, check_files


class Source(Protocol):
    """Where an adapter's bytes come from: implemented by catalogue.fetching.Fetcher."""

    async def fetch_manifest(self, cid: Cid) -> Pulled:
        """Fetch the manifest unless it is here. Raises NoProvider, AdapterError."""

    async def fetch_blocks(self, pulled: Pulled) -> None:
        """Fetch every block that is not in the store. Raises NoProvider."""


class Engine(Protocol):
    """What serves an adapter's files: implemented by engine_host.EngineHost."""

    async def wait_up(self) -> m.Ready:
        """Wait until it takes commands. Raises EngineLost."""

    async def load(self, files: AdapterFiles) -> m.AdapterHeld:
        """Serve an adapter. Raises AdapterError, EngineLost."""

    def serves(self, adapter: bytes) -> bool:
        """Return whether it serves an adapter."""


class AdapterFolders:
    """Keeps one folder per adapter, written from the blocks in the store."""

    def __init__(self, folder: Path, store: BlockStore) -> None:
        self._folder = folder
        self._store = store

    def written(self) -> list[str]:
        """List the adapters that were written here, by their CIDs as text."""
        return sorted(path.name for path in self._folder.glob("bafkrei*"))

    def write(self, cid: Cid, manifest: Manifest) -> AdapterFiles:
        """Write an adapter's files, all or none, unless they are here and match its blocks' hashes.

        The manifest's files have been checked (`check_files`). Reads and writes the disk. Raises
        AdapterError for a block that is not in the store.
        """
        assert all(file.name in MAX_FILE_BYTES for file in manifest.files), "a name is not checked"
        folder = self._folder / str(cid)
        paths = [(folder / file.name, file.blocks) for file in manifest.files]
        if not all(_is_whole(path, blocks) for path, blocks in paths):
            draft = self._folder / f".{cid}.{os.getpid()}"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            for path, blocks in paths:
                _write_file(draft / path.name, self._store, blocks)
            shutil.rmtree(folder, ignore_errors=True)  # what is broken
            draft.rename(folder)
        return AdapterFiles(cid.digest, folder / CONFIG_FILE, folder / WEIGHTS_FILE)


class Holdings:
    """The adapters that one daemon holds.

    `base` is the digest of the base that is served or asked for here; `engine` None holds bytes
    only; `on_held` is called with each adapter that can now be fetched from here.
    """

    def __init__(
        self,
        base: bytes,
        source: Source,
        folders: AdapterFolders,
        engine: Engine | None,
        on_held: Callable[[Cid], None],
    ) -> None:
        self.base = base
        self._source = source
        self._folders = folders
        self._engine = engine
        self._on_held = on_held
        self._held: dict[Cid, Manifest] = {}
        self._locks: dict[Cid, trio.Lock] = {}

    async def hold(self, cid: Cid) -> Pulled:
        """Make an adapter servable; returns at once when it already is.

        Raises NoProvider, AdapterError (WrongBase among them) and EngineError.
        """
        lock = self._locks.setdefault(cid, trio.Lock())
        try:
            async with lock:
                if self._is_servable(cid):
                    return Pulled(cid, self._held[cid])
                return await self._hold(cid)
        finally:
            if not lock.locked():
                self._locks.pop(cid, None)

    async def _hold(self, cid: Cid) -> Pulled:
        pulled = await self._source.fetch_manifest(cid)
        self._check(pulled.manifest)
        await self._source.fetch_blocks(pulled)
        files = await trio.to_thread.run_sync(self._folders.write, cid, pulled.manifest)
        if self._engine is not None:
            await self._engine.wait_up()
            pulled.timings_ms["load"] = (await self._engine.load(files)).load_ms
        self._held[cid] = pulled.manifest
        self._on_held(cid)
        return pulled

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
