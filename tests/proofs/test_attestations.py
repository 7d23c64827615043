from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attestation.record import MAX_ATTESTATION_BYTES, parse_attestation
from proofs.errors import AttestationError
from tests.golden import other
from tests.golden.world import AGGREGATOR, NETWORK

VECTORS = other.load("attestation")
KEPT_BACK, SHOWN = (other.unhex(one["hex"]) for one in VECTORS["accept"])


@pytest.mark.parametrize("vector", VECTORS["accept"], ids=lambda vector: vector["why"])
def test_an_attestation_is_its_fields_signed_by_its_auditor(vector: dict[str, Any]) -> None:
    data = other.unhex(vector["hex"])
    *said, signature = msgspec.msgpack.decode(data)
    digest = hashlib.sha256(other.unhex(VECTORS["domain"]) + other.pack(said)).digest()
    assert other.signer_of(digest, signature) == AGGREGATOR.address
    assert other.pack([*said, signature]) == data
    assert parse_attestation(data, NETWORK).receipt.completion_tokens == 64


def test_the_receipts_seed_is_bound_to_the_question_that_is_shown() -> None:
    ask, client_seed, node_seed, *_ = msgspec.msgpack.decode(SHOWN)[5]
    asked = hashlib.sha256(ask).digest()
    seed = hashlib.sha256(b"lorikeet seed" + client_seed + node_seed + asked).digest()
    assert parse_attestation(SHOWN, NETWORK).receipt.seed == seed


@pytest.mark.parametrize("vector", VECTORS["refuse"], ids=lambda vector: vector["why"])
def test_an_attestation_that_says_what_is_not_so_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(AttestationError) as refused:
        parse_attestation(other.unhex(vector["hex"]), NETWORK)
    assert refused.value.rule == vector["rule"]


def test_more_bytes_than_any_attestation_has_are_not_read() -> None:
    with pytest.raises(AttestationError, match="at most"):
        parse_attestation(bytes(MAX_ATTESTATION_BYTES + 1), NETWORK)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.sampled_from([KEPT_BACK, SHOWN]), st.data())
def test_a_changed_byte_is_never_taken(good: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AttestationError):
        parse_attestation(bytes(changed), NETWORK)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(AttestationError):
        parse_attestation(data, NETWORK)
