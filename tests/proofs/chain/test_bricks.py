"""No header bricks the contract: what is out of bounds is refused, what is in bounds and a lie is
taken back, and honest headers go on. On the real contracts.
"""

from __future__ import annotations

import pytest

from proofs.chain.errors import ContractReverted
from proofs.court import Missummed
from tests.proofs.chain.world import World, address

FUNDS = 10_000
NODE = address("node's owner")
MAX_RECEIPTS = 1_000


@pytest.fixture
def world(anywhere: World) -> World:
    anywhere.fund(anywhere.config(), FUNDS)
    return anywhere


@pytest.mark.parametrize(
    "changes",
    [
        {"num_receipts": (1 << 64) - 1},
        {"num_receipts": MAX_RECEIPTS + 1},
        {"num_receipts": 0},
        {"payout_total": FUNDS + 1},
        {"payout_total": (1 << 128) - 1},
        {"payout_total": 0},
        {"epoch": 2},
        {"epoch": (1 << 64) - 1},
        {"previous": b"\x07" * 32},
    ],
    ids=str,
)
def test_a_header_out_of_bounds_is_refused_and_the_next_goes_on(
    world: World, changes: dict[str, object]
) -> None:
    books = world.books()
    books.pay(world.config(), {NODE: 100})
    with pytest.raises(ContractReverted):
        world.post(books.header(None, **changes))
    posted = world.post(books.header(None))
    assert world.client("anybody").settlement.is_posted(posted)


def test_a_header_that_takes_everything_is_taken_back_and_locks_nothing(world: World) -> None:
    books = world.books()
    books.pay(world.config(), {NODE: 100})
    lie = world.post(books.header(None, payout_total=FUNDS, payout_root=b"\x11" * 32))
    client = world.client("anybody")
    client.settlement.court.prove(lie, None, Missummed(books.channel_tree.opening))
    state = client.settlement.read()
    assert (state.epoch, state.num_receipts, state.payout_total) == (0, 0, 0)
    client.settlement.exit(books.exit(0), None)
    assert client.token.balance_of(NODE) == 100
