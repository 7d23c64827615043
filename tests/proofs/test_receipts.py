from __future__ import annotations

import random

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attribution.shares import Share
from proofs.channel import ChannelTip
from proofs.codec import encode
from proofs.errors import ProofError, ReceiptError
from proofs.receipt import (
    MAX_BODY_BYTES,
    MAX_RECEIPT_BYTES,
    Receipt,
    SignedReceipt,
    commit,
    decode_body,
    decode_receipt,
    encode_body,
    verify_receipt,
)
from tests.proofs.scene import DIVIDED, NETWORK, config, encoded, receipt, replace_network, sign

TIP = ChannelTip(config())

small = st.integers(0, 2**31 - 1)
large = st.integers(0, 2**63 - 1)
digests = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20)
any_share = st.builds(Share, addresses, st.integers(0, 2), st.integers(1, 10_000))
any_receipt = st.builds(
    Receipt,
    version=st.integers(0, 255),
    chain_id=large,
    settlement=addresses,
    channel_id=digests,
    sequence=st.integers(1, 2**63 - 1),
    previous=digests,
    operator=addresses,
    client=addresses,
    base=digests,
    adapter=digests,
    prompt_commitment=digests,
    answer_commitment=digests,
    prompt_tokens=small,
    completion_tokens=small,
    prompt_price=small,
    completion_price=small,
    amount=large,
    cumulative=large,
    seed=digests,
    dtype=st.binary(max_size=16),
    started_at=large,
    shares=st.lists(any_share, max_size=64).map(tuple),
)


@given(any_receipt)
def test_any_body_survives_the_codec_and_equals_another_messagepack(body: Receipt) -> None:
    data = encode_body(body)
    assert decode_body(data) == body
    plain = [
        list(map(list_of, value)) if isinstance(value, tuple) else value for value in list_of(body)
    ]
    assert msgpack.packb(plain) == data
    assert len(data) <= MAX_BODY_BYTES


def list_of(record: msgspec.Struct) -> list[object]:
    return [getattr(record, name) for name in record.__struct_fields__]


def test_good_receipt_verifies_and_keeps_its_bytes() -> None:
    signed = sign(receipt(TIP))
    verified = verify_receipt(decode_receipt(encoded(signed)), NETWORK)
    assert verified.encoded == encoded(signed)
    assert verified.receipt == receipt(TIP)


def broken_shares() -> dict[str, tuple[Share, ...]]:
    first, second, third = DIVIDED
    return {
        "unsorted": (second, first, third),
        "twice": (first, first, second),
        "too little": DIVIDED[:2],
        "none": (),
    }


@pytest.mark.parametrize(
    ("invariant", "changes"),
    [
        ("version", {"version": 2}),
        ("network", {"chain_id": 1}),
        ("network", {"settlement": bytes(20)}),
        ("amount", {"amount": 381}),
        ("amount", {"completion_tokens": 8}),
        ("amount", {"amount": 0, "prompt_tokens": 0, "completion_tokens": 0, "cumulative": 0}),
        ("previous", {"previous": bytes([1]) * 32}),
        ("previous", {"sequence": 2}),
        ("cumulative", {"cumulative": 379}),
        ("cumulative", {"cumulative": 381}),
        *(("shares", {"shares": shares}) for shares in broken_shares().values()),
        ("node signature", {"operator": bytes(20)}),
        ("client signature", {"client": bytes(20)}),
    ],
)
def test_broken_invariant_is_named_though_both_signed(
    invariant: str, changes: dict[str, object]
) -> None:
    with pytest.raises(ReceiptError) as caught:
        verify_receipt(sign(receipt(TIP, **changes)), NETWORK)
    assert caught.value.invariant == invariant
    assert str(caught.value).startswith(invariant)


def test_receipt_of_another_network_is_refused_even_when_it_names_this_one() -> None:
    body = receipt(TIP)
    elsewhere = sign(body, network=replace_network(chain_id=1))
    with pytest.raises(ReceiptError, match="node signature"):
        verify_receipt(elsewhere, NETWORK)


def test_signatures_of_node_and_client_cannot_change_places() -> None:
    signed = sign(receipt(TIP))
    with pytest.raises(ReceiptError, match="node signature"):
        verify_receipt(
            SignedReceipt(signed.body, signed.client_signature, signed.node_signature), NETWORK
        )


@pytest.mark.parametrize("longer", ["int", "bytes", "array"])
def test_longer_form_of_the_same_receipt_is_refused(longer: str) -> None:
    data = encoded(sign(receipt(TIP)))
    body = decode_receipt(data).body
    forms = {
        "int": body.replace(b"\x01", b"\xcc\x01", 1),  # version 1 in two bytes
        "bytes": body.replace(
            b"\xc4\x14", b"\xc5\x00\x14", 1
        ),  # a 20-byte string with a 16-bit length
        "array": b"\xdd\x00\x00\x00\x16" + body[3:],  # 22 elements with a 32-bit length
    }
    assert msgpack.unpackb(forms[longer]) == msgpack.unpackb(body)
    with pytest.raises(ReceiptError, match="canonical"):
        decode_body(forms[longer])


def test_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(ReceiptError, match="size"):
        decode_receipt(bytes(MAX_RECEIPT_BYTES + 1))
    with pytest.raises(ReceiptError, match="size"):
        decode_body(bytes(MAX_BODY_BYTES + 1))


def test_largest_receipt_fits_and_one_share_more_does_not() -> None:
    full = tuple(
        Share(number.to_bytes(20, "big"), 2, 156 if number else 172) for number in range(64)
    )
    assert verify_receipt(decode_receipt(encoded(sign(receipt(TIP, shares=full)))), NETWORK)
    more = (*full[:-1], Share(bytes([254]) * 20, 2, 100), Share(bytes([255]) * 20, 2, 56))
    with pytest.raises(ReceiptError, match="schema"):
        verify_receipt(sign(receipt(TIP, shares=more)), NETWORK)


@given(st.binary(max_size=1_000))
def test_random_bytes_are_no_receipt(data: bytes) -> None:
    with pytest.raises(ReceiptError):
        verify_receipt(decode_receipt(data), NETWORK)
    with pytest.raises(ReceiptError):
        decode_body(data)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.binary(max_size=40)
        | st.text(max_size=9),
        st.lists,
    )
)
def test_foreign_messagepack_is_no_receipt(value: object) -> None:
    for decode in (decode_receipt, decode_body):
        with pytest.raises(ReceiptError):
            decode(msgpack.packb(value))


GOOD = encoded(sign(receipt(TIP)))


@given(st.integers(0, 2**32))
@settings(max_examples=300)
def test_mutated_receipt_is_never_accepted(seed: int) -> None:
    data = mutate(GOOD, random.Random(seed))
    if data == GOOD:
        return
    with pytest.raises(ProofError):
        verify_receipt(decode_receipt(data), NETWORK)


def test_every_single_bit_counts() -> None:
    for place in range(len(GOOD)):
        data = bytearray(GOOD)
        data[place] ^= 1 << place % 8
        with pytest.raises(ProofError):
            verify_receipt(decode_receipt(bytes(data)), NETWORK)


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Flip, cut, repeat, insert or swap a few bytes."""
    found = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(found) + 1)
        other = dice.randrange(len(found) + 1)
        low = min(place, other)
        high = max(place, other)
        match dice.randrange(5):
            case 0 if place < len(found):
                found[place] = dice.randrange(256)
            case 1:
                del found[low : min(high, low + 8)]
            case 2:
                found[place:place] = found[low : min(high, low + 8)]
            case 3:
                found[place:place] = dice.randbytes(dice.randint(1, 5))
            case _:
                found = found[:place]
        found = found or bytearray(b"\x00")
    return bytes(found)


def test_commitment_depends_on_salt_and_every_token() -> None:
    salt = bytes(16)
    other = bytes([1]) * 16
    assert (
        len(
            {
                commit(salt, [1, 2]),
                commit(salt, [1, 3]),
                commit(other, [1, 2]),
                commit(salt, [1]),
                commit(salt, []),
            }
        )
        == 5
    )


def test_encoding_of_a_record_is_an_array_without_names() -> None:
    assert msgpack.unpackb(encode(DIVIDED[0])) == [
        DIVIDED[0].address,
        DIVIDED[0].role,
        DIVIDED[0].bps,
    ]
