"""Which version of the parameters a receipt may name, and that its fee is divided by that one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.aggregator import Accepted, Aggregator, Rejected
from proofs.attribution.shares import POLICY
from proofs.batch import compose, follow, recompute
from proofs.channel import ChannelTip
from proofs.envelope import open_envelope
from proofs.errors import BatchError, ReceiptError
from proofs.ledger import AggregatorLedger, Ledger
from proofs.parameters import CREATOR_SHARE, DEFAULTS, LEAST_FEE, MOST_LAMBDA, Version
from proofs.policies import NAMED_S, TAKEN_S, UNGOVERNED, Policies, named_in, policies_of
from proofs.receipt import check_fee, derive_shares, verify_receipt
from proofs.state import EpochState
from tests.proofs.scene import (
    ADAPTER,
    MANIFEST,
    MANIFESTS,
    NETWORK,
    PLENTY,
    TERMS,
    config,
    envelope,
    receipt,
    sign,
    signer,
)

SECOND = Version(2, 2_000, {**DEFAULTS, CREATOR_SHARE: 3_000, LEAST_FEE: 700, MOST_LAMBDA: 1})
VERSIONS = (Version(1, 1_000, DEFAULTS), SECOND, Version(3, 3_000, DEFAULTS))
NOW = 1_795_000_000


def names(policies: Policies) -> list[int]:
    return list(range(policies.first, policies.last + 1))


def of_version(number: int, **changes: object):
    """The first receipt of a channel, by this version of the parameters."""
    policies = policies_of(VERSIONS)
    return receipt(ChannelTip(config()), policies=policies, parameters=number, **changes)


def test_a_receipt_may_name_what_is_in_force_and_what_was_until_long_ago() -> None:
    assert names(named_in((), 5)) == [0]
    assert names(named_in(VERSIONS, 0)) == [0, 1], "the first holds from the beginning"
    assert names(named_in(VERSIONS, 1_999)) == [0, 1]
    assert names(named_in(VERSIONS, 2_000)) == [0, 1, 2]
    assert names(named_in(VERSIONS, 2_000 + NAMED_S - 1)) == [1, 2, 3]
    assert names(named_in(VERSIONS, 2_000 + NAMED_S)) == [2, 3]
    assert names(named_in(VERSIONS, 3_000 + NAMED_S)) == [3]


@given(st.lists(st.integers(1, 10 * NAMED_S), max_size=6), st.integers(0, 20 * NAMED_S))
def test_whoever_takes_receipts_into_later_epochs_takes_no_older_one(
    since: list[int], began_at: int
) -> None:
    versions = [Version(n, at, DEFAULTS) for n, at in enumerate(sorted(since), 1)]
    here, taken = named_in(versions, began_at), named_in(versions, began_at, TAKEN_S)
    assert here.first <= taken.first <= taken.last == here.last < len(here.by_version)
    soon = named_in(versions, began_at + NAMED_S - TAKEN_S)
    assert soon.first <= taken.first, "a day later all that was taken may still be named"


def test_each_version_divides_by_its_own_values_and_no_other() -> None:
    policies = policies_of(VERSIONS)
    assert policies.of(0) == POLICY
    assert (policies.of(2).creator_bps, policies.of(2).least_fee) == (3_000, 700)
    body = of_version(2, tokens=0)
    assert body.amount == 3 * 700
    check_fee(body, TERMS, policies.of(2))
    for wrong in (POLICY, policies.of(1), policies.of(3)):
        with pytest.raises(ReceiptError, match="parameters: version 2"):
            check_fee(body, TERMS, wrong)
        with pytest.raises(ReceiptError, match="parameters: version 2"):
            derive_shares(body, TERMS, wrong)


@pytest.mark.parametrize(
    ("policies", "reason"),
    [
        (UNGOVERNED, "not known here: set governor"),
        (policies_of(VERSIONS[:1]), "never written; the newest is 1"),
        (named_in(VERSIONS, 1_500), "not in force yet; 1 was"),
        (named_in(VERSIONS, 3_000 + NAMED_S), "replaced too long ago; 3 is the oldest"),
    ],
)
def test_an_epoch_with_a_version_that_may_not_be_named_is_refused(
    policies: Policies, reason: str
) -> None:
    state = EpochState(NETWORK)
    verified = verify_receipt(sign(of_version(2)), NETWORK)
    batch = compose([verified], {verified.receipt.channel_id: config()}, state)
    with pytest.raises(BatchError, match=reason):
        recompute(batch, state, MANIFESTS, policies)
    faults = follow(batch, state, MANIFESTS, policies).faults
    assert any(reason in str(one) for one in faults)
    assert recompute(batch, state, MANIFESTS, named_in(VERSIONS, 2_000)).header.num_receipts == 1


def test_an_aggregator_takes_a_version_when_it_is_in_force_and_none_that_is_too_old() -> None:
    ledger = AggregatorLedger(Ledger(":memory:"))
    policies = named_in(VERSIONS, 1_500, TAKEN_S)
    aggregator = Aggregator(NETWORK, signer("aggregator"), ledger, policies=policies)
    aggregator.learn(MANIFEST, ADAPTER)
    taken = open_envelope(envelope(of_version(2), config()), NETWORK)

    early = aggregator.receive(taken, PLENTY, TERMS, NOW)
    assert isinstance(early, Rejected)
    assert (early.invariant, early.retryable) == ("parameters", True)

    aggregator.divide_by(named_in(VERSIONS, 3_000 + TAKEN_S, TAKEN_S))
    late = aggregator.receive(taken, PLENTY, TERMS, NOW)
    assert isinstance(late, Rejected)
    assert (late.invariant, late.retryable) == ("parameters", False)

    aggregator.divide_by(named_in(VERSIONS, 2_000, TAKEN_S))
    assert isinstance(aggregator.receive(taken, PLENTY, TERMS, NOW), Accepted)
    # What was taken stays taken: also over a restart, whatever may be named by then.
    later = named_in(VERSIONS, 3_000 + TAKEN_S, TAKEN_S)
    again = Aggregator(NETWORK, signer("aggregator"), ledger, policies=later)
    assert again.num_unsealed == 1
    again.check()


def test_a_fee_divided_by_another_version_than_it_names_does_not_follow() -> None:
    body = msgspec.structs.replace(of_version(1), parameters=2)
    verified = verify_receipt(sign(body), NETWORK)
    with pytest.raises(ReceiptError):
        ChannelTip(config()).follow(verified, NETWORK, TERMS, policies_of(VERSIONS))
