"""Signs and checks an adapter's manifest: what it is, who made it, from whose data, and all hashes.

Normative text: docs/protocols/manifest.md.

Its sha-256 is the adapter's identity everywhere. Signed by the creator over its own bytes, with the
signature as last element. Version 2 also says what the adapter was made of and whether fees follow
the text that an answer drew on (origin.py). Decides what a well-formed manifest is; not whether its
base is ours or its blocks can be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

import msgspec

from .codec import (
    Address,
    Amount,
    Digest,
    NotCanonical,
    PublicKey,
    Record,
    Signature,
    decode,
)
from .errors import BadSignature, ManifestError
from .origin import Origin, check_origin
from .signed import sign_record, signer_of
from .signing import Signer, address_of

MAX_MANIFEST_BYTES = 64 << 10
MAX_CONTRIBUTORS = 48  # so a fee has at most 50 shares, two of them the node's and the creator's
MAX_FILES = 12
MAX_FILES_BEFORE = 8  # in version 1
MAX_BLOCKS = 1_200
MAX_BLOCK_BYTES = 1 << 20

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Text = Annotated[str, msgspec.Meta(max_length=512)]
Block = tuple[Digest, Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_BYTES)]]


class Contributor(Record, frozen=True):
    """Somebody whose data the adapter learnt from. Weights are relative to one another; 0, which
    version 2 alone has, is paid only where an answer drew on the text.
    """

    address: Address
    name: Text
    source: Text
    licence: Text
    weight: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class File(Record, frozen=True):
    """One file and the blocks that it is cut into, in order: (sha-256, size in bytes) each."""

    name: Word
    size: Annotated[int, msgspec.Meta(ge=1, lt=1 << 40)]
    blocks: Annotated[list[Block], msgspec.Meta(min_length=1, max_length=MAX_BLOCKS)]


class Manifest(Record, frozen=True, dict=True):
    """An adapter's signed description, of either version. `creator` is a compressed public key;
    `created_at` is in Unix seconds.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    name: Word
    adapter_version: Word
    base: Digest
    tokenizer_hash: Digest
    template_hash: Digest
    licence: Text
    source: Text
    creator: PublicKey
    created_at: Amount
    contributors: Annotated[list[Contributor], msgspec.Meta(max_length=MAX_CONTRIBUTORS)]
    files: Annotated[list[File], msgspec.Meta(min_length=1, max_length=MAX_FILES)]

    @cached_property
    def creator_address(self) -> bytes:
        """Return the address at which the creator is paid."""
        return address_of(self.creator)

    @property
    def made_of(self) -> Origin | None:
        """Return what the adapter was made of; None where the manifest does not say."""
        return self.origin if isinstance(self, ManifestTwo) else None

    def find_file(self, name: str) -> File | None:
        """Return the file of this name, or None."""
        return next((file for file in self.files if file.name == name), None)


class ManifestOne(Manifest, frozen=True, dict=True):
    """Version 1: an array of 13."""

    signature: Signature


class ManifestTwo(Manifest, frozen=True, dict=True):
    """Version 2: an array of 14."""

    origin: Origin
    signature: Signature


def build_manifest(
    signer: Signer,
    *,
    name: str,
    adapter_version: str,
    base: bytes,
    tokenizer_hash: bytes,
    template_hash: bytes,
    licence: str,
    source: str,
    created_at: int,
    contributors: Sequence[Contributor],
    files: Sequence[File],
    origin: Origin | None = None,
) -> bytes:
    """Write and sign a manifest, of version 2 where it says its origin. Raises ManifestError when
    nobody would accept it.
    """
    head = (name, adapter_version, base, tokenizer_hash, template_hash, licence, source)
    body = (*head, signer.public_key, created_at, list(contributors), list(files))
    draft: Manifest = (
        ManifestOne(1, *body, bytes(65))
        if origin is None
        else ManifestTwo(2, *body, origin, bytes(65))
    )
    try:
        data = sign_record(signer, draft, _domain(draft))
    except (TypeError, OverflowError, UnicodeError) as error:
        raise ManifestError("schema", str(error)) from error
    parse_manifest(data)
    return data


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest from bytes nobody vouched for: bounded, canonical, consistent, signed by its
    creator.

    Raises ManifestError.
    """
    is_two = data[:1] == _HEAD_OF_TWO
    decoder: msgspec.msgpack.Decoder[Manifest] = _TWO if is_two else _ONE
    try:
        manifest = decode(data, decoder, MAX_MANIFEST_BYTES)
    except NotCanonical as error:
        raise ManifestError(error.rule, str(error)) from error
    if manifest.version != 1 + is_two:
        raise ManifestError(
            "version", f"{manifest.version} is unknown; this node reads versions 1 and 2"
        )
    if any(someone.address == bytes(20) for someone in manifest.contributors):
        raise ManifestError("contributors", "nobody can be paid at the zero address")
    _check_version(manifest)
    _check_files(manifest.files)
    _check_signature(manifest)
    return manifest


def _check_version(manifest: Manifest) -> None:
    """Check what only one of the versions allows, or demands."""
    weights = [someone.weight for someone in manifest.contributors]
    if manifest.made_of is None:
        if 0 in weights:
            raise ManifestError("schema", "a contributor's weight is 1 or more in version 1")
        if len(manifest.files) > MAX_FILES_BEFORE:
            raise ManifestError("schema", f"version 1 has at most {MAX_FILES_BEFORE} files")
        return
    if weights and not any(weights):
        raise ManifestError("contributors", "their weights are all 0; give one of them some")
    names = {file.name for file in manifest.files}
    check_origin(manifest.made_of, names, len(manifest.contributors))


def _check_files(files: Sequence[File]) -> None:
    names = [file.name for file in files]
    if len(set(names)) != len(names):
        raise ManifestError("files", "two files have the same name")
    for file in files:
        # A name becomes a path on the reader's disk.
        if "/" in file.name or "\\" in file.name or "\0" in file.name or file.name in (".", ".."):
            raise ManifestError("files", f"{file.name!r} is no plain file name")
        total = sum(size for _, size in file.blocks)
        if total != file.size:
            raise ManifestError(
                "files", f"the blocks of {file.name} have {total} bytes together, not {file.size}"
            )


def _check_signature(manifest: Manifest) -> None:
    try:
        signer = signer_of(manifest, _domain(manifest))
        creator = manifest.creator_address
    except BadSignature as error:
        raise ManifestError("signature", str(error)) from error
    if signer != creator:
        raise ManifestError(
            "signature", f"made by {signer.hex()}, not by the creator {creator.hex()}"
        )


def _domain(manifest: Manifest) -> bytes:
    return b"lorikeet manifest 2\0" if isinstance(manifest, ManifestTwo) else _DOMAIN_OF_ONE


_DOMAIN_OF_ONE = b"lorikeet manifest 1\0"
_HEAD_OF_TWO = b"\x9e"  # an array of 14
_ONE: msgspec.msgpack.Decoder[Manifest] = msgspec.msgpack.Decoder(ManifestOne)
_TWO: msgspec.msgpack.Decoder[Manifest] = msgspec.msgpack.Decoder(ManifestTwo)

__all__ = [
    "Contributor",
    "File",
    "Manifest",
    "ManifestError",
    "Origin",
    "build_manifest",
    "parse_manifest",
]
