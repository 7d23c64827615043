"""Who is worth least in a cache."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.lora.worth import Clock, Worth, reload_cost

COSTS = st.floats(1e-6, 1e6)


def used(clock: Clock, cost: float, times: int = 1) -> Worth:
    worth = Worth(cost)
    for _ in range(times):
        clock.use(worth)
    return worth


@given(COSTS, st.integers(1, 20))
def test_among_equals_who_is_used_more_or_dearer_to_read_again_is_worth_more(
    cost: float, times: int
) -> None:
    clock = Clock()
    plain = used(clock, cost, times)
    assert used(clock, cost, times + 1).value > plain.value
    assert used(clock, 2 * cost, times).value > plain.value


def test_what_is_large_costs_less_to_read_again_by_its_size() -> None:
    assert reload_cost(2.0, 100) < reload_cost(2.0, 50)
    assert reload_cost(2.0, 0) == 2.0


def test_yesterdays_favourite_leaves_at_last() -> None:
    clock = Clock()
    favourite = used(clock, 1.0, times=10)
    for _ in range(9):
        clock.leave(used(clock, 1.0))
    newest = used(clock, 1.0)
    assert newest.value == favourite.value
    clock.leave(newest)
    assert used(clock, 1.0).value > favourite.value


@given(st.lists(COSTS, min_size=1))
def test_who_comes_is_worth_more_than_whoever_left(costs: list[float]) -> None:
    clock = Clock()
    for cost in costs:
        gone = used(clock, cost)
        clock.leave(gone)
        assert used(clock, cost).value > gone.value
