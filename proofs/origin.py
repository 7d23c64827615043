"""Says what an adapter was made of, and whether fees for it follow the text that an answer drew on:
what version 2 of a manifest adds (manifest.py).

Normative text: docs/protocols/manifest.md. Only `attribution` has a part in money (its λ); the rest
tells people where to look. Reads no file and computes no answer's shares.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import msgspec

from .codec import Count, Digest, Record
from .errors import ManifestError

RULE = "ladder-1"
WHOLE_EIGHTHS = 8
TOKENS_FILE = "attribution.tokens"
BACKGROUND_FILE = "background.tokens"
MAX_DATANETS = 16
MAX_PARENTS = 8

Bps = Annotated[int, msgspec.Meta(ge=-10_000, le=10_000)]
"""A correlation in ten-thousandths."""
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
OneDigest = Annotated[bytes, msgspec.Meta(max_length=32)]
"""A digest, or empty where there is none."""


class DatanetVersion(Record, frozen=True):
    """A datanet by its id, which of its versions, and the digest of that version's record."""

    datanet: Digest
    number: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    digest: Digest


class Attribution(Record, frozen=True):
    """How the contributors' part follows an answer: `lambda_eighths` of it by what the answer drew
    on, the rest by their weights.

    `background`: sha-256 of background.tokens. `none_bits`: an answer that drew on less counts as
    having drawn on nobody's text. The rest is what its maker measured on `answers` answers against
    retraining: correlation and linear datamodelling score, each with its 95 % interval.
    """

    rule: Word
    background: Digest
    lambda_eighths: Annotated[int, msgspec.Meta(ge=0, le=WHOLE_EIGHTHS)]
    none_bits: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    r_bps: Bps
    lds_bps: Bps
    answers: Count
    r_interval: tuple[Bps, Bps]
    lds_interval: tuple[Bps, Bps]


class Ancestor(Record, frozen=True):
    """One of the adapters that this one was merged of, by its manifest's digest."""

    manifest: Digest
    weight_bps: Annotated[int, msgspec.Meta(ge=-20_000, le=20_000)]


class Origin(Record, frozen=True):
    """What an adapter was made of. `recipe`, `evaluation`: sha-256 of the files of that name, or
    empty.
    """

    recipe: OneDigest = b""
    datanets: Annotated[tuple[DatanetVersion, ...], msgspec.Meta(max_length=MAX_DATANETS)] = ()
    attribution: Attribution | None = None
    parents: Annotated[tuple[Ancestor, ...], msgspec.Meta(max_length=MAX_PARENTS)] = ()
    evaluation: OneDigest = b""


def check_origin(origin: Origin, files: Collection[str], num_contributors: int) -> None:
    """Raise ManifestError unless an origin is one that a manifest with these files and so many
    contributors can have.
    """
    for name, digest in (("recipe", origin.recipe), ("evaluation", origin.evaluation)):
        if len(digest) not in (0, 32):
            raise ManifestError(name, f"a digest has 32 bytes, or none, not {len(digest)}")
    if any(parent.weight_bps == 0 for parent in origin.parents):
        raise ManifestError("parents", "a parent with weight 0 has no part in it; leave it out")
    attribution = origin.attribution
    if attribution is None:
        return
    if attribution.rule != RULE:
        raise ManifestError("rule", f"{attribution.rule!r} is unknown; {RULE!r} is known")
    if not num_contributors:
        raise ManifestError("attribution", "it divides fees among contributors, and names none")
    for name in (TOKENS_FILE, BACKGROUND_FILE):
        if name not in files:
            raise ManifestError(
                "attribution", f"nobody can recompute it without {name}; add that file"
            )
    for low, high in (attribution.r_interval, attribution.lds_interval):
        if low > high:
            raise ManifestError("attribution", f"[{low}, {high}] is no interval")
