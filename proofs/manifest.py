"""Signs and checks an adapter's manifest: what it is, who made it, from whose data, and all hashes.

Normative text: docs/protocols/manifest.md.

Its sha-256 is the adapter's identity everywhere. Signed by the creator over its own bytes, with the
signature as last element. Version 2 also says what the adapter was made of and whether fees follow
the text that an answer drew on (origin.py). Version 3 is of an adapter that was merged of others,
whose manifests lie in it: they are paid for it. Decides what a well-formed manifest is; not whether
its base is ours or its blocks can be had.
"""

from __future__ import annotations

import hashlib
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
MAX_PARENTS = 8
WEIGHT_UNIT = 10_000
"""A parent's weight of 1: weights are whole ten-thousandths."""
MAX_WEIGHT = 2 * WEIGHT_UNIT
MAX_PARTIES = MAX_CONTRIBUTORS + 1  # the node and these are as many as any adapter's shares
MIN_MERGED = 2  # parents of a merged adapter
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
    """An adapter's signed description, of any version. `creator` is a compressed public key;
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
        return self.origin if isinstance(self, ManifestTwo | ManifestThree) else None

    @property
    def merged_of(self) -> Sequence[Parent]:
        """Return the adapters that this one was merged of, which are paid for it; nothing for one
        that was not.
        """
        return self.parents if isinstance(self, ManifestThree) else ()

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


Weight = Annotated[int, msgspec.Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]


class Parent(Record, frozen=True, dict=True):
    """One of the adapters that another is made of, and how much of it."""

    manifest: Annotated[bytes, msgspec.Meta(max_length=MAX_MANIFEST_BYTES)]
    weight: Weight

    @cached_property
    def digest(self) -> bytes:
        """Return the parent's own identity."""
        return hashlib.sha256(self.manifest).digest()

    @cached_property
    def parsed(self) -> Manifest:
        """Return what its creator signed. Raises ManifestError."""
        return parse_manifest(self.manifest)


class ManifestThree(Manifest, frozen=True, dict=True):
    """Version 3, of an adapter that was merged of others: an array of 15."""

    origin: Origin
    parents: Annotated[list[Parent], msgspec.Meta(min_length=MIN_MERGED, max_length=MAX_PARENTS)]
    signature: Signature


def check_parents(parents: Sequence[Parent]) -> None:
    """Raise ManifestError unless these adapters can be paid together: valid, different, for one
    base, none of them merged itself, and not too many to be paid.
    """
    digests = [parent.digest for parent in parents]
    if digests != sorted(set(digests)):
        raise ManifestError("parents", "they must be sorted by their digests, each once")
    if any(parent.weight == 0 for parent in parents):
        raise ManifestError("weight", "an adapter with weight 0 has no part in it; leave it out")
    # Before anything is parsed in turn: a manifest cannot be nested deeper than once.
    for parent in parents:
        if parent.manifest[:1] == _HEAD_OF_THREE:
            raise ManifestError(
                "parents",
                f"{parent.digest.hex()[:12]} is merged of others itself; take those in its place",
            )
    bases = {parent.parsed.base for parent in parents}
    if len(bases) > 1:
        names = ", ".join(f"{p.parsed.name} ({p.parsed.base.hex()[:12]})" for p in parents)
        raise ManifestError("base", f"the adapters were made for different bases: {names}")
    parties = {(parent.parsed.creator_address, True) for parent in parents}
    for parent in parents:
        parties |= {(someone.address, False) for someone in parent.parsed.contributors}
    if len(parties) > MAX_PARTIES:
        raise ManifestError(
            "parties",
            f"{len(parties)} creators and contributors would be paid; at most {MAX_PARTIES} can",
        )


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
    parents: Sequence[Parent] = (),
) -> bytes:
    """Write and sign a manifest, of version 2 where it says its origin, of version 3 where it was
    merged of parents. Raises ManifestError when nobody would accept it.
    """
    head = (name, adapter_version, base, tokenizer_hash, template_hash, licence, source)
    body = (*head, signer.public_key, created_at, list(contributors), list(files))
    draft: Manifest
    if parents:
        draft = ManifestThree(3, *body, origin or Origin(), list(parents), bytes(65))
    elif origin is not None:
        draft = ManifestTwo(2, *body, origin, bytes(65))
    else:
        draft = ManifestOne(1, *body, bytes(65))
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
    version, decoder = _BY_HEAD.get(data[:1], (1, _ONE))
    try:
        manifest = decode(data, decoder, MAX_MANIFEST_BYTES)
    except NotCanonical as error:
        raise ManifestError(error.rule, str(error)) from error
    if manifest.version != version:
        raise ManifestError(
            "version", f"{manifest.version} is unknown; this node reads versions 1, 2 and 3"
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
    if isinstance(manifest, ManifestThree):
        _check_merged(manifest)
    names = {file.name for file in manifest.files}
    check_origin(manifest.made_of, names, len(manifest.contributors))


def _check_merged(manifest: ManifestThree) -> None:
    if manifest.contributors or manifest.origin.attribution or manifest.origin.parents:
        raise ManifestError(
            "parents",
            "whose data a merged adapter learnt from, and what it was merged of, its parents say;"
            " it has no contributors, attribution or origin.parents of its own",
        )
    check_parents(manifest.parents)
    if manifest.parents[0].parsed.base != manifest.base:
        raise ManifestError("base", "the parents were made for another base than it says")


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
    if isinstance(manifest, ManifestThree):
        return b"lorikeet manifest 3\0"
    return b"lorikeet manifest 2\0" if isinstance(manifest, ManifestTwo) else _DOMAIN_OF_ONE


_DOMAIN_OF_ONE = b"lorikeet manifest 1\0"
_HEAD_OF_TWO = b"\x9e"  # an array of 14
_HEAD_OF_THREE = b"\x9f"  # an array of 15
_ONE: msgspec.msgpack.Decoder[Manifest] = msgspec.msgpack.Decoder(ManifestOne)
_TWO: msgspec.msgpack.Decoder[Manifest] = msgspec.msgpack.Decoder(ManifestTwo)
_THREE: msgspec.msgpack.Decoder[Manifest] = msgspec.msgpack.Decoder(ManifestThree)
_BY_HEAD = {_HEAD_OF_TWO: (2, _TWO), _HEAD_OF_THREE: (3, _THREE)}

__all__ = [
    "Contributor",
    "File",
    "Manifest",
    "ManifestError",
    "Origin",
    "Parent",
    "build_manifest",
    "check_parents",
    "parse_manifest",
]
