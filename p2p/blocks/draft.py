"""Files that are being put together out of blocks, each written where it belongs.

    layout ──▶ sparse files ──▶ what an earlier run wrote is hashed and counts ──▶ put, in any order

So a fetch goes on after a crash where it stopped, and no byte lies on the disk twice. Knows no
network. Hashes only what it finds: what is put has been hashed by whoever puts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from ..cid import Cid
from ..errors import InvalidInput
from .limits import MAX_BLOCK_BYTES

Layout = Mapping[Path, Sequence[tuple[bytes, int]]]
"""Files, and the digest and size of each of their blocks, in order."""


class Place(NamedTuple):
    """Where a block lies: in which file, from which byte on, how many."""

    path: Path
    offset: int
    size_bytes: int


def places_of(layout: Layout) -> Iterator[tuple[Cid, Place]]:
    """Yield every block of these files and where it belongs; one block may have several places."""
    for path, blocks in layout.items():
        offset = 0
        for digest, size_bytes in blocks:
            yield Cid(digest), Place(path, offset, size_bytes)
            offset += size_bytes


class Draft:
    """Files that are not whole yet, owned by one task. Close it in the end."""

    def __init__(self, layout: Layout) -> None:
        self._files: dict[Path, int] = {}
        self._missing: dict[Cid, list[Place]] = {}
        self._here: dict[Cid, Place] = {}
        try:
            for path, blocks in layout.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._files[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                os.ftruncate(self._files[path], sum(size_bytes for _, size_bytes in blocks))
            for cid, place in places_of(layout):
                self._find(cid, place)
        except BaseException:  # whatever ends it, no descriptor stays open
            self.close()
            raise

    @property
    def missing(self) -> tuple[Cid, ...]:
        """Return the blocks that are not here, in the files' order."""
        return tuple(self._missing)

    def has(self, cid: Cid) -> bool:
        """Return whether a block is in all its places, or has none."""
        return cid not in self._missing

    def put(self, data: bytes | memoryview) -> Cid:
        """Write bytes to the places of their CID. Bytes that have no place here are dropped."""
        cid = Cid.of(data)
        self.put_verified(cid, data)
        return cid

    def put_verified(self, cid: Cid, data: bytes | memoryview) -> None:
        """Write a block that the caller has just hashed; InvalidInput for another size than its
        place has.
        """
        for place in self._missing.get(cid, ()):
            if len(data) != place.size_bytes:
                raise InvalidInput(
                    f"block {cid} has {len(data)} bytes; {place.path.name} has"
                    f" {place.size_bytes} for it"
                )
            _write_all(self._files[place.path], data, place.offset)
        for place in self._missing.pop(cid, ()):
            self._here[cid] = place

    def get(self, cid: Cid) -> bytes | None:
        """Return a block that is here, or None."""
        place = self._here.get(cid)
        if place is None:
            return None
        return os.pread(self._files[place.path], place.size_bytes, place.offset)

    def close(self) -> None:
        """Close the files; what was put stays. Harmless when repeated."""
        for file in self._files.values():
            os.close(file)
        self._files = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _find(self, cid: Cid, place: Place) -> None:
        file = self._files[place.path]
        if not 0 < place.size_bytes <= MAX_BLOCK_BYTES:
            raise InvalidInput(
                f"block {cid} of {place.path.name} has {place.size_bytes} bytes; use 1 to"
                f" {MAX_BLOCK_BYTES}"
            )
        is_here = not _is_hole(file, place) and cid.matches(
            os.pread(file, place.size_bytes, place.offset)
        )
        if is_here:
            self._here[cid] = place
        else:
            self._missing.setdefault(cid, []).append(place)


def _is_hole(file: int, place: Place) -> bool:
    """Return whether nothing was ever written there."""
    try:
        return os.lseek(file, place.offset, os.SEEK_DATA) >= place.offset + place.size_bytes
    except OSError:  # no data from there to the end
        return True


def _write_all(file: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        offset += written
        view = view[written:]
