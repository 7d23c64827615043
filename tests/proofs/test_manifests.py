from __future__ import annotations

import random
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.codec import encode
from proofs.errors import ManifestError
from proofs.manifest import (
    MAX_MANIFEST_BYTES,
    Contributor,
    File,
    Manifest,
    build_manifest,
    parse_manifest,
)
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


def build(**changes: Any) -> bytes:
    return build_manifest(signer("creator"), **{**FIELDS, **changes})


def test_manifest_says_what_its_creator_put_in() -> None:
    manifest = parse_manifest(GOOD)
    assert {name: getattr(manifest, name) for name in FIELDS} == FIELDS
    assert manifest.creator_address == signer("creator").address
    assert msgpack.packb(msgpack.unpackb(GOOD)) == GOOD


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
    assert {*changes, "version", "creator", "signature"} == set(Manifest.__struct_fields__)
    for name, value in changes.items():
        with pytest.raises(ManifestError, match="signature"):
            parse_manifest(encode(msgspec.structs.replace(manifest, **{name: value})))


@given(st.integers(0, 2**32))
@settings(max_examples=300)
def test_mutated_manifest_is_never_accepted(seed: int) -> None:
    data = mutate(GOOD, random.Random(seed))
    if data != GOOD:
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
