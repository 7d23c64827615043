"""Who is asked where nodes quote: among peers in memory, on a clock that jumps."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from node.answering.quotes import FIRST_S, REST_S
from node.answering.tokenizer import BaseTokenizer, load_tokenizer
from node.api.answers import CompletionRequest, Started
from node.errors import NodeAtOdds, NodeCheated, NoProvider
from node.wire.metering import Price
from node.wire.quote import AskQuote, NoQuote

from ..tiny import make_base
from .peers_in_memory import LAW, Part, World, make_world, peer_id
from .test_beliefs import quote
from .test_service import ask


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BaseTokenizer:
    return load_tokenizer(make_base(tmp_path_factory.mktemp("base") / "base"))


def part(quote_s: float = 0.0, **changes: Any) -> Part:
    return Part([[5]], quote=quote(**changes), quote_s=quote_s)


async def served_by(world: World, **changes: Any) -> str:
    started = next(event for event in await ask(world, **changes) if isinstance(event, Started))
    return next(name for name in world.peers.parts if peer_id(name) == started.served_by)


async def test_the_best_quote_answers_and_must_stand_by_its_price(
    tokenizer: BaseTokenizer,
) -> None:
    parts = {
        "slow": part(first_token_ms=900),
        "quick": part(first_token_ms=20),
        "dear": part(first_token_ms=20, completion_price=400),
    }
    world = make_world(tokenizer, parts, law=list(parts))
    assert await served_by(world, model="law") == "quick"
    assert world.peers.bound[peer_id("quick")] == Price(10, 50)
    asked = dict(world.peers.quoted)
    assert asked.keys() == {peer_id(name) for name in parts}
    assert asked[peer_id("slow")] == AskQuote(
        world.catalogue.base, LAW.digest, [], 2, 8, prompt_price=100, completion_price=500
    )


async def test_where_there_is_no_choice_nobody_is_asked_for_a_quote(
    tokenizer: BaseTokenizer,
) -> None:
    parts = {"one": part(), "two": part()}
    world = make_world(tokenizer, parts, law=["one"])
    assert await served_by(world, model="law") == "one"
    assert await served_by(world, node=peer_id("two")) == "two"
    assert world.peers.quoted == []


async def test_where_the_network_names_nobody_those_are_asked_who_are_connected(
    tokenizer: BaseTokenizer,
) -> None:
    world = make_world(tokenizer, {"one": part(), "two": part()}, base=[])
    with pytest.raises(NoProvider):
        await ask(world, model="law")
    world.peers.serving_names = ["two"]
    assert await served_by(world, model="law") == "two"


async def test_who_quotes_nothing_costs_no_more_than_patience(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    world = make_world(tokenizer, {"mute": Part([[5]], quote_s=0.9), "quick": part(0.004)})
    assert await served_by(world) == "quick"
    world = make_world(tokenizer, {"mute": Part([[5]]), "mutter": Part([[5]], quote_s=0.9)})
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        async with world.service.complete(
            CompletionRequest("base", "Hi", max_tokens=1), nursery
        ) as events:
            async for event in events:
                if isinstance(event, Started):
                    assert trio.current_time() - began < FIRST_S + 0.01
                    break


@pytest.mark.parametrize(("late_s", "served"), [(REST_S / 2, "late"), (3 * REST_S, "early")])
async def test_others_are_waited_for_a_moment_once_the_first_quote_came(
    tokenizer: BaseTokenizer,
    autojump_clock: trio.testing.MockClock,
    late_s: float,
    served: str,
) -> None:
    parts = {
        "early": part(first_token_ms=800),
        "late": part(late_s, first_token_ms=10),
    }
    assert await served_by(make_world(tokenizer, parts)) == served


async def test_after_an_answer_the_next_request_waits_for_no_quote_and_hears_new_ones(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    parts = {"a": part(0.002, first_token_ms=10), "b": part(0.003, first_token_ms=100)}
    world = make_world(tokenizer, parts)
    assert await served_by(world) == "a"
    await trio.sleep(5)
    parts["a"].quote = quote(first_token_ms=10, running=30)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        assert await _started(world, nursery) == peer_id("a")
        assert trio.current_time() == began, "nobody was waited for"
    assert len(world.peers.quoted) == 4
    assert await served_by(world) == "b", "what was heard meanwhile counts"


async def test_requests_that_come_at_once_ask_for_quotes_once_and_spread(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    parts = {name: part(0.003, first_token_ms=10) for name in "abc"}
    for each in parts.values():
        each.pause_s = 0.5
    world = make_world(tokenizer, parts)
    started: list[str] = []

    async def one() -> None:
        async with trio.open_nursery() as nursery:
            started.append(await _started(world, nursery, whole=True))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(one)
    assert len(world.peers.quoted) == 3
    assert sorted(started) == sorted([peer_id(name) for name in "abc"] * 2)


async def test_a_liar_is_left_after_few_answers(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    parts = {
        "liar": part(0.002, first_token_ms=5),
        "honest": part(0.002, first_token_ms=120),
    }
    parts["liar"].pause_s = 1.2
    parts["honest"].pause_s = 0.06
    world = make_world(tokenizer, parts)
    answered = []
    for _ in range(6):
        answered.append(await served_by(world))
        await trio.sleep(3)
    assert answered[0] == "liar"
    assert answered.count("liar") <= 2
    assert answered[-3:] == ["honest"] * 3


async def test_who_offers_more_than_it_quoted_is_left_for_another(
    tokenizer: BaseTokenizer,
) -> None:
    parts = {
        "cheat": part(first_token_ms=5),
        "honest": part(first_token_ms=500),
    }
    parts["cheat"].refusal = NodeAtOdds("it asks 100/100 per token, and had quoted 10/50")
    world = make_world(tokenizer, parts)
    assert await served_by(world) == "honest"
    assert [one.peer_id for one in world.telemetry.rejections] == [peer_id("cheat")]


async def test_where_few_hold_an_adapter_others_hear_of_it_and_may_answer(
    tokenizer: BaseTokenizer,
) -> None:
    parts = {"holder": part(first_token_ms=10), "other": part(residency="absent")}
    world = make_world(tokenizer, parts, law=["holder"])
    world.peers.serving_names = ["holder", "other"]
    assert await served_by(world, model="law") == "holder"
    assert {who for who, _ in world.peers.quoted} == {peer_id("other"), peer_id("holder")}
    parts["holder"].refusal = NodeCheated("it went mad")
    assert await served_by(world, model="law") == "other"
    await served_by(world)
    assert {wanted.adapter for who, wanted in world.peers.quoted if who == peer_id("other")} == {
        LAW.digest,
        bytes(32),
    }


@pytest.mark.parametrize("holder_s", [0.0, 0.9])
async def test_who_would_have_to_fetch_is_no_better_than_a_holder_that_was_not_heard(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock, holder_s: float
) -> None:
    parts = {
        "holder": part(holder_s, first_token_ms=100),
        "other": part(residency="absent", first_token_ms=300),
    }
    world = make_world(tokenizer, parts, law=["holder"])
    world.peers.serving_names = ["holder", "other"]
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            assert await _started(world, nursery, model="law") == peer_id("holder")
            assert trio.current_time() == began, "where one has it nobody waits for quotes"
            nursery.cancel_scope.cancel()
    parts["holder"].quote = quote(first_token_ms=100, running=40)
    await trio.sleep(40)
    assert await served_by(world, model="law") == "holder"
    assert await served_by(world, model="law") == "other", "the holder is too busy"


async def test_who_would_refuse_comes_last(tokenizer: BaseTokenizer) -> None:
    parts = {"no": Part([[5]], quote=NoQuote("busy")), "mute": Part([[5]])}
    assert await served_by(make_world(tokenizer, parts)) == "mute"


async def _started(
    world: World, nursery: trio.Nursery, *, whole: bool = False, model: str = "base"
) -> str:
    found = ""
    request = CompletionRequest(model, "Hi", max_tokens=1)
    async with world.service.complete(request, nursery) as events:
        async for event in events:
            if isinstance(event, Started):
                found = event.served_by
                if not whole:
                    break
    return found
