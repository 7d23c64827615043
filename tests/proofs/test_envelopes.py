from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.channel import ChannelTip
from proofs.envelope import MAX_ENVELOPE_BYTES, open_envelope, seal_envelope
from proofs.errors import ProofError, ReceiptError, VoucherError
from proofs.promise import Evidence, make_promise, verify_evidence, verify_promise
from proofs.receipt import verify_receipt
from proofs.voucher import ChannelConfig, channel_id, sign_voucher
from tests.proofs.scene import (
    NETWORK,
    chain,
    config,
    encoded,
    envelope,
    receipt,
    replace_network,
    sign,
    signer,
)
from tests.proofs.test_receipts import mutate

TIP = ChannelTip(config())
GOOD = envelope(receipt(TIP), TIP.config)
UNILATERAL = envelope(receipt(TIP), TIP.config, cosigned=False)


def with_channel(channel: ChannelConfig, client: str = "client", node: str = "node") -> bytes:
    """A receipt signed by these two, for this channel, with a voucher that its payer signed."""
    body = receipt(ChannelTip(channel), parties=(client, node))
    voucher = sign_voucher(signer("client"), body.channel_id, body.cumulative, NETWORK)
    return seal_envelope(sign(body, client, node), voucher, channel)


def test_good_envelope_opens_and_keeps_its_bytes() -> None:
    opened = open_envelope(GOOD, NETWORK)
    assert opened.encoded == GOOD
    assert opened.receipt.receipt == receipt(TIP)
    assert len(GOOD) < MAX_ENVELOPE_BYTES


def test_a_receipt_that_only_the_node_signed_stands_on_its_clients_voucher() -> None:
    opened = open_envelope(UNILATERAL, NETWORK)
    assert not opened.receipt.is_cosigned
    assert opened.encoded == UNILATERAL
    with pytest.raises(VoucherError, match="voucher amount"):
        open_envelope(envelope(receipt(TIP), TIP.config, spare=-1, cosigned=False), NETWORK)


def test_a_channel_that_its_client_could_refund_at_once_is_refused() -> None:
    own = msgspec.structs.replace(config(), receiver_authorizer=signer("client").address)
    with pytest.raises(VoucherError, match="receiver authorizer"):
        open_envelope(with_channel(own), NETWORK)


def test_voucher_may_allow_more_but_not_less_than_the_receipts_cost() -> None:
    open_envelope(envelope(receipt(TIP), TIP.config, spare=1_000), NETWORK)
    with pytest.raises(VoucherError, match="voucher amount"):
        open_envelope(envelope(receipt(TIP), TIP.config, spare=-1), NETWORK)


def test_voucher_signed_by_the_node_itself_is_refused() -> None:
    body = receipt(TIP)
    voucher = sign_voucher(signer("node"), body.channel_id, body.cumulative, NETWORK)
    with pytest.raises(VoucherError, match="voucher signature"):
        open_envelope(seal_envelope(sign(body), voucher, TIP.config), NETWORK)


def test_channel_of_somebody_else_cannot_be_billed() -> None:
    """Mallory signs as node and as client, and names the client's channel: its authorizer is
    another operator, its payer another client.
    """
    with pytest.raises(VoucherError, match="operator"):
        open_envelope(with_channel(config(), client="mallory", node="mallory"), NETWORK)
    with pytest.raises(VoucherError, match="client"):
        open_envelope(with_channel(config(), client="mallory"), NETWORK)


def test_receipt_cannot_come_with_the_config_of_another_channel() -> None:
    body = receipt(TIP)
    other = config(nonce=1)
    voucher = sign_voucher(signer("client"), channel_id(other, NETWORK), body.cumulative, NETWORK)
    with pytest.raises(VoucherError, match="channel"):
        open_envelope(seal_envelope(sign(body), voucher, other), NETWORK)


@pytest.mark.parametrize(
    "changes",
    [{"settlement": bytes(20)}, {"token": bytes(20)}, {"chain_id": 1}, {"channels": bytes(20)}],
)
def test_envelope_is_worth_nothing_on_another_network(changes: dict[str, object]) -> None:
    with pytest.raises(ProofError):
        open_envelope(GOOD, replace_network(**changes))


@pytest.mark.parametrize("good", [GOOD, UNILATERAL])
@given(st.integers(0, 2**32))
@settings(max_examples=200)
def test_mutated_envelope_is_never_accepted(good: bytes, seed: int) -> None:
    data = mutate(good, random.Random(seed))
    if data != good:
        with pytest.raises(ProofError):
            open_envelope(data, NETWORK)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_envelope(data: bytes) -> None:
    with pytest.raises(ReceiptError):
        open_envelope(data, NETWORK)


def test_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(ReceiptError, match="size"):
        open_envelope(bytes(MAX_ENVELOPE_BYTES + 1), NETWORK)


def test_promise_holds_for_one_receipt_of_one_aggregator_on_one_network() -> None:
    first, second = (taken.receipt for taken in chain(2))
    promise = make_promise(signer("aggregator"), first, 1_795_000_600, NETWORK)
    aggregator = signer("aggregator").address
    body = first.signed.body
    assert verify_promise(promise, body, aggregator, NETWORK)
    assert not verify_promise(promise, second.signed.body, aggregator, NETWORK)
    assert not verify_promise(promise, body, signer("node").address, NETWORK)
    assert not verify_promise(promise, body, aggregator, replace_network(chain_id=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": bytes(65)},
        {"deadline": 1_795_000_601},
        {"sequence": 2},
        {"cumulative": 1},
        {"channel_id": bytes(32)},
        {"body": bytes(32)},
    ],
)
def test_no_field_of_a_promise_can_be_changed(changes: dict[str, object]) -> None:
    taken = chain(1)[0].receipt
    promise = make_promise(signer("aggregator"), taken, 1_795_000_600, NETWORK)
    aggregator = signer("aggregator").address
    changed = msgspec.structs.replace(promise, **changes)
    assert not verify_promise(changed, taken.signed.body, aggregator, NETWORK)


def test_a_promise_does_not_depend_on_who_signed_the_receipt_how() -> None:
    """A client that signs again, or not at all, does not rob the node of its promise."""
    one, both = (verify_receipt(sign(receipt(TIP), client), NETWORK) for client in (None, "client"))
    promise = make_promise(signer("aggregator"), one, 1_795_000_600, NETWORK)
    assert promise == make_promise(signer("aggregator"), both, 1_795_000_600, NETWORK)
    assert verify_promise(promise, both.signed.body, signer("aggregator").address, NETWORK)


@pytest.mark.parametrize("client", ["client", None])
def test_evidence_needs_two_bodies_for_one_place_that_one_node_signed(client: str | None) -> None:
    one, other, same = (
        encoded(sign(receipt(TIP, seed=bytes([number]) * 32), client)) for number in (1, 2, 1)
    )
    assert verify_evidence(Evidence(one, other), NETWORK) == (channel_id(TIP.config, NETWORK), 1)
    with pytest.raises(ReceiptError, match="same body"):
        verify_evidence(Evidence(one, same), NETWORK)
    with pytest.raises(ReceiptError, match="different places"):
        verify_evidence(Evidence(one, chain(2)[1].receipt.encoded), NETWORK)


def test_a_stranger_who_signs_for_the_channel_is_no_evidence_against_its_node() -> None:
    own = encoded(sign(receipt(TIP)))
    strangers = encoded(sign(receipt(TIP, operator=signer("mallory").address), node="mallory"))
    with pytest.raises(ReceiptError, match="two nodes"):
        verify_evidence(Evidence(own, strangers), NETWORK)
