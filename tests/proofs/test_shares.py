from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.attribution.shares import (
    CONTRIBUTOR,
    CREATOR,
    NODE,
    Share,
    SharePolicy,
    find_fault,
    shares_for,
    split,
)
from proofs.manifest import Contributor, File, Manifest, build_manifest, parse_manifest
from tests.proofs.scene import address, signer

POLICY = SharePolicy()
OWNER = address("owner")


def manifest(*contributors: tuple[str, int]) -> Manifest:
    listed = [
        Contributor(address(name), name, "source", "CC0", weight) for name, weight in contributors
    ]
    return parse_manifest(
        build_manifest(
            signer("creator"),
            name="law",
            adapter_version="1",
            base=bytes(32),
            tokenizer_hash=bytes(32),
            template_hash=bytes(32),
            licence="CC0",
            source="",
            created_at=1,
            contributors=listed,
            files=[File("a", 1, [(bytes(32), 1)])],
        )
    )


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
    found = {share.role: share.bps for share in shares_for(POLICY, OWNER, manifest())}
    assert found == {NODE: 6_000, CREATOR: 4_000}


def test_contributors_divide_their_part_by_weight() -> None:
    found = {
        share.address: share.bps
        for share in shares_for(POLICY, OWNER, manifest(("a", 2), ("b", 1)))
    }
    assert (found[address("a")], found[address("b")]) == (1_000, 500)


def test_one_address_with_two_weights_is_one_share() -> None:
    found = [
        share.bps
        for share in shares_for(POLICY, OWNER, manifest(("a", 2), ("a", 1)))
        if share.role == CONTRIBUTOR
    ]
    assert found == [1_500]


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 2**31 - 1)), max_size=48),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
)
def test_shares_of_any_manifest_and_policy_are_what_receipts_want(
    contributors: list[tuple[str, int]], node: int, creator: int
) -> None:
    node = min(node, 10_000 - creator)
    shares = shares_for(
        SharePolicy(node, creator, 10_000 - node - creator), OWNER, manifest(*contributors)
    )
    assert find_fault(shares) is None


def test_policy_must_give_away_exactly_everything() -> None:
    for parts in ((6_000, 2_500, 1_499), (10_001, -1, 0)):
        with pytest.raises(ValueError, match="10000"):
            SharePolicy(*parts)
