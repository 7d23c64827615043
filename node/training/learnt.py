"""What an adapter learnt, by who gave it: the token files of its manifest, and who is paid.

    texts of datanets' versions → attribution.tokens, contributors.msgpack, givers

Follows from texts and tokenizer alone, so whoever has both makes the same bytes. Everything here
blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from proofs.attribution.blend import WHOLE_BPS, divide
from proofs.attribution.index import Index
from proofs.attribution.listing import MAX_LISTING_BYTES, Listed, write_listing
from proofs.attribution.tokens import Contribution, read_tokens, write_tokens
from proofs.errors import TokensError
from proofs.manifest import MAX_CONTRIBUTORS

from ..errors import BadRequest
from .encoding import BaseEncoder
from .making import shared
from .texts import Line, Source

MAX_TEXT = 512  # characters of a contributor's fields in a manifest


@dataclass(frozen=True)
class Giver:
    """Somebody who is paid for text: `tokens` he gave, of which `owned` count as his."""

    person: str
    name: str
    pay_to: str
    source: str
    licence: str
    tokens: int
    owned: int


@dataclass(frozen=True)
class Learnt:
    """The bytes of both files, who gave the text, and standing weights in basis points."""

    tokens: bytes
    listing: bytes
    givers: tuple[Giver, ...]
    weights: tuple[int, ...]


def learnt_of(sources: Sequence[Source], encoder: BaseEncoder, tokenizer_hash: bytes) -> Learnt:
    """Put what is learnt of these texts under who gave it. Standing weights are parts of the tokens
    that count. Raises BadRequest where a manifest has no room for so many.
    """
    places: dict[tuple[str, str], int] = {}
    lines: dict[tuple[str, str], list[Line]] = {}
    given: list[Contribution] = []
    listed: list[Listed] = []
    for datanet, source in enumerate(sources):
        for digest, own in _contributions(source):
            who = (own[0].person, own[0].pay_to)
            encoded = [(line.document, encoder.text(line.text)) for line in own]
            documents = [(number, ids) for number, ids in encoded if ids]
            if not documents:
                continue
            place = places.setdefault(who, len(places))
            lines.setdefault(who, []).extend(own)
            given.append(Contribution(place, [ids for _, ids in documents]))
            numbers = [number for number, _ in documents]
            title = source.titles[digest]
            listed.append(Listed(place, datanet, bytes.fromhex(digest), title, documents=numbers))
    if len(places) > MAX_CONTRIBUTORS:
        raise BadRequest(
            f"{len(places)} people gave what is learnt, and a manifest has room for"
            f" {MAX_CONTRIBUTORS}; train on fewer datanets, or make a datanet of fewer people"
        )
    listing = write_listing(listed)
    if len(listing) > MAX_LISTING_BYTES:
        raise BadRequest(
            f"the list of {len(listed)} contributions has {len(listing)} bytes; at most"
            f" {MAX_LISTING_BYTES} are published: train on fewer datanets"
        )
    try:
        tokens = write_tokens(tokenizer_hash, len(places), given)
        owned = Index.build(read_tokens(tokens)).owned_tokens()
    except TokensError as error:
        raise BadRequest(f"nobody could be paid for this text: {error}") from error
    sizes = [0] * len(places)
    for one in given:
        sizes[one.contributor] += sum(map(len, one.documents))
    givers = tuple(
        _giver(lines[who], size, own) for who, size, own in zip(places, sizes, owned, strict=True)
    )
    return Learnt(tokens, listing, givers, tuple(divide(WHOLE_BPS, owned)))


def _contributions(source: Source) -> Iterator[tuple[str, list[Line]]]:
    """Yield each contribution's documents that are learnt, in the log's order."""
    learnt = (line for line in source.lines if not line.held_out)
    for digest, own in groupby(learnt, key=lambda line: line.contribution):
        yield digest, list(own)


def _giver(lines: Sequence[Line], tokens: int, owned: int) -> Giver:
    return Giver(
        lines[0].person,
        lines[0].name,
        lines[0].pay_to,
        source=shared((line.source for line in lines), MAX_TEXT),
        licence=shared((line.licence for line in lines), MAX_TEXT),
        tokens=tokens,
        owned=owned,
    )
