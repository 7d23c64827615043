"""Writes and reads cocktails: adapters that are several others at once, each with a weight.

Normative text: docs/protocols/cocktail.md.

    [1, [[manifest bytes, weight], …]]        by the manifests' digests, each once

A cocktail stands wherever a manifest does: its sha-256 is its identity, and who is paid follows
from it alone, since its parents' manifests lie in it. Nobody signs one: whoever has the parents
makes the same bytes. Decides what a well-formed cocktail is; not whether an engine can mix these
parents, nor who shares a fee.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from .codec import NotCanonical, Record, decode, encode
from .errors import ManifestError
from .manifest import (
    MAX_MANIFEST_BYTES,
    MAX_PARENTS,
    MAX_PARTIES,
    MAX_WEIGHT,
    WEIGHT_UNIT,
    Manifest,
    Parent,
    check_parents,
    parse_manifest,
)

VERSION = 1
MAX_COCKTAIL_BYTES = MAX_MANIFEST_BYTES  # so it goes wherever a manifest goes


class Cocktail(Record, frozen=True):
    """Several adapters in one, in the order of their digests."""

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    parents: Annotated[list[Parent], msgspec.Meta(min_length=1, max_length=MAX_PARENTS)]

    @property
    def base(self) -> bytes:
        """Return which base all of its parents were made for."""
        return self.parents[0].parsed.base


def make_cocktail(weights: Mapping[bytes, int]) -> bytes:
    """Write the one cocktail of these manifests. Raises ManifestError when nobody would accept
    it.
    """
    parents = sorted(
        (Parent(manifest, weight) for manifest, weight in weights.items()),
        key=lambda parent: parent.digest,
    )
    data = encode(Cocktail(VERSION, parents))
    parse_cocktail(data)
    return data


def is_cocktail(data: bytes) -> bool:
    """Return whether these bytes can be a cocktail: an array of 2, not of 13 to 15."""
    return data[:1] == b"\x92"


def parse_adapter(data: bytes) -> Manifest | Cocktail:
    """Read whatever an adapter is named by, from bytes nobody vouched for. Raises ManifestError."""
    return parse_cocktail(data) if is_cocktail(data) else parse_manifest(data)


def parse_cocktail(data: bytes) -> Cocktail:
    """Read a cocktail from bytes nobody vouched for: bounded, canonical, of manifests that are
    valid, different and for one base.

    Raises ManifestError.
    """
    try:
        cocktail = decode(data, _DECODER, MAX_COCKTAIL_BYTES)
    except NotCanonical as error:
        why = str(error)
        if error.rule == "size":
            why = f"the manifests of the adapters take {why}; mix fewer adapters"
        raise ManifestError(error.rule, why) from error
    if cocktail.version != VERSION:
        raise ManifestError(
            "version", f"{cocktail.version} is unknown; this node reads version {VERSION}"
        )
    _check_parents(cocktail)
    return cocktail


def _check_parents(cocktail: Cocktail) -> None:
    if [parent.weight for parent in cocktail.parents] == [WEIGHT_UNIT]:
        raise ManifestError("parents", "one adapter with weight 1 is that adapter, no cocktail")
    check_parents(cocktail.parents)


_DECODER = msgspec.msgpack.Decoder(Cocktail)

__all__ = [
    "MAX_COCKTAIL_BYTES",
    "MAX_PARENTS",
    "MAX_PARTIES",
    "MAX_WEIGHT",
    "WEIGHT_UNIT",
    "Cocktail",
    "Parent",
    "is_cocktail",
    "make_cocktail",
    "parse_adapter",
    "parse_cocktail",
]
