"""Keeps arrays in one file that is read by mapping it into memory; a digest tells spoilt ones.

A file is sha-256 of all that follows, the length of a header, the header, and each array at a
multiple of 64 bytes. It is a cache of this machine's: its form is no protocol. Knows no index.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import StaleIndex

VERSION = 3
_ALIGNMENT_BYTES = 64
_DIGEST_BYTES = 32
_MAX_HEADER_BYTES = 1 << 16

Array = npt.NDArray[Any]


class _Header(msgspec.Struct, frozen=True, array_like=True):
    version: int
    subject: bytes
    arrays: list[tuple[str, str, list[int], int]]


def write_arrays(path: Path, subject: bytes, arrays: Mapping[str, Array]) -> None:
    """Write arrays under the digest of what they were made from: whole or not at all.

    One process at a time writes a path; drafts that others left go. Raises OSError.
    """
    entries = []
    offset = 0
    for name, array in arrays.items():
        entries.append((name, array.dtype.str, list(array.shape), offset))
        offset += array.nbytes + -array.nbytes % _ALIGNMENT_BYTES
    packed = msgspec.msgpack.encode(_Header(VERSION, subject, entries))
    head = len(packed).to_bytes(4, "big") + packed
    head += bytes(-(_DIGEST_BYTES + len(head)) % _ALIGNMENT_BYTES)
    digest = hashlib.sha256(head)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*"):
        left.unlink(missing_ok=True)  # of a process that was killed while it wrote
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(_DIGEST_BYTES))
            file.write(head)
            for array in arrays.values():
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                padding = bytes(-array.nbytes % _ALIGNMENT_BYTES)
                for part in (flat, padding):
                    digest.update(part)
                    file.write(part)
            file.seek(0)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:  # whatever ends it, no half a file stays behind
        Path(draft).unlink(missing_ok=True)
        raise


def map_arrays(path: Path, subject: bytes) -> dict[str, Array]:
    """Map a file's arrays into memory, after a look at every byte of it.

    Raises StaleIndex where it is of something else or spoilt, OSError where it cannot be read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _DIGEST_BYTES + 4:
            raise StaleIndex(f"{path} is cut short; build it anew")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if hashlib.sha256(data[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
        raise StaleIndex(
            f"{path} does not have the digest it had when it was written; build it anew"
        )
    size = int.from_bytes(data[_DIGEST_BYTES : _DIGEST_BYTES + 4], "big")
    start = _DIGEST_BYTES + 4 + min(size, _MAX_HEADER_BYTES)
    try:
        header = msgspec.msgpack.decode(data[_DIGEST_BYTES + 4 : start], type=_Header)
    except msgspec.MsgspecError as error:
        raise StaleIndex(f"{path} is of another make; build it anew") from error
    if header.version != VERSION or header.subject != subject:
        raise StaleIndex(f"{path} is of another text or make; build it anew")
    start += -start % _ALIGNMENT_BYTES
    found: dict[str, Array] = {}
    for name, kind, shape, offset in header.arrays:
        dtype = np.dtype(kind)
        count = int(np.prod(shape, dtype=np.int64))
        found[name] = np.frombuffer(data, dtype, count, start + offset).reshape(shape)
    return found
