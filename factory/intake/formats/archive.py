"""A zip file's directory, read and judged before anything is unpacked."""

from __future__ import annotations

import io
import zipfile
import zlib

from ..errors import Refusal

MAX_PARTS = 256
MAX_PART_BYTES = 64 << 20
MAX_ALL_BYTES = 128 << 20
MAX_RATIO = 200
READ_BYTES = 64 << 10

_ENCRYPTED = 0x1
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")


def open_archive(data: bytes) -> zipfile.ZipFile:
    """Open a zip whose directory keeps the limits. Raises Refusal."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise Refusal("damaged", f"it begins as a zip file and is none: {error}") from error
    parts = archive.infolist()
    if len(parts) > MAX_PARTS:
        raise Refusal("bomb", f"{len(parts)} parts; at most {MAX_PARTS} are allowed")
    if len({part.filename for part in parts}) != len(parts):
        raise Refusal("damaged", "two of its parts have the same name")
    for part in parts:
        _check(part)
    total = sum(part.file_size for part in parts)
    if total > MAX_ALL_BYTES:
        raise Refusal("bomb", f"unpacked {total:,} bytes; at most {MAX_ALL_BYTES:,} are allowed")
    for part in parts:
        if read_part(archive, part, 8).startswith(_ARCHIVES):
            raise Refusal("nested", f"{part.filename[:80]} is an archive inside it")
    return archive


def _check(part: zipfile.ZipInfo) -> None:
    name = part.filename[:80]
    if part.flag_bits & _ENCRYPTED:
        raise Refusal("encrypted", f"{name} needs a password")
    if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refusal("damaged", f"{name} is packed by a method that no office program uses")
    if part.file_size > MAX_PART_BYTES:
        raise Refusal("bomb", f"{name} unpacks to {part.file_size:,} bytes")
    if part.file_size > MAX_RATIO * max(part.compress_size, 1) and part.file_size > READ_BYTES:
        raise Refusal("bomb", f"{name} unpacks to {MAX_RATIO} times its size and more")


def read_part(archive: zipfile.ZipFile, part: zipfile.ZipInfo, num_bytes: int) -> bytes:
    """Return the first bytes of a part. Raises Refusal."""
    try:
        with archive.open(part) as stream:
            return stream.read(num_bytes)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise Refusal("damaged", f"{part.filename[:80]}: {error}") from error
