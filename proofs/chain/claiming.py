"""Decides which vouchers are worth a transaction, and which rows must be left out of it.

Pure: who knows the chain hands in what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .errors import ContractReverted

ROW_GAS = 22_500
"""What a row of a page of claims costs, and what the transaction costs beside its rows
(contracts/snapshots).
"""
PAGE_GAS = 45_000
PAYOUT_GAS = 90_000
"""What a payout by proof costs with 100,000 accounts."""
PATIENCE = 10
"""How many times the gas must be due before it is claimed, where nothing urges."""

T = TypeVar("T")


@dataclass(frozen=True)
class Due:
    """What one channel owes and the contract has not booked yet, in the fee token's units.

    `is_leaving`: its payer has asked for the money back, and may take it before we come again.
    """

    channel_id: bytes
    amount: int
    is_leaving: bool


@dataclass(frozen=True)
class GasPrice:
    """What gas costs, in wei, and what a unit of the fee token is worth. A unit worth nothing
    stated (0) makes every claim worth it.
    """

    wei: int
    unit_wei: int


def choose_claims(due: Iterable[Due], price: GasPrice) -> list[Due]:
    """Those whose amount is worth what claiming it costs.

    A row that can wait must bring `PATIENCE` times its gas, one that is leaving just its gas; all
    together the same for the transaction around them.
    """
    due = [one for one in due if one.amount > 0]
    if not price.unit_wei:
        return due
    row_wei = ROW_GAS * price.wei
    worth = [one for one in due if _weight(one) * price.unit_wei >= row_wei]
    surplus = sum(_weight(one) * price.unit_wei - row_wei for one in worth)
    return worth if surplus >= PAGE_GAS * price.wei else []


def is_payout_worth(amount: int, price: GasPrice) -> bool:
    """Whether a payout is worth its own transaction: it runs away from nobody, so it can wait."""
    return amount // PATIENCE * price.unit_wei >= PAYOUT_GAS * price.wei or not price.unit_wei


def _weight(one: Due) -> int:
    return one.amount if one.is_leaving else one.amount // PATIENCE


def drop_refused(
    rows: Sequence[T], simulate: Callable[[Sequence[T]], None]
) -> Iterator[tuple[T, ContractReverted]]:
    """Find the rows without which the others pass, each with the contract's reason.

    `simulate` raises ContractReverted for a page that would revert. A page is halved until the
    rows that do are found: one bad row among 100 costs 14 looks.
    """
    if not rows:
        return
    try:
        simulate(rows)
    except ContractReverted as error:
        if len(rows) == 1:
            yield rows[0], error
            return
        middle = len(rows) // 2
        yield from drop_refused(rows[:middle], simulate)
        yield from drop_refused(rows[middle:], simulate)
