"""Contracts of different networks are told apart before anything is done with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from node.money.belonging import check_one_network
from proofs.chain.errors import OddAnswer

SETTLEMENT, LORI, TIMELOCK, REGISTRY, DISPUTES = (bytes([number]) * 20 for number in range(1, 6))
OTHER = b"\x99" * 20


def named(address: bytes) -> Any:
    return SimpleNamespace(address=address)


def network(**changes: bytes | None) -> dict[str, Any]:
    """The contracts of one network, with something of another one's among them."""
    at = {
        "stake_settlement": SETTLEMENT,
        "stake_token": LORI,
        "voted_token": LORI,
        "timelock": TIMELOCK,
        "disputes": DISPUTES,
        "disputed": REGISTRY,
        "decides": TIMELOCK,
        "bond_token": LORI,
    } | changes
    disputes = SimpleNamespace(
        registry=at["disputed"], timelock=at["decides"], token=named(at["bond_token"])
    )
    return {
        "chain": SimpleNamespace(
            deployment=SimpleNamespace(settlement=SETTLEMENT), open_disputes=lambda at: disputes
        ),
        "governance": SimpleNamespace(
            token=named(at["voted_token"]), timelock=named(at["timelock"])
        ),
        "stake": SimpleNamespace(settlement=at["stake_settlement"], token=named(at["stake_token"])),
        "registry": SimpleNamespace(address=REGISTRY, disputes=lambda: at["disputes"]),
    }


def test_contracts_that_name_one_another_are_of_one_network() -> None:
    whole = network()
    check_one_network(**whole)
    for left_out in ("governance", "stake", "registry"):
        check_one_network(**(whole | {left_out: None}))
    check_one_network(**network(disputes=None, decides=OTHER, bond_token=OTHER))


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ("stake_settlement", "not by ours"),
        ("stake_token", "different networks, by their token"),
        ("voted_token", "different networks, by their token"),
        ("bond_token", "registry's is 0x9999"),
        ("timelock", "not the governor's timelock"),
        ("decides", "not the governor's timelock"),
        ("disputed", "which are those of 0x9999"),
    ],
)
def test_what_is_of_another_network_is_named(odd: str, why: str) -> None:
    with pytest.raises(OddAnswer, match=why):
        check_one_network(**network(**{odd: OTHER}))
