"""Keeps blocks on disk: each in a file named by its CID, or as a range of a file that lies
elsewhere.

Atomic: a reader sees a whole block or none; after a crash the rest is simply not there.

Nothing is flushed: a block that a power cut has torn does not hash to its name, and `get` removes
it. So a block is hashed when it is read for the first time, and again when its file has changed.

Does not count space and deletes nothing by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from ..cid import Cid
from ..errors import BlockMismatch, InvalidCid, InvalidInput
from .draft import Layout, Place, places_of
from .limits import MAX_BLOCK_BYTES

_TEMPORARY_PREFIX = ".new-"

Stamp = tuple[int, int, int]
"""What changes when a file does: its number, its size, when it was written."""


@dataclass
class _Seen:
    """What was hashed of a file while it was as its stamp says."""

    stamp: Stamp
    offsets: set[int] = field(default_factory=set)


class BlockStore:
    """A folder of blocks, owned by one process, and ranges of files that lie elsewhere."""

    def __init__(self, path: Path) -> None:
        self._root = path
        self._serials = count()
        self._adopted: dict[Path, Sequence[tuple[bytes, int]]] = {}
        self._ranges: dict[Cid, list[Place]] = {}
        self._seen: dict[Path, _Seen] = {}
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob(f"*/{_TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)

    def path(self, cid: Cid) -> Path:
        """Return the path where a block is or would be."""
        text = str(cid)
        return self._root / text[-2:] / text

    def has(self, cid: Cid) -> bool:
        """Return whether the block is here."""
        return cid in self._ranges or self.path(cid).is_file()

    # --- files that lie elsewhere ---

    def adopt(self, layout: Layout) -> None:
        """Give blocks out of files where they lie. A file that has changed is not given out."""
        self._adopted.update(layout)
        for cid, place in places_of(layout):
            places = self._ranges.setdefault(cid, [])
            if place not in places:
                places.append(place)

    def forget(self, folder: Path) -> None:
        """Give nothing out of a folder's files any more; deletes nothing."""
        self._forget([path for path in self._adopted if path.parent == folder])

    def forget_under(self, folder: Path) -> None:
        """Give nothing out of the files in a folder's folders any more; deletes nothing."""
        self._forget([path for path in self._adopted if path.parent.parent == folder])

    def _forget(self, paths: Iterable[Path]) -> None:
        for path in paths:
            for cid, place in places_of({path: self._adopted.pop(path)}):
                self._drop(cid, place)
            self._seen.pop(path, None)

    def _drop(self, cid: Cid, place: Place) -> None:
        places = [other for other in self._ranges.get(cid, ()) if other != place]
        if places:
            self._ranges[cid] = places
        else:
            self._ranges.pop(cid, None)

    # --- blocks ---

    def put(self, data: bytes) -> Cid:
        """Keep bytes under their own name."""
        cid = Cid.of(data)
        self._write(cid, data)
        return cid

    def put_verified(self, cid: Cid, data: bytes | memoryview) -> None:
        """Keep bytes that the caller has just hashed against `cid`, without hashing them again."""
        self._write(cid, data)

    def put_checked(self, cid: Cid, data: bytes | memoryview) -> None:
        """Keep bytes under a name they must hash to. Raises BlockMismatch."""
        if not cid.matches(data):
            raise BlockMismatch(f"{len(data)} bytes do not hash to {cid}")
        self._write(cid, data)

    def get(self, cid: Cid) -> bytes | None:
        """Return the block's bytes, or None. A file that does not hash to its name is removed."""
        for place in self._ranges.get(cid, ()):
            data = self._read(cid, place)
            if data is not None:
                return data
            self._drop(cid, place)
        path = self.path(cid)
        data = self._read(cid, Place(path, 0, MAX_BLOCK_BYTES))
        if data is None:
            self._seen.pop(path, None)
            path.unlink(missing_ok=True)
        return data

    def _read(self, cid: Cid, place: Place) -> bytes | None:
        """Read a block, and hash it unless that was done since its file was written."""
        try:
            file = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(file)
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            data = os.pread(file, place.size_bytes, place.offset)
        finally:
            os.close(file)
        seen = self._seen.get(place.path)
        if seen is None or seen.stamp != stamp:
            seen = self._seen[place.path] = _Seen(stamp)
        if place.offset not in seen.offsets:
            if not cid.matches(data):
                return None
            seen.offsets.add(place.offset)
        return data

    def delete(self, cid: Cid) -> None:
        """Forget a block of the folder; harmless if it is not here."""
        self._seen.pop(self.path(cid), None)
        self.path(cid).unlink(missing_ok=True)

    def list(self) -> list[Cid]:
        """List the CIDs of all blocks here, in order."""
        found = set(self._ranges)
        for path in self._root.glob("*/b*"):
            try:
                found.add(Cid.parse(path.name))
            except InvalidCid:
                continue
        return sorted(found)

    def _write(self, cid: Cid, data: bytes | memoryview) -> None:
        if not 0 < len(data) <= MAX_BLOCK_BYTES:
            raise InvalidInput(
                f"a block holds 1 to {MAX_BLOCK_BYTES} bytes, not {len(data)}; cut the file into"
                " blocks"
            )
        path = self.path(cid)
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f"{_TEMPORARY_PREFIX}{os.getpid()}-{next(self._serials)}")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
