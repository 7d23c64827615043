"""What is wanted, whoever asks: a flood of made-up names and peers brings nothing here."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.catalogue import demand as module
from node.catalogue.demand import (
    HALF_LIFE_S,
    LEAST_WORTH,
    MAX_ASKERS,
    MAX_OF_PEER,
    MAX_WANTED,
    REFUSED_S,
    Demand,
)
from p2p.cid import Cid

LAW, VERSE = Cid.of(b"law"), Cid.of(b"verse")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def named(number: int) -> Cid:
    return Cid.of(b"made up %d" % number)


def test_two_who_pay_are_enough_and_one_is_not_however_often_it_asks() -> None:
    demand = Demand(Clock())
    for _ in range(100):
        demand.note(LAW, "one", pays=True)
    assert demand.wanted() == []
    demand.note(LAW, "two", pays=True)
    assert demand.wanted() == [LAW]
    assert demand.worth(LAW) == 2.0


@given(num_strangers=st.integers(0, 200))
def test_strangers_alone_are_never_enough_and_with_one_who_pays_two_are(
    num_strangers: int,
) -> None:
    demand = Demand(Clock())
    for number in range(num_strangers):
        demand.note(LAW, f"stranger {number}", pays=False)
    assert demand.worth(LAW) < LEAST_WORTH
    assert demand.wanted() == []
    demand.note(LAW, "one", pays=True)
    assert (demand.wanted() == [LAW]) == (num_strangers >= 2)


def test_what_nobody_repeats_is_wanted_less_and_less() -> None:
    clock = Clock()
    demand = Demand(clock)
    demand.note(LAW, "one", pays=True)
    demand.note(LAW, "two", pays=True)
    clock.now = HALF_LIFE_S
    assert demand.worth(LAW) == 1.0
    assert demand.wanted() == []
    demand.note(VERSE, "one", pays=True)
    demand.note(VERSE, "two", pays=True)
    demand.note(LAW, "one", pays=True)
    demand.note(LAW, "three", pays=False)
    assert demand.wanted() == [VERSE, LAW]


@settings(max_examples=10, deadline=None)
@given(num_peers=st.integers(1, 200))
def test_a_flood_of_made_up_names_does_not_push_out_what_is_wanted(num_peers: int) -> None:
    demand = Demand(Clock())
    demand.note(LAW, "one", pays=True)
    demand.note(LAW, "two", pays=True)
    for number in range(5 * MAX_WANTED):
        demand.note(named(number), f"peer {number % num_peers}", pays=False)
    assert demand.wanted() == [LAW]
    demand.check()
    assert len(demand._asks) <= MAX_WANTED
    for number in range(5 * MAX_ASKERS):
        demand.note(LAW, f"peer {number}", pays=False)
    assert demand.worth(LAW) >= 2.0
    demand.check()


def test_a_payer_that_asks_for_everything_keeps_only_its_latest_wishes() -> None:
    demand = Demand(Clock())
    demand.note(named(0), "honest", pays=True)
    for number in range(10 * MAX_OF_PEER):
        demand.note(named(number), "greedy", pays=True)
    assert len([one for one in range(10 * MAX_OF_PEER) if demand.worth(named(one))]) == (
        MAX_OF_PEER + 1
    )
    assert demand.wanted() == []


def test_what_is_here_or_cannot_be_served_is_wanted_no_more() -> None:
    clock = Clock()
    demand = Demand(clock)
    for who in ("one", "two"):
        demand.note(LAW, who, pays=True)
    demand.forget(LAW)
    assert demand.wanted() == []
    demand.refuse(VERSE)
    for who in ("one", "two"):
        demand.note(VERSE, who, pays=True)
    assert demand.wanted() == []
    clock.now = REFUSED_S
    for who in ("one", "two"):
        demand.note(VERSE, who, pays=True)
    assert demand.wanted() == [VERSE]


class Anything(RuleBasedStateMachine):
    """Asks, refusals and time in any order keep both tables equal and bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.demand = Demand(self.clock)

    @rule(number=st.integers(0, 60), peer=st.integers(0, 40), pays=st.booleans())
    def ask(self, number: int, peer: int, pays: bool) -> None:
        self.demand.note(named(number), str(peer), pays=pays)

    @rule(number=st.integers(0, 60))
    def forget(self, number: int) -> None:
        self.demand.forget(named(number))
        assert self.demand.worth(named(number)) == 0.0

    @rule(number=st.integers(0, 60))
    def refuse(self, number: int) -> None:
        self.demand.refuse(named(number))

    @rule(seconds=st.floats(0, 1000))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(first=st.integers(0, 30), peer=st.integers(0, 3))
    def flood(self, first: int, peer: int) -> None:
        for number in range(first, first + MAX_OF_PEER + 8):
            self.demand.note(named(number), str(peer), pays=False)

    @invariant()
    def is_whole(self) -> None:
        self.demand.check()
        worths = [self.demand.worth(cid) for cid in self.demand.wanted()]
        assert worths == sorted(worths, reverse=True)
        assert all(worth >= module.LEAST_WORTH for worth in worths)


Anything.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_asks_in_any_order = Anything.TestCase
