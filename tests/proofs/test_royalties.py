"""A manifest pays those whose adapters its own was made of, or is found not to."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.attribution.shares import CONTRIBUTOR, POLICY, shares_for, terms_of
from proofs.errors import ManifestError
from proofs.manifest import Contributor, File, Parent, build_manifest, parse_manifest
from proofs.registration import Registration
from proofs.royalty import find_unpaid, pay_parents
from tests.proofs.scene import BASE, address, manifest, signer

MAKER = signer("maker")
FILES = [File("a", 1, [(bytes(32), 1)])]


def asks(who: str, royalty_bps: int) -> Registration:
    creator = signer(who).address
    return Registration(creator, creator, 1, 1, 7, royalty_bps, manifest=bytes(32))


def of_contributors(contributors: list[Contributor]):
    data = build_manifest(
        MAKER,
        name="law",
        adapter_version="1",
        base=BASE,
        tokenizer_hash=bytes(32),
        template_hash=bytes(32),
        licence="CC0",
        source="",
        created_at=1,
        contributors=contributors,
        files=FILES,
    )
    return parse_manifest(data)


def gave(name: str, weight: int) -> Contributor:
    return Contributor(address(name), name, "source", "CC0", weight)


royalties = st.lists(st.integers(0, 10_000), max_size=8).filter(lambda all_: sum(all_) < 10_000)
weights = st.lists(st.integers(1, 10_000), max_size=4)


@given(royalties, weights)
def test_what_is_written_pays_each_parent_and_leaves_the_others_the_rest(
    asked: list[int], given_by: list[int]
) -> None:
    parents = [asks(f"parent {number}", one) for number, one in enumerate(asked)]
    own = [gave(f"who {number}", weight) for number, weight in enumerate(given_by)]
    paying = of_contributors(pay_parents(own, MAKER.address, parents))
    assert find_unpaid(paying, parents) is None
    total = sum(one.weight for one in paying.contributors)
    for one in parents:
        paid = sum(who.weight for who in paying.contributors if who.address == one.owner)
        due = Fraction(one.royalty_bps, 10_000)
        assert due <= Fraction(paid, total or 1) <= due + Fraction(1, 1_000)
    kept = [who for who in paying.contributors if who.source == "source"]
    assert [Fraction(who.weight, kept[0].weight) for who in kept] == [
        Fraction(weight, given_by[0]) for weight in given_by
    ]


def test_a_royalty_is_money_in_every_answer() -> None:
    parents = [asks("parent", 2_000)]
    paying = of_contributors(pay_parents([], MAKER.address, parents))
    shares = shares_for(POLICY, address("owner"), terms_of(paying))
    paid = {one.address: one.weight for one in shares if one.role == CONTRIBUTOR}
    assert paid == {signer("parent").address: 300, MAKER.address: 1_200}


def test_who_pays_less_by_a_unit_is_found() -> None:
    parents = [asks("parent", 1_000)]
    owner = parents[0].owner
    enough = [gave("law", 9), Contributor(owner, "", "", "", 1)]
    assert find_unpaid(of_contributors(enough), parents) is None
    less = [gave("law", 9_001), Contributor(owner, "", "", "", 999)]
    assert find_unpaid(of_contributors(less), parents) == parents[0]
    assert find_unpaid(of_contributors([]), parents) == parents[0]
    # Two parents of one owner are paid both.
    assert find_unpaid(of_contributors(enough), [*parents, *parents]) == parents[0]


def test_owner_or_creator_may_be_paid_and_nobody_owes_himself() -> None:
    sold = replace(asks("parent", 1_000), owner=address("buyer"))
    for who in (sold.owner, sold.creator):
        paying = of_contributors([gave("law", 9), Contributor(who, "", "", "", 1)])
        assert find_unpaid(paying, [sold]) is None
    own = replace(sold, owner=MAKER.address)
    assert find_unpaid(of_contributors([]), [own]) is None
    assert pay_parents([], MAKER.address, [own]) == []


def test_royalties_that_leave_nothing_are_refused() -> None:
    parents = [asks("one", 6_000), asks("other", 4_000)]
    with pytest.raises(ManifestError, match="leave nothing"):
        pay_parents([gave("law", 1)], MAKER.address, parents)


def test_a_merged_adapter_pays_by_its_parents_weights() -> None:
    rows = sorted(
        (
            Parent(manifest(creator=who), weight)
            for who, weight in (("law", 3_000), ("poet", 7_000))
        ),
        key=lambda one: one.digest,
    )
    data = build_manifest(
        MAKER,
        name="both",
        adapter_version="1",
        base=BASE,
        tokenizer_hash=bytes(32),
        template_hash=bytes(32),
        licence="CC0",
        source="",
        created_at=1,
        contributors=[],
        files=FILES,
        parents=rows,
    )
    merged = parse_manifest(data)
    assert find_unpaid(merged, [asks("law", 3_000), asks("poet", 7_000)]) is None
    assert find_unpaid(merged, [asks("law", 3_001)]) == asks("law", 3_001)
    assert find_unpaid(merged, [asks("nobody", 1)]) == asks("nobody", 1)
