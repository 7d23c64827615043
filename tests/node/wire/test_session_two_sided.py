"""The two machines of the infer protocol against each other: delay, loss, death and lies, and
nobody ever owes more than was agreed, is paid twice, or forgets what it signed.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .two_sided import RealNotary, World

schedules = st.binary(min_size=60, max_size=400)


def play(world: World, schedule: bytes) -> None:
    world.run(schedule)
    world.check_blamed()


unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


@settings(unhurried, max_examples=300)
@given(schedule=schedules, is_attributed=st.booleans())
def test_nobody_is_cheated_whatever_happens(schedule: bytes, is_attributed: bool) -> None:
    play(World(is_attributed=is_attributed), schedule)


def test_a_receipt_that_cannot_be_signed_now_changes_nothing() -> None:
    """Found by the fifty thousand: a lost request was released, and its row said otherwise."""
    schedule = bytes(35) + bytes.fromhex(
        "e20600e2f700000000000000000200000000000000000000f401010101010100f8010300020101e2"
        "0013e200013500b9e2980001000101010100000000e29f"
    )
    play(World(), schedule)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("seed", "schedules"),
    [
        (0, 200),
        (1, 200),
        pytest.param(2, 2_000, marks=pytest.mark.slow),
        pytest.param(3, 2_000, marks=pytest.mark.slow),
    ],
)
def test_nobody_is_cheated_in_random_schedules_of_a_seed(seed: int, schedules: int) -> None:
    chance = random.Random(seed)
    for _ in range(schedules):
        schedule = chance.randbytes(chance.randrange(60, 400))
        try:
            play(World(is_attributed=bool(seed % 2)), schedule)
        except Exception as error:
            error.add_note(f"the schedule: {schedule.hex()}")
            raise


@settings(unhurried, max_examples=25)
@given(schedule=schedules, is_attributed=st.booleans())
def test_nobody_is_cheated_with_real_signatures(schedule: bytes, is_attributed: bool) -> None:
    play(World(RealNotary, is_attributed=is_attributed), schedule)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(unhurried, max_examples=50_000)
@given(schedule=schedules, is_attributed=st.booleans())
def test_nobody_is_cheated_in_fifty_thousand_schedules(
    schedule: bytes, is_attributed: bool
) -> None:
    play(World(is_attributed=is_attributed), schedule)
