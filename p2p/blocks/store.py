"""Keeps blocks on disk, each in a file named by its CID.

Atomic: a reader sees a whole block or none; after a crash the rest is simply not there.

Nothing is flushed: a block that a power cut has torn does not hash to its name, and `get` removes
it.

Does not count space and deletes nothing by itself.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from ..cid import Cid
from ..errors import BlockMismatch, InvalidCid, InvalidInput
from .limits import MAX_BLOCK_BYTES

_TEMPORARY_PREFIX = ".new-"


class BlockStore:
    """A folder of blocks, owned by one process.

    Every block in it was hashed when it came and is hashed again when it is read.
    """

    def __init__(self, path: Path) -> None:
        self._root = path
        self._serials = count()
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob(f"*/{_TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)

    def path(self, cid: Cid) -> Path:
        """Return the path where a block is or would be."""
        text = str(cid)
        return self._root / text[-2:] / text

    def has(self, cid: Cid) -> bool:
        """Return whether the block is here."""
        return self.path(cid).is_file()

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
        path = self.path(cid)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if not cid.matches(data):
            path.unlink(missing_ok=True)
            return None
        return data

    def delete(self, cid: Cid) -> None:
        """Forget a block; harmless if it is not here."""
        self.path(cid).unlink(missing_ok=True)

    def list(self) -> list[Cid]:
        """List the CIDs of all blocks here, in order."""
        found = []
        for path in self._root.glob("*/b*"):
            try:
                found.append(Cid.parse(path.name))
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
