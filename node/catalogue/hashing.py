"""Names the files of held adapters by their sha-256, as a hub of models does.

A manifest names blocks, so a file's own hash is known only once it was read; on that way its blocks
are checked. Remembers what was read until the file changes. Does not know which adapters are held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import trio

from p2p.cid import Cid
from proofs.manifest import File

from ..api.status import FileInfo

MAX_REMEMBERED = 4096
Stamp = tuple[int, int, int]
"""A file's number, size in bytes and time of change: another content has another one."""


class FileHashes:
    """The hashes of files on this disk. One file is read at a time."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._known: dict[Path, tuple[Stamp, str]] = {}

    async def describe(self, layout: Mapping[Path, File]) -> tuple[FileInfo, ...] | None:
        """Return what these files are; None where one is not what its manifest says."""
        async with self._lock:
            hashes = await trio.to_thread.run_sync(self._hash_all, layout)
        found = {path: digest for path, digest in hashes.items() if digest is not None}
        if len(found) < len(layout):
            return None
        return tuple(
            FileInfo(file.name, path, file.size, sha256=found[path])
            for path, file in layout.items()
        )

    def _hash_all(self, layout: Mapping[Path, File]) -> dict[Path, str | None]:
        return {path: self._hash(path, file) for path, file in layout.items()}

    def _hash(self, path: Path, file: File) -> str | None:
        try:
            stamp = stamp_of(path)
            known = self._known.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            found = hash_checked(path, file)
        except OSError:
            return None
        if found is not None:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[path] = (stamp, found)
        return found


def hash_checked(path: Path, file: File) -> str | None:
    """Return the sha-256 in hex of a file that is made of its manifest's blocks, None of another.

    Raises OSError.
    """
    whole = hashlib.sha256()
    with path.open("rb") as opened:
        for digest, size_bytes in file.blocks:
            block = opened.read(size_bytes)
            if not Cid(digest).matches(block):
                return None
            whole.update(block)
        return None if opened.read(1) else whole.hexdigest()


def stamp_of(path: Path) -> Stamp:
    """Return what changes with a file. Raises OSError."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
