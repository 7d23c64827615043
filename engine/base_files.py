"""Reads what a base's files say before any tensor is read: a GGUF file's header, and the base's
identity.

The engine and the daemon both use it, so that they agree on which base they have. Decides what a
base's identity is. Knows no tensors and no model: it says where things lie, not what they mean.

Layout (the GGUF specification, versions 2 and 3): magic "GGUF", u32 version, u64 tensors, u64
fields, fields, tensor infos, padding, data. Little-endian throughout.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ModelError

MAX_FIELDS = 4096
MAX_TENSORS = 100_000
MAX_ARRAY_ITEMS = 2_000_000
MAX_STRING_BYTES = 1 << 24
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING = 8
ARRAY = 9

WHOLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20
SHARD_NAME = re.compile(r"[^/\\\0]{1,200}\.safetensors")
NUMBERED_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True)
class Array:
    """The place of an array's items in the file; `kind` is a key of SCALARS, or STRING."""

    kind: int
    count: int
    at: int


@dataclass(frozen=True)
class TensorEntry:
    """One tensor's header: `shape` in torch order, `offset` in bytes from where the data begins."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """A header without its arrays' items, which are large and rarely wanted.

    `end` is the byte at which it ends and the padding before the data begins.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    tensors: tuple[TensorEntry, ...] = ()
    end: int = 0


def parse_header(data: bytes | mmap.mmap, name: str) -> GgufHeader:
    """Read a GGUF header of version 2 or 3. Raises ModelError that names the file."""
    try:
        return _Parser(data).header()
    except (struct.error, IndexError, KeyError, OverflowError, ValueError) as error:
        raise ModelError(f"{name} is not a whole GGUF file: {error}") from error


def read_gguf_fields(path: Path) -> dict[str, Any]:
    """Read every field of a GGUF file, arrays as lists, and nothing of its tensors.

    Raises ModelError.
    """
    try:
        with path.open("rb") as file, _map(file.fileno()) as data:
            header = parse_header(data, path.name)
            parser = _Parser(data)
            return header.fields | {
                name: parser.items(array) for name, array in header.arrays.items()
            }
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} is not a whole GGUF file: {error}") from error


def _map(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


class _Parser:
    """One pass over a file's bytes. Every count and length is bounded before it is followed."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def header(self) -> GgufHeader:
        """Read the whole header."""
        if self._data[:4] != b"GGUF":
            raise ValueError("wrong magic")
        self._at = 4
        version, num_tensors, num_fields = self._take("IQQ")
        if version not in (2, 3) or num_tensors > MAX_TENSORS or num_fields > MAX_FIELDS:
            raise ValueError(f"version {version}, {num_tensors} tensors, {num_fields} fields")
        fields: dict[str, Any] = {}
        arrays: dict[str, Array] = {}
        for _ in range(num_fields):
            name = self._string()
            if name in fields or name in arrays:
                raise ValueError(f"the field {name[:200]} stands there twice")
            (kind,) = self._take("I")
            if kind == ARRAY:
                arrays[name] = self._skip_array()
            else:
                fields[name] = self._value(kind)
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        return GgufHeader(fields, arrays, tensors, self._at)

    def items(self, array: Array) -> list[Any]:
        """Read an array's items."""
        self._at = array.at
        if array.kind == STRING:
            return [self._string() for _ in range(array.count)]
        return list(self._take(f"{array.count}{SCALARS[array.kind]}"))

    def _take(self, code: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + code, self._data, self._at)
        self._at += struct.calcsize("<" + code)
        return values

    def _string(self) -> str:
        (size,) = self._take("Q")
        start = self._at
        if size > MAX_STRING_BYTES:
            raise ValueError(f"a string of {size} bytes")
        self._move(start + size)
        return self._data[start : self._at].decode()

    def _value(self, kind: int) -> Any:
        return self._string() if kind == STRING else self._take(SCALARS[kind])[0]

    def _skip_array(self) -> Array:
        kind, count = self._take("IQ")
        if count > MAX_ARRAY_ITEMS:
            raise ValueError(f"an array of {count} items")
        array = Array(kind, count, self._at)
        at = self._at
        if kind != STRING:
            at += count * struct.calcsize("<" + SCALARS[kind])
        else:
            # Decoding each item with `_string` would take 30 times as long.
            lengths = struct.Struct("<Q").unpack_from
            for _ in range(count):
                at += 8 + lengths(self._data, at)[0]
        self._move(at)
        return array

    def _tensor(self) -> TensorEntry:
        name = self._string()
        (dims,) = self._take("I")
        if not 1 <= dims <= 4:
            raise ValueError(f"tensor {name[:200]} has {dims} dimensions")
        shape = self._take(f"{dims}Q")
        kind, offset = self._take("IQ")
        return TensorEntry(name, tuple(reversed(shape)), kind, offset)

    def _move(self, at: int) -> None:
        if at > len(self._data):
            raise ValueError("a string or an array leaves the file")
        self._at = at


def weight_files(path: Path) -> list[Path]:
    """List the files that hold a base's weights, in order of name.

    A GGUF file by itself. Of a folder, as transformers chooses: model.safetensors, or the files
    that its index names, whatever lies beside them; where there is neither, one *.safetensors file
    or one whole set of numbered ones. Raises ModelError when the folder has none of these.
    """
    if not path.is_dir():
        return [path]
    if (path / WHOLE_FILE).is_file():
        return [path / WHOLE_FILE]
    owners = read_index(path)
    if owners:
        return [path / name for name in sorted(set(owners.values()))]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{path} has no *.safetensors file; other formats are not read")
    if len(files) > 1 and not _are_one_set([file.name for file in files]):
        raise ModelError(
            f"{path} has several *.safetensors files ({', '.join(f.name for f in files)[:200]}) and"
            f" no {INDEX_FILE} that says which are the base; keep those alone that are"
        )
    return files


def read_index(folder: Path) -> dict[str, str]:
    """Return which file of a folder holds which tensor by its index of shards; empty without one
    that counts.

    Raises ModelError for an index that is none, or that names what is not a file of the folder.
    """
    path = folder / INDEX_FILE
    if (folder / WHOLE_FILE).is_file() or not path.is_file():
        return {}
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise ModelError(f"{path} is larger than {MAX_INDEX_BYTES} bytes")
    try:
        owners = json.loads(path.read_bytes())["weight_map"]
        named = sorted(set(owners.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is no index of shards: {error!r}") from error
    for name in named:
        if not isinstance(name, str) or not SHARD_NAME.fullmatch(name):
            raise ModelError(
                f"{path} names {str(name)[:80]!r}, which is no *.safetensors file here"
            )
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks {name}, which {INDEX_FILE} names")
    if not named:
        raise ModelError(f"{path} names no file")
    return dict(owners)


def _are_one_set(names: list[str]) -> bool:
    """Return whether names in order are NAME-00001-of-0000N to NAME-0000N-of-0000N."""
    first = NUMBERED_NAME.fullmatch(names[0])
    if first is None or int(first[3]) != len(names):
        return False
    return names == [
        f"{first[1]}-{number:05}-of-{first[3]}.safetensors" for number in range(1, len(names) + 1)
    ]


def base_id(path: Path) -> bytes:
    """Compute a base's identity: the SHA-256 of its weights file, 32 bytes.

    Of several files, the SHA-256 over each one's name, a zero byte and its digest, in order of
    name. Raises ModelError.
    """
    files = weight_files(path)
    try:
        digests = [_hash_file(file) for file in files]
    except OSError as error:
        raise ModelError(f"cannot read the base's weights at {path}: {error}") from error
    return identity_of([(file.name, digest) for file, digest in zip(files, digests, strict=True)])


def count_parameters(path: Path) -> int:
    """Count the numbers in a base's tensors, by what its files' headers say. Raises ModelError."""
    total = 0
    for file in weight_files(path):
        try:
            shapes = _shapes_in(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{file.name} has an unreadable header: {error}") from error
        total += sum(math.prod(shape) for shape in shapes)
    return total


def _shapes_in(file: Path) -> list[Sequence[int]]:
    with file.open("rb") as opened, _map(opened.fileno()) as data:
        if data[:4] == b"GGUF":
            return [tensor.shape for tensor in parse_header(data, file.name).tensors]
        (length,) = struct.unpack("<Q", data[:8])
        if length > min(MAX_INDEX_BYTES, len(data)):
            raise ValueError(f"a header of {length} bytes")
        entries = json.loads(data[8 : 8 + length])
        return [entry["shape"] for name, entry in entries.items() if name != "__metadata__"]


def identity_of(weights: Sequence[tuple[str, bytes]]) -> bytes:
    """Compute a base's identity from the name and digest of each weights file, in order of name."""
    if len(weights) == 1:
        return weights[0][1]
    outer = hashlib.sha256()
    for name, digest in weights:
        outer.update(name.encode() + b"\0" + digest)
    return outer.digest()


def _hash_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
