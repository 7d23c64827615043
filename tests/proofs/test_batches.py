from __future__ import annotations

import hashlib
import random
from typing import Any

import msgspec
import pytest

from proofs.attribution.shares import split
from proofs.batch import MAX_BATCH_BYTES, EpochState, ReceiptBatch, compose, decode_batch, recompute
from proofs.channel import ChannelTip
from proofs.codec import encode
from proofs.digest import keccak
from proofs.envelope import VerifiedEnvelope
from proofs.errors import BatchError
from proofs.history import History
from proofs.sumtree import verify_payout
from tests.proofs.scene import NETWORK, chain, encoded, receipt, replace_network, sign
from tests.proofs.test_receipts import mutate

A = chain(6)
B = chain(4, client="other", node="second")
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
    history.append(GOOD)
    history.append(write(*A[3:5], after=history.state))
    history.append(write(A[5], *B[2:], after=history.state))
    everything = [taken.receipt.receipt for taken in (*A, *B)]
    expected: dict[bytes, int] = {}
    for body in everything:
        for share, part in zip(body.shares, split(body.amount, body.shares), strict=True):
            expected[share.address] = expected.get(share.address, 0) + part
    assert history.state.payouts == expected
    assert history.state.header is not None
    assert history.state.header.payout_total == sum(body.amount for body in everything)
    assert (history.state.epoch, history.state.header.num_receipts) == (3, 10)


def test_header_commits_to_the_batch_and_the_header_before() -> None:
    first = recompute(GOOD, EMPTY).header
    state = recompute(GOOD, EMPTY)
    data = write(A[3], after=state)
    second = recompute(data, state).header
    assert first is not None
    assert second is not None
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


def test_stranger_proves_every_receipt_and_every_payout_from_the_batches() -> None:
    history = History(NETWORK)
    first = history.append(GOOD)
    last = history.append(write(*A[3:], after=first))
    assert last.header is not None
    for taken in (*A, *B[:2]):
        proof = history.prove_receipt(taken.receipt.encoded)
        assert proof.verify(taken.receipt.encoded, last.header.receipts_root)
        assert not proof.verify(B[3].receipt.encoded, last.header.receipts_root)
    for account, amount in last.payouts.items():
        payout = history.prove_payout(account)
        assert payout.amount == amount
        assert verify_payout(payout, last.payout_tree.root)
    with pytest.raises(KeyError):
        history.prove_receipt(B[3].receipt.encoded)


def tampered_receipt() -> list[bytes]:
    receipts = list(decode_batch(GOOD).receipts)
    receipts[1] = receipts[1][:-1] + bytes([55 - receipts[1][-1]])  # 27 <-> 28
    return receipts


@pytest.mark.parametrize(
    ("invariant", "changes"),
    [
        ("version", {"version": 2}),
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
        ("payouts", {"payouts": decode_batch(GOOD).payouts[:-1]}),
        (
            "payouts",
            {"payouts": [(account, amount + 1) for account, amount in decode_batch(GOOD).payouts]},
        ),
        ("schema", {"receipts": []}),
    ],
)
def test_lying_aggregator_is_caught_and_the_lie_is_named(
    invariant: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(BatchError) as caught:
        recompute(changed(**changes), EMPTY)
    assert caught.value.invariant == invariant


def test_left_out_receipt_breaks_its_channel() -> None:
    batch = decode_batch(GOOD)
    with pytest.raises(BatchError, match="sequence"):
        recompute(write(A[0], A[2], *B[:2]), EMPTY)
    assert len(batch.receipts) == 5


def test_receipt_cannot_be_paid_twice() -> None:
    state = recompute(GOOD, EMPTY)
    with pytest.raises(BatchError, match="sequence"):
        recompute(write(A[2], after=state), state)


def test_batch_of_another_network_is_refused() -> None:
    with pytest.raises(BatchError, match="network"):
        recompute(GOOD, EpochState(replace_network(chain_id=1)))


def test_two_bodies_for_one_place_do_not_both_count() -> None:
    twin = encoded(sign(receipt(ChannelTip(A[0].config), seed=bytes(32))))
    with pytest.raises(BatchError, match="order"):
        recompute(changed(receipts=sorted([*decode_batch(GOOD).receipts, twin])), EMPTY)


def test_mutated_batch_is_never_accepted_as_itself() -> None:
    good = recompute(GOOD, EMPTY).header
    assert good is not None
    for seed in range(400):
        data = mutate(GOOD, random.Random(seed))
        if data == GOOD:
            continue
        try:
            after = recompute(data, EMPTY)
        except BatchError:
            continue
        assert after.header is not None
        assert after.header.hash != good.hash, "another batch gave the same header"
        raise AssertionError(f"mutation {seed} was accepted")


def test_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(BatchError, match="size"):
        decode_batch(bytes(MAX_BATCH_BYTES + 1))


def test_failed_recomputation_changes_nothing() -> None:
    history = History(NETWORK)
    history.append(GOOD)
    before = history.state, history.log.size
    with pytest.raises(BatchError):
        history.append(GOOD)
    assert (history.state, history.log.size) == before


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
        "receipts",
        "payouts",
    )
    assert ReceiptBatch.__struct_fields__ == names
