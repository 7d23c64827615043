from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.answering.router import (
    BENCH_S,
    LEAST_S,
    MAX_MEASURED,
    MAX_PATIENCE_S,
    MAX_QUOTED,
    MAX_REMEMBERED,
    MEASURED_S,
    MIN_PATIENCE_S,
    OTHERS_FOR_EACH,
    PATIENCE,
    REMEMBER_S,
    UNKNOWN_OFFER_S,
    Router,
    score,
)
from node.wire.metering import Price
from node.wire.quote import AskQuote, NoQuote, Quote
from p2p.cid import Cid
from p2p.peers import PeerAddress

from .test_beliefs import quote

A, B, C = (PeerAddress(name) for name in "abc")
LAW = Cid.of(b"law")
LIMIT = Price(100, 500)


def test_nodes_that_failed_come_last_and_connected_ones_first() -> None:
    router = Router("me", has_engine=False)
    router.failed("a", now_s=0.0)
    assert router.rank([A, B, C, PeerAddress("me")], {"c"}, now_s=1.0).peers == (C, B, A)
    assert router.rank([A, B, C], {"a"}, now_s=BENCH_S + 1).peers == (A, B, C)


def test_an_engine_of_ones_own_answers_unless_another_node_is_named() -> None:
    assert Router("me", has_engine=True).serves_here(None)
    assert Router("me", has_engine=True).serves_here("me")
    assert not Router("me", has_engine=True).serves_here("a")
    assert not Router("me", has_engine=False).serves_here(None)


def test_providers_are_remembered_for_a_while_and_not_once_all_have_failed() -> None:
    router = Router("me", has_engine=False)
    assert router.recall(LAW, now_s=0.0) == ()
    router.remember(LAW, [A, B], now_s=0.0)
    router.failed("a", now_s=1.0)
    assert router.recall(LAW, now_s=1.0) == (A, B)
    router.failed("b", now_s=1.0)
    assert router.recall(LAW, now_s=1.0) == ()
    router.remember(LAW, [C], now_s=2.0)
    assert router.recall(LAW, now_s=2.0 + REMEMBER_S) == ()


def test_what_is_remembered_is_bounded() -> None:
    router = Router("me", has_engine=False)
    for number in range(MAX_REMEMBERED + 10):
        router.remember(Cid.of(b"%d" % number), [A], now_s=0.0)
    assert router.recall(Cid.of(b"0"), now_s=0.0) == ()
    assert router.recall(Cid.of(b"%d" % (MAX_REMEMBERED + 9)), now_s=0.0) == (A,)


def test_the_quick_are_asked_before_the_slow_and_strangers_are_tried() -> None:
    router = Router("me", has_engine=False)
    router.offered("a", 2.0, now_s=0.0)
    router.offered("b", 0.02, now_s=0.0)
    assert router.rank([A, B, C], {"a", "b", "c"}, now_s=1.0).peers == (B, C, A)
    router.late("b", 3.0, now_s=1.0)
    assert router.rank([A, B, C], {"a", "b", "c"}, now_s=2.0).peers == (C, A, B)
    later = 1.0 + MEASURED_S
    assert router.rank([A, B, C], set(), now_s=later).peers == (A, B, C), "what is old is forgotten"


def test_latencies_that_are_alike_change_no_order() -> None:
    router = Router("me", has_engine=False)
    router.offered("a", 0.024, now_s=0.0)
    router.offered("b", 0.02, now_s=0.0)
    assert router.rank([A, B], set(), now_s=1.0).peers == (A, B)


def test_patience_is_some_times_the_usual() -> None:
    router = Router("me", has_engine=False)
    assert router.patience("a", now_s=0.0) == UNKNOWN_OFFER_S
    router.offered("a", 0.001, now_s=0.0)
    assert router.patience("a", now_s=0.0) == MIN_PATIENCE_S
    router.offered("b", 0.1, now_s=0.0)
    router.offered("b", 0.2, now_s=0.0)
    assert router.patience("b", now_s=0.0) == pytest.approx(PATIENCE * 0.125)


def test_where_all_were_late_a_second_one_is_asked_soon_all_the_same() -> None:
    router = Router("me", has_engine=False)
    router.late("a", 30.0, now_s=0.0)
    assert router.patience("a", now_s=0.0) == MAX_PATIENCE_S


def test_what_is_measured_is_bounded() -> None:
    router = Router("me", has_engine=False)
    for number in range(MAX_MEASURED + 1):
        router.late(str(number), 0.5, now_s=0.0)
    assert router.patience("0", now_s=0.0) == UNKNOWN_OFFER_S
    assert router.patience(str(MAX_MEASURED), now_s=0.0) == PATIENCE * 0.5


# --- quotes ---


def asked(**changes: Any) -> AskQuote:
    plain = AskQuote(
        b"b" * 32,
        LAW.digest,
        [],
        10,
        100,
        prompt_price=LIMIT.prompt,
        completion_price=LIMIT.completion,
    )
    return msgspec.structs.replace(plain, **changes)


def hear(router: Router, peer: PeerAddress, said: Any, took_s: float = 0.01) -> None:
    router.beliefs.hear(peer.peer_id, LAW.digest, said, took_s, now_s=0.0)


def order(router: Router, *peers: PeerAddress, paid: Sequence[str] = ("a", "b", "c")) -> str:
    chosen = router.choose(peers or (A, B, C), asked(), 1.0, paid=paid).peers
    return "".join(peer.peer_id for peer in chosen)


def test_the_quicker_comes_first_and_the_dearer_only_if_it_is_four_times_as_quick() -> None:
    router = Router("me", has_engine=False)
    hear(router, A, quote(first_token_ms=900))
    hear(router, B, quote(first_token_ms=40))
    hear(router, C, quote(first_token_ms=40, prompt_price=20, completion_price=100))
    assert order(router) == "bca"
    hear(router, A, quote(first_token_ms=200))
    assert order(router) == "bac"


def test_a_busy_node_comes_after_an_idle_one_and_a_channel_is_worth_a_little() -> None:
    router = Router("me", has_engine=False)
    hear(router, A, quote(running=6))
    hear(router, B, quote())
    assert order(router, A, B) == "ba"
    assert order(router, A, B, paid=["a"]) == "ab"
    hear(router, A, quote(running=40))
    assert order(router, A, B, paid=["a"]) == "ba"


def test_a_node_whose_offers_are_slow_is_no_better_for_one_quick_quote() -> None:
    router = Router("me", has_engine=False)
    hear(router, A, quote(first_token_ms=5), took_s=0.4)
    hear(router, A, quote(first_token_ms=5), took_s=0.002)
    hear(router, B, quote(first_token_ms=150))
    assert order(router, A, B) == "ba", "its quotes were slow before"
    hear(router, C, quote(first_token_ms=5), took_s=0.002)
    assert order(router, B, C) == "cb"
    router.late("c", 0.25, now_s=0.5)
    assert order(router, B, C) == "bc"


def test_silence_comes_after_a_quote_then_refusals_and_too_dear_ones_then_failures() -> None:
    router = Router("me", has_engine=False)
    hear(router, A, NoQuote("wrong_base"))
    hear(router, B, None, took_s=1.0)
    assert order(router) == "cba", "who was not asked comes before who was silent"
    hear(router, C, quote(completion_price=LIMIT.completion + 1))
    assert order(router) == "bac"
    hear(router, C, quote(first_token_ms=100_000))
    router.failed("b", now_s=0.0)
    assert order(router) == "cab"


@given(data=st.data())
def test_nobody_is_lost_and_a_better_quote_never_comes_later(data: st.DataObject) -> None:
    router = Router("me", has_engine=False)
    peers = [PeerAddress(name) for name in "abcdefgh"]
    said = st.one_of(
        st.none(),
        st.just(NoQuote("busy")),
        st.builds(
            quote,
            first_token_ms=st.integers(0, 5000),
            prompt_price=st.integers(0, 120),
            completion_price=st.integers(0, 600),
            running=st.integers(0, 20),
        ),
    )
    for peer in peers:
        hear(router, peer, data.draw(said))
    before = router.choose(peers, asked(), 1.0, paid=()).peers
    assert sorted(before, key=str) == sorted(peers, key=str)
    at = data.draw(st.integers(0, 7))
    heard = router.beliefs.find(before[at].peer_id, LAW.digest, 1.0)
    assert heard is not None
    if isinstance(heard.said, Quote):
        cheaper = data.draw(st.integers(0, heard.said.prompt_price))
        sooner = data.draw(st.integers(0, heard.said.first_token_ms))
        better = msgspec.structs.replace(heard.said, prompt_price=cheaper, first_token_ms=sooner)
        hear(router, before[at], better)
        after = router.choose(before, asked(), 1.0, paid=()).peers
        assert after.index(before[at]) <= at


@given(expected_s=st.floats(0, 100), times=st.floats(1.01, 10), cost=st.integers(1, 10**9))
def test_twice_as_dear_is_four_times_as_quick(expected_s: float, times: float, cost: int) -> None:
    cheap = score(expected_s, cost, cost)
    assert score(expected_s * times, cost, cost) >= cheap
    dear = score((LEAST_S + expected_s) / 4 - LEAST_S, 2 * cost + 1, cost)
    assert dear == pytest.approx(cheap)
    assert score(expected_s, 0, 0) == LEAST_S + expected_s, "where nothing is paid, time decides"


def test_only_missing_quotes_are_asked_for_and_a_warm_node_is_not_kept_waiting() -> None:
    router = Router("me", has_engine=False)
    many = [PeerAddress(str(number)) for number in range(MAX_QUOTED + 3)]
    assert router.unasked(many, LAW.digest, 0.0) == many[:MAX_QUOTED]
    hear(router, A, quote())
    assert router.unasked([A, B], LAW.digest, 0.5) == [B]
    assert not router.is_settled([A, B], LAW.digest, 0.5)
    router.beliefs.learn("a", LAW.digest, 0.1, 0.5)
    assert router.is_settled([A, B], LAW.digest, 0.6)
    router.failed("a", now_s=0.6)
    assert not router.is_settled([A, B], LAW.digest, 0.7)


def test_where_few_hold_an_adapter_every_client_tells_the_same_others() -> None:
    peers = [PeerAddress(str(number)) for number in range(30)]
    clients = [Router(name, has_engine=False) for name in ("one", "two")]
    told = [
        {peer.peer_id for peer in client.others(order, [A], LAW.digest)}
        for client, order in zip(clients, (peers, peers[::-1]), strict=True)
    ]
    assert told[0] == told[1]
    assert len(told[0]) == 2 * OTHERS_FOR_EACH
    other = {peer.peer_id for peer in clients[0].others(peers, [A], b"v" * 32)}
    assert other != told[0]
    assert clients[0].others([A, B, PeerAddress("one")], [A, B], LAW.digest) == []
    assert clients[0].others(peers, [A, B, C], LAW.digest) == []


def test_a_node_that_replays_spoke_against_is_asked_last_and_less_while_it_recovers() -> None:
    weights = {"a": 0.0}
    router = Router("me", has_engine=False, weigh=lambda peer_id: weights.get(peer_id, 1.0))
    assert router.rank([A, B, C], {"a"}, now_s=0.0).peers == (B, C, A)
    wanted = AskQuote(
        bytes(32),
        LAW.digest,
        [],
        prompt_tokens=1,
        max_tokens=1,
        prompt_price=100,
        completion_price=500,
    )
    for peer in "abc":
        router.beliefs.hear(peer, LAW.digest, quote(first_token_ms=100), 0.0, now_s=0.0)
    assert router.choose([A, B, C], wanted, 0.0, paid="abc").peers == (B, C, A)
    weights["a"] = 0.6
    assert router.choose([A, B, C], wanted, 0.0, paid="abc").peers == (B, C, A)
    weights["a"] = 1.0
    assert router.choose([A, B, C], wanted, 0.0, paid="abc").peers == (A, B, C)


def staked(parts: dict[str, float], **changes: Any) -> Router:
    """A router that knows which part of the stake peers have that they need; others have enough."""
    return Router(
        "me", has_engine=False, backed=lambda peer, answers: parts.get(peer, 1.0), **changes
    )


def test_a_node_with_less_stake_than_it_needs_counts_less() -> None:
    parts = {"a": 0.5}
    router = staked(parts)
    for peer in (A, B, C):
        hear(router, peer, quote(first_token_ms=400))
    hear(router, B, quote(first_token_ms=600))
    assert order(router) == "cba"
    hear(router, A, quote(first_token_ms=150))
    assert order(router) == "acb", "half of it, and more than twice as quick"
    parts["a"] = 0.0
    assert order(router) == "cba"
    hear(router, A, quote(first_token_ms=10))
    assert order(router) == "acb", "without stake it must be four times as quick"


def test_where_stake_is_required_nobody_without_is_asked_and_silence_counts_as_one_answer() -> None:
    asked_of: list[tuple[str, int | None]] = []

    def backed(peer: str, answers: int | None) -> float:
        asked_of.append((peer, answers))
        return {"a": 0.9, "b": 1.0}.get(peer, 0.0 if (answers or 1) > 1 else 1.0)

    router = Router("me", has_engine=False, backed=backed, requires_stake=True)
    hear(router, A, quote())
    hear(router, B, quote(answers=3))
    assert order(router) == "bc"
    assert {("a", 64), ("b", 3), ("c", None)} <= set(asked_of)
    hear(router, C, quote(answers=2))
    assert order(router) == "b"
    assert router.rank([A, B, C], {"a"}, now_s=0.0).peers == (B, C, A)
    router.beliefs.learn("a", LAW.digest, 0.1, 0.5)
    assert not router.is_settled([A], LAW.digest, 0.6), "a warm node without stake settles nothing"


def test_a_node_that_makes_as_many_of_ours_as_it_announces_gets_no_more_of_them() -> None:
    router = Router("me", has_engine=False)
    hear(router, A, quote(first_token_ms=10, answers=1))
    hear(router, B, quote(first_token_ms=5_000, running=40))
    assert order(router, A, B) == "ab"
    with router.beliefs.under_way("a", 0.5):
        assert order(router, A, B) == "ba"
    assert order(router, A, B) == "ab"
