"""The golden cocktail and the golden merged adapter: by field, byte by byte, who shares their fees,
and cocktails that nobody takes.
"""

from __future__ import annotations

import hashlib
from typing import Any

from node.wire.infer import Ask
from node.wire.infer import encode as encode_frame
from p2p.cid import Cid
from proofs.attribution.shares import POLICY, award, fee, shares_for, terms_of
from proofs.cocktail import make_cocktail, parse_cocktail
from proofs.codec import encode
from proofs.manifest import build_manifest, parse_manifest
from proofs.origin import Origin

from .talks import ask
from .world import AGGREGATOR, ATTRIBUTED_MANIFEST, MANIFEST, OWNER, account, named, party

LAW = parse_manifest(MANIFEST)


def _manifest(name: str, **changes: Any) -> bytes:
    about = {
        field: getattr(LAW, field)
        for field in LAW.__struct_fields__
        if field not in ("version", "creator", "signature")
    }
    return build_manifest(AGGREGATOR, **{**about, "name": name, "contributors": [], **changes})


VERSE = _manifest("verse")
COCKTAIL = make_cocktail({MANIFEST: 7_000, VERSE: -3_000})
MERGED_COCKTAIL = make_cocktail({ATTRIBUTED_MANIFEST: 7_000, VERSE: -3_000})
MERGED = _manifest(
    "merged",
    parents=parse_cocktail(MERGED_COCKTAIL).parents,
    origin=Origin(recipe=hashlib.sha256(b"recipe").digest()),
)


def merged() -> dict[str, Any]:
    """A manifest of version 3, by field and byte by byte, and who shares fees for it: as for the
    cocktail of its parents.
    """
    about = parse_manifest(MERGED)
    unsigned = [getattr(about, name) for name in about.__struct_fields__[:-1]]
    terms = terms_of(about)
    attributed = [number is not None for number in terms.num_attributed]
    drawn = tuple(((1, 10_000),) if one else () for one in attributed)
    return {
        "creator": party("aggregator"),
        "fields": named(about),
        "signed_digest": hashlib.sha256(b"lorikeet manifest 3\0" + encode(unsigned)).hexdigest(),
        "manifest": MERGED.hex(),
        "cid": str(Cid.of(MERGED)),
        "cocktail_of_its_parents": MERGED_COCKTAIL.hex(),
        "owner": OWNER.hex(),
        "shares": [named(share) for share in shares_for(POLICY, OWNER, terms)],
        "drawn": named(drawn),
        "drawn_shares": [named(share) for share in shares_for(POLICY, OWNER, terms, drawn)],
    }


def cocktails() -> dict[str, Any]:
    """One of two parents, one of them subtracted."""
    cocktail = parse_cocktail(COCKTAIL)
    shares = shares_for(POLICY, OWNER, terms_of(cocktail))
    return {
        "fields": {
            "version": cocktail.version,
            "parents": [named(parent) for parent in cocktail.parents],
        },
        "parents": [
            {"digest": parent.digest.hex(), "name": parent.parsed.name}
            for parent in cocktail.parents
        ],
        "cocktail": COCKTAIL.hex(),
        "cid": str(Cid.of(COCKTAIL)),
        "ask": encode_frame(_asked()).hex(),
        "owner": OWNER.hex(),
        "shares": [named(share) for share in shares],
        "fees": [_fee(price, shares) for price in (0, 1_290, 1_000_003)],
        "refuse": [{"why": why, "cocktail": data.hex()} for why, data in _refused()],
    }


def _asked() -> Ask:
    """The question of the golden conversation `unpaid`, of this cocktail."""
    return ask(
        "unpaid", (1, 2), 16, channel=None, adapter=Cid.of(COCKTAIL).digest, cocktail=COCKTAIL
    )


def _fee(price: int, shares: Any) -> dict[str, Any]:
    amount = fee(POLICY, price, shares)
    awards = [{"account": who.hex(), "amount": part} for who, part in award(amount, shares)]
    return {"price": price, "fee": amount, "awards": awards}


def _refused() -> list[tuple[str, bytes]]:
    rows = [[one.manifest, one.weight] for one in parse_cocktail(COCKTAIL).parents]
    [first, second] = rows
    elsewhere = _manifest("verse", base=bytes(32))
    crowd = _manifest("verse", contributors=[_person(number) for number in range(10, 10 + 48)])
    by_digest = sorted((MANIFEST, elsewhere), key=lambda one: Cid.of(one).digest)
    return [
        ("no parent", encode([1, []])),
        ("another order", encode([1, [second, first]])),
        ("one parent twice", encode([1, [first, first]])),
        ("a weight of 0", encode([1, [first, [second[0], 0]]])),
        ("a weight above 2", encode([1, [first, [second[0], 20_001]]])),
        ("one parent with weight 1", encode([1, [[MANIFEST, 10_000]]])),
        ("another version", encode([2, rows])),
        ("a parent that is a cocktail", encode([1, [[COCKTAIL, 7_000]]])),
        ("two bases", encode([1, [[one, 5_000] for one in by_digest]])),
        ("too many parties", _by_digest(MANIFEST, crowd)),
    ]


def _by_digest(*manifests: bytes) -> bytes:
    ordered = sorted(manifests, key=lambda one: Cid.of(one).digest)
    return encode([1, [[one, 5_000] for one in ordered]])


def _person(number: int) -> Any:
    [one, *_] = LAW.contributors
    return type(one)(account(number), "", "", "", 1)
