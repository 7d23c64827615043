from __future__ import annotations

import hashlib
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.attribution.shares import POLICY, award, fee, shares_for, split, terms_of
from proofs.batch import compose, decode_batch, recompute
from proofs.cocktail import MAX_WEIGHT, make_cocktail, parse_adapter, parse_cocktail
from proofs.errors import BatchError, ManifestError
from proofs.state import EpochState
from tests.proofs.scene import (
    MANIFEST,
    MANIFESTS,
    NETWORK,
    address,
    chain,
    config,
    manifest,
    signer,
)

PARENTS = [
    manifest(*((f"{name} gave", 1 + number) for _ in range(number % 3)), creator=f"maker {name}")
    for number, name in enumerate("abcdefgh")
]
weights = st.integers(-MAX_WEIGHT, MAX_WEIGHT).filter(bool)
mixes = st.dictionaries(st.sampled_from(PARENTS), weights, min_size=2)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(mixes, st.randoms(use_true_random=False))
def test_a_cocktail_does_not_depend_on_the_order_in_which_its_parents_are_named(
    mix: dict[bytes, int], dice: random.Random
) -> None:
    rows = list(mix.items())
    dice.shuffle(rows)
    assert make_cocktail(dict(rows)) == make_cocktail(mix)
    assert {one.manifest: one.weight for one in parse_cocktail(make_cocktail(mix)).parents} == mix


@settings(derandomize=True, max_examples=60, deadline=None)
@given(mixes, st.integers(0, 1 << 40))
def test_a_fee_is_divided_by_absolute_weights_between_the_parents_shares(
    mix: dict[bytes, int], price: int
) -> None:
    owner = address("owner")
    shares = shares_for(POLICY, owner, terms_of(parse_adapter(make_cocktail(mix))))
    amount = fee(POLICY, price, shares)
    awarded = dict(award(amount, shares))
    assert sum(awarded.values()) == amount
    exact: dict[bytes, Fraction] = {}
    total = sum(map(abs, mix.values()))
    for parent, weight in mix.items():
        own = shares_for(POLICY, owner, terms_of(parse_adapter(parent)))
        for share in own:
            part = Fraction(amount * share.weight * abs(weight), 10_000 * total)
            exact[share.address] = exact.get(share.address, Fraction(0)) + part
    num_roles = {who: sum(share.address == who for share in shares) for who in exact}
    assert all(abs(awarded.get(who, 0) - part) < num_roles[who] for who, part in exact.items())


def test_the_example_of_the_page() -> None:
    law, verse = manifest(creator="law"), manifest(creator="verse")
    cocktail = parse_adapter(make_cocktail({law: 7_000, verse: 3_000}))
    shares = shares_for(POLICY, address("owner"), terms_of(cocktail))
    parts = {share.address: part for share, part in zip(shares, split(1_290, shares), strict=True)}
    assert parts[address("owner")] == 774
    assert parts[signer("law").address] == 361
    assert parts[signer("verse").address] == 155


def test_a_subtracted_parent_is_paid_as_much_as_an_added_one() -> None:
    plus, minus = (
        shares_for(POLICY, address("o"), terms_of(parse_adapter(make_cocktail(mix))))
        for mix in ({PARENTS[0]: 7_000, PARENTS[1]: 3_000}, {PARENTS[0]: 7_000, PARENTS[1]: -3_000})
    )
    assert plus == minus


@pytest.mark.parametrize(
    ("mix", "rule"),
    [
        ({}, "schema"),
        ({PARENTS[0]: 10_000}, "parents"),
        ({PARENTS[0]: 0, PARENTS[1]: 1}, "weight"),
        ({PARENTS[0]: 20_001}, "schema"),
        ({PARENTS[0]: -20_001}, "schema"),
        ({b"no manifest": 5_000}, "schema"),
        (dict.fromkeys([*PARENTS, MANIFEST], 1), "schema"),
    ],
)
def test_what_nobody_would_accept_is_not_made(mix: dict[bytes, int], rule: str) -> None:
    with pytest.raises(ManifestError) as caught:
        make_cocktail(mix)
    assert caught.value.field == rule


def test_a_cocktail_is_no_larger_than_a_manifest_may_be() -> None:
    large = [manifest(creator=name, num_blocks=1_000) for name in ("one", "two")]
    with pytest.raises(ManifestError, match="mix fewer adapters"):
        make_cocktail(dict.fromkeys(large, 5_000))


def test_an_epoch_with_a_cocktail_pays_the_creators_of_both_parents() -> None:
    cocktail = make_cocktail({PARENTS[0]: 7_000, PARENTS[3]: -3_000})
    digest = hashlib.sha256(cocktail).digest()
    MANIFESTS[digest] = cocktail
    state = EpochState(NETWORK)
    made = [one.receipt for one in chain(2, adapter=digest)]
    batch = compose(made, {made[0].receipt.channel_id: config()}, state)
    assert decode_batch(batch).adapters == [digest]
    state.apply(recompute(batch, state, {digest: cocktail}))
    for name, part in (("maker a", 7), ("maker d", 3)):
        due = sum(one.receipt.amount for one in made) * 4_000 * part / 100_000
        assert abs(state.amount(signer(name).address) - due) <= len(made)
    with pytest.raises(BatchError, match="missing"):
        recompute(batch, EpochState(NETWORK), {})
    with pytest.raises(BatchError, match="do not hash"):
        recompute(batch, EpochState(NETWORK), {digest: PARENTS[0]})
