from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from proofs.attribution.shares import MAX_SHARES, award
from proofs.hindsight import Settled, award_by, replay, write_report
from proofs.parameters import (
    BY_NAME,
    COMPLETION_FLOOR,
    CREATOR_SHARE,
    DEFAULTS,
    LEAST_FEE,
    MOST_LAMBDA,
    NODE_SHARE,
    PARAMETERS,
    PROMPT_FLOOR,
)
from proofs.policies import policy_of
from proofs.receipt import decode_body, derive_shares
from tests.golden.receipts import DECIDED, POLICIES, chain, terms_for
from tests.golden.world import NETWORK

BODIES = [decode_body(signed.body) for _, signed, _ in chain()]
PAST = [Settled(body, terms_for(body.adapter), POLICIES.of(body.parameters)) for body in BODIES]
MOVERS = (NODE_SHARE, CREATOR_SHARE, MOST_LAMBDA, LEAST_FEE, PROMPT_FLOOR, COMPLETION_FLOOR)


def within_bounds() -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries(
        {}, optional={one.name: st.integers(one.least, one.most) for one in PARAMETERS}
    )


def test_the_defaults_pay_what_was_paid() -> None:
    usual = [one for one in PAST if one.receipt.parameters < 2]
    found = replay(usual, DEFAULTS)
    assert found.paid == found.would_pay == sum(one.receipt.amount for one in usual)
    assert found.receipts == len(usual) > 3
    assert all(line.earned == line.would_earn for line in found.lines)
    for one in usual:
        paid = award(one.receipt.amount, derive_shares(one.receipt, one.terms, one.policy))
        assert award_by(one, DEFAULTS) == one.awards == paid


def test_what_was_paid_under_a_version_is_what_its_values_say() -> None:
    under = [one for one in PAST if one.receipt.parameters == 2]
    assert under
    for one in under:
        paid = award(one.receipt.amount, derive_shares(one.receipt, one.terms, one.policy))
        assert award_by(one, {**DEFAULTS, **DECIDED}) == one.awards == paid
        assert award_by(one, DEFAULTS) != paid


@given(within_bounds())
def test_whatever_is_decided_every_fee_is_divided_to_the_last_unit(values: dict[str, int]) -> None:
    whole = {**DEFAULTS, **values}
    found = replay(PAST, whole)
    assert sum(line.would_earn for line in found.lines) == found.would_pay
    assert found.paid == sum(body.amount for body in BODIES)
    for one in PAST:
        parts = award_by(one, whole)
        assert all(part > 0 for _, part in parts)
        assert sum(part for _, part in parts) >= whole[LEAST_FEE]
        if one.terms is not None and whole[LEAST_FEE] < 5:
            creator = dict(parts)[one.terms.parents[0].creator]
            total = sum(part for _, part in parts)
            assert creator >= total * whole[CREATOR_SHARE] // 10_000 - MAX_SHARES


@given(within_bounds())
def test_what_moves_no_money_leaves_everybody_what_he_had(values: dict[str, int]) -> None:
    other = {name: value for name, value in values.items() if name not in MOVERS}
    assert replay(PAST, {**DEFAULTS, **other}) == replay(PAST, DEFAULTS)


def test_a_floor_lifts_what_was_cheaper_and_nothing_else() -> None:
    dearest = max(body.completion_price for body in BODIES)
    lifted = replay(PAST, {**DEFAULTS, COMPLETION_FLOOR: min(dearest, 500)})
    usual = replay(PAST, DEFAULTS)
    assert lifted.would_pay >= usual.would_pay
    assert replay(PAST, {**DEFAULTS, COMPLETION_FLOOR: 0, PROMPT_FLOOR: 0}) == usual


def test_the_parts_of_the_roles_always_add_up() -> None:
    for node in (BY_NAME[NODE_SHARE].least, BY_NAME[NODE_SHARE].most):
        for creator in (BY_NAME[CREATOR_SHARE].least, BY_NAME[CREATOR_SHARE].most):
            policy = policy_of({**DEFAULTS, NODE_SHARE: node, CREATOR_SHARE: creator})
            assert policy.contributors_bps == 10_000 - node - creator >= 0


def test_a_report_has_one_form_whatever_the_order_of_the_changes() -> None:
    changes = {COMPLETION_FLOOR: 40, NODE_SHARE: 5_000}
    turned = dict(reversed(changes.items()))
    found = replay(PAST, {**DEFAULTS, **changes})
    first, second = (
        write_report(found, values, NETWORK, epochs=(1, 2), last_header=bytes(32), version=1)
        for values in (changes, turned)
    )
    assert first == second
    told = json.loads(first)
    assert told["changes"] == {COMPLETION_FLOOR: "40", NODE_SHARE: "5000"}
    assert sum(would for _, _, would in told["accounts"]) == told["would_pay"]
