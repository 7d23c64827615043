"""Which contribution of which datanet each contribution of an adapter's text was:
`contributors.msgpack`.

Normative text: docs/protocols/attribution.md. One row for each contribution in
`attribution.tokens`, in its order. For people who look up what an answer drew on; no pay follows
from it, and whoever has the datanet's log checks it. Decides what well-formed bytes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from ..codec import Digest, NotCanonical, Record, decode, encode
from ..errors import TokensError
from ..manifest import MAX_CONTRIBUTORS
from ..origin import MAX_DATANETS
from .tokens import MAX_CONTRIBUTIONS, Tokens

KIND = "lorikeet contributors"
VERSION = 1
MAX_LISTING_BYTES = 4 << 20
MAX_DOCUMENT = 1 << 20  # the number of a document in its contribution


class Listed(Record, frozen=True):
    """One contribution: a place in the manifest's contributors and one in its datanets, the digest
    and title of its record, and the number there, from 1, of each of its documents in the text.
    """

    contributor: Annotated[int, msgspec.Meta(ge=0, lt=MAX_CONTRIBUTORS)]
    datanet: Annotated[int, msgspec.Meta(ge=0, lt=MAX_DATANETS)]
    contribution: Digest
    title: Annotated[str, msgspec.Meta(max_length=128)]
    documents: Annotated[
        list[Annotated[int, msgspec.Meta(ge=1, le=MAX_DOCUMENT)]], msgspec.Meta(min_length=1)
    ]


class Listing(Record, frozen=True):
    """The whole file."""

    kind: Annotated[str, msgspec.Meta(max_length=64)]
    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    contributions: Annotated[list[Listed], msgspec.Meta(max_length=MAX_CONTRIBUTIONS)]


def write_listing(contributions: Sequence[Listed]) -> bytes:
    """Write the bytes of `contributors.msgpack`."""
    return encode(Listing(KIND, VERSION, list(contributions)))


def read_listing(data: bytes, tokens: Tokens, num_datanets: int) -> tuple[Listed, ...]:
    """Read what was given where, from bytes nobody vouched for: bounded, in its one form, about
    this text and this many datanets. Raises TokensError.
    """
    try:
        listing = decode(data, _DECODER, MAX_LISTING_BYTES)
    except NotCanonical as error:
        raise TokensError(error.rule, f"contributors.msgpack: {error}") from error
    if (listing.kind, listing.version) != (KIND, VERSION):
        raise TokensError(
            "version",
            f"{listing.kind!r} {listing.version} is unknown; this node reads {KIND!r} {VERSION}",
        )
    said = tuple((one.contributor, len(one.documents)) for one in listing.contributions)
    if said != tokens.contributions:
        raise TokensError("contributions", _difference(said, tokens.contributions))
    for number, one in enumerate(listing.contributions, 1):
        if one.datanet >= num_datanets:
            raise TokensError(
                "datanets",
                f"contribution {number} is of datanet {one.datanet}, and the manifest names"
                f" {num_datanets}",
            )
        if not one.title.isprintable():  # it is shown on a terminal
            raise TokensError("title", f"that of contribution {number} has a hidden character")
    return tuple(listing.contributions)


def _difference(said: Sequence[tuple[int, int]], there: Sequence[tuple[int, int]]) -> str:
    if len(said) != len(there):
        return (
            f"contributors.msgpack lists {len(said)} contributions, and attribution.tokens has"
            f" {len(there)}"
        )
    number, (mine, text) = next(
        (number, pair)
        for number, pair in enumerate(zip(said, there, strict=True), 1)
        if pair[0] != pair[1]
    )
    return (
        f"contribution {number} is of contributor {mine[0]} with {mine[1]} documents in"
        f" contributors.msgpack, of {text[0]} with {text[1]} in attribution.tokens"
    )


_DECODER = msgspec.msgpack.Decoder(Listing)
