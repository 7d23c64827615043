from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.attribution.shares import Share, award
from proofs.epoch import PayoutLeaf
from proofs.errors import ReceiptError
from proofs.payouts import MAX_CHANNEL_ACCOUNTS, NO_PAYOUTS, ChannelPayouts
from proofs.sumtree import NOTHING, SumTree, verify

# Some begin inside one another's bytes: 20 bytes of a pattern of 3.
ACCOUNTS = [bytes([number % 3, (number + 1) % 3] * 13)[number % 5 :][:20] for number in range(15)]
ACCOUNTS = list(dict.fromkeys([*ACCOUNTS, *(bytes([number]) * 20 for number in range(1, 30))]))


def shares_of(accounts: list[bytes]) -> list[Share]:
    """Equal parts, the first with what is left over."""
    part = 10_000 // len(accounts)
    rest = 10_000 - part * len(accounts)
    return [
        Share(account, 2, part + (rest if not place else 0))
        for place, account in enumerate(sorted(accounts))
    ]


fees = st.lists(
    st.tuples(
        st.lists(st.sampled_from(ACCOUNTS), min_size=1, max_size=9, unique=True).map(shares_of),
        st.integers(1, 10**9),
    ),
    max_size=12,
)


@given(fees)
def test_payouts_are_the_sum_of_all_awards_in_the_order_of_the_first(
    given_fees: list[tuple[list[Share], int]],
) -> None:
    expected: dict[bytes, int] = {}
    payouts = NO_PAYOUTS
    for shares, amount in given_fees:
        before = payouts.rows
        after = payouts.award(shares, amount)
        assert payouts.rows == before, "a value does not change"
        for account, part in award(amount, shares):
            expected[account] = expected.get(account, 0) + part
        payouts = after
    assert payouts.rows == tuple(expected.items())
    assert payouts.total == sum(amount for _, amount in given_fees)
    assert payouts == ChannelPayouts(expected.items())
    leaves = [PayoutLeaf(account, amount).node for account, amount in expected.items()]
    assert payouts.commitment == SumTree(leaves).commitment
    for place, (account, amount) in enumerate(payouts.rows):
        assert payouts.find(account) == place
        assert verify(PayoutLeaf(account, amount).node, payouts.prove(place), payouts.commitment)
    assert all(payouts.find(account) is None for account in ACCOUNTS if account not in expected)


def test_a_channel_that_paid_nobody_commits_to_nothing() -> None:
    assert NO_PAYOUTS.commitment == NOTHING
    assert (len(NO_PAYOUTS), NO_PAYOUTS.total, NO_PAYOUTS.rows) == (0, 0, ())
    with pytest.raises(IndexError):
        NO_PAYOUTS.prove(0)


def test_the_order_of_first_payment_is_part_of_the_commitment() -> None:
    rows = [(ACCOUNTS[0], 1), (ACCOUNTS[1], 2)]
    assert ChannelPayouts(rows) != ChannelPayouts(rows[::-1])


def test_an_account_stands_once_and_there_are_not_too_many() -> None:
    rows = [(number.to_bytes(20, "big"), 1) for number in range(MAX_CHANNEL_ACCOUNTS)]
    full = ChannelPayouts(rows)
    assert len(full) == MAX_CHANNEL_ACCOUNTS
    assert full.award([Share(rows[3][0], 0, 10_000)], 5).rows[3] == (rows[3][0], 6)
    with pytest.raises(ReceiptError, match="accounts"):
        full.award([Share(bytes([255]) * 20, 0, 10_000)], 5)
    with pytest.raises(ReceiptError, match="accounts"):
        ChannelPayouts([*rows, (bytes([255]) * 20, 1)])
    with pytest.raises(ReceiptError, match="twice"):
        ChannelPayouts([rows[0], rows[0]])
