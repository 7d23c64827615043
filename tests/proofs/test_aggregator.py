"""The aggregator's core: what it takes, what it refuses and forgets, whom it serves first, and that
every epoch is the one that a stranger recomputes.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proofs import aggregator as module
from proofs import waiting as waiting_module
from proofs.admission import Admission
from proofs.aggregator import (
    NEVER,
    Accepted,
    Aggregator,
    ChannelView,
    Duplicate,
    Equivocation,
    InGrace,
    Outcome,
    Pace,
    Rejected,
    SealedEpoch,
    Waiting,
)
from proofs.batch import decode_batch
from proofs.channel import ChannelTip
from proofs.envelope import VerifiedEnvelope, open_envelope, seal_envelope
from proofs.errors import BatchError, LedgerConflict, LedgerError
from proofs.history import History
from proofs.ledger import AggregatorLedger, Ledger
from proofs.promise import verify_evidence, verify_promise
from proofs.receipt import BARE_BASE, SignedReceipt, receipt_digest
from proofs.state import Transition
from proofs.waiting import MAX_WAITING_PER_PAYER, WAITING_S
from tests.proofs.scene import (
    ADAPTER,
    MANIFEST,
    MANIFESTS,
    NETWORK,
    PLENTY,
    address,
    chain,
    config,
    follow,
    publish,
    receipt,
    resigned,
    signer,
    terms_for,
)

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SIGNER = signer("aggregator")
NOW = 1_795_000_000
PACE = Pace(grace_s=60, promise_s=600)
EPOCH_S = 30
GRACE_S = PACE.grace_s


def fresh(path: Path | str = ":memory:") -> Aggregator:
    return Aggregator(NETWORK, SIGNER, AggregatorLedger(Ledger(path)), PACE)


def give(
    aggregator: Aggregator,
    taken: VerifiedEnvelope,
    view: ChannelView = PLENTY,
    now: int = NOW,
) -> Outcome:
    """Deliver a receipt, with its manifest where that is not known yet."""
    adapter = taken.receipt.receipt.adapter
    if adapter != BARE_BASE:
        aggregator.learn(MANIFESTS[adapter], adapter)
    return aggregator.receive(taken, view, terms_for(adapter), now)


def claimed(*envelopes: VerifiedEnvelope) -> dict[bytes, int]:
    return {taken.voucher.channel_id: taken.receipt.receipt.cumulative for taken in envelopes}


def close(
    aggregator: Aggregator, now: int = NOW, claims: dict[bytes, int] | None = None
) -> SealedEpoch | None:
    """Seal what is due; the chain says that everything is claimed, or what `claims` says."""
    due = aggregator.channels_due(now)
    read = dict.fromkeys(due, 1 << 40) if claims is None else claims
    return aggregator.seal({one: ChannelView(read.get(one, 0), NEVER) for one in due}, now)


# --- claim first, deliver then ---


def test_receipts_in_order_are_promised_by_a_deadline_and_sealed() -> None:
    taken = chain(3)
    aggregator = fresh()
    for one in taken:
        outcome = give(aggregator, one)
        assert isinstance(outcome, Accepted)
        (promise,) = outcome.promises
        assert verify_promise(promise, one.receipt.signed.body, SIGNER.address, NETWORK)
        assert promise.deadline == NOW + PACE.promise_s
    assert aggregator.channels_due(NOW) == [taken[0].voucher.channel_id]
    sealed = close(aggregator)
    assert sealed is not None
    assert sealed.header.num_receipts == 3
    assert History(NETWORK).append(sealed.batch, MANIFESTS).header == sealed.header
    assert aggregator.channels_due(NOW) == []
    assert close(aggregator) is None


@pytest.mark.parametrize("total_claimed", [0, 299])
def test_what_is_not_claimed_on_chain_is_refused_for_now(total_claimed: int) -> None:
    aggregator = fresh()
    outcome = give(aggregator, chain(1)[0], ChannelView(total_claimed, NEVER))
    assert isinstance(outcome, Rejected)
    assert (outcome.invariant, outcome.retryable) == ("unclaimed", True)
    assert isinstance(give(aggregator, chain(1)[0], ChannelView(300, NEVER)), Accepted)


def test_a_flood_of_unclaimed_receipts_leaves_no_trace_and_keeps_out_nobody(
    tmp_path: Path,
) -> None:
    """64 channels of strangers who never claim: once these filled the aggregator for good."""
    path = tmp_path / "ledger.sqlite"
    aggregator = fresh(path)
    size = path.stat().st_size
    strangers = [chain(4, client="stranger", nonce=nonce) for nonce in range(64)]
    for _ in range(20):
        for taken in strangers:
            for one in reversed(taken):
                outcome = give(aggregator, one, ChannelView(0, NEVER))
                assert isinstance(outcome, Rejected)
    assert aggregator.num_unsealed == 0
    assert path.stat().st_size == size
    aggregator = fresh(path)
    assert isinstance(give(aggregator, chain(1)[0]), Accepted)
    sealed = close(aggregator)
    assert sealed is not None
    assert sealed.header.num_receipts == 1


def test_a_payer_that_claims_fills_its_own_share_and_nobody_elses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 6)
    aggregator = fresh()
    greedy = [*chain(4, client="greedy"), *chain(4, client="greedy", nonce=1)]
    outcomes = [give(aggregator, one) for one in greedy]
    assert [isinstance(outcome, Accepted) for outcome in outcomes] == [True] * 5 + [False] * 3
    refused = outcomes[5]
    assert isinstance(refused, Rejected)
    assert (refused.invariant, refused.retryable) == ("room", True)
    assert "send this again" in refused.reason
    assert isinstance(give(aggregator, chain(1)[0]), Accepted)
    close(aggregator)
    assert isinstance(give(aggregator, greedy[5]), Accepted)
    aggregator.check()


def test_a_run_that_waited_stops_where_the_room_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 4)
    aggregator = fresh()
    taken = chain(5)
    for one in reversed(taken[1:]):
        assert isinstance(give(aggregator, one), Waiting)
    outcome = give(aggregator, taken[0])
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) == 4
    close(aggregator)
    outcome = give(aggregator, taken[4])
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) == 1


@pytest.mark.parametrize("is_bounded", [True, False])
def test_whatever_is_promised_fits_the_next_epoch(
    monkeypatch: pytest.MonkeyPatch, is_bounded: bool
) -> None:
    """An outage of any length, and a restart after it: the one epoch that follows has it all; not
    where promises are given without a bound.
    """
    if not is_bounded:
        monkeypatch.setattr(Admission, "admits", lambda *_: True)
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 20)
    ledger = Ledger(":memory:")
    aggregator = Aggregator(NETWORK, SIGNER, AggregatorLedger(ledger), PACE)
    promised: list[tuple[bytes, int]] = []
    for number in range(40):
        for one in chain(6, client=f"payer {number}"):
            if isinstance(give(aggregator, one, now=NOW + number * EPOCH_S), Accepted):
                promised.append(one.place)
    aggregator = Aggregator(NETWORK, SIGNER, AggregatorLedger(ledger), PACE)
    late = give(aggregator, chain(1, client="late")[0])
    assert isinstance(late, Rejected) == is_bounded
    sealed = close(aggregator, NOW + 100 * PACE.promise_s)
    assert sealed is not None
    tips = [(aggregator.state.find_tip(channel), sequence) for channel, sequence in promised]
    kept = [tip is not None and tip.sequence >= sequence for tip, sequence in tips]
    assert all(kept) == is_bounded
    assert (len(promised) == 20) == is_bounded


def test_who_found_no_room_is_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast a crowd asks after each epoch, who asked before it comes before it."""
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 4)
    aggregator = fresh()
    crowd = [chain(9, client=f"newcomer {number}") for number in range(12)]
    for taken in crowd[:4]:
        assert isinstance(give(aggregator, taken[0]), Accepted)
    honest = chain(1)[0]
    assert isinstance(give(aggregator, honest), Rejected)
    close(aggregator)
    accepted = [isinstance(give(aggregator, taken[0]), Accepted) for taken in crowd[4:]]
    assert accepted == [True] * 3 + [False] * 5, "one place is kept"
    assert isinstance(give(aggregator, honest), Accepted)


# --- served is paid: receipts that only the node signed ---


def test_a_client_that_never_signs_pays_all_the_same_after_the_grace() -> None:
    aggregator = fresh()
    taken = chain(3, cosigned=False)
    for one in taken[:2]:
        assert give(aggregator, one) in (InGrace(NOW + GRACE_S), Waiting(1, 1))
    assert give(aggregator, taken[0], now=NOW + GRACE_S - 1) == InGrace(NOW + GRACE_S)
    assert close(aggregator) is None
    outcome = give(aggregator, taken[0], now=NOW + GRACE_S)
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) == 2, "the second's grace ran beside the first's"
    sealed = close(aggregator, NOW + GRACE_S)
    assert sealed is not None
    assert History(NETWORK).append(sealed.batch, MANIFESTS).header == sealed.header
    assert aggregator.state.amount(address("owner")) > 0


def test_a_co_signature_in_the_grace_makes_the_receipt_good_at_once() -> None:
    aggregator = fresh()
    alone = chain(1, cosigned=False)[0]
    assert isinstance(give(aggregator, alone), InGrace)
    assert isinstance(give(aggregator, chain(1)[0], now=NOW + 1), Accepted)
    assert isinstance(give(aggregator, alone, now=NOW + 2), Duplicate)


def test_a_co_signed_receipt_has_the_place_until_the_grace_ends_and_not_after() -> None:
    """The node signed twice; what the client signed too is what was agreed on."""
    alone = resigned(ChannelTip(config()), cosigned=False, seed=bytes([9]) * 32)
    agreed = chain(1)[0]
    ledger = AggregatorLedger(Ledger(":memory:"))
    aggregator = Aggregator(NETWORK, SIGNER, ledger, PACE)
    assert isinstance(give(aggregator, alone), InGrace)
    assert isinstance(give(aggregator, agreed, now=NOW + GRACE_S - 1), Accepted)
    assert len(ledger.evidence()) == 1
    assert isinstance(give(aggregator, alone, now=NOW + GRACE_S), Equivocation)
    late = fresh()
    give(late, alone)
    assert isinstance(give(late, alone, now=NOW + GRACE_S), Accepted)
    assert isinstance(give(late, agreed, now=NOW + GRACE_S), Equivocation)


def test_one_body_alone_does_not_push_out_another_that_was_there_first() -> None:
    aggregator = fresh()
    first = chain(1, cosigned=False)[0]
    second = resigned(ChannelTip(config()), cosigned=False, seed=bytes([9]) * 32)
    give(aggregator, first)
    assert isinstance(give(aggregator, second, now=NOW + GRACE_S), Equivocation)
    assert isinstance(give(aggregator, first, now=NOW + GRACE_S), Accepted)


def test_a_late_co_signature_is_published_though_the_nodes_alone_was_taken() -> None:
    aggregator = fresh()
    give(aggregator, chain(1, cosigned=False)[0])
    accepted = give(aggregator, chain(1, cosigned=False)[0], now=NOW + GRACE_S)
    assert isinstance(accepted, Accepted)
    duplicate = give(aggregator, chain(1)[0], now=NOW + 2 * GRACE_S)
    assert duplicate == Duplicate(accepted.promises[0])
    sealed = close(aggregator)
    assert sealed is not None
    assert chain(1)[0].receipt.encoded in sealed.batch


# --- shares follow from the manifest ---


def test_a_receipt_whose_manifest_nobody_showed_is_not_taken() -> None:
    """It may name an adapter that does not exist; then it is nobody's."""
    aggregator = Aggregator(NETWORK, SIGNER, AggregatorLedger(Ledger(":memory:")), PACE)
    outcome = aggregator.receive(chain(1)[0], PLENTY, None, NOW)
    assert isinstance(outcome, Rejected)
    assert (outcome.invariant, outcome.retryable) == ("manifest", True)
    outcome = aggregator.receive(chain(1)[0], PLENTY, terms_for(ADAPTER), NOW)
    assert isinstance(outcome, Rejected), "the terms must come from a manifest that is here"
    assert outcome.invariant == "manifest"
    assert aggregator.learn(MANIFEST, ADAPTER) == terms_for(ADAPTER)
    assert isinstance(give(aggregator, chain(1)[0]), Accepted)


def test_manifests_of_receipts_that_are_not_taken_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One claimed channel, and a new adapter for each of many receipts that do not follow."""
    monkeypatch.setattr(module, "MAX_LEARNT", 3)
    path = tmp_path / "ledger"
    ledger = AggregatorLedger(Ledger(path))
    aggregator = Aggregator(NETWORK, SIGNER, ledger, PACE)
    adapters = [publish(number) for number in range(8)]
    for adapter in adapters:
        stray = resigned(ChannelTip(config()), adapter=adapter, payouts=bytes(32))
        assert isinstance(give(aggregator, stray), Rejected)
    assert all(ledger.find_manifest(adapter) is None for adapter in adapters)
    known = [adapter for adapter in adapters if aggregator.find_terms(adapter)]
    assert known == adapters[-3:]
    taken = resigned(ChannelTip(config()), adapter=adapters[0])
    assert isinstance(give(aggregator, taken), Accepted)
    assert ledger.find_manifest(adapters[0]) == MANIFESTS[adapters[0]]
    assert fresh(path).find_terms(adapters[0]) == terms_for(adapters[0])


def test_a_receipt_in_grace_whose_manifest_was_forgotten_asks_for_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_LEARNT", 1)
    aggregator = fresh()
    alone = chain(2, cosigned=False)
    assert isinstance(give(aggregator, alone[0]), InGrace)
    assert isinstance(give(aggregator, alone[1]), Waiting)
    other = publish(0)
    aggregator.learn(MANIFESTS[other], other)
    late = NOW + GRACE_S
    outcome = aggregator.receive(alone[0], PLENTY, terms_for(ADAPTER), late)
    assert isinstance(outcome, Rejected)
    assert outcome.invariant == "manifest"
    outcome = give(aggregator, alone[0], now=late)
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) == 2


def test_new_adapters_are_few_in_an_epoch_and_one_payers_do_not_keep_out_anothers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever recomputes fetches every new manifest, so an epoch may not name thousands."""
    monkeypatch.setattr(module, "MAX_BATCH_ADAPTERS", 3)
    aggregator = fresh()
    tips = [ChannelTip(config("greedy", nonce=number)) for number in range(9)]
    greedy = [
        resigned(tip, client="greedy", adapter=publish(number)) for number, tip in enumerate(tips)
    ]
    honest = chain(1)[0]
    outcomes = [give(aggregator, one) for one in greedy[:2]]
    outcomes += [give(aggregator, one) for one in (honest, *greedy[2:])]
    assert [isinstance(outcome, Accepted) for outcome in outcomes] == [True] * 3 + [False] * 7
    assert isinstance(outcomes[7], Rejected)
    assert (outcomes[7].invariant, outcomes[7].retryable) == ("room", True)
    again = resigned(ChannelTip(config("greedy", nonce=99)), client="greedy", adapter=publish(0))
    assert isinstance(give(aggregator, again), Accepted), "one that is there already"
    sizes = []
    while (sealed := close(aggregator)) is not None:
        sizes.append(len(decode_batch(sealed.batch).adapters))
        for one in greedy:
            give(aggregator, one)
        aggregator.check()
    assert sizes == [3, 3, 3, 1]


def test_a_node_cannot_keep_the_creators_part_though_its_client_signed_that() -> None:
    tip = ChannelTip(config())
    plain = receipt(tip, adapter=BARE_BASE, tokens=7)
    outcome = give(fresh(), resigned(tip, payouts=plain.payouts, tokens=7))
    assert isinstance(outcome, Rejected)
    assert (outcome.invariant, outcome.retryable) == ("payouts", False)


def test_a_fee_below_the_least_fee_of_its_shares_is_refused() -> None:
    """Thousands of accounts for a few cents: each share of each receipt costs something."""
    tip = ChannelTip(config())
    dust = resigned(tip, tokens=0, prompt_price=1, amount=3, cumulative=3)
    outcome = give(fresh(), dust)
    assert isinstance(outcome, Rejected)
    assert outcome.invariant == "amount"


# --- order ---


def test_receipts_ahead_of_their_turn_wait_and_are_taken_with_the_missing_one() -> None:
    taken = chain(5)
    aggregator = fresh()
    for index in (4, 2, 1, 3):
        assert give(aggregator, taken[index]) == Waiting(1, index)
    assert give(aggregator, taken[3]) == Waiting(1, 3), "twice is once"
    outcome = give(aggregator, taken[0])
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) == 5
    aggregator.check()


def test_duplicate_is_counted_once_and_promised_the_same_again() -> None:
    taken = chain(2)
    aggregator = fresh()
    first = give(aggregator, taken[0])
    assert isinstance(first, Accepted)
    assert give(aggregator, taken[0], ChannelView(0, NEVER), NOW + 500) == Duplicate(
        first.promises[0]
    )
    close(aggregator)
    assert give(aggregator, taken[0], now=NOW + 900) == Duplicate(first.promises[0])
    give(aggregator, taken[1])
    sealed = close(aggregator)
    assert sealed is not None
    assert sealed.header.num_receipts == 2


def test_other_signatures_under_the_same_body_make_no_second_receipt() -> None:
    """Whoever holds a key can sign again with another nonce: the bytes differ, the receipt is the
    same, and so is its promise.
    """
    first = chain(1)[0]
    aggregator = fresh()
    accepted = give(aggregator, first)
    assert isinstance(accepted, Accepted)
    digest = receipt_digest(first.receipt.receipt, NETWORK)
    signed = SignedReceipt(
        first.receipt.signed.body,
        first.receipt.signed.node_signature,
        sign_with_nonce("client", digest, nonce=12_345),
    )
    again = open_envelope(seal_envelope(signed, first.voucher, first.config), NETWORK)
    assert again.receipt.encoded != first.receipt.encoded
    assert give(aggregator, again) == Duplicate(accepted.promises[0])


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
    aggregator = Aggregator(NETWORK, SIGNER, ledger, PACE)
    first = chain(1)[0]
    give(aggregator, first)
    if sealed_first:
        close(aggregator)
    twin = resigned(ChannelTip(config()), seed=bytes([9]) * 32)
    outcome = give(aggregator, twin)
    assert isinstance(outcome, Equivocation)
    assert ledger.evidence() == [outcome.evidence]
    assert verify_evidence(outcome.evidence, NETWORK) == (first.voucher.channel_id, 1)
    assert aggregator.state.log.size == int(sealed_first)


def test_two_bodies_that_both_wait_are_evidence_too() -> None:
    aggregator = fresh()
    taken = chain(2)
    tip = follow(ChannelTip(config()), taken[0].receipt)
    assert isinstance(give(aggregator, taken[1]), Waiting)
    assert isinstance(give(aggregator, resigned(tip, seed=bytes([9]) * 32)), Equivocation)


def test_a_node_that_signs_twice_for_ever_fills_no_disk() -> None:
    """For places that nobody can reach, with a cumulative that its few claimed units cover."""
    ledger = AggregatorLedger(Ledger(":memory:"))
    aggregator = Aggregator(NETWORK, SIGNER, ledger, PACE)
    tip = ChannelTip(config())
    for sequence in range(2, 40):
        for seed in (1, 2):
            place = {"sequence": sequence, "previous": bytes([7]) * 32}
            give(aggregator, resigned(tip, seed=bytes([seed]) * 32, **place))
    assert len(ledger.evidence()) == 16
    aggregator.check()


def test_receipt_that_follows_another_body_is_rejected_and_those_behind_it_do_not_count() -> None:
    first = chain(1)[0]
    other = resigned(ChannelTip(config()), seed=bytes([9]) * 32)
    follower = resigned(follow(ChannelTip(config()), other.receipt), seed=bytes([8]) * 32)
    aggregator = fresh()
    give(aggregator, first)
    outcome = give(aggregator, follower)
    assert isinstance(outcome, Rejected)
    assert outcome.invariant == "previous"
    aggregator = fresh()
    assert give(aggregator, follower) == Waiting(1, 1)
    outcome = give(aggregator, first)
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) == 1
    aggregator.check()


def test_wrong_cumulative_amount_is_rejected() -> None:
    first = chain(1)[0]
    tip = follow(ChannelTip(config()), first.receipt)
    aggregator = fresh()
    give(aggregator, first)
    right = receipt(tip).cumulative
    for off in (-1, 1):
        outcome = give(aggregator, resigned(tip, cumulative=right + off))
        assert isinstance(outcome, Rejected)
        assert outcome.invariant == "cumulative"


def test_waiting_receipts_are_bounded_by_payer_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "MAX_WAITING_PER_PAYER", 3)
    aggregator = fresh()
    taken = chain(6)
    for one in taken[1:4]:
        assert isinstance(give(aggregator, one), Waiting)
    outcome = give(aggregator, taken[4])
    assert isinstance(outcome, Rejected)
    assert (outcome.invariant, outcome.retryable) == ("waiting", True)
    assert isinstance(give(aggregator, chain(2, client="other")[1]), Waiting)
    assert isinstance(give(aggregator, taken[4], now=NOW + WAITING_S), Waiting)
    outcome = give(aggregator, taken[0])
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) == 1, "the others are forgotten"
    aggregator.check()


def test_a_full_waiting_room_makes_room_for_who_has_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "MAX_WAITING", 4)
    aggregator = fresh()
    greedy = chain(6, client="greedy")
    for one in greedy[1:5]:
        assert isinstance(give(aggregator, one), Waiting)
    assert isinstance(give(aggregator, greedy[5]), Rejected)
    for name in ("a", "b", "c", "d"):
        assert isinstance(give(aggregator, chain(2, client=name)[1]), Waiting)
        aggregator.check()
    outcome = give(aggregator, greedy[0])
    assert isinstance(outcome, Accepted)
    assert len(outcome.promises) <= 2
    assert MAX_WAITING_PER_PAYER > 4


# --- epochs ---


def test_only_what_is_still_claimed_is_sealed_so_payouts_never_exceed_claims() -> None:
    taken = chain(4)
    other = chain(2, client="other")
    aggregator = fresh()
    for one in (*taken, *other):
        give(aggregator, one)
    part = claimed(taken[1])
    part[taken[0].voucher.channel_id] += 1  # more than two receipts' worth, less than three
    sealed = close(aggregator, claims=part)
    assert sealed is not None
    assert sealed.header.num_receipts == 2
    assert sealed.header.payout_total <= sum(part.values())
    sealed = close(aggregator, claims=claimed(taken[3], other[1]))
    assert sealed is not None
    assert sealed.header.num_receipts == 6
    assert sealed.header.payout_total == sum(claimed(taken[3], other[1]).values())


def test_a_channel_whose_claim_vanished_holds_up_nobody_and_is_asked_about_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aggregator = fresh()
    vanished = chain(2, client="vanished")
    honest = chain(3)
    for one in (*vanished, *honest):
        give(aggregator, one)
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 2)
    gone = vanished[0].voucher.channel_id
    covered = claimed(honest[2])
    while (sealed := close(aggregator, claims=covered)) is not None:
        assert gone in aggregator.channels_due(NOW)
        last = sealed
    assert last.header.num_receipts == 3
    sealed = close(aggregator)
    assert sealed is not None
    assert sealed.header.num_receipts == 5
    assert aggregator.channels_due(NOW) == []
    aggregator.check()


def test_a_channel_that_left_is_neither_taken_nor_sealed() -> None:
    """Whoever moves a channel in a header after its exit is convicted."""
    aggregator = fresh()
    taken = chain(3)
    later = ChannelView(1 << 40, NOW + PACE.promise_s + 1)
    soon = ChannelView(1 << 40, NOW + PACE.promise_s)
    assert isinstance(give(aggregator, taken[0], later), Accepted)
    outcome = give(aggregator, taken[1], soon)
    assert isinstance(outcome, Rejected)
    assert (outcome.invariant, outcome.retryable) == ("left", False)
    other = chain(1, client="other")[0]
    give(aggregator, other)
    channel = taken[0].voucher.channel_id
    sealed = aggregator.seal({channel: soon, other.voucher.channel_id: PLENTY}, NOW)
    assert sealed is not None
    assert sealed.header.num_receipts == 1
    assert aggregator.seal({channel: later}, NOW) is not None


def test_one_payer_with_many_receipts_does_not_make_another_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of receipts once made the honest one wait thirteen epochs."""
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 20)
    aggregator = fresh()
    spam = chain(150, client="spammer")
    honest = [chain(2, client=name)[0] for name in ("a", "b", "c")]
    taken = [give(aggregator, one) for one in spam]
    assert sum(isinstance(one, Accepted) for one in taken) == 16
    for one in honest:
        assert isinstance(give(aggregator, one), Accepted)
    close(aggregator)
    for one in honest:
        assert aggregator.state.find_tip(one.voucher.channel_id) is not None
    tip = aggregator.state.find_tip(spam[0].voucher.channel_id)
    assert tip is not None
    assert tip.sequence == 16


def test_payers_take_turns_when_an_epoch_must_leave_some_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after epochs that were taken back: their receipts stand in line once more."""
    aggregator = fresh()
    chains = {name: chain(2, client=name) for name in "abcde"}
    for taken in chains.values():
        for one in taken:
            give(aggregator, one)
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 2)
    for _ in range(3):
        close(aggregator)
    reached = [aggregator.state.find_tip(taken[0].voucher.channel_id) for taken in chains.values()]
    assert [tip and tip.sequence for tip in reached] == [2, 1, 1, 1, 1]


def test_every_promise_is_kept_though_payers_come_and_push_in_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is promised fits the next epoch, and each payer comes to its turn."""
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 8)
    aggregator = fresh()
    deadlines: dict[tuple[bytes, int], int] = {}
    now = NOW
    waiting = [*chain(90, client="busy")]
    crowd = [list(chain(8, client=f"newcomer {number}")) for number in range(30)]
    rounds = 0
    while waiting or any(crowd) or deadlines:
        for line in (waiting, *crowd):
            while line:
                outcome = give(aggregator, line[0], now=now)
                if not isinstance(outcome, Accepted):
                    break
                deadlines[line.pop(0).place] = outcome.promises[0].deadline
        sealed = close(aggregator, now)
        assert sealed is not None
        for place, deadline in list(deadlines.items()):
            tip = aggregator.state.find_tip(place[0])
            if tip is not None and tip.sequence >= place[1]:
                assert now <= deadline
                del deadlines[place]
        assert not deadlines, "all of it is in the next epoch"
        now += EPOCH_S
        rounds += 1
    assert rounds <= (90 + 30 * 8) // 8 + 3, "nothing is left free that somebody wants"


def test_epoch_takes_no_more_than_a_batch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    aggregator = fresh()
    for one in chain(7):
        give(aggregator, one)
    monkeypatch.setattr(module, "MAX_BATCH_RECEIPTS", 3)
    sizes = []
    while (sealed := close(aggregator)) is not None:
        sizes.append(sealed.header.num_receipts)
    assert sizes == [3, 6, 7]


# --- a chain that changes its mind, a lost disk ---


def test_what_was_sealed_and_not_posted_can_be_unsealed_and_is_sealed_again() -> None:
    aggregator = fresh()
    taken = chain(4)
    for one in taken[:2]:
        give(aggregator, one)
    first = close(aggregator)
    give(aggregator, taken[2])
    second = close(aggregator)
    give(aggregator, taken[3])
    assert first is not None
    assert second is not None
    aggregator.unseal(2)
    aggregator.check()
    assert aggregator.state.header == first.header
    assert close(aggregator, claims=claimed(taken[1])) is None, "its claim is gone"
    third = close(aggregator)
    assert third is not None
    assert (third.header.epoch, third.header.num_receipts) == (2, 4)
    assert third.header.previous == first.header.hash
    aggregator.unseal(1)
    assert aggregator.state.header is None
    again = close(aggregator)
    assert again is not None
    assert (again.header.epoch, again.header.num_receipts) == (1, 4)


def test_unsealing_goes_back_further_than_the_state_remembers(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    aggregator = fresh(path)
    headers = []
    for one in chain(20):
        give(aggregator, one)
        sealed = close(aggregator)
        assert sealed is not None
        headers.append(sealed.header)
        if sealed.header.epoch in (3, 7, 18):
            aggregator.write_checkpoint()
    aggregator.unseal(2)
    assert aggregator.state.header == headers[0]
    assert aggregator.num_unsealed == 19
    aggregator.check()
    assert fresh(path).state.header == headers[0]


def test_an_unsealed_batch_that_the_chain_took_after_all_is_adopted() -> None:
    ledger = AggregatorLedger(Ledger(":memory:"))
    aggregator = Aggregator(NETWORK, SIGNER, ledger, PACE)
    taken = chain(3)
    for one in taken[:2]:
        give(aggregator, one)
    sealed = close(aggregator)
    assert sealed is not None
    aggregator.unseal(1)
    give(aggregator, taken[2])
    batch = ledger.find_unsealed_batch(sealed.header.encoded)
    assert batch == sealed.batch
    assert aggregator.adopt(batch, MANIFESTS, NOW) == sealed
    assert aggregator.num_unsealed == 1
    aggregator.check()
    assert isinstance(give(aggregator, taken[0]), Duplicate)


def test_a_lost_ledger_is_rebuilt_from_the_published_batches() -> None:
    original = fresh()
    batches = []
    taken = chain(5)
    for one in taken[:4]:
        give(original, one)
        sealed = close(original)
        assert sealed is not None
        batches.append(sealed.batch)
    rebuilt = Aggregator(NETWORK, SIGNER, AggregatorLedger(Ledger(":memory:")), PACE)
    with pytest.raises(BatchError):
        rebuilt.adopt(batches[1], MANIFESTS, NOW)
    for batch in batches:
        rebuilt.adopt(batch, MANIFESTS, NOW)
    assert rebuilt.state.header == original.state.header
    duplicate = give(rebuilt, taken[1])
    assert isinstance(duplicate, Duplicate)
    assert duplicate.promise.deadline >= NOW
    twin = resigned(follow(ChannelTip(config()), taken[0].receipt), seed=bytes([9]) * 32)
    assert isinstance(give(rebuilt, twin), Equivocation)
    assert isinstance(give(rebuilt, taken[4]), Accepted)
    rebuilt.check()


def test_a_batch_of_the_chain_takes_the_place_of_what_was_accepted_instead() -> None:
    """The same key ran twice: what the other one posted is what counts."""
    elsewhere = fresh()
    twin = resigned(ChannelTip(config()), seed=bytes([9]) * 32)
    give(elsewhere, twin)
    sealed = close(elsewhere)
    assert sealed is not None
    aggregator = fresh()
    for one in chain(2):
        give(aggregator, one)
    aggregator.adopt(sealed.batch, MANIFESTS, NOW)
    assert aggregator.num_unsealed == 0
    aggregator.check()
    following = resigned(follow(ChannelTip(config()), twin.receipt))
    assert isinstance(give(aggregator, following), Accepted)


def test_restart_reads_a_checkpoint_and_verifies_only_what_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    aggregator = fresh(path)
    taken = chain(6)
    for number, one in enumerate(taken):
        give(aggregator, one)
        close(aggregator)
        if number == 3:
            assert not aggregator.is_checkpoint_due
            monkeypatch.setattr(module, "CHECKPOINT_RECEIPTS", 4)
            assert aggregator.is_checkpoint_due
            aggregator.write_checkpoint()
            assert not aggregator.is_checkpoint_due
    appended: list[bytes] = []
    plain = History.append

    def append(history: History, batch: bytes, *told: Any, **named: Any) -> Transition:
        appended.append(batch)
        return plain(history, batch, *told, **named)

    monkeypatch.setattr(History, "append", append)
    again = fresh(path)
    assert len(appended) == 2
    assert again.state.header == aggregator.state.header
    again.state.check()


def test_a_checkpoint_of_another_key_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    aggregator = fresh(path)
    give(aggregator, chain(1)[0])
    close(aggregator)
    aggregator.write_checkpoint()
    with pytest.raises(LedgerError, match="written by"):
        Aggregator(NETWORK, signer("mallory"), AggregatorLedger(Ledger(path)), PACE)


def test_second_aggregator_on_the_same_file_cannot_seal_another_epoch(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    taken = chain(2)
    first = fresh(path)
    give(first, taken[0])
    second = fresh(path)
    assert close(first) is not None
    with pytest.raises(LedgerConflict):
        close(second)
    give(first, taken[1])
    with pytest.raises(LedgerConflict):
        give(second, taken[1])
    assert fresh(path).state.header == first.state.header


CHAINS = {
    f"client {number}": chain(
        6, client=f"client {number}", node=f"node {number % 2}", cosigned=number != 1
    )
    for number in range(4)
}
names = st.sampled_from(sorted(CHAINS))


class AggregatorUnderFire(RuleBasedStateMachine):
    """Receipts come late, twice, out of order and forged, some with one signature; epochs are taken
    back, and the process dies between any two of them: every epoch is the model's epoch.
    """

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.ledger = Ledger(self.path)
        self.aggregator = Aggregator(NETWORK, SIGNER, AggregatorLedger(self.ledger), PACE)
        self.mirror = History(NETWORK)
        self.now = NOW
        # when each arrived since the last death; an accepted one stays
        self.seen: dict[str, dict[int, int]] = {name: {} for name in CHAINS}
        self.accepted = dict.fromkeys(CHAINS, 0)
        self.reached: list[dict[str, int]] = [dict.fromkeys(CHAINS, 0)]  # after each epoch
        self.forged: set[tuple[str, int]] = set()

    @rule(name=names, index=st.integers(0, 5), later=st.integers(0, 40))
    def receive(self, name: str, index: int, later: int) -> None:
        self.now += later
        outcome = give(self.aggregator, CHAINS[name][index], now=self.now)
        if index < self.accepted[name]:
            assert isinstance(outcome, Duplicate)
            return
        self.seen[name].setdefault(index, self.now)
        if index > self.accepted[name]:
            assert outcome == Waiting(self.accepted[name] + 1, index)
            return
        reached = index
        while self.is_ripe(name, reached):
            reached += 1
        if reached == index:
            assert outcome == InGrace(self.seen[name][index] + GRACE_S)
        else:
            assert isinstance(outcome, Accepted)
            assert len(outcome.promises) == reached - index
        self.accepted[name] = reached

    def is_ripe(self, name: str, index: int) -> bool:
        since = self.seen[name].get(index)
        if since is None:
            return False
        return CHAINS[name][0].receipt.is_cosigned or self.now >= since + GRACE_S

    @rule(name=names, index=st.integers(0, 5))
    def receive_other_body(self, name: str, index: int) -> None:
        if index >= self.accepted[name]:
            return
        original = CHAINS[name][index]
        tip = ChannelTip(original.config)
        for earlier in CHAINS[name][:index]:
            tip = follow(tip, earlier.receipt)
        node = f"node {int(name[-1]) % 2}"
        twin = resigned(tip, client=name, node=node, seed=bytes([99]) * 32)
        assert isinstance(give(self.aggregator, twin, now=self.now), Equivocation)
        self.forged.add((name, index))

    @rule(share=st.sampled_from([0.0, 0.5, 1.0]))
    def seal(self, share: float) -> None:
        before = self.reached[-1]
        covered = {}
        after = {}
        for name, taken in CHAINS.items():
            reach = max(before[name], int(self.accepted[name] * share))
            covered[taken[0].voucher.channel_id] = (
                taken[reach - 1].receipt.receipt.cumulative if reach else 0
            )
            after[name] = reach
        sealed = close(self.aggregator, self.now, covered)
        assert (sealed is None) == (after == before)
        if sealed is not None:
            assert self.mirror.append(sealed.batch, MANIFESTS).header == sealed.header
            assert sealed.header.num_receipts == sum(after.values())
            assert sealed.header.payout_total <= sum(covered.values())
            self.reached.append(after)

    @rule(back=st.integers(1, 3))
    def take_back(self, back: int) -> None:
        first = max(1, len(self.reached) - back)
        if first >= len(self.reached):
            return
        self.aggregator.unseal(first)
        assert self.mirror.revert(first - 1)
        del self.reached[first:]

    @rule()
    def write_checkpoint(self) -> None:
        if len(self.reached) > 1:
            self.aggregator.write_checkpoint()

    @rule()
    def die_and_come_back(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.path)
        before = self.aggregator
        self.aggregator = Aggregator(NETWORK, SIGNER, AggregatorLedger(self.ledger), PACE)
        for name, seen in self.seen.items():
            self.seen[name] = {i: at for i, at in seen.items() if i < self.accepted[name]}
        assert self.aggregator.num_unsealed == before.num_unsealed
        assert len(AggregatorLedger(self.ledger).evidence()) == len(self.forged)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "aggregator"):
            self.aggregator.check()
            assert self.aggregator.state.header == self.mirror.state.header
            assert self.aggregator.state.log.root() == self.mirror.state.log.root()
            waiting = sum(self.accepted.values()) - sum(self.reached[-1].values())
            assert self.aggregator.num_unsealed == waiting

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.aggregator.state.check()
            self.ledger.close()
            self.folder.cleanup()


TestAggregatorUnderFire = AggregatorUnderFire.TestCase
TestAggregatorUnderFire.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
