"""Reads the manifest of an adapter: from one hash to every byte of its files.

A CID is the sha-256 of the manifest, which has the sha-256 of every block of every file
(docs/protocols/manifest.md). So whoever knows a CID needs to believe nobody. Its signature is not
looked at: that is the node's work. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated, Any

import msgspec

VERSIONS = (1, 2)
MAX_MANIFEST_BYTES = 64 << 10
MAX_BLOCK_BYTES = 1 << 20
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_FILE_BYTES = {CONFIG_FILE: 256 << 10, WEIGHTS_FILE: 2 << 30}
"""The files that vLLM reads; an adapter's others stay where they are."""
_CID_HEADER = bytes((0x01, 0x55, 0x12, 32))
_CID_CHARS = 59

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Block = tuple[Digest, Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_BYTES)]]


class NotTrue(Exception):
    """Bytes that are not what their hash names, or that say what cannot be."""


class File(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A file and its blocks, in order."""

    name: str
    size: int
    blocks: list[Block]


class Manifest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What of a manifest matters here; the rest is kept as it is."""

    version: int
    name: str
    adapter_version: str
    base: Digest
    tokenizer_hash: bytes
    template_hash: bytes
    licence: str
    source: str
    creator: bytes
    created_at: int
    contributors: list[Any]
    files: list[File]
    behind: Any  # version 1: the signature; version 2: what it was made of, then the signature
    signature: bytes = b""


def digest_of(cid: str) -> bytes:
    """Return the sha-256 that a CID holds. Raises NotTrue."""
    try:
        raw = base64.b32decode(cid[1:].upper() + "=" * 6)
    except (binascii.Error, ValueError) as error:
        raise NotTrue(f"{cid[:80]!r} is no CID") from error
    is_cid = len(cid) == _CID_CHARS and cid == cid.lower() and cid.startswith("b")
    if not is_cid or not raw.startswith(_CID_HEADER):
        raise NotTrue(f"{cid[:80]!r} is no CID")
    return raw[len(_CID_HEADER) :]


def read_manifest(cid: str, data: bytes) -> list[File]:
    """Return the files that vLLM needs of an adapter. Raises NotTrue."""
    if len(data) > MAX_MANIFEST_BYTES or hashlib.sha256(data).digest() != digest_of(cid):
        raise NotTrue(f"these {len(data)} bytes are not the manifest {cid}")
    try:
        manifest = msgspec.msgpack.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise NotTrue(f"{cid} is no manifest: {error}") from error
    if manifest.version not in VERSIONS or (manifest.version == 2) != bool(manifest.signature):
        raise NotTrue(f"{cid} is a manifest of version {manifest.version}; 1 and 2 are known")
    files = [file for file in manifest.files if file.name in MAX_FILE_BYTES]
    if sorted(file.name for file in files) != sorted(MAX_FILE_BYTES):
        raise NotTrue(f"{cid} does not have {CONFIG_FILE} and {WEIGHTS_FILE} once each")
    for file in files:
        total = sum(size for _, size in file.blocks)
        if file.size != total or file.size > MAX_FILE_BYTES[file.name]:
            raise NotTrue(f"{file.name} of {cid} has {file.size} bytes, its blocks {total}")
    return files
