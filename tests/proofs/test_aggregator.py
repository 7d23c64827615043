from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest
from coincurve import PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proofs import aggregator as module
from proofs.aggregator import Accepted, Aggregator, Duplicate, Equivocation, Rejected, Waiting
from proofs.channel import ChannelTip
from proofs.envelope import VerifiedEnvelope, open_envelope, seal_envelope
from proofs.errors import LedgerConflict
from proofs.history import History
from proofs.ledger import AggregatorLedger, Ledger
from proofs.promise import verify_evidence, verify_promise
from proofs.receipt import SignedReceipt, receipt_digest
from proofs.waiting import MAX_WAITING_PER_CHANNEL
from tests.proofs.scene import NETWORK, View, chain, config, envelope, receipt, resigned, signer

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SIGNER = signer("aggregator")
PLENTY = View(balance=1 << 40)


def fresh(path: Path | str = ":memory:") -> Aggregator:
    return Aggregator(NETWORK, SIGNER, AggregatorLedger(Ledger(path)))


def claimed(*envelopes: VerifiedEnvelope) -> dict[bytes, int]:
    return {taken.voucher.channel_id: taken.receipt.receipt.cumulative for taken in envelopes}


def test_receipts_in_order_are_promised_and_sealed_once_claimed() -> None:
    taken = chain(3)
    aggregator = fresh()
    for one in taken:
        outcome = aggregator.receive(one, PLENTY)
        assert isinstance(outcome, Accepted)
        assert verify_promise(outcome.promises[0], one.receipt.encoded, SIGNER.address, NETWORK)
    assert aggregator.seal({}) is None, "nothing is claimed yet"
    (due,) = aggregator.claims_due()
    assert (due.total, due.voucher) == (taken[2].receipt.receipt.cumulative, taken[2].voucher)
    sealed = aggregator.seal(claimed(taken[2]))
    assert sealed is not None
    assert sealed.header.num_receipts == 3
    assert History(NETWORK).append(sealed.batch).header == sealed.header
    assert aggregator.claims_due() == []
    assert aggregator.seal(claimed(taken[2])) is None


def test_only_what_is_claimed_is_sealed_so_payouts_never_exceed_claims() -> None:
    taken = chain(4)
    other = chain(2, client="other")
    aggregator = fresh()
    for one in (*taken, *other):
        aggregator.receive(one, PLENTY)
    part = claimed(taken[1])
    part[taken[0].voucher.channel_id] += 1  # more than two receipts' worth, less than three
    sealed = aggregator.seal(part)
    assert sealed is not None
    assert sealed.header.num_receipts == 2
    assert sealed.header.payout_total <= sum(part.values())
    sealed = aggregator.seal(claimed(taken[3], other[1]))
    assert sealed is not None
    assert sealed.header.num_receipts == 6
    assert sealed.header.payout_total == sum(claimed(taken[3], other[1]).values())


def test_receipts_ahead_of_their_turn_wait_and_are_taken_with_the_missing_one() -> None:
    taken = chain(5)
    aggregator = fresh()
    for index in (4, 2, 1, 3):
        assert aggregator.receive(taken[index], PLENTY) == Waiting(1, index)
    assert aggregator.receive(taken[3], PLENTY) == Waiting(1, 3), "twice is once"
    outcome = aggregator.receive(taken[0], PLENTY)
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) == 5
    aggregator.check()


def test_duplicate_is_counted_once_and_promised_again() -> None:
    taken = chain(2)
    aggregator = fresh()
    first = aggregator.receive(taken[0], PLENTY)
    assert isinstance(first, Accepted)
    assert aggregator.receive(taken[0], None) == Duplicate(first.promises[0])
    aggregator.seal(claimed(taken[0]))
    assert aggregator.receive(taken[0], PLENTY) == Duplicate(first.promises[0])
    aggregator.receive(taken[1], PLENTY)
    sealed = aggregator.seal(claimed(taken[1]))
    assert sealed is not None
    assert sealed.header.num_receipts == 2


def test_other_signatures_under_the_same_body_make_no_second_receipt() -> None:
    """Whoever holds a key can sign again with another nonce: the bytes differ, the receipt is the
    same.
    """
    first = chain(1)[0]
    aggregator = fresh()
    aggregator.receive(first, PLENTY)
    digest = receipt_digest(first.receipt.receipt, NETWORK)
    signed = SignedReceipt(
        first.receipt.signed.body,
        first.receipt.signed.node_signature,
        sign_with_nonce("client", digest, nonce=12_345),
    )
    again = open_envelope(seal_envelope(signed, first.voucher, first.config), NETWORK)
    assert again.receipt.encoded != first.receipt.encoded
    assert isinstance(aggregator.receive(again, PLENTY), Duplicate)


def sign_with_nonce(name: str, digest: bytes, nonce: int) -> bytes:
    """ECDSA by the book."""
    secret = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")
    x, y = PrivateKey.from_int(nonce).public_key.point()
    s = pow(nonce, -1, ORDER) * (int.from_bytes(digest, "big") + x * secret) % ORDER
    flip = s > ORDER // 2
    return (
        x.to_bytes(32, "big")
        + (ORDER - s if flip else s).to_bytes(32, "big")
        + bytes([27 + (y & 1 ^ flip)])
    )


@pytest.mark.parametrize("sealed_first", [False, True])
def test_second_body_for_a_place_is_kept_as_evidence_and_not_counted(sealed_first: bool) -> None:
    ledger = AggregatorLedger(Ledger(":memory:"))
    aggregator = Aggregator(NETWORK, SIGNER, ledger)
    first = chain(1)[0]
    aggregator.receive(first, PLENTY)
    if sealed_first:
        aggregator.seal(claimed(first))
    twin = resigned(ChannelTip(config()), seed=bytes([9]) * 32)
    outcome = aggregator.receive(twin, PLENTY)
    assert isinstance(outcome, Equivocation)
    assert ledger.evidence() == [outcome.evidence]
    assert verify_evidence(outcome.evidence, NETWORK) == (first.voucher.channel_id, 1)
    assert aggregator.history.log.size == int(sealed_first)


def test_two_bodies_that_both_wait_are_evidence_too() -> None:
    aggregator = fresh()
    taken = chain(2)
    tip = ChannelTip(config()).follow(taken[0].receipt, NETWORK)
    assert isinstance(aggregator.receive(taken[1], PLENTY), Waiting)
    assert isinstance(aggregator.receive(resigned(tip, seed=bytes([9]) * 32), PLENTY), Equivocation)


def test_receipt_that_follows_another_body_is_rejected_and_those_behind_it_do_not_count() -> None:
    first = chain(1)[0]
    other = resigned(ChannelTip(config()), seed=bytes([9]) * 32)
    follower = resigned(ChannelTip(config()).follow(other.receipt, NETWORK), seed=bytes([8]) * 32)
    aggregator = fresh()
    aggregator.receive(first, PLENTY)
    outcome = aggregator.receive(follower, PLENTY)
    assert isinstance(outcome, Rejected)
    assert outcome.invariant == "previous"
    aggregator = fresh()
    assert aggregator.receive(follower, PLENTY) == Waiting(1, 1)
    outcome = aggregator.receive(first, PLENTY)
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) == 1
    aggregator.check()


def test_wrong_cumulative_amount_is_rejected() -> None:
    first = chain(1)[0]
    tip = ChannelTip(config()).follow(first.receipt, NETWORK)
    aggregator = fresh()
    aggregator.receive(first, PLENTY)
    for off in (-1, 1):
        wrong = resigned(tip, cumulative=tip.cumulative + 380 + off)
        outcome = aggregator.receive(wrong, PLENTY)
        assert isinstance(outcome, Rejected)
        assert outcome.invariant == "cumulative"


@pytest.mark.parametrize(
    ("invariant", "view"), [("channel", None), ("channel", View(0)), ("balance", View(29))]
)
def test_receipt_without_money_behind_it_is_rejected(invariant: str, view: View | None) -> None:
    outcome = fresh().receive(chain(1)[0], view)
    assert isinstance(outcome, Rejected)
    assert outcome.invariant == invariant


def test_waiting_receipts_are_bounded() -> None:
    aggregator = fresh()
    taken = chain(MAX_WAITING_PER_CHANNEL + 2)
    for one in taken[1:-1]:
        assert isinstance(aggregator.receive(one, PLENTY), Waiting)
    outcome = aggregator.receive(taken[-1], PLENTY)
    assert isinstance(outcome, Rejected)
    assert outcome.invariant == "waiting"
    assert isinstance(aggregator.receive(taken[0], PLENTY), Accepted)
    assert isinstance(aggregator.receive(taken[-1], PLENTY), Accepted)
    aggregator.check()


def test_receipts_that_nobody_claims_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSEALED_PER_CHANNEL", 2)
    aggregator = fresh()
    taken = chain(3)
    for one in taken[:2]:
        aggregator.receive(one, PLENTY)
    outcome = aggregator.receive(taken[2], PLENTY)
    assert isinstance(outcome, Rejected)
    assert outcome.invariant == "unclaimed"
    aggregator.seal(claimed(taken[1]))
    assert isinstance(aggregator.receive(taken[2], PLENTY), Accepted)


def test_epoch_takes_no_more_than_a_batch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 3)
    aggregator = fresh()
    taken = chain(7)
    for one in taken:
        aggregator.receive(one, PLENTY)
    sizes = []
    while (sealed := aggregator.seal(claimed(taken[6]))) is not None:
        sizes.append(sealed.header.num_receipts)
    assert sizes == [3, 6, 7]


def test_second_aggregator_on_the_same_file_cannot_seal_another_epoch(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    taken = chain(2)
    first = fresh(path)
    first.receive(taken[0], PLENTY)
    second = fresh(path)
    assert first.seal(claimed(taken[0])) is not None
    with pytest.raises(LedgerConflict):
        second.seal(claimed(taken[0]))
    first.receive(taken[1], PLENTY)
    with pytest.raises(LedgerConflict):
        second.receive(taken[1], PLENTY)
    assert fresh(path).history.state == first.history.state


CHAINS = {
    f"client {number}": chain(6, client=f"client {number}", node=f"node {number % 2}")
    for number in range(3)
}
names = st.sampled_from(sorted(CHAINS))


class AggregatorUnderFire(RuleBasedStateMachine):
    """Receipts come late, twice, out of order and forged, and the process dies between any two of
    them: every epoch is the model's epoch.
    """

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.ledger = Ledger(self.path)
        self.aggregator = Aggregator(NETWORK, SIGNER, AggregatorLedger(self.ledger))
        self.mirror = History(NETWORK)
        self.seen: dict[str, set[int]] = {
            name: set() for name in CHAINS
        }  # arrived since the last death, or accepted
        self.accepted = dict.fromkeys(CHAINS, 0)
        self.sealed = dict.fromkeys(CHAINS, 0)
        self.forged: set[tuple[str, int]] = set()

    @rule(name=names, index=st.integers(0, 5))
    def receive(self, name: str, index: int) -> None:
        outcome = self.aggregator.receive(CHAINS[name][index], PLENTY)
        if index < self.accepted[name]:
            assert isinstance(outcome, Duplicate)
            return
        self.seen[name].add(index)
        reached = self.accepted[name]
        while reached in self.seen[name]:
            reached += 1
        if reached == self.accepted[name]:
            assert outcome == Waiting(reached + 1, index)
        else:
            assert isinstance(outcome, Accepted)
            assert len(outcome.promises) == reached - self.accepted[name]
        self.accepted[name] = reached

    @rule(name=names, index=st.integers(0, 5))
    def receive_other_body(self, name: str, index: int) -> None:
        if index >= self.accepted[name]:
            return
        original = CHAINS[name][index]
        client = name
        node = f"node {int(name[-1]) % 2}"
        tip = ChannelTip(
            original.config,
            index,
            original.receipt.receipt.previous,
            original.receipt.receipt.cumulative - original.receipt.receipt.amount,
        )
        body = receipt(tip, parties=(client, node), seed=bytes([99]) * 32)
        outcome = self.aggregator.receive(
            open_envelope(envelope(body, tip.config, client=client, node=node), NETWORK), PLENTY
        )
        assert isinstance(outcome, Equivocation)
        self.forged.add((name, index))

    @rule(share=st.sampled_from([0.0, 0.5, 1.0]))
    def seal(self, share: float) -> None:
        covered = {}
        for name, taken in CHAINS.items():
            reach = max(self.sealed[name], int(self.accepted[name] * share))
            covered[taken[0].voucher.channel_id] = (
                taken[reach - 1].receipt.receipt.cumulative if reach else 0
            )
            self.sealed[name] = reach
        sealed = self.aggregator.seal(covered)
        assert (sealed is None) == (sum(self.sealed.values()) == self.mirror.log.size)
        if sealed is not None:
            assert self.mirror.append(sealed.batch).header == sealed.header
            assert sealed.header.num_receipts == sum(self.sealed.values())
            assert sealed.header.payout_total <= sum(covered.values())

    @rule()
    def die_and_come_back(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.path)
        before = self.aggregator
        self.aggregator = Aggregator(NETWORK, SIGNER, AggregatorLedger(self.ledger))
        self.seen = {name: set(range(self.accepted[name])) for name in CHAINS}
        assert self.aggregator.history.state == before.history.state
        assert self.aggregator.claims_due() == before.claims_due()
        assert len(AggregatorLedger(self.ledger).evidence()) == len(self.forged)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "aggregator"):
            self.aggregator.check()
            assert self.aggregator.history.state == self.mirror.state
            assert self.aggregator.history.log.root() == self.mirror.state.log.root

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()


TestAggregatorUnderFire = AggregatorUnderFire.TestCase
TestAggregatorUnderFire.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
