"""What a receipt says of whose text its answer drew on: its form, and whom it moves how much to."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.attribution.blend import BIT, WHOLE_BPS
from proofs.attribution.credit import MAX_CREDITED, Parts, credit, find_fault, join, most_credited
from proofs.attribution.shares import (
    CONTRIBUTOR,
    MAX_SHARES,
    POLICY,
    AdapterTerms,
    ParentTerms,
    parties_of,
    shares_for,
)
from proofs.channel import ChannelTip
from proofs.errors import ReceiptError
from proofs.receipt import Receipt, check_fee, derive_shares
from tests.proofs.scene import BASE, address, config, receipt

OWNER = address("owner")
CREATOR = address("creator")
PEOPLE = tuple((address(name), weight) for name, weight in (("a", 3), ("b", 1), ("c", 0)))


def terms(eighths: int, people: tuple[tuple[bytes, int], ...] = PEOPLE) -> AdapterTerms:
    return AdapterTerms.of_one(CREATOR, people, BASE, eighths)


def parts_of(found: AdapterTerms, *drawn: Parts) -> dict[bytes, int]:
    shares = shares_for(POLICY, OWNER, found, join(drawn))
    return {share.address: share.weight for share in shares if share.role == CONTRIBUTOR}


bits = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=48)


@given(bits, st.integers(1, 1_000), st.integers(1, 8))
def test_any_bits_are_credited_in_the_one_form_that_passes(
    measured: list[int], none_bits: int, attributed: int
) -> None:
    most = most_credited(attributed)
    parts = credit(measured, none_bits, most)
    others = (len(measured),) * (attributed - 1)
    drawn = join([parts, *((),) * (attributed - 1)])
    assert find_fault(drawn, (len(measured), *others)) is None
    assert bool(parts) == (sum(measured) >= none_bits * BIT)
    credited = [place for place, _ in parts]
    left = [measured[place] for place in range(len(measured)) if place not in credited]
    assert len(parts) <= most
    # Whoever is left out drew no more than whoever is in, or too little for one part.
    assert not parts or max(left, default=0) <= max(
        min(measured[place] for place in credited), sum(measured) // WHOLE_BPS
    )


def test_less_than_the_least_bits_is_nobodys() -> None:
    assert credit([8 * BIT - 1], 8, 32) == ()
    assert credit([8 * BIT - 1, 1], 8, 32) == ((0, WHOLE_BPS),)
    assert join([(), ()]) == ()


def test_lambda_says_how_much_of_the_part_follows_the_answer() -> None:
    assert parts_of(terms(4), ((2, 10_000),)) == dict(
        zip(map(address, "abc"), (563, 187, 750), strict=True)
    )
    assert parts_of(terms(8), ((2, 10_000),)) == {address("c"): 1_500}
    assert parts_of(terms(4)) == parts_of(terms(0)) == {address("a"): 1_125, address("b"): 375}


@given(bits.filter(lambda many: len(many) > 1), st.integers(1, 8), st.data())
def test_what_was_drawn_moves_nothing_but_the_contributors_part(
    measured: list[int], eighths: int, data: st.DataObject
) -> None:
    weights = data.draw(
        st.lists(st.integers(0, 2**31 - 1), min_size=len(measured), max_size=len(measured)).filter(
            any
        )
    )
    people = tuple((address(f"{place}"), weight) for place, weight in enumerate(weights))
    found = terms(eighths, people)
    drawn = join([credit(measured, 1, MAX_CREDITED)])
    shares = shares_for(POLICY, OWNER, found, drawn)
    of_others = [share for share in shares if share.role != CONTRIBUTOR]
    assert of_others == [one for one in shares_for(POLICY, OWNER, found) if one.role != CONTRIBUTOR]
    assert sum(share.weight for share in shares) == WHOLE_BPS
    parties = parties_of(POLICY, OWNER, found)
    assert {(share.address, share.role) for share in shares} <= set(parties)
    assert len(parties) <= MAX_SHARES
    # No more than its λ can be moved away from anybody.
    standing = parts_of(found)
    for who, part in parts_of(found, *drawn).items():
        assert part >= standing.get(who, 0) * (8 - eighths) // 8 - 2


def test_each_parent_of_a_cocktail_goes_by_its_own_rule() -> None:
    mixed = AdapterTerms(
        (
            ParentTerms(7_000, CREATOR, PEOPLE, 8),
            ParentTerms(3_000, CREATOR, ((address("d"), 1), (address("e"), 1))),
        ),
        BASE,
    )
    found = parts_of(mixed, ((2, 10_000),), ())
    assert found == {
        address("c"): 1_500 * 7_000,
        address("d"): 750 * 3_000,
        address("e"): 750 * 3_000,
    }
    assert mixed.num_attributed == (3, None)
    assert find_fault((((2, 10_000),), ((0, 10_000),)), mixed.num_attributed) is not None


@pytest.mark.parametrize(
    "drawn",
    [
        ((),),
        (((0, 10_000),), ((0, 10_000),)),
        (((3, 10_000),),),
        (((1, 5_000), (0, 5_000)),),
        (((0, 5_000), (0, 5_000)),),
        (((0, 9_999),),),
        (((0, 10_000), (1, 1)),),
    ],
)
def test_what_no_answer_can_have_drawn_on_is_refused(drawn: tuple[Parts, ...]) -> None:
    assert find_fault(drawn, (3,)) is not None


def test_no_more_are_credited_than_a_receipt_has_room_for() -> None:
    crowd = tuple((place, 9_969 if not place else 1) for place in range(32))
    assert find_fault((crowd,), (48,)) is None
    assert find_fault((crowd, ()), (48, 48)) is not None


def test_a_receipt_whose_drawing_is_of_no_form_does_not_follow() -> None:
    """Whoever signed it: node and client alone cannot make up a form that pays strangers."""
    with pytest.raises(ReceiptError, match="drawn"):
        derive_shares(_with(drawn=(((0, 10_000),),)), terms(0))
    assert derive_shares(_with(drawn=(((2, 10_000),),)), terms(8)) != derive_shares(
        _with(), terms(8)
    )


def test_the_least_fee_is_for_everybody_who_might_have_been_drawn_on() -> None:
    body = _with(amount=500, prompt_price=0, completion_price=0)
    check_fee(body, terms(1))  # node, creator, and three
    with pytest.raises(ReceiptError, match="amount"):
        check_fee(body, terms(0))  # the third is never paid


def _with(**changes: object) -> Receipt:
    return msgspec.structs.replace(receipt(ChannelTip(config())), **changes)
