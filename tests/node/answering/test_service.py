"""The story of one request, among peers in memory: who is asked, what is told, what is cut."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from engine.messages import Choosing, Grammar
from node.answering.service import MAX_LOST, RECEIPT_S, STALL_S
from node.answering.tokenizer import BaseTokenizer, load_tokenizer
from node.api.answers import (
    CallDelta,
    ChatMessage,
    CompletionEvent,
    CompletionRequest,
    Continued,
    Delta,
    Ended,
    Started,
    TokenPrompt,
    Tool,
    ToolChoice,
)
from node.errors import (
    BadRequest,
    EngineBusy,
    NodeAtOdds,
    NodeCheated,
    NodeError,
    NodeRefused,
    NodeVanished,
    NoProvider,
    PaymentRequired,
    RegisteredElsewhere,
    UnknownModel,
)
from node.wire.infer import MAX_TOKENS, Resumed
from p2p.cid import Cid
from tests.proofs import scene

from ..networks import until
from ..tiny import make_base
from .peers_in_memory import (
    BASE,
    CONTEXT_TOKENS,
    LAW,
    MAX_ANSWER_TOKENS,
    Part,
    World,
    make_world,
    peer_id,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BaseTokenizer:
    return load_tokenizer(make_base(tmp_path_factory.mktemp("base") / "base"))


async def ask(
    world: World,
    seen: list[CompletionEvent] | None = None,
    *,
    within_s: float = 5.0,
    **changes: Any,
) -> list[CompletionEvent]:
    """All events of one answer, also in `seen`; an error that ended it is raised."""
    seen = [] if seen is None else seen
    failure: NodeError | None = None
    values = {"model": "base", "prompt": "Hi", "max_tokens": 8}
    request = CompletionRequest(**(values | changes))
    with trio.fail_after(within_s):
        async with trio.open_nursery() as nursery:
            try:
                async with world.service.complete(request, nursery) as events:
                    async for event in events:
                        seen.append(event)
            except NodeError as error:
                failure = error
    if failure is not None:
        raise failure
    return seen


def ids_of(tokenizer: BaseTokenizer, text: str) -> list[int]:
    return tokenizer.encode_prompt(text)


def text_of(events: Sequence[CompletionEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_nobody_is_paid_for_an_adapter_whose_weights_are_somebody_else_s(
    tokenizer: BaseTokenizer,
) -> None:
    world = make_world(tokenizer, {"far": Part([[5]])}, law=["far"])
    world.catalogue.unvetted = RegisteredElsewhere("the weights are registered to 0x12")
    with pytest.raises(RegisteredElsewhere, match="0x12"):
        await ask(world, model="law")
    assert await ask(world), "the bare base is nobody's"


# --- here ---


async def test_an_own_engine_answers_and_costs_nothing(tokenizer: BaseTokenizer) -> None:
    part = Part([ids_of(tokenizer, "par"), ids_of(tokenizer, "rots")], timings_ms={"load": 2.0})
    world = make_world(tokenizer, {"far": Part()}, own=part)
    first, *_, last = await ask(world)
    assert isinstance(first, Started)
    assert (first.served_by, first.cid) == (peer_id("self"), None)
    assert first.timings_ms["load"] == 2.0
    assert isinstance(last, Ended)
    assert (last.reason, last.amount, last.receipt) == ("length", 0, None)
    assert (last.prompt_tokens, last.completion_tokens) == (2, 7)
    assert {"lookup", "first_token", "queue", "total"} <= set(last.timings_ms)
    assert world.catalogue.lookups == []


async def test_the_text_comes_as_the_tokens_say(tokenizer: BaseTokenizer) -> None:
    pieces = ["🦜", " und ", "日本"]
    ids = [[token] for piece in pieces for token in ids_of(tokenizer, piece)]
    events = await ask(make_world(tokenizer, {}, own=Part(ids)), max_tokens=64)
    assert text_of(events) == "".join(pieces)


async def test_a_stop_text_cuts_the_answer_and_ends_it_at_the_peer(
    tokenizer: BaseTokenizer,
) -> None:
    part = Part([ids_of(tokenizer, "one. "), ids_of(tokenizer, "two END"), ids_of(tokenizer, "3")])
    world = make_world(tokenizer, {}, own=part)
    events = await ask(world, stop=("END",), max_tokens=64)
    assert text_of(events) == "one. two "
    assert isinstance(events[-1], Ended)
    assert events[-1].reason == "stop"
    assert events[-1].stop_text == "END"
    assert events[0].prompt_tokens == events[-1].prompt_tokens == 2
    assert events[-1].completion_tokens == 12
    assert world.peers.asked("self").stopped == 1


async def test_a_request_s_tokens_are_counted_without_asking_anybody(
    tokenizer: BaseTokenizer,
) -> None:
    world = make_world(tokenizer, {})
    turns = (ChatMessage("user", "May I?"),)
    plain = CompletionRequest("base", turns)
    assert world.service.count_tokens(plain) == len(tokenizer.encode_prompt(turns))
    tools = (Tool("look", "Look it up.", {"type": "object"}),)
    assert world.service.count_tokens(CompletionRequest("base", turns, tools=tools)) > 50
    with pytest.raises(BadRequest, match="empty"):
        world.service.count_tokens(CompletionRequest("base", ""))


async def test_without_an_engine_and_without_others_nobody_serves(
    tokenizer: BaseTokenizer,
) -> None:
    with pytest.raises(NoProvider, match="no node serves 'base' now"):
        await ask(make_world(tokenizer, {}))


async def test_what_ails_the_own_engine_is_told_as_it_is(tokenizer: BaseTokenizer) -> None:
    world = make_world(tokenizer, {"far": Part([[5]])}, own=Part(unreachable=EngineBusy("no room")))
    with pytest.raises(EngineBusy, match="no room"):
        await ask(world)
    assert world.peers.all_asked == [peer_id("self")]


# --- there ---


async def test_another_node_is_paid_and_its_receipt_is_told(tokenizer: BaseTokenizer) -> None:
    part = Part([[5, 6]], "stop", amount=1200, receipt=b"r" * 32, timings_ms={"fetch": 7.0})
    world = make_world(tokenizer, {"far": part})
    first, *_, last = await ask(world)
    assert isinstance(first, Started)
    assert isinstance(last, Ended)
    assert (first.served_by, first.timings_ms["fetch"]) == (peer_id("far"), 7.0)
    assert (last.amount, last.receipt) == (1200, (b"r" * 32).hex())
    assert world.telemetry.counters["requests_answered"] == 1


async def test_a_question_carries_what_was_asked(tokenizer: BaseTokenizer) -> None:
    world = make_world(tokenizer, {"far": Part([[5]])}, law=["far"])
    await ask(world, model="law", choosing=Choosing(0.5), logprobs=2, seed=9)
    (question,) = world.peers.asked("far").questions
    assert (question.base, question.adapter) == (BASE, LAW.digest)
    assert list(question.prompt_ids) == ids_of(tokenizer, "Hi")
    assert (question.max_tokens, question.terms.temperature, question.logprobs) == (8, 0.5, 2)
    assert question.stop_ids == tokenizer.stop_ids
    assert question.attribution == scene.TERMS


async def test_a_seed_makes_the_client_s_half_the_same_and_its_absence_another(
    tokenizer: BaseTokenizer,
) -> None:
    world = make_world(tokenizer, {"far": Part([[5]])})
    for seed in (9, 9, None, None):
        await ask(world, seed=seed)
    first, second, third, fourth = (q.client_seed for q in world.peers.asked("far").questions)
    assert first == second
    assert len({first, third, fourth}) == 3
    assert {len(each) for each in (first, third)} == {32}


async def test_providers_of_the_adapter_are_asked_before_those_of_the_base(
    tokenizer: BaseTokenizer,
) -> None:
    parts = {"base-only": Part([[5]]), "holder": Part([[6]])}
    world = make_world(tokenizer, parts, law=["holder"])
    (first, *_) = await ask(world, model="law")
    assert isinstance(first, Started)
    assert first.served_by == peer_id("holder")
    assert world.catalogue.lookups == [LAW]


async def test_where_nobody_holds_the_adapter_who_has_the_base_can_fetch_it(
    tokenizer: BaseTokenizer,
) -> None:
    world = make_world(tokenizer, {"base-only": Part([[5]])})
    (first, *_) = await ask(world, model="law")
    assert isinstance(first, Started)
    assert first.served_by == peer_id("base-only")
    assert world.catalogue.lookups == [LAW, Cid(BASE)]


async def test_who_is_connected_already_is_asked_first(tokenizer: BaseTokenizer) -> None:
    parts = {name: Part([[5]]) for name in ("a", "b", "c")}
    world = make_world(tokenizer, parts, connected=["c"])
    (first, *_) = await ask(world)
    assert isinstance(first, Started)
    assert first.served_by == peer_id("c")


@pytest.mark.parametrize("connected", [["b"], []])
async def test_a_named_node_answers_and_nobody_else(
    tokenizer: BaseTokenizer, connected: list[str]
) -> None:
    parts = {"a": Part([[5]]), "b": Part(unreachable=NodeVanished("b is away"))}
    world = make_world(tokenizer, parts, own=Part([[7]]), connected=connected)
    with pytest.raises(NodeVanished, match="b is away"):
        await ask(world, node=peer_id("b"))
    assert world.peers.all_asked == [peer_id("b")]


async def test_the_own_node_by_its_name_is_the_own_engine(tokenizer: BaseTokenizer) -> None:
    world = make_world(tokenizer, {"a": Part([[5]])}, own=Part([[7]]))
    (first, *_) = await ask(world, node=peer_id("self"))
    assert isinstance(first, Started)
    assert first.served_by == peer_id("self")


async def test_providers_are_not_looked_up_again_at_once(tokenizer: BaseTokenizer) -> None:
    world = make_world(tokenizer, {"far": Part([[5]])})
    await ask(world)
    await ask(world)
    assert world.catalogue.lookups == [Cid(BASE)]


# --- faults ---

REFUSALS = ["bad_request", "payment_required", "no_channel", "unknown_adapter", "adapter_refused"]


def refusal(code: str) -> NodeRefused:
    return NodeRefused(peer_id("a"), code, "no")


@pytest.mark.parametrize(
    "code", ["busy", "engine_lost", "engine_failed", "no_provider", "internal", "wrong_base"]
)
async def test_a_node_that_cannot_is_passed_over(tokenizer: BaseTokenizer, code: str) -> None:
    parts = {"a": Part(refusal=refusal(code)), "b": Part([[5]])}
    world = make_world(tokenizer, parts)
    (first, *_) = await ask(world)
    assert isinstance(first, Started)
    assert first.served_by == peer_id("b")
    assert "trying another node" in world.told.getvalue()


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_no_that_any_other_would_say_too_ends_the_search(
    tokenizer: BaseTokenizer, code: str
) -> None:
    world = make_world(tokenizer, {"a": Part(refusal=refusal(code)), "b": Part([[5]])})
    with pytest.raises(NodeRefused, match=code):
        await ask(world)
    assert world.peers.all_asked == [peer_id("a")]


async def test_who_does_not_pay_here_does_not_pay_elsewhere(tokenizer: BaseTokenizer) -> None:
    parts = {"a": Part(refusal=PaymentRequired("too dear")), "b": Part([[5]])}
    with pytest.raises(PaymentRequired):
        await ask(make_world(tokenizer, parts))


async def test_the_last_failure_is_told_when_all_fail(tokenizer: BaseTokenizer) -> None:
    parts = {
        "a": Part(unreachable=NodeVanished("a is away")),
        "b": Part(unreachable=NodeVanished("b is away")),
    }
    with pytest.raises(NodeVanished, match="b is away"):
        await ask(make_world(tokenizer, parts))


async def test_another_node_goes_on_where_one_was_lost(tokenizer: BaseTokenizer) -> None:
    so_far = ids_of(tokenizer, "so far")
    parts = {
        "a": Part([so_far], failure=NodeVanished("gone")),
        "b": Part([ids_of(tokenizer, ", so")], failure=refusal("engine_lost")),
        "c": Part([ids_of(tokenizer, " good")], amount=7, receipt=b"r" * 32),
    }
    world = make_world(tokenizer, parts)
    events = await ask(world, max_tokens=64, seed=1)
    assert text_of(events) == "so far, so good"
    whole = world.peers.asked("a").questions[0]
    first, second = (world.peers.asked(name).questions[0] for name in "bc")
    seed = hashlib.sha256(peer_id("a").encode()).digest()
    assert first == whole.after(seed, so_far)
    assert first.prompt_ids == (*whole.prompt_ids, *so_far)
    assert first.max_tokens == 64 - len(so_far)
    assert first.resumed == Resumed(seed, len(so_far))
    assert second.resumed == Resumed(seed, len(so_far) + 4)
    moved = [event for event in events if isinstance(event, Continued)]
    assert [(one.served_by, one.after_tokens) for one in moved] == [
        (peer_id("b"), len(so_far)),
        (peer_id("c"), len(so_far) + 4),
    ]
    assert "gone" in moved[0].reason
    assert sum(isinstance(event, Started) for event in events) == 1
    last = events[-1]
    assert isinstance(last, Ended)
    assert (last.prompt_tokens, last.completion_tokens) == (2, len(so_far) + 4 + 5)
    assert last.amount == 7
    assert last.timings_ms["resume"] >= 0


async def test_a_node_that_comes_back_goes_on_itself(tokenizer: BaseTokenizer) -> None:
    parts = {"a": Part([[5]], failure=NodeVanished("its stream died"))}
    world = make_world(tokenizer, parts)
    seen: list[CompletionEvent] = []
    async with trio.open_nursery() as nursery:

        async def mend() -> None:
            await until(lambda: any(isinstance(event, Delta) for event in seen))
            parts["a"].failure = None

        nursery.start_soon(mend)
        await ask(world, seen)
    assert [len(q.prompt_ids) for q in world.peers.asked("a").questions] == [2, 3]
    assert isinstance(seen[-1], Ended)


async def test_nodes_that_are_lost_again_and_again_end_the_answer(
    tokenizer: BaseTokenizer,
) -> None:
    world = make_world(tokenizer, {"a": Part([[5]], failure=NodeVanished("gone"))})
    seen: list[CompletionEvent] = []
    with pytest.raises(NodeVanished, match="gone"):
        await ask(world, seen)
    assert len(world.peers.asked("a").questions) == MAX_LOST + 1


async def test_an_answer_whose_last_token_came_is_whole(tokenizer: BaseTokenizer) -> None:
    gone = NodeVanished("gone")
    for tokens, changes, reason in (
        ([[5], [6]], {"max_tokens": 2}, "length"),
        ([[5], [tokenizer.stop_ids[0]]], {}, "stop"),
        ([ids_of(tokenizer, "one END")], {"stop": ("END",), "max_tokens": 64}, "stop"),
    ):
        world = make_world(tokenizer, {"a": Part(tokens, failure=gone), "b": Part([[7]])})
        events = await ask(world, **changes)
        assert world.peers.all_asked == [peer_id("a")]
        assert isinstance(events[-1], Ended)
        assert events[-1].reason == reason


async def test_nothing_is_built_on_what_a_cheat_said(tokenizer: BaseTokenizer) -> None:
    parts = {"a": Part([[5]], failure=NodeCheated("a lies")), "b": Part([[6]])}
    world = make_world(tokenizer, parts)
    with pytest.raises(NodeCheated):
        await ask(world)
    assert world.peers.all_asked == [peer_id("a")]


async def test_a_silent_node_is_left_when_there_is_another(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    world = make_world(tokenizer, {"a": Part([[5]], waits=True), "b": Part([[6]])})
    began = trio.current_time()
    events = await ask(world)
    assert trio.current_time() - began == pytest.approx(STALL_S)
    assert sum(isinstance(event, Continued) for event in events) == 1


async def test_of_a_whole_answer_the_receipt_is_waited_for_longer(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    world = make_world(tokenizer, {"a": Part([[5]], waits=True), "b": Part([[6]])})
    began = trio.current_time()
    events = await ask(world, within_s=60, max_tokens=1)
    assert trio.current_time() - began == pytest.approx(RECEIPT_S)
    assert world.peers.all_asked == [peer_id("a")]
    assert isinstance(events[-1], Ended)


async def test_a_node_that_says_it_is_at_work_is_waited_for(
    tokenizer: BaseTokenizer, autojump_clock: trio.testing.MockClock
) -> None:
    part = Part([[5], [], [], [], [6]], pause_s=2.0)
    world = make_world(tokenizer, {"a": part, "b": Part([[7]])})
    events = await ask(world, within_s=60)
    assert world.peers.all_asked == [peer_id("a")]
    deltas = [event.token_ids for event in events if isinstance(event, Delta) and event.token_ids]
    assert deltas == [(5,), (6,)], "a beat is no token"


async def test_a_cheat_is_remembered_by_name_and_another_node_asked(
    tokenizer: BaseTokenizer,
) -> None:
    parts = {"a": Part(refusal=NodeCheated("a lies")), "b": Part([[5]])}
    world = make_world(tokenizer, parts)
    await ask(world)
    assert [(r.what, r.peer_id) for r in world.telemetry.rejections] == [("answer", peer_id("a"))]


async def test_who_failed_lately_is_asked_last(tokenizer: BaseTokenizer) -> None:
    parts = {"a": Part(unreachable=NodeVanished("away")), "b": Part([[5]])}
    world = make_world(tokenizer, parts)
    await ask(world)
    parts["a"].unreachable = None
    (first, *_) = await ask(world)
    assert isinstance(first, Started)
    assert first.served_by == peer_id("b")


async def test_a_bug_of_our_own_costs_its_answer_and_is_logged_whole(
    tokenizer: BaseTokenizer,
) -> None:
    part = Part([ids_of(tokenizer, "so far")], failure=OSError("the disk is full"))
    world = make_world(tokenizer, {}, own=part)
    with pytest.raises(NodeError, match=r"the disk is full.*its log has the whole story"):
        await ask(world)
    assert "Traceback" in world.told.getvalue()


async def test_who_leaves_early_ends_the_answer_at_the_peer(tokenizer: BaseTokenizer) -> None:
    world = make_world(tokenizer, {"far": Part([[5]] * 4, waits=True)})
    request = CompletionRequest("base", "Hi", max_tokens=8)
    with trio.fail_after(60):
        async with (
            trio.open_nursery() as nursery,
            world.service.complete(request, nursery) as events,
        ):
            await anext(events)
            assert world.peers.asked("far").left_early == 0
    assert world.peers.asked("far").left_early == 1


# --- what makes no sense ---


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        (
            {"choosing": Choosing(float("nan"))},
            "temperature is nan; it must be at least 0 and at most",
        ),
        (
            {"choosing": Choosing(top_k=1 << 24)},
            "top_k is 16777216; it must be at least 0 and below",
        ),
        ({"choosing": Choosing(repetition_penalty=0.0)}, "repetition_penalty is 0.0; .* above 0"),
        ({"choosing": Choosing(logit_bias=[(2, 1.0), (1, 1.0)])}, "logit_bias .* ascending"),
        ({"choosing": Choosing(logit_bias=[(2, 101.0)])}, "logit_bias"),
        ({"choosing": Choosing(grammar=Grammar("regex", "a" * 40_000))}, "grammar"),
        ({"prompt": ""}, "empty"),
        ({"stop": ("",)}, "stop text"),
        ({"node": "not a peer"}, "is not a peer id"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anybody_is_asked(
    tokenizer: BaseTokenizer, changes: dict[str, object], match: str
) -> None:
    world = make_world(tokenizer, {"far": Part([[5]])})
    with pytest.raises(BadRequest, match=match):
        await ask(world, **changes)
    assert world.peers.all_asked == []


async def test_an_unknown_adapter_is_told_before_anybody_is_asked(
    tokenizer: BaseTokenizer,
) -> None:
    world = make_world(tokenizer, {"far": Part([[5]])})
    with pytest.raises(UnknownModel):
        await ask(world, model="nonsense")
    assert world.peers.all_asked == []


# --- any company ---

FAULTS = {
    "vanished": lambda: Part(unreachable=NodeVanished("away")),
    "busy": lambda: Part(refusal=refusal("busy")),
    "cheat": lambda: Part(refusal=NodeCheated("lies")),
    "at odds": lambda: Part(refusal=NodeAtOdds("its clock is late")),
    "honest": lambda: Part([[5]], receipt=b"r" * 32, amount=1),
}


@given(company=st.lists(st.sampled_from(sorted(FAULTS)), max_size=6))
def test_one_honest_node_is_enough_and_nobody_is_asked_twice(
    tokenizer: BaseTokenizer, company: list[str]
) -> None:
    parts = {f"{number}": FAULTS[kind]() for number, kind in enumerate(company)}
    world = make_world(tokenizer, parts)

    async def main() -> bool:
        try:
            await ask(world)
        except NodeError:
            return False
        return True

    assert trio.run(main) == ("honest" in company)
    assert sum(peer.finished for peer in world.peers.made.values()) == ("honest" in company)
    assert all(len(peer.questions) <= 1 for peer in world.peers.made.values())


TALK = (ChatMessage("user", "law"), ChatMessage("assistant", "Yes?"), ChatMessage("user", "Hi"))


@pytest.mark.parametrize(
    ("prompt", "model"),
    [
        ("What says the law?", "law"),
        (TALK, "base"),
        ((ChatMessage("system", "Be kind"), ChatMessage("user", "My law!")), "law"),
    ],
)
async def test_auto_asks_for_what_the_last_question_is_about_and_says_so(
    tokenizer: BaseTokenizer, prompt: Any, model: str
) -> None:
    world = make_world(tokenizer, {"a": Part(tokens=[[5]])}, law=["a"])
    started = (await ask(world, model="auto", prompt=prompt))[0]
    assert isinstance(started, Started)
    assert started.model == model
    assert started.chosen is not None
    assert started.chosen.model.model == model
    asked = world.peers.asked("a").questions[0].adapter
    assert asked == (LAW.digest if model == "law" else bytes(32))


async def test_auto_cannot_read_token_ids(tokenizer: BaseTokenizer) -> None:
    world = make_world(tokenizer, {"a": Part(tokens=[[5]])})
    with pytest.raises(BadRequest, match="token ids"):
        await ask(world, model="auto", prompt=TokenPrompt((1, 2)))


# --- how long an answer may be ---


@pytest.mark.parametrize(
    ("asked", "may_have", "told"),
    [(8, 8, None), (None, CONTEXT_TOKENS - 2, CONTEXT_TOKENS - 2), (9000, 254, 254)],
)
async def test_here_an_answer_may_fill_the_context_and_no_more(
    tokenizer: BaseTokenizer, asked: int | None, may_have: int, told: int | None
) -> None:
    world = make_world(tokenizer, {}, own=Part([[5]], reason="stop"))
    ended = (await ask(world, max_tokens=asked))[-1]
    (peer,) = world.peers.made.values()
    assert peer.questions[0].max_tokens == may_have
    assert isinstance(ended, Ended)
    assert ended.max_tokens == told


@pytest.mark.parametrize(
    ("asked", "may_have"), [(8, 8), (None, MAX_ANSWER_TOKENS), (9000, MAX_TOKENS)]
)
async def test_of_another_node_no_more_is_bought_than_the_setting_where_nobody_says(
    tokenizer: BaseTokenizer, asked: int | None, may_have: int
) -> None:
    world = make_world(tokenizer, {"a": Part([[5]], reason="length")})
    ended = (await ask(world, max_tokens=asked))[-1]
    assert world.peers.asked("a").questions[0].max_tokens == may_have
    assert all(wanted.max_tokens == may_have for _, wanted in world.peers.quoted)
    assert isinstance(ended, Ended)
    assert ended.max_tokens == 1  # its context was full after that


# --- prompts that are echoed ---


async def test_a_prompt_is_echoed_with_its_log_probabilities(tokenizer: BaseTokenizer) -> None:
    world = make_world(tokenizer, {}, own=Part([ids_of(tokenizer, "!")]))
    ids = ids_of(tokenizer, "Hi")
    for prompt in ("Hi", TokenPrompt(tuple(ids))):
        started, echo, *_ = await ask(world, prompt=prompt, echo=True, logprobs=2, max_tokens=1)
        assert isinstance(started, Started)
        assert isinstance(echo, Delta)
        assert (echo.text, echo.token_ids) == ("Hi", ())
        assert [each.token.text for each in echo.logprobs] == ["H", "i"]
        assert [each.token.logprob for each in echo.logprobs] == [None, -float(ids[1])]
        assert [len(each.top) for each in echo.logprobs] == [0, 2]
    started, echo, ended = await ask(world, echo=True, max_tokens=0)
    assert isinstance(ended, Ended)
    assert (ended.completion_tokens, ended.max_tokens) == (0, None)
    assert isinstance(echo, Delta)
    assert (echo.text, echo.logprobs) == ("Hi", ())


async def test_log_probabilities_of_a_prompt_are_not_asked_of_others(
    tokenizer: BaseTokenizer,
) -> None:
    world = make_world(tokenizer, {"a": Part([[5]])})
    with pytest.raises(BadRequest, match="own engine alone"):
        await ask(world, echo=True, logprobs=1)
    assert world.peers.all_asked == []
    assert text_of(await ask(world, echo=True)).startswith("Hi")


# --- tools ---


async def test_a_call_goes_on_where_a_node_was_lost(tokenizer: BaseTokenizer) -> None:
    text = 'I look. <tool_call>\n{"name": "weather", "arguments": {"place": "Bonn"}}\n</tool_call>'
    ids = ids_of(tokenizer, text)
    cut = len(ids_of(tokenizer, text[:60]))
    parts = {
        "a": Part([[one] for one in ids[:cut]], failure=NodeVanished("gone")),
        "b": Part([ids[cut:]], reason="stop", amount=7, receipt=b"r" * 32),
    }
    world = make_world(tokenizer, parts)
    turns = (ChatMessage("user", "Hot?"),)
    tools = (Tool("weather", parameters={"type": "object"}),)
    events = await ask(world, prompt=turns, tools=tools, max_tokens=200)
    calls = [event for event in events if isinstance(event, CallDelta)]
    assert text_of(events) == "I look."
    assert calls[0].name == "weather"
    assert "".join(each.arguments for each in calls) == '{"place": "Bonn"}'
    first, second = (world.peers.asked(name).questions[0] for name in "ab")
    assert first.terms.grammar is not None
    assert first.terms.grammar.kind == "lark"
    assert second.terms == first.terms


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tools": (Tool("a b"),)}, "letters, digits"),
        ({"tools": (Tool("f"), Tool("f"))}, "two tools are called"),
        ({"tools": (Tool("f"),), "tool_choice": ToolChoice("required", only="g")}, "none of the"),
        ({"tool_choice": ToolChoice("required")}, "there are no tools"),
        ({"tools": (Tool("f"),), "prompt": "plain"}, "need chat turns"),
        ({"tools": tuple(Tool(f"f{number}") for number in range(513))}, "limit is 512"),
        ({"template_options": {"messages": []}}, "not a request's to set"),
        ({"echo": True}, "echo needs a plain prompt"),
        ({"prompt": TokenPrompt(())}, "empty"),
        ({"prompt": TokenPrompt((5, 1 << 20))}, "this base's ids are"),
    ],
)
async def test_tools_and_prompts_that_make_no_sense_are_refused_by_name(
    tokenizer: BaseTokenizer, changes: dict[str, Any], words: str
) -> None:
    values = {"prompt": (ChatMessage("user", "Hot?"),)} | changes
    with pytest.raises(BadRequest, match=words):
        await ask(make_world(tokenizer, {}, own=Part([[5]])), **values)
