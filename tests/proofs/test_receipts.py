from __future__ import annotations

import random

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attribution.shares import (
    MIN_SHARE_FEE,
    POLICY,
    AdapterTerms,
    fee,
    shares_for,
)
from proofs.channel import ChannelTip
from proofs.codec import encode
from proofs.errors import ProofError, ReceiptError
from proofs.merkle import leaf_hash
from proofs.receipt import (
    BARE_BASE,
    MAX_BODY_BYTES,
    MAX_RECEIPT_BYTES,
    Receipt,
    SignedReceipt,
    check_fee,
    commit,
    decode_body,
    decode_receipt,
    derive_shares,
    encode_body,
    verify_receipt,
)
from tests.proofs.scene import (
    ADAPTER,
    BASE,
    NETWORK,
    TERMS,
    address,
    chain,
    config,
    encoded,
    follow,
    receipt,
    replace_network,
    sign,
)

TIP = ChannelTip(config())

small = st.integers(0, 2**31 - 1)
large = st.integers(0, 2**63 - 1)
digests = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20)
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
    owner=addresses,
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
    payouts=digests,
    drawn=st.lists(
        st.lists(st.tuples(st.integers(0, 47), st.integers(1, 10_000)), max_size=4).map(tuple),
        max_size=8,
    ).map(tuple),
)


@given(any_receipt)
def test_any_body_survives_the_codec_and_equals_another_messagepack(body: Receipt) -> None:
    data = encode_body(body)
    assert decode_body(data) == body
    assert msgpack.packb(list_of(body)) == data
    assert data[0] == 0xDC, "contracts count on a head of 3 bytes"
    assert len(data) <= MAX_BODY_BYTES


def list_of(record: msgspec.Struct) -> list[object]:
    return [getattr(record, name) for name in record.__struct_fields__]


@pytest.mark.parametrize("client", ["client", None])
def test_good_receipt_verifies_and_keeps_its_bytes(client: str | None) -> None:
    signed = sign(receipt(TIP), client)
    verified = verify_receipt(decode_receipt(encoded(signed)), NETWORK)
    assert verified.encoded == encoded(signed)
    assert verified.receipt == receipt(TIP)
    assert verified.is_cosigned == (client is not None)


@pytest.mark.parametrize(
    ("invariant", "changes"),
    [
        ("version", {"version": 2}),
        ("network", {"chain_id": 1}),
        ("network", {"settlement": bytes(20)}),
        ("amount", {"amount": 3_799}),
        ("amount", {"completion_tokens": 8, "amount": 3_800, "cumulative": 3_800}),
        ("amount", {"amount": 0, "prompt_tokens": 0, "completion_tokens": 0, "cumulative": 0}),
        ("previous", {"previous": bytes([1]) * 32}),
        ("previous", {"sequence": 2}),
        ("cumulative", {"cumulative": 3_799}),
        ("cumulative", {"cumulative": 3_801}),
        ("owner", {"owner": bytes(20)}),
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


def test_a_receipt_without_the_nodes_signature_is_none() -> None:
    signed = sign(receipt(TIP))
    for wrong in (bytes(65), signed.client_signature):
        with pytest.raises(ReceiptError, match="node signature"):
            verify_receipt(msgspec.structs.replace(signed, node_signature=wrong), NETWORK)


@pytest.mark.parametrize("length", [1, 64])
def test_a_client_signature_is_whole_or_not_there(length: int) -> None:
    signed = sign(receipt(TIP), None)
    with pytest.raises(ReceiptError, match="schema"):
        decode_receipt(encoded(msgspec.structs.replace(signed, client_signature=bytes(length))))


def test_a_client_signature_that_is_there_must_be_the_clients() -> None:
    signed = sign(receipt(TIP))
    for wrong in (bytes(65), signed.node_signature):
        with pytest.raises(ReceiptError, match="client signature"):
            verify_receipt(msgspec.structs.replace(signed, client_signature=wrong), NETWORK)


def test_the_leaf_in_the_log_does_not_depend_on_who_signed_how() -> None:
    """A client signs the same body again with another nonce: the node's own copy stays provable."""
    both, one = (verify_receipt(sign(receipt(TIP), client), NETWORK) for client in ("client", None))
    assert both.leaf == one.leaf == leaf_hash(both.signed.body)
    assert both.encoded != one.encoded


# --- what follows from the manifest ---


def test_a_receipt_costs_its_tokens_or_the_least_fee_and_exactly_that() -> None:
    shares = derive_shares(receipt(TIP), TERMS)
    assert len(shares) == 3
    for tokens, prompt_price, amount in ((7, 100, 3_800), (0, 0, 300), (0, 100, 300), (0, 99, 300)):
        body = receipt(TIP, tokens=tokens, prompt_price=prompt_price)
        assert body.amount == amount
        check_fee(body, TERMS)
        for wrong in (amount - 1, amount + 1):
            with pytest.raises(ReceiptError, match="amount"):
                check_fee(msgspec.structs.replace(body, amount=wrong), TERMS)


def test_shares_are_derived_from_the_manifest_that_the_receipt_names() -> None:
    body = receipt(TIP)
    assert derive_shares(body, TERMS) == shares_for(POLICY, body.owner, TERMS)
    with pytest.raises(ReceiptError, match="adapter"):
        derive_shares(body, None)
    with pytest.raises(ReceiptError, match="adapter"):
        derive_shares(receipt(TIP, adapter=BARE_BASE), TERMS)
    with pytest.raises(ReceiptError, match="base"):
        derive_shares(body, msgspec.structs.replace(TERMS, base=bytes(32)))


def test_node_and_client_together_cannot_divide_a_fee_otherwise() -> None:
    """Both sign a receipt whose payouts give the creator's part to the node's owner."""
    greedy = TIP.payouts.award(shares_for(POLICY, address("owner"), None), 3_800)
    forged = verify_receipt(sign(receipt(TIP, payouts=greedy.commitment)), NETWORK)
    with pytest.raises(ReceiptError, match="payouts"):
        follow(TIP, forged)
    follow(TIP, verify_receipt(sign(receipt(TIP)), NETWORK))


def test_a_channel_carries_what_it_paid_whom_from_receipt_to_receipt() -> None:
    tip = TIP
    for taken in chain(4):
        tip = follow(tip, taken.receipt)
        assert tip.payouts.commitment == taken.receipt.receipt.payouts
        assert tip.payouts.total == tip.cumulative
    assert [account for account, _ in tip.payouts.rows] == [
        share.address for share in shares_for(POLICY, address("owner"), TERMS)
    ]


def test_a_channel_pays_a_bounded_number_of_accounts() -> None:
    tip = TIP
    for number in range(256):
        body = receipt(tip, adapter=BARE_BASE, owner=(number + 1).to_bytes(20, "big"))
        tip = follow(tip, verify_receipt(sign(body), NETWORK))
    known = receipt(tip, adapter=BARE_BASE, owner=(1).to_bytes(20, "big"))
    assert follow(tip, verify_receipt(sign(known), NETWORK)).sequence == 257
    more = msgspec.structs.replace(known, owner=(257).to_bytes(20, "big"))
    with pytest.raises(ReceiptError, match="accounts"):
        follow(tip, verify_receipt(sign(more), NETWORK))


@given(st.integers(0, 2**40), st.integers(0, 48))
def test_every_account_of_a_least_fee_could_be_paid(price: int, num_contributors: int) -> None:
    people = tuple((number.to_bytes(20, "big"), 1) for number in range(1, num_contributors + 1))
    shares = shares_for(
        POLICY, address("owner"), AdapterTerms.of_one(address("creator"), people, BASE)
    )
    assert fee(POLICY, price, shares) >= max(price, MIN_SHARE_FEE * len(shares))


# --- bytes ---


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
        "int": body.replace(b"\x04", b"\xcc\x04", 1),  # version 4 in two bytes
        "bytes": body.replace(
            b"\xc4\x14", b"\xc5\x00\x14", 1
        ),  # a 20-byte string with a 16-bit length
        "array": b"\xdd\x00\x00\x00\x19" + body[3:],  # 25 elements with a 32-bit length
    }
    assert msgpack.unpackb(forms[longer]) == msgpack.unpackb(body)
    with pytest.raises(ReceiptError, match="canonical"):
        decode_body(forms[longer])


def test_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(ReceiptError, match="size"):
        decode_receipt(bytes(MAX_RECEIPT_BYTES + 1))
    with pytest.raises(ReceiptError, match="size"):
        decode_body(bytes(MAX_BODY_BYTES + 1))


def test_the_largest_body_fits() -> None:
    body = receipt(TIP)
    amounts = ("sequence", "amount", "cumulative", "started_at", "chain_id")
    counts = ("prompt_tokens", "completion_tokens", "prompt_price", "completion_price")
    largest = dict.fromkeys(amounts, (1 << 63) - 1) | dict.fromkeys(counts, (1 << 31) - 1)
    drawn = (((47, 10_000),) * 4,) * 8  # as many as may be credited, in most lists
    changed = msgspec.structs.replace(body, **largest, dtype=bytes(16), version=255, drawn=drawn)
    assert len(encode_body(changed)) <= MAX_BODY_BYTES
    assert len(encoded(sign(changed))) <= MAX_RECEIPT_BYTES


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


GOOD = {"two signatures": encoded(sign(receipt(TIP))), "one": encoded(sign(receipt(TIP), None))}


@pytest.mark.parametrize("form", GOOD)
@given(st.integers(0, 2**32))
@settings(max_examples=200)
def test_mutated_receipt_is_never_accepted(form: str, seed: int) -> None:
    data = mutate(GOOD[form], random.Random(seed))
    if data == GOOD[form]:
        return
    with pytest.raises(ProofError):
        verify_receipt(decode_receipt(data), NETWORK)


@pytest.mark.parametrize("form", GOOD)
def test_every_single_bit_counts(form: str) -> None:
    for place in range(len(GOOD[form])):
        data = bytearray(GOOD[form])
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
    body = receipt(TIP)
    *fields, drawn = list_of(body)
    assert msgpack.unpackb(encode(body)) == [*fields, list(drawn)]
    assert msgpack.unpackb(encode(body))[9:11] == [ADAPTER, address("owner")]
