"""Reads and writes what is announced of an adapter: its manifest, and the page on which its creator
describes it.

The page is one of the manifest's files (`about.json`), so the creator's signature covers it by its
hash. Pure; decides what an announcement is, not whether it is passed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec

from p2p.cid import Cid
from proofs.manifest import MAX_MANIFEST_BYTES, Manifest, ManifestError, parse_manifest

ABOUT_FILE = "about.json"
MAX_ABOUT_BYTES = 4096
MAX_ANNOUNCEMENT_BYTES = 60_000
"""Fits a gossip message. Of a manifest that is larger nobody hears without asking."""

Language = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$", max_length=35)
]


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a creator says of an adapter. `languages` are BCP 47 tags ("en", "pt-BR")."""

    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    languages: Annotated[tuple[Language, ...], msgspec.Meta(max_length=16)] = ()


@dataclass(frozen=True)
class Announcement:
    """A manifest whose signature holds, and the page that it names, if that was told too."""

    manifest_bytes: bytes
    manifest: Manifest
    about_bytes: bytes = b""

    @cached_property
    def cid(self) -> Cid:
        """Return the adapter's identity."""
        return Cid.of(self.manifest_bytes)

    @cached_property
    def about(self) -> About:
        """Return what its creator says of it."""
        return msgspec.json.decode(self.about_bytes, type=About) if self.about_bytes else About()

    @property
    def size_bytes(self) -> int:
        """Return how much of a node's memory and disk it takes."""
        return len(self.manifest_bytes) + len(self.about_bytes)

    def encode(self) -> bytes:
        """Return the bytes that are announced."""
        return msgspec.msgpack.encode((self.manifest_bytes, self.about_bytes))


def about_of(manifest: Manifest) -> Cid | None:
    """Return the CID of the page that a manifest names, or None if it names none."""
    for file in manifest.files:
        if file.name == ABOUT_FILE and len(file.blocks) == 1:
            return Cid(file.blocks[0][0])
    return None


def make_announcement(manifest_bytes: bytes, about_bytes: bytes | None) -> Announcement:
    """Put together what is announced of an adapter. Raises ManifestError."""
    manifest = parse_manifest(manifest_bytes)
    page = about_of(manifest)
    if page is None or about_bytes is None:
        return Announcement(manifest_bytes, manifest)
    if len(about_bytes) > MAX_ABOUT_BYTES or not page.matches(about_bytes):
        raise ManifestError("about", f"the page is not the {ABOUT_FILE} that the manifest names")
    try:
        msgspec.json.decode(about_bytes, type=About)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ManifestError("about", str(error)) from error
    return Announcement(manifest_bytes, manifest, about_bytes)


def parse_announcement(data: bytes) -> Announcement:
    """Read what a peer announced: bounded, canonical, signed by the adapter's creator.

    Raises ManifestError.
    """
    if len(data) > MAX_MANIFEST_BYTES + MAX_ABOUT_BYTES:
        raise ManifestError("size", f"{len(data)} bytes are over the limit")
    try:
        manifest_bytes, about_bytes = msgspec.msgpack.decode(data, type=tuple[bytes, bytes])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ManifestError("schema", f"not [manifest, page]: {error}") from error
    found = make_announcement(manifest_bytes, about_bytes or None)
    if found.encode() != data:
        raise ManifestError("canonical", "not the canonical bytes of an announcement")
    return found
