from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.channel import ChannelTip
from proofs.errors import EvidenceError, ProofError
from proofs.evidence import (
    MAX_EVIDENCE_BYTES,
    check_evidence,
    read_evidence,
    read_false,
    show_false_verdict,
    show_two_receipts,
)
from proofs.stake import Holding, StakeTerms
from tests.golden import other
from tests.golden.evidences import two_receipts
from tests.golden.receipts import draft, sign
from tests.golden.world import AGGREGATOR, CONFIG, NETWORK, NODE

VECTORS = other.load("evidence")
ACCEPTED = [other.unhex(one["hex"]) for one in VECTORS["accept"]]
CULPRITS = [NODE.address, *[AGGREGATOR.address] * 3]


@pytest.mark.parametrize("vector", VECTORS["accept"], ids=lambda vector: vector["why"])
def test_evidence_names_whose_stake_it_costs(vector: dict[str, Any]) -> None:
    found = read_evidence(other.unhex(vector["hex"]), NETWORK)
    assert check_evidence(found, NETWORK) == other.unhex(vector["culprit"])
    assert check_evidence(found, NETWORK) in CULPRITS


@pytest.mark.parametrize("vector", VECTORS["refuse"], ids=lambda vector: vector["why"])
def test_what_shows_no_offence_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError) as refused:
        read_evidence(other.unhex(vector["hex"]), NETWORK)
    assert refused.value.rule == vector["rule"]


def test_two_receipts_have_one_byte_form_whoever_writes_them_down() -> None:
    first, second = two_receipts()
    found = show_two_receipts(CONFIG, first, second, NETWORK)
    assert found == show_two_receipts(CONFIG, second, first, NETWORK)


def test_receipts_that_a_node_may_sign_are_no_offence() -> None:
    first, _ = two_receipts()
    with pytest.raises(EvidenceError, match="order"):
        show_two_receipts(CONFIG, first, first, NETWORK)
    later = draft(ChannelTip(CONFIG), 50)
    later = msgspec.structs.replace(later, sequence=2, previous=bytes([1]) * 32)
    with pytest.raises(EvidenceError, match="different places"):
        show_two_receipts(CONFIG, first, sign(later), NETWORK)


def test_an_honest_attestation_is_no_offence() -> None:
    for vector in other.load("attestation")["accept"]:
        with pytest.raises(EvidenceError, match="nothing in it"):
            show_false_verdict(other.unhex(vector["hex"]), NETWORK)


def test_the_contract_is_shown_all_but_the_signature() -> None:
    told = read_evidence(ACCEPTED[1], NETWORK)
    record, signature = read_false(told.attestation)
    assert record[0] == 0x98
    assert told.attestation == b"\x99" + record[1:] + b"\xc4\x41" + signature


def test_more_bytes_than_a_transaction_carries_are_not_read() -> None:
    with pytest.raises(EvidenceError, match="at most"):
        read_evidence(bytes(MAX_EVIDENCE_BYTES + 1), NETWORK)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.integers(0, 3), st.data())
def test_a_changed_byte_accuses_nobody_who_did_not_sign(which: int, data: st.DataObject) -> None:
    good = ACCEPTED[which]
    changed = bytearray(good)
    changed[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = read_evidence(bytes(changed), NETWORK)
    except EvidenceError:
        return
    # Of an attestation whoever signed those bytes is accused: a key that nobody has.
    assert which > 0
    assert check_evidence(found, NETWORK) not in CULPRITS


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProofError):
        read_evidence(data, NETWORK)


TERMS = StakeTerms(thaw=1, per_answer=100, slash_bps=3_000, cap=1_000, bounty_bps=1_000)


def test_stake_is_enough_for_whole_answers() -> None:
    assert TERMS.needed(3) == 300
    assert (TERMS.covers(299), TERMS.covers(300)) == (2, 3)


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_an_offence_never_costs_all_nor_more_than_the_cap(counted: int, thawing: int) -> None:
    lost = TERMS.lost(counted, thawing)
    assert lost <= min(TERMS.cap, counted + thawing)
    assert not lost or lost < counted + thawing
    assert 2 * TERMS.bounty(lost) <= lost


@given(st.integers(1, 10**30), st.integers(1, 10**6), st.integers(1, 10**31))
def test_shares_are_worth_at_least_what_is_asked_for(amount: int, ratio: int, asked: int) -> None:
    own = Holding(amount * ratio, amount, 0, ready_at=0)
    shares = own.shares_of(asked)
    assert shares <= own.shares
    assert shares * own.amount // own.shares >= min(asked, own.amount)
