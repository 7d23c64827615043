from __future__ import annotations

import contextlib
import hashlib

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from proofs.errors import BadSignature
from proofs.signing import Signer, address_of, recover

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SIGNER = Signer(hashlib.sha256(b"key").digest())
DIGEST = hashlib.sha256(b"message").digest()


def test_address_is_the_one_that_eth_account_gives() -> None:
    for number in range(20):
        secret = hashlib.sha256(b"%d" % number).digest()
        assert Signer(secret).address == bytes.fromhex(Account.from_key(secret).address[2:])
        assert address_of(Signer(secret).public_key) == Signer(secret).address


@given(st.binary(min_size=32, max_size=32))
def test_recover_gives_the_signer(digest: bytes) -> None:
    assert recover(digest, SIGNER.sign_digest(digest)) == SIGNER.address


def test_the_other_form_of_a_signature_is_refused() -> None:
    signature = SIGNER.sign_digest(DIGEST)
    s = ORDER - int.from_bytes(signature[32:64], "big")
    flipped = signature[:32] + s.to_bytes(32, "big") + bytes([27 + 28 - signature[64]])
    with pytest.raises(BadSignature, match="upper half"):
        recover(DIGEST, flipped)


@pytest.mark.parametrize("v", [0, 1, 26, 29, 30, 31, 35, 255])
def test_v_is_27_or_28(v: int) -> None:
    with pytest.raises(BadSignature, match="v must be"):
        recover(DIGEST, SIGNER.sign_digest(DIGEST)[:64] + bytes([v]))


@given(st.binary(max_size=70))
def test_garbage_is_no_signature(data: bytes) -> None:
    with contextlib.suppress(BadSignature):
        assert recover(DIGEST, data) != SIGNER.address


@pytest.mark.parametrize(
    "signature",
    [
        bytes(64) + b"\x1b",
        b"\xff" * 32 + bytes(31) + b"\1\x1b",
        bytes(31) + b"\1" + bytes(32) + b"\x1b",
        b"",
    ],
)
def test_values_outside_the_group_are_refused(signature: bytes) -> None:
    with pytest.raises(BadSignature):
        recover(DIGEST, signature)


@pytest.mark.parametrize("key", [b"", bytes(33), b"\2" + b"\xff" * 32, b"\5" * 33])
def test_what_is_no_public_key_has_no_address(key: bytes) -> None:
    with pytest.raises(BadSignature):
        address_of(key)
