"""A small world of the economy: its money, its dice, and who loses in it."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.economy.dealings import all_dealings
from benchmarks.economy.figures import beside_honest, interval
from benchmarks.economy.market import Outcome, play
from benchmarks.economy.measured import LOOKS
from benchmarks.economy.money import BASE, Ledger
from benchmarks.economy.strategies import HONEST_NODE, STRATEGIES
from benchmarks.economy.world import World
from node.wire.metering import Price
from proofs.attribution.shares import AdapterTerms

DENSE = World(nodes=200, clients=4, adapters=10, answers=8_000, verifying=1.0, part_each=0.05)
"""Each client buys much of each adapter, and replays; so strategies are told apart in seconds."""
LOSING = [one.name for one in STRATEGIES if one is not HONEST_NODE]
OWNER, CREATOR, PAYER, FINDER = (bytes([number]) * 20 for number in (1, 2, 3, 4))
DIGEST = b"D" * 32


@pytest.fixture(scope="module")
def dense() -> Outcome:
    return play(DENSE, 1)


def test_every_unit_that_clients_pay_is_somebodys(dense: Outcome) -> None:
    ledger = dense.ledger
    ledger.check()
    assert ledger.spent.total() == ledger.accounts.total()
    assert ledger.reserved == ledger.spent.total() + ledger.given_back
    assert ledger.num_awards + dense.unserved == DENSE.answers
    assert sum(sold.earned for sold in dense.sales.values()) == sum(
        ledger.accounts[node.owner] for node in dense.people.nodes
    )


def test_a_seed_decides_everything(dense: Outcome) -> None:
    small = dataclasses.replace(DENSE, answers=500)
    one, again, other = play(small, 7), play(small, 7), play(small, 8)
    assert one.ledger.accounts == again.ledger.accounts
    assert one.replays == again.replays
    assert one.ledger.accounts != other.ledger.accounts


@pytest.mark.parametrize("name", LOSING)
def test_whoever_cheats_clients_that_replay_earns_less_than_who_does_not(
    dense: Outcome, name: str
) -> None:
    strategy = next(one for one in STRATEGIES if one.name == name)
    assert beside_honest(dense, strategy, (True,)) < 1


def test_no_honest_node_is_taken_for_a_cheat(dense: Outcome) -> None:
    assert dense.convictions["honest"] == 0
    trusts = [client.trust for client in dense.people.clients]
    honest = [node for node in dense.people.nodes if node.strategy is HONEST_NODE]
    assert {trust.weight(node.operator, 2e9) for trust in trusts for node in honest} == {1.0}


def test_before_new_names_were_looked_at_junk_won() -> None:
    former = play(dataclasses.replace(DENSE, answers=3_000, is_former=True), 1)
    junk = next(one for one in STRATEGIES if one.name == "junk")
    assert beside_honest(former, junk, (True,)) > 2


def test_whoever_names_an_auditor_buys_less_junk_though_he_replays_nothing() -> None:
    junk = next(one for one in STRATEGIES if one.name == "junk")
    half = dataclasses.replace(DENSE, answers=3_000, verifying=0.5)
    alone, told = (play(dataclasses.replace(half, named=named), 1) for named in (0, 2))
    assert beside_honest(told, junk, (False,)) < beside_honest(alone, junk, (False,)) / 2


def test_a_stranger_who_accuses_pays_for_it_and_convicts_nobody() -> None:
    outcome = play(dataclasses.replace(DENSE, answers=1_000, accusing=0.25), 1)
    assert outcome.accusations > 100
    assert outcome.accusers_spent > 100 * outcome.accusations
    assert outcome.convictions["honest"] == 0


def test_whoever_pays_himself_wins_nothing() -> None:
    lost = {one.name: one.part_lost for one in all_dealings()}
    assert lost["self-dealing pair, another's adapter"] == 0.4
    assert lost["self-dealing pair, his own"] == 0.0
    assert lost["wash trader"] == 0.6
    assert lost["censoring aggregator"] == 1.0
    assert min(lost.values()) >= 0.0


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("sell"), st.integers(0, 40), st.integers(0, 200), st.integers(1, 300)
            ),
            st.tuples(st.sampled_from(["lock", "unlock", "slash"]), st.integers(0, 10**9)),
        ),
        max_size=30,
    ),
    st.lists(st.integers(0, 9), max_size=8),
)
def test_whatever_happens_money_conserves(
    deeds: list[tuple[str, int] | tuple[str, int, int, int]], weights: list[int]
) -> None:
    ledger = Ledger()
    contributors = tuple(
        (bytes([100 + number]) * 20, weight) for number, weight in enumerate(weights)
    )
    terms = AdapterTerms.of_one(CREATOR, contributors, BASE)
    bounties = Counter[bytes]()
    for name, *numbers in deeds:
        match name:
            case "sell":
                price = Price(numbers[0], numbers[1])
                ledger.sell(PAYER, OWNER, DIGEST, terms, price=price, tokens=numbers[2])
            case "lock":
                ledger.lock(OWNER, numbers[0])
            case "unlock":
                ledger.unlock(OWNER)
            case _:
                bounties[FINDER] += ledger.slash(OWNER, FINDER) // 2
        ledger.check()
    assert ledger.accounts[FINDER] == bounties[FINDER]


def test_the_mean_score_convicts_as_soon_as_the_measured_ones_did() -> None:
    for look in LOOKS:
        after = look.convicts_after()
        if look.half_after is None:
            assert after is None or after > 32
        else:
            assert after == pytest.approx(look.half_after, rel=0.15)


def test_an_interval_of_seeds_holds_their_mean() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert (found.low, found.mean, found.high) == pytest.approx((-0.483, 2.0, 4.483), abs=0.01)
