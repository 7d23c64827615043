"""A batch has one form, and whoever lies in it is caught by anybody who recomputes it."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from proofs.attribution.shares import award
from proofs.batch import (
    MAX_BATCH_BYTES,
    MAX_BATCH_RECEIPTS,
    ReceiptBatch,
    compose,
    decode_batch,
    recompute,
)
from proofs.channel import ChannelTip
from proofs.codec import encode
from proofs.digest import keccak
from proofs.envelope import MAX_ENVELOPE_BYTES, VerifiedEnvelope
from proofs.errors import BatchError, LedgerError
from proofs.history import History
from proofs.receipt import MAX_RECEIPT_BYTES, derive_shares, verify_receipt
from proofs.state import EpochState
from tests.proofs.scene import (
    ADAPTER,
    MANIFEST,
    MANIFESTS,
    NETWORK,
    chain,
    config,
    encoded,
    receipt,
    replace_network,
    sign,
    signer,
    terms_for,
)
from tests.proofs.test_receipts import mutate

A = chain(6)
B = chain(4, client="other", node="second", cosigned=False)
EMPTY = EpochState(NETWORK)


def write(*envelopes: VerifiedEnvelope, after: EpochState = EMPTY) -> bytes:
    return compose(
        [taken.receipt for taken in envelopes],
        {taken.voucher.channel_id: taken.config for taken in envelopes},
        after,
    )


GOOD = write(*A[:3], *B[:2])


def changed(**changes: Any) -> bytes:
    return encode(msgspec.structs.replace(decode_batch(GOOD), **changes))


def test_epochs_add_up_to_exactly_what_the_receipts_say() -> None:
    history = History(NETWORK)
    history.append(GOOD, MANIFESTS)
    history.append(write(*A[3:5], after=history.state), MANIFESTS)
    history.append(write(A[5], *B[2:], after=history.state), {})
    expected: dict[bytes, int] = {}
    for taken in (*A, *B):
        body = taken.receipt.receipt
        for account, part in award(body.amount, derive_shares(body, terms_for(body.adapter))):
            expected[account] = expected.get(account, 0) + part
    state = history.state
    assert {account: state.amount(account) for account in expected} == expected
    assert state.accounts.size == len(expected)
    assert state.header is not None
    assert state.header.payout_total == sum(expected.values())
    assert (state.epoch, state.header.num_receipts) == (3, 10)
    state.check()


def test_header_commits_to_the_batch_and_the_header_before() -> None:
    history = History(NETWORK)
    first = history.append(GOOD, MANIFESTS).header
    data = write(A[3], after=history.state)
    second = history.append(data, {}).header
    assert (first.previous, second.previous) == (bytes(32), first.hash)
    assert (first.batch_digest, second.batch_digest) == (
        hashlib.sha256(GOOD).digest(),
        hashlib.sha256(data).digest(),
    )
    assert first.hash == keccak(first.encoded)


def test_batch_does_not_depend_on_the_order_of_arrival() -> None:
    shuffled = [*A[:3], *B[:2]]
    random.Random(3).shuffle(shuffled)
    assert write(*shuffled) == GOOD


def test_a_full_batch_of_the_largest_receipts_is_within_its_bound() -> None:
    config_bytes = len(encode(config(nonce=1 << 64)))
    largest = MAX_RECEIPT_BYTES + 3 + config_bytes + 34
    assert 1_024 + MAX_BATCH_RECEIPTS * largest <= MAX_BATCH_BYTES
    assert config_bytes + MAX_RECEIPT_BYTES < MAX_ENVELOPE_BYTES


def test_epochs_that_are_taken_back_leave_the_history_as_it_was() -> None:
    history = History(NETWORK)
    history.append(GOOD, MANIFESTS)
    first = history.state.header
    data = write(*A[3:], after=history.state)
    second = history.append(data, {}).header
    assert history.revert(1)
    assert history.state.header == first
    assert history.append(data, {}).header == second
    assert history.revert(0)
    assert history.state.header is None
    assert history.append(GOOD, MANIFESTS).header == first
    history.state.check()


def test_a_checkpoint_is_read_back_by_the_key_that_wrote_it() -> None:
    history = History(NETWORK)
    history.append(GOOD, MANIFESTS)
    data = history.write_checkpoint(signer("mirror"))
    again = History(NETWORK)
    again.restore(data, signer("mirror").address)
    assert again.state.header == history.state.header
    following = write(*A[3:], after=history.state)
    assert again.append(following, {}).header == history.append(following, {}).header
    assert not again.revert(0), "what lies before a checkpoint cannot be taken back"


# --- lies ---


def tampered_receipt() -> list[bytes]:
    receipts = list(decode_batch(GOOD).receipts)
    place = receipts[1].rindex(bytes([receipts[1][-1]]))
    receipts[1] = receipts[1][:place] + bytes([receipts[1][place] ^ 1]) + receipts[1][place + 1 :]
    return receipts


@pytest.mark.parametrize(
    ("invariant", "changes"),
    [
        ("version", {"version": 1}),
        ("network", {"chain_id": 1}),
        ("network", {"token": bytes(20)}),
        ("epoch", {"epoch": 2}),
        ("previous", {"previous": bytes([1]) * 32}),
        ("receipt 1", {"receipts": tampered_receipt()}),
        ("order", {"receipts": decode_batch(GOOD).receipts[::-1]}),
        ("order", {"receipts": decode_batch(GOOD).receipts + decode_batch(GOOD).receipts[-1:]}),
        ("opened", {"opened": decode_batch(GOOD).opened[:1]}),
        ("opened", {"opened": decode_batch(GOOD).opened[::-1]}),
        ("opened", {"opened": [*decode_batch(GOOD).opened, chain(1, nonce=9)[0].config]}),
        ("adapters", {"adapters": []}),
        ("adapters", {"adapters": [bytes([1]) * 32, ADAPTER]}),
        ("schema", {"receipts": []}),
    ],
)
def test_lying_aggregator_is_caught_and_the_lie_is_named(
    invariant: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(BatchError) as caught:
        recompute(changed(**changes), EMPTY, MANIFESTS)
    assert caught.value.invariant == invariant


@pytest.mark.parametrize("manifests", [{}, {ADAPTER: MANIFEST[:-1]}, {ADAPTER: b""}])
def test_a_batch_is_not_believed_without_its_manifests(manifests: dict[bytes, bytes]) -> None:
    with pytest.raises(BatchError) as caught:
        recompute(GOOD, EMPTY, manifests)
    assert caught.value.invariant == "manifest"


@pytest.mark.parametrize("client", ["client", None])
def test_fees_that_are_divided_otherwise_than_the_manifest_says_are_caught(
    client: str | None,
) -> None:
    """An aggregator with two keys of its own signs whatever it likes as node and as client."""
    tip = ChannelTip(A[0].config)
    own = receipt(tip, adapter=bytes(32)).payouts
    forged = encoded(sign(receipt(tip, payouts=own), client))
    one = decode_batch(write(A[0]))
    with pytest.raises(BatchError, match="payouts"):
        recompute(encode(msgspec.structs.replace(one, receipts=[forged])), EMPTY, MANIFESTS)


def test_a_channel_that_its_client_can_refund_at_once_is_in_no_batch() -> None:
    own = msgspec.structs.replace(config(), receiver_authorizer=signer("client").address)
    taken = verify_receipt(sign(receipt(ChannelTip(own))), NETWORK)
    data = compose([taken], {taken.receipt.channel_id: own}, EMPTY)
    with pytest.raises(BatchError, match="receiver authorizer"):
        recompute(data, EMPTY, MANIFESTS)


def test_left_out_receipt_breaks_its_channel() -> None:
    with pytest.raises(BatchError, match="sequence"):
        recompute(write(A[0], A[2], *B[:2]), EMPTY, MANIFESTS)


def test_receipt_cannot_be_paid_twice() -> None:
    history = History(NETWORK)
    history.append(GOOD, MANIFESTS)
    with pytest.raises(BatchError, match="sequence"):
        history.append(write(A[2], after=history.state), {})


def test_batch_of_another_network_is_refused() -> None:
    with pytest.raises(BatchError, match="network"):
        recompute(GOOD, EpochState(replace_network(chain_id=1)), MANIFESTS)


def test_two_bodies_for_one_place_do_not_both_count() -> None:
    twin = encoded(sign(receipt(ChannelTip(A[0].config), seed=bytes(32))))
    with pytest.raises(BatchError, match="order"):
        data = changed(receipts=sorted([*decode_batch(GOOD).receipts, twin]))
        recompute(data, EMPTY, MANIFESTS)


def test_mutated_batch_is_never_accepted() -> None:
    for seed in range(400):
        data = mutate(GOOD, random.Random(seed))
        if data == GOOD:
            continue
        with pytest.raises(BatchError):
            recompute(data, EMPTY, MANIFESTS)


def test_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(BatchError, match="size"):
        decode_batch(bytes(MAX_BATCH_BYTES + 1))


def test_failed_recomputation_changes_nothing() -> None:
    history = History(NETWORK)
    history.append(GOOD, MANIFESTS)
    before = history.state.header, history.state.log.size
    with pytest.raises(BatchError):
        history.append(GOOD, MANIFESTS)
    assert (history.state.header, history.state.log.size) == before
    history.state.check()


def test_a_header_that_does_not_follow_from_its_batch_changes_nothing() -> None:
    history = History(NETWORK)
    header = recompute(GOOD, EMPTY, MANIFESTS).header
    with pytest.raises(BatchError) as caught:
        history.append(GOOD, MANIFESTS, replace(header, payout_total=header.payout_total + 1))
    assert caught.value.invariant == "header"
    assert history.state.header is None
    assert history.append(GOOD, MANIFESTS, header).header == header


@pytest.mark.parametrize("data", [b"", b"no checkpoint", encode([b"state", bytes(65)])])
def test_what_is_no_checkpoint_is_not_read(data: bytes) -> None:
    with pytest.raises(LedgerError, match="cannot be read"):
        History(NETWORK).restore(data, signer("mirror").address)


def test_batch_is_an_array_in_the_documented_order() -> None:
    names = (
        "version",
        "chain_id",
        "settlement",
        "token",
        "channels",
        "epoch",
        "previous",
        "opened",
        "adapters",
        "receipts",
    )
    assert ReceiptBatch.__struct_fields__ == names
