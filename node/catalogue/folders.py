"""Keeps adapters on this disk, one folder each, out of whose files blocks are given to others.

    HOME/adapters/CID     whole        .CID     a draft: a fetch that goes on after a crash
    …/.guest              strangers wanted it, or may: it makes room for others

Decides nothing about whom to keep: holding.py does. Reads and writes the disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from p2p.blocks.draft import Draft, Layout
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from proofs.manifest import File, Manifest

from ..engine_link import AdapterFiles
from ..errors import AdapterError
from .about import ABOUT_FILE
from .hashing import Stamp, stamp_of
from .linking import link_all
from .packaging import CONFIG_FILE, MAX_FILE_BYTES, WEIGHTS_FILE

GUEST_FILE = ".guest"
"""In an adapter's folder: it is a guest, wanted last when this file was written. Holds the CIDs, as
text, of what was fetched for it, and AHEAD until a stranger asks for it.
"""
AHEAD = "ahead"


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
        return AdapterFiles(cid.digest, *self.engine_files(cid))

    def engine_files(self, cid: Cid) -> tuple[Path, Path]:
        """Return where an adapter's configuration and weights lie."""
        folder = self._folder / str(cid)
        return folder / CONFIG_FILE, folder / WEIGHTS_FILE

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
