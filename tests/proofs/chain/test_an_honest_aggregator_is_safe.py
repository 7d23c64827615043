"""Nobody convicts an honest aggregator, whatever its machine and its chain do to it: outages,
restarts, a lost disk, reorganisations of 1 to 20 blocks, channels that leave. Without one of its
rules somebody does.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proofs.chain.structs import ANYWHERE
from tests.proofs.chain.honest import PACE, Honest, Trial, begin, run
from tests.proofs.chain.world import TERMS

NUM_EVENTS = 8


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
def test_nobody_convicts_an_honest_aggregator(seed: int):
    run(begin(seed, Honest), NUM_EVENTS)


@pytest.mark.slow
@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_nobody_convicts_an_honest_aggregator_in_a_long_search(seed: int):
    run(begin(seed, Honest), 3 * NUM_EVENTS)


def test_a_trial_begins_as_if_none_had_been_before_it():
    first = begin(1, Honest)
    began = first.honest.now
    first.mine(1)
    first.world.wait(10 * TERMS.silence)
    second = begin(1, Honest)
    assert second.honest.now == began
    second.mine(1)
    assert second.honest.now - began < 10


class Unanchored(Honest):
    """Its headers land on any branch of the chain."""

    def anchor(self, moved):
        return ANYWHERE if super().anchor(moved) else None


class Forgetful(Honest):
    """It does not take up again what it is shown that it promised."""

    def reminders(self):
        return []


class Careless(Honest):
    """It does not look whether channels leave."""

    def left_at(self, channels):
        return {}

    def anchor(self, moved):
        found = super().anchor(moved)
        return ANYWHERE if found is None else found


def a_claim_is_taken_back(trial: Trial) -> None:
    """The header's transaction comes again, on a branch without the claim that it stands on."""
    height = int(trial.chain.head.block_number)
    trial.serve(0)
    trial.honest.step()
    dropped = trial.chain.revert_to(height)
    trial.mine(2)
    trial.resend(dropped, "aggregator")


def a_disk_is_lost(trial: Trial) -> None:
    """What was promised is forgotten, and shown by whoever holds the promise, not by its node."""
    trial.serve(0)
    trial.honest.lose_disk()
    trial.world.wait(PACE.promise_s + 1)
    trial.attack()
    trial.world.wait(TERMS.window + 1)
    trial.serve(1, only=True)
    trial.honest.step()
    trial.world.wait(TERMS.answer_time + 1)
    trial.serve(1, only=True)
    trial.honest.step()


def a_channel_leaves(trial: Trial) -> None:
    """A forced receipt is not answered while the aggregator is away, then the channel goes on."""
    trial.serve(0)
    trial.force(0)
    trial.world.wait(TERMS.silence // 2)
    trial.serve(1, only=True)
    trial.honest.client.settlement.say_alive()
    trial.world.wait(TERMS.silence // 2 + 1)
    trial.serve(0)
    trial.honest.step()


CASES = [
    (a_claim_is_taken_back, Unanchored),
    (a_disk_is_lost, Forgetful),
    (a_channel_leaves, Careless),
]


@pytest.mark.parametrize(("happens", "kind"), CASES)
def test_without_one_of_its_rules_it_is_convicted(
    happens: Callable[[Trial], None], kind: type[Honest]
):
    trial = begin(1, kind)
    happens(trial)
    with pytest.raises(AssertionError, match="was convicted"):
        trial.attack()


@pytest.mark.parametrize("happens", [happens for happens, _ in CASES])
def test_with_all_of_its_rules_it_is_not(happens: Callable[[Trial], None]):
    trial = begin(1, Honest)
    happens(trial)
    trial.attack()
    trial.honest.step()
    trial.attack()
