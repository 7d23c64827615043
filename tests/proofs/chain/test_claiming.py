"""Which vouchers are claimed, and what a bad one costs the others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proofs.chain.claiming import (
    PAGE_GAS,
    PATIENCE,
    ROW_GAS,
    Due,
    GasPrice,
    choose_claims,
    drop_refused,
    is_payout_worth,
)
from proofs.chain.errors import ContractReverted
from tests.proofs.chain.world import World

PRICE = GasPrice(wei=10**9, unit_wei=300_000_000)
ROW_UNITS = ROW_GAS * PRICE.wei // PRICE.unit_wei


def due(amount: int, *, is_leaving: bool = False, number: int = 0) -> Due:
    return Due(number.to_bytes(32, "big"), amount, is_leaving)


def test_a_single_unit_is_not_worth_a_transaction():
    assert choose_claims([due(1)], PRICE) == []
    assert choose_claims([due(1)], GasPrice(PRICE.wei, unit_wei=0)) == [due(1)]


def test_a_channel_whose_payer_leaves_is_claimed_as_soon_as_it_pays_its_gas():
    whole = (ROW_GAS + PAGE_GAS) * PRICE.wei // PRICE.unit_wei + 1
    assert choose_claims([due(whole, is_leaving=True)], PRICE) == [due(whole, is_leaving=True)]
    assert choose_claims([due(whole)], PRICE) == []
    assert choose_claims([due(whole * PATIENCE)], PRICE) == [due(whole * PATIENCE)]
    assert choose_claims([due(whole // 4, is_leaving=True)], PRICE) == []


def test_a_payout_waits_until_it_is_worth_its_gas():
    assert not is_payout_worth(1000, PRICE)
    assert is_payout_worth(10**8, PRICE)
    assert is_payout_worth(1, GasPrice(PRICE.wei, unit_wei=0))


@given(
    st.lists(st.tuples(st.integers(-5, 10**8), st.booleans()), max_size=30),
    st.integers(1, 10**12),
    st.integers(1, 10**10),
)
def test_no_claim_ever_costs_more_gas_than_it_brings(
    amounts: list[tuple[int, bool]], wei: int, unit_wei: int
):
    rows = [
        due(amount, is_leaving=leaving, number=number)
        for number, (amount, leaving) in enumerate(amounts)
    ]
    chosen = choose_claims(rows, GasPrice(wei, unit_wei))
    assert set(chosen) <= set(rows)
    if chosen:
        gas = PAGE_GAS + ROW_GAS * len(chosen)
        assert sum(one.amount for one in chosen) * unit_wei >= gas * wei


@given(st.integers(1, 100), st.sets(st.integers(0, 99), max_size=8))
def test_exactly_the_bad_rows_are_found_in_few_looks(num_rows: int, bad: set[int]):
    looks = []

    def simulate(rows):
        looks.append(len(rows))
        if bad & set(rows):
            raise ContractReverted("Bad", (), "", b"")

    found = [row for row, _ in drop_refused(range(num_rows), simulate)]
    assert found == sorted(one for one in bad if one < num_rows)
    assert len(looks) <= 1 + 14 * max(len(found), 1)


def test_one_bad_row_costs_nobody_else(anywhere: World):
    world = anywhere
    operator = world.client("operator")
    configs = [world.config(number=number) for number in range(5)]
    for config in configs:
        world.client("payer").channels.deposit(config, 100)
    rows = [world.voucher(config, 60) for config in configs]
    rows[1] = world.voucher(configs[1], 900)  # more than the channel holds
    rows[3] = world.voucher(configs[3], 60, signer="other")  # not the payer's signature
    claimed = operator.channels.claim(rows)
    assert [claim for claim, _ in claimed.refused] == [rows[1], rows[3]]
    assert claimed.refused[0][1].error == "ClaimExceedsBalance"
    assert len(claimed.transactions) == 1
    ids = [operator.channels.id_of(config) for config in configs]
    assert [state.total_claimed for state in operator.channels.read_many(ids)] == [60, 0, 60, 0, 60]
    assert operator.channels.claim([rows[1]]).transactions == []
