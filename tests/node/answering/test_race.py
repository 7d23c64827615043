"""Who is asked beside whom: a late offer is not waited for, and nobody is paid for losing."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.answering.race import LATE_S, MAX_IN_ALL
from node.answering.router import MAX_PATIENCE_S, UNKNOWN_OFFER_S
from node.answering.service import BEGIN_DEADLINE_S
from node.answering.tokenizer import BaseTokenizer, load_tokenizer
from node.api.answers import Ended, Started
from node.errors import NodeVanished, NoProvider, PaymentRequired

from ..tiny import make_base
from .peers_in_memory import Part, World, make_world, peer_id
from .test_service import ask


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BaseTokenizer:
    return load_tokenizer(make_base(tmp_path_factory.mktemp("base") / "base"))


def accepted(world: World) -> list[str]:
    return [peer.peer_id for peer in world.peers.made.values() if peer.accepted]


async def test_a_late_offer_is_not_waited_for_and_costs_nothing(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    world = make_world(tokenizer, {"slow": Part([[5]], offer_s=10.0), "quick": Part([[6]])})
    began = trio.current_time()
    first, *_, last = await ask(world, within_s=60)
    assert trio.current_time() - began == pytest.approx(UNKNOWN_OFFER_S)
    assert isinstance(first, Started)
    assert first.served_by == peer_id("quick")
    assert isinstance(last, Ended)
    assert accepted(world) == [peer_id("quick")]
    assert world.peers.asked("slow").left_early == 1


async def test_the_first_offer_is_taken_whoever_was_asked_first(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    parts = {"a": Part([[5]], offer_s=0.3), "b": Part([[6]], offer_s=5.0)}
    world = make_world(tokenizer, parts)
    (first, *_) = await ask(world, within_s=60)
    assert isinstance(first, Started)
    assert first.served_by == peer_id("a"), "it was late, and still before the other"
    assert accepted(world) == [peer_id("a")]


async def test_who_was_late_is_asked_after_the_quick(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    world = make_world(tokenizer, {"slow": Part([[5]], offer_s=10.0), "quick": Part([[6]])})
    await ask(world, within_s=60)
    began = trio.current_time()
    await ask(world, within_s=60)
    assert trio.current_time() == began
    assert len(world.peers.asked("slow").questions) == 1


async def test_a_prompt_failure_needs_no_patience(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    gone = Part(unreachable=NodeVanished("away"))
    world = make_world(tokenizer, {"a": gone, "b": gone, "c": Part([[5]])})
    began = trio.current_time()
    await ask(world, within_s=60)
    assert trio.current_time() == began


async def test_what_no_other_node_mends_ends_the_race(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    parts = {
        "slow": Part([[5]], offer_s=10.0),
        "dear": Part(refusal=PaymentRequired("too dear")),
        "c": Part([[6]]),
    }
    world = make_world(tokenizer, parts)
    began = trio.current_time()
    with pytest.raises(PaymentRequired, match="too dear"):
        await ask(world, within_s=60)
    assert trio.current_time() - began == pytest.approx(UNKNOWN_OFFER_S)
    assert accepted(world) == []


async def test_two_that_are_stuck_keep_nobody_from_asking_a_third(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    stuck = Part([[5]], offer_s=100.0)
    world = make_world(tokenizer, {"a": stuck, "b": stuck, "quick": Part([[6]])})
    for within_s in (LATE_S, MAX_PATIENCE_S):  # the next request knows who was late
        began = trio.current_time()
        (first, *_) = await ask(world, within_s=60)
        assert isinstance(first, Started)
        assert first.served_by == peer_id("quick")
        assert trio.current_time() - began <= within_s
    assert accepted(world) == [peer_id("quick")]


async def test_who_was_late_may_still_make_the_first_offer(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    stuck = Part([[5]], offer_s=100.0)
    parts = {"late": Part([[6]], offer_s=LATE_S + 1)}
    world = make_world(tokenizer, parts | {f"{number}": stuck for number in range(2 * MAX_IN_ALL)})
    (first, *_) = await ask(world, within_s=60)
    assert isinstance(first, Started)
    assert first.served_by == peer_id("late")
    assert world.peers.crowd.most <= MAX_IN_ALL


OFFERS = st.sampled_from([0.0, 0.1, 0.3, 3.0, 10.0])
PARTS = st.one_of(
    st.just(Part(unreachable=NodeVanished("away"))),
    OFFERS.map(lambda late_s: Part([[5]], offer_s=late_s, receipt=b"r" * 32)),
    OFFERS.map(lambda late_s: Part([[5]], offer_s=late_s, failure=NodeVanished("gone"))),
)


@given(parts=st.lists(PARTS, max_size=6))
def test_one_answer_and_at_most_two_are_waited_for_at_once(
    tokenizer: BaseTokenizer, parts: list[Part]
) -> None:
    world = make_world(tokenizer, {f"{number}": part for number, part in enumerate(parts)})

    async def main() -> None:
        with trio.move_on_after(600) as scope:
            try:
                events = await ask(world, within_s=500)
            except (NodeVanished, NoProvider):
                return
            assert sum(isinstance(event, Started) for event in events) == 1
            assert isinstance(events[-1], Ended)
        assert not scope.cancelled_caught

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    late = sum(part.offer_s > LATE_S for part in parts)
    assert world.peers.crowd.most <= min(2 + late, MAX_IN_ALL)
    honest = [part for part in parts if part.unreachable is None and part.failure is None]
    finished = sum(peer.finished for peer in world.peers.made.values())
    assert finished == bool(honest)


async def test_where_nobody_makes_an_offer_in_time_that_is_told(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    late = Part([[5]], offer_s=10 * BEGIN_DEADLINE_S)
    world = make_world(tokenizer, {"a": late, "b": late})
    began = trio.current_time()
    with pytest.raises(NoProvider, match="too much to do"):
        await ask(world, within_s=2 * BEGIN_DEADLINE_S)
    assert trio.current_time() - began == pytest.approx(BEGIN_DEADLINE_S)
    assert accepted(world) == []


async def test_an_answer_that_has_begun_may_take_longer_than_its_beginning(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    world = make_world(tokenizer, {"a": Part([[5], [6]], pause_s=BEGIN_DEADLINE_S)})
    events = await ask(world, within_s=10 * BEGIN_DEADLINE_S)
    assert isinstance(events[-1], Ended)
