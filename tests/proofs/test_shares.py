from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.attribution.shares import (
    CONTRIBUTOR,
    CREATOR,
    MAX_SHARES,
    MIN_SHARE_FEE,
    NODE,
    POLICY,
    AdapterTerms,
    Share,
    SharePolicy,
    award,
    fee,
    shares_for,
    split,
    terms_of,
)
from proofs.manifest import parse_manifest
from tests.proofs.scene import BASE, address, manifest, signer

OWNER = address("owner")


def terms(*contributors: tuple[str, int]) -> AdapterTerms:
    return terms_of(parse_manifest(manifest(*contributors)))


def test_twenty_thousand_random_splits_are_exact_and_fair() -> None:
    dice = random.Random(7)
    for _ in range(20_000):
        amount = dice.randrange(1 << dice.randrange(1, 63))
        num_shares = dice.randint(1, 64)
        cuts = sorted(dice.sample(range(1, 10_000), num_shares - 1))
        bps = [high - low for low, high in zip([0, *cuts], [*cuts, 10_000], strict=True)]
        parts = split(amount, [Share(bytes(20), 0, part) for part in bps])
        assert sum(parts) == amount
        assert all(
            abs(part * 10_000 - amount * weight) < 10_000
            for part, weight in zip(parts, bps, strict=True)
        )


def test_example_of_the_docstring() -> None:
    assert split(
        7, [Share(bytes(20), role, bps) for role, bps in enumerate((6_000, 2_500, 1_500))]
    ) == [4, 2, 1]


def test_ties_go_to_the_earlier_share() -> None:
    halves = [Share(bytes([number]) * 20, 0, 2_500) for number in range(4)]
    assert split(2, halves) == [1, 1, 0, 0]


def test_bare_base_pays_the_owner_alone() -> None:
    assert shares_for(POLICY, OWNER, None) == (Share(OWNER, NODE, 10_000),)


def test_creator_gets_the_contributors_part_where_there_are_none() -> None:
    found = {share.role: share.weight for share in shares_for(POLICY, OWNER, terms())}
    assert found == {NODE: 6_000, CREATOR: 4_000}


def test_contributors_divide_their_part_by_weight() -> None:
    found = {
        share.address: share.weight
        for share in shares_for(POLICY, OWNER, terms(("a", 2), ("b", 1)))
    }
    assert (found[address("a")], found[address("b")]) == (1_000, 500)


def test_one_address_with_two_weights_is_one_share() -> None:
    found = [
        share.weight
        for share in shares_for(POLICY, OWNER, terms(("a", 2), ("a", 1)))
        if share.role == CONTRIBUTOR
    ]
    assert found == [1_500]


def test_terms_are_what_attribution_reads_in_a_manifest() -> None:
    assert terms(("a", 2), ("b", 1)) == AdapterTerms.of_one(
        signer("creator").address, ((address("a"), 2), (address("b"), 1)), BASE
    )


people = st.lists(
    st.tuples(st.sampled_from([address(name) for name in "abcdefgh"]), st.integers(1, 2**31 - 1)),
    max_size=48,
).map(tuple)


@given(people, st.integers(0, 10_000), st.integers(0, 10_000))
def test_shares_of_any_terms_and_policy_are_sorted_unique_and_whole(
    contributors: tuple[tuple[bytes, int], ...], node: int, creator: int
) -> None:
    node = min(node, 10_000 - creator)
    policy = SharePolicy(node, creator)
    shares = shares_for(policy, OWNER, AdapterTerms.of_one(address("creator"), contributors, BASE))
    keys = [(share.address, share.role) for share in shares]
    assert keys == sorted(set(keys))
    assert sum(share.weight for share in shares) == 10_000
    assert all(share.weight >= 1 for share in shares)
    assert 1 <= len(shares) <= MAX_SHARES


@given(people, st.integers(0, 2**40))
def test_every_unit_of_a_fee_is_awarded_once(
    contributors: tuple[tuple[bytes, int], ...], price: int
) -> None:
    shares = shares_for(POLICY, OWNER, AdapterTerms.of_one(address("a"), contributors, BASE))
    amount = fee(POLICY, price, shares)
    awarded = award(amount, shares)
    assert amount >= max(price, MIN_SHARE_FEE * len(shares))
    assert sum(part for _, part in awarded) == amount
    assert len({account for account, _ in awarded}) == len(awarded)
    assert all(part > 0 for _, part in awarded)


def test_one_account_in_two_roles_is_awarded_both_parts_at_once() -> None:
    shares = shares_for(POLICY, address("a"), terms(("a", 1)))
    assert len(shares) == 3
    assert dict(award(10_000, shares)) == {address("a"): 7_500, signer("creator").address: 2_500}


def test_policy_must_give_away_exactly_everything() -> None:
    assert SharePolicy(6_000, 2_500).contributors_bps == 1_500
    for parts in ((7_501, 2_500), (10_001, -1), (-1, 0)):
        with pytest.raises(ValueError, match="10000"):
            SharePolicy(*parts)
