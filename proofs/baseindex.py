"""Lists the files of a base and the blocks that they are cut into: the same bytes for the same
files, whoever writes them.

Normative text: docs/protocols/basecard.md.

Decides which files a base may have, by their names' shapes, and how they are cut. Knows neither who
has them nor whether they are the base that somebody means: the base's own digest says that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import msgspec

from .codec import NotCanonical, Record, decode, encode
from .errors import BaseIndexError

VERSION = 1
BLOCK_BYTES = 1 << 20  # the last block of a file is shorter
DIGEST_BYTES = 32
MAX_INDEX_BYTES = 8 << 20  # lists about 256 GiB
MAX_FILES = 1024
MAX_FILE_BYTES = 1 << 40
MAX_SIDE_FILE_BYTES = 64 << 20

Format = Literal["gguf", "safetensors"]
NEEDED = (("config.json",), ("tokenizer.json", "tokenizer.model"))
"""What a base of safetensors files has beside them: at least one of each."""
SIDE_FILES = frozenset(
    (
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "quantize_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    )
)
_WEIGHTS = {
    "gguf": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,122}\.gguf", re.ASCII),
    "safetensors": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,115}\.safetensors", re.ASCII),
}


class BaseFile(Record, frozen=True):
    """One file: `digests` are the sha-256 of its blocks, one after the other."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
    digests: Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES)]

    @property
    def blocks(self) -> list[tuple[bytes, int]]:
        """Return the digest and size of each block, in order."""
        last = len(self.digests) // DIGEST_BYTES - 1
        return [
            (
                self.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES],
                BLOCK_BYTES if at < last else self.size - last * BLOCK_BYTES,
            )
            for at in range(last + 1)
        ]


class BaseIndex(Record, frozen=True):
    """The files of one base, in the order of their names."""

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    files: Annotated[list[BaseFile], msgspec.Meta(min_length=1, max_length=MAX_FILES)]

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def format(self) -> Format:
        """Return what its weights are; of an index that was checked."""
        is_gguf = _is_weights("gguf", self.files[0].name)
        return "gguf" if is_gguf else "safetensors"


def build_index(files: Iterable[BaseFile]) -> bytes:
    """Write an index. Raises BaseIndexError when nobody would accept it."""
    ordered = sorted(files, key=lambda file: file.name.encode())
    data = encode(BaseIndex(VERSION, ordered))
    parse_index(data)
    return data


def parse_index(data: bytes) -> BaseIndex:
    """Read an index from bytes nobody vouched for: bounded, canonical, each name of a known shape,
    as many digests as the sizes ask for.

    Raises BaseIndexError.
    """
    try:
        index = decode(data, _DECODER, MAX_INDEX_BYTES)
    except NotCanonical as error:
        raise BaseIndexError(error.rule, str(error)) from error
    if index.version != VERSION:
        raise BaseIndexError("version", f"{index.version} is unknown; use {VERSION}")
    _check_names([file.name for file in index.files])
    for file in index.files:
        _check_size(file)
    return index


def is_side_file(name: str) -> bool:
    """Say whether a base of safetensors files may have this file beside them."""
    return name in SIDE_FILES


def _check_names(names: Sequence[str]) -> None:
    if any(one.encode() >= other.encode() for one, other in pairwise(names)):
        raise BaseIndexError("order", "names do not ascend, or stand there twice")
    if len({name.lower() for name in names}) != len(names):
        raise BaseIndexError("names", "two names differ by their letters' case alone")
    if len(names) == 1 and _is_weights("gguf", names[0]):
        return
    unknown = [
        name for name in names if not is_side_file(name) and not _is_weights("safetensors", name)
    ]
    if unknown:
        raise BaseIndexError("names", f"a base has no file {unknown[0]!r}")
    lacking = [" or ".join(each) for each in NEEDED if not {*each} & {*names}]
    if all(is_side_file(name) for name in names):
        lacking.append("*.safetensors")
    if lacking:
        raise BaseIndexError("names", f"{', '.join(lacking)} is missing")


def _check_size(file: BaseFile) -> None:
    if len(file.digests) != DIGEST_BYTES * -(-file.size // BLOCK_BYTES):
        raise BaseIndexError(
            "sizes", f"{file.name} has {file.size} bytes and {len(file.digests)} of digests"
        )
    if is_side_file(file.name) and file.size > MAX_SIDE_FILE_BYTES:
        raise BaseIndexError(
            "sizes", f"{file.name} has {file.size} bytes; the limit is {MAX_SIDE_FILE_BYTES}"
        )


def _is_weights(kind: Format, name: str) -> bool:
    return _WEIGHTS[kind].fullmatch(name) is not None


_DECODER = msgspec.msgpack.Decoder(BaseIndex)

__all__ = ["BaseFile", "BaseIndex", "BaseIndexError", "build_index", "is_side_file", "parse_index"]
