from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attribution.shares import POLICY, shares_for, terms_of
from proofs.cocktail import make_cocktail
from proofs.codec import encode
from proofs.errors import ManifestError
from proofs.manifest import (
    MAX_MANIFEST_BYTES,
    Contributor,
    File,
    Parent,
    build_manifest,
    parse_manifest,
)
from proofs.origin import Ancestor, Attribution, DatanetVersion, Origin
from tests.proofs.scene import address, signer
from tests.proofs.test_receipts import mutate

FIELDS: dict[str, Any] = {
    "name": "law",
    "adapter_version": "1.2",
    "base": bytes([1]) * 32,
    "tokenizer_hash": bytes([2]) * 32,
    "template_hash": bytes([3]) * 32,
    "licence": "Apache-2.0",
    "source": "https://example.org/law",
    "created_at": 1_795_000_000,
    "contributors": [Contributor(address("data"), "Ä library", "court rulings", "CC0-1.0", 3)],
    "files": [
        File("adapter_config.json", 7, [(bytes([5]) * 32, 7)]),
        File("adapter_model.safetensors", 30, [(bytes([6]) * 32, 20), (bytes([7]) * 32, 10)]),
    ],
}
GOOD = build_manifest(signer("creator"), **FIELDS)

ATTRIBUTION = Attribution(
    rule="ladder-1",
    background=bytes([10]) * 32,
    lambda_eighths=3,
    none_bits=8,
    r_bps=-390,
    lds_bps=4_000,
    answers=48,
    r_interval=(-800, 100),
    lds_interval=(2_600, 5_300),
)
ORIGIN = Origin(
    recipe=bytes([11]) * 32,
    datanets=(DatanetVersion(bytes([12]) * 32, 7, bytes([13]) * 32),),
    attribution=ATTRIBUTION,
    parents=(Ancestor(bytes([14]) * 32, 7_000), Ancestor(bytes([15]) * 32, -3_000)),
)
INDEXED: dict[str, Any] = {
    "files": [
        *FIELDS["files"],
        *(
            File(name, 4, [(bytes([8]) * 32, 4)])
            for name in ("attribution.tokens", "background.tokens")
        ),
    ],
    "origin": ORIGIN,
}
TWO = build_manifest(signer("creator"), **{**FIELDS, **INDEXED})


def build(**changes: Any) -> bytes:
    return build_manifest(signer("creator"), **{**FIELDS, **changes})


def build_two(**changes: Any) -> bytes:
    return build(**{**INDEXED, **changes})


def attributed(**changes: Any) -> Origin:
    return msgspec.structs.replace(
        ORIGIN, attribution=msgspec.structs.replace(ATTRIBUTION, **changes)
    )


def test_manifest_says_what_its_creator_put_in() -> None:
    manifest = parse_manifest(GOOD)
    assert {name: getattr(manifest, name) for name in FIELDS} == FIELDS
    assert manifest.creator_address == signer("creator").address
    assert msgpack.packb(msgpack.unpackb(GOOD)) == GOOD


def test_version_two_says_what_the_adapter_was_made_of() -> None:
    manifest = parse_manifest(TWO)
    assert (manifest.version, manifest.made_of) == (2, ORIGIN)
    assert msgpack.packb(msgpack.unpackb(TWO)) == TWO
    assert encode(manifest) == TWO
    assert parse_manifest(GOOD).made_of is None
    assert len(msgpack.unpackb(TWO)) == 14


def parents_of(*manifests: bytes, weight: int = 5_000) -> list[Parent]:
    return sorted((Parent(one, weight) for one in manifests), key=lambda one: one.digest)


def build_three(parents: list[Parent], **changes: Any) -> bytes:
    return build(**{"contributors": [], "parents": parents, **changes})


VERSE = build(name="verse", contributors=[Contributor(address("verse"), "Ode", "", "", 1)])
THREE = build_three(parents_of(TWO, VERSE), name="merged")


def test_version_three_holds_its_parents_and_they_are_paid() -> None:
    manifest = parse_manifest(THREE)
    assert manifest.version == 3
    assert [parent.parsed.name for parent in manifest.merged_of] == [
        parse_manifest(one).name
        for one in sorted((TWO, VERSE), key=lambda one: sha256(one).digest())
    ]
    assert encode(manifest) == THREE
    assert len(msgpack.unpackb(THREE)) == 15
    terms = terms_of(manifest)
    assert sorted(parent.lambda_eighths for parent in terms.parents) == [0, 3]
    shares = shares_for(POLICY, address("owner"), terms)
    assert {share.address for share in shares} == {
        address("owner"),
        signer("creator").address,
        address("data"),
        address("verse"),
    }
    assert parse_manifest(TWO).merged_of == ()


@pytest.mark.parametrize(
    ("field", "made"),
    [
        ("schema", lambda: build_three(parents_of(TWO))),
        ("parents", lambda: build_three(parents_of(TWO, VERSE)[::-1])),
        ("parents", lambda: build_three(parents_of(TWO, TWO))),
        ("weight", lambda: build_three(parents_of(TWO, VERSE, weight=0))),
        ("schema", lambda: build_three(parents_of(TWO, VERSE, weight=20_001))),
        ("base", lambda: build_three(parents_of(TWO, build(base=bytes([9]) * 32)))),
        ("base", lambda: build_three(parents_of(TWO, VERSE), base=bytes([9]) * 32)),
        ("parents", lambda: build_three(parents_of(THREE, VERSE))),
        (
            "parents",
            lambda: build_three(parents_of(TWO, VERSE), **{"contributors": FIELDS["contributors"]}),
        ),
        (
            "parents",
            lambda: build_three(
                parents_of(TWO, VERSE), origin=ORIGIN, **{"files": INDEXED["files"]}
            ),
        ),
        (
            "parties",
            lambda: build_three(
                parents_of(
                    TWO,
                    build(
                        contributors=[
                            Contributor(address(str(one)), "", "", "", 1) for one in range(48)
                        ]
                    ),
                )
            ),
        ),
    ],
)
def test_a_merged_adapter_that_nobody_could_pay_is_not_signed(
    field: str, made: Callable[[], bytes]
) -> None:
    with pytest.raises(ManifestError) as caught:
        made()
    assert caught.value.field == field


def test_a_cocktail_of_a_merged_adapter_is_refused_and_the_mend_is_told() -> None:
    with pytest.raises(ManifestError, match="take those in its place"):
        make_cocktail({THREE: 5_000, VERSE: 5_000})


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("recipe", {"origin": msgspec.structs.replace(ORIGIN, recipe=bytes(31))}),
        ("evaluation", {"origin": msgspec.structs.replace(ORIGIN, evaluation=b"x")}),
        ("schema", {"origin": msgspec.structs.replace(ORIGIN, datanets=ORIGIN.datanets * 17)}),
        ("schema", {"origin": msgspec.structs.replace(ORIGIN, parents=ORIGIN.parents * 5)}),
        ("parents", {"origin": msgspec.structs.replace(ORIGIN, parents=(Ancestor(bytes(32), 0),))}),
        ("rule", {"origin": attributed(rule="ladder-2")}),
        ("schema", {"origin": attributed(lambda_eighths=9)}),
        ("schema", {"origin": attributed(none_bits=0)}),
        ("schema", {"origin": attributed(r_bps=10_001)}),
        ("schema", {"origin": attributed(background=bytes(31))}),
        ("attribution", {"origin": attributed(r_interval=(2, 1))}),
        ("attribution", {"files": INDEXED["files"][:3]}),
        ("attribution", {"files": [*FIELDS["files"], INDEXED["files"][3]]}),
        ("attribution", {"contributors": []}),
        ("contributors", {"contributors": [Contributor(address("data"), "", "", "", 0)]}),
        ("schema", {"files": [File(str(one), 1, [(bytes(32), 1)]) for one in range(13)]}),
    ],
)
def test_unacceptable_origin_is_not_signed_and_the_field_is_named(
    field: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ManifestError) as caught:
        build_two(**changes)
    assert caught.value.field == field


def test_version_one_has_no_more_files_than_it_ever_had() -> None:
    with pytest.raises(ManifestError, match="schema"):
        build(files=[File(str(one), 1, [(bytes(32), 1)]) for one in range(9)])


def test_a_weight_of_nothing_belongs_to_version_two() -> None:
    people = [*FIELDS["contributors"], Contributor(address("copycat"), "", "", "", 0)]
    assert parse_manifest(build_two(contributors=people)).contributors == people
    with pytest.raises(ManifestError, match="schema"):
        build(contributors=people)


def test_a_signature_of_one_version_does_not_count_for_the_other() -> None:
    two = msgpack.unpackb(TWO)
    with pytest.raises(ManifestError, match="version"):
        parse_manifest(msgpack.packb([1, *two[1:]]))
    with pytest.raises(ManifestError, match="version"):
        parse_manifest(msgpack.packb([2, *msgpack.unpackb(GOOD)[1:]]))
    with pytest.raises(ManifestError, match="signature"):
        parse_manifest(msgpack.packb([1, *two[1:12], two[13]]))
    changed = msgspec.structs.replace(parse_manifest(TWO), origin=attributed(lambda_eighths=4))
    with pytest.raises(ManifestError, match="signature"):
        parse_manifest(encode(changed))


def test_same_manifest_has_the_same_bytes() -> None:
    assert build() == GOOD


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("schema", {"name": ""}),
        ("schema", {"name": "x" * 65}),
        ("schema", {"base": bytes(31)}),
        ("schema", {"files": []}),
        ("schema", {"contributors": FIELDS["contributors"] * 49}),
        ("schema", {"contributors": [Contributor(address("data"), "", "", "", 0)]}),
        ("schema", {"files": [File("a", 1 << 21, [(bytes(32), 1 << 21)])]}),
        ("files", {"files": [File("a", 2, [(bytes(32), 1)])]}),
        ("files", {"files": [File("a", 1, [(bytes(32), 1)])] * 2}),
        ("files", {"files": [File("../a", 1, [(bytes(32), 1)])]}),
        ("files", {"files": [File("..", 1, [(bytes(32), 1)])]}),
        (
            "size",
            {
                "contributors": (
                    [Contributor(address("data"), "ä" * 500, "ä" * 500, "ä" * 500, 1)] * 24
                )
            },
        ),
    ],
)
def test_unacceptable_manifest_is_not_built_and_the_field_is_named(
    field: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ManifestError) as caught:
        build(**changes)
    assert caught.value.field == field


def test_manifest_signed_by_somebody_else_is_refused() -> None:
    forged = msgspec.structs.replace(parse_manifest(GOOD), creator=signer("mallory").public_key)
    with pytest.raises(ManifestError, match="signature"):
        parse_manifest(encode(forged))


def test_creator_that_is_no_key_is_refused() -> None:
    with pytest.raises(ManifestError, match="signature"):
        parse_manifest(encode(msgspec.structs.replace(parse_manifest(GOOD), creator=bytes(33))))


def test_unknown_version_is_named() -> None:
    with pytest.raises(ManifestError, match="version"):
        parse_manifest(encode(msgspec.structs.replace(parse_manifest(GOOD), version=2)))


def test_every_field_is_signed() -> None:
    manifest = parse_manifest(GOOD)
    changes: dict[str, Any] = {
        "name": "LAW",
        "adapter_version": "2",
        "licence": "MIT",
        "source": "",
        "created_at": 0,
        "contributors": [],
    }
    changes |= {
        "base": bytes(32),
        "tokenizer_hash": bytes(32),
        "template_hash": bytes(32),
        "files": manifest.files[:1],
    }
    assert {*changes, "version", "creator", "signature"} == set(manifest.__struct_fields__)
    for name, value in changes.items():
        with pytest.raises(ManifestError, match="signature"):
            parse_manifest(encode(msgspec.structs.replace(manifest, **{name: value})))


@pytest.mark.parametrize("good", [GOOD, TWO], ids=["version 1", "version 2"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_mutated_manifest_is_never_accepted(good: bytes, seed: int) -> None:
    data = mutate(good, random.Random(seed))
    if data != good:
        with pytest.raises(ManifestError):
            parse_manifest(data)


@given(st.binary(max_size=500))
def test_random_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)


def test_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(ManifestError, match="size"):
        parse_manifest(bytes(MAX_MANIFEST_BYTES + 1))


@pytest.mark.parametrize(
    "changes", [{"name": "\ud800"}, {"created_at": 1 << 80}, {"base": "text"}, {"created_at": -1}]
)
def test_what_cannot_be_written_is_a_manifest_error_too(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="schema"):
        build(**changes)
