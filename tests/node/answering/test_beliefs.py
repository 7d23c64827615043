"""What is believed of nodes that quote: honest ones, hasty ones, liars."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from node.answering.beliefs import (
    BUSY_S,
    FORGIVEN_S,
    FRESH_S,
    MAX_DOUBT,
    MAX_DOUBTED,
    MAX_HEARD,
    OLD_S,
    SLACK_S,
    WARM_S,
    Beliefs,
)
from node.wire.metering import Price
from node.wire.quote import NoQuote, Quote

LAW = b"l" * 32
RTT_S = 0.01


def quote(**changes: Any) -> Quote:
    plain = Quote(
        "slot",
        None,
        0,
        0,
        tokens_outstanding=0,
        prompt_price=10,
        completion_price=50,
        first_token_ms=100,
        stands_ms=10_000,
        answers=64,
    )
    return msgspec.structs.replace(plain, **changes)


def expected(beliefs: Beliefs, peer: str, now_s: float) -> float:
    heard = beliefs.find(peer, LAW, now_s)
    assert heard is not None
    assert isinstance(heard.said, Quote)
    return beliefs.expected_s(peer, heard, heard.said, now_s)


@given(promised_ms=st.integers(0, 500), honest_ms=st.integers(0, 2000), times=st.floats(4.0, 100.0))
def test_a_liar_loses_against_an_honest_node_after_three_answers(
    promised_ms: int, honest_ms: int, times: float
) -> None:
    """It takes several times what the other takes, whatever it promises."""
    delivered_s = times * (honest_ms / 1000 + RTT_S + SLACK_S)
    beliefs = Beliefs()
    for now in (0.0, 10.0, 20.0):
        beliefs.hear("liar", LAW, quote(first_token_ms=promised_ms), RTT_S, now)
        beliefs.hear("honest", LAW, quote(first_token_ms=honest_ms), RTT_S, now)
        beliefs.learn("liar", LAW, delivered_s, now)
        beliefs.learn("honest", LAW, honest_ms / 1000 + RTT_S, now)
    most_s = 32 * (promised_ms / 1000 + RTT_S + SLACK_S)  # what three answers can reveal
    if honest_ms / 1000 < most_s / 2:
        assert expected(beliefs, "honest", 21.0) < expected(beliefs, "liar", 21.0)
    assert beliefs.doubt("honest", 21.0) == 1.0


@given(deeds=st.lists(st.floats(0.0, SLACK_S), max_size=30))
def test_who_keeps_its_word_is_never_doubted(deeds: list[float]) -> None:
    beliefs = Beliefs()
    for late_s in deeds:
        beliefs.hear("a", LAW, quote(first_token_ms=100), RTT_S, 0.0)
        beliefs.learn("a", LAW, 0.1 + RTT_S + late_s * 0.999, 0.0)
        assert beliefs.doubt("a", 0.0) < 1.5
    early = Beliefs()
    early.hear("a", LAW, quote(first_token_ms=5000), RTT_S, 0.0)
    early.learn("a", LAW, 0.0, 0.0)
    assert early.doubt("a", 0.0) == 1.0


@given(ratios=st.lists(st.floats(0.0, 1e6), max_size=30))
def test_a_doubt_is_bounded_and_forgiven(ratios: list[float]) -> None:
    beliefs = Beliefs()
    for ratio in ratios:
        beliefs.hear("a", LAW, quote(), RTT_S, 0.0)
        before = beliefs.doubt("a", 0.0)
        beliefs.learn("a", LAW, 0.1 * ratio, 0.0)
        after = beliefs.doubt("a", 0.0)
        assert 1.0 <= after <= MAX_DOUBT * 1.001
        if 0.1 * ratio <= 0.1 + RTT_S:
            assert after <= before
    assert beliefs.doubt("a", 20 * FORGIVEN_S) < 1.01


def test_half_of_a_lie_counts_at_once_and_all_of_it_soon() -> None:
    beliefs = Beliefs()
    found = []
    for _ in range(6):
        beliefs.hear("a", LAW, quote(first_token_ms=40), 0.01, 0.0)
        beliefs.learn("a", LAW, 3.15, 0.0)  # 32 times as long, but for the slack
        found.append(round(beliefs.doubt("a", 0.0), 1))
    assert found[0] == 5.7
    assert found == sorted(found)
    assert found[-1] > 28


def test_who_answered_is_warm_as_long_as_it_goes_on_quoting() -> None:
    beliefs = Beliefs()
    beliefs.learn("a", LAW, 0.1, 0.0)
    assert not beliefs.is_warm("a", LAW, 0.0), "it never quoted"
    beliefs.hear("a", LAW, quote(), RTT_S, 0.0)
    assert not beliefs.is_warm("a", LAW, 0.0)
    beliefs.learn("a", LAW, 0.1, 1.0)
    beliefs.hear("a", LAW, quote(), RTT_S, 20.0)
    assert beliefs.is_warm("a", LAW, 1.0 + WARM_S - 0.1)
    assert not beliefs.is_warm("a", LAW, 1.0 + WARM_S)
    assert not beliefs.is_warm("a", b"?" * 32, 2.0)
    beliefs.learn("a", LAW, 0.1, 21.0)
    beliefs.hear("a", LAW, NoQuote("busy"), RTT_S, 22.0)
    assert not beliefs.is_warm("a", LAW, 22.0)


def test_quotes_grow_old() -> None:
    beliefs = Beliefs()
    beliefs.hear("a", LAW, quote(stands_ms=3000), RTT_S, 0.0)
    assert beliefs.is_fresh("a", LAW, FRESH_S - 0.1)
    assert not beliefs.is_fresh("a", LAW, FRESH_S)
    assert beliefs.price("a", LAW, 3.0) == Price(10, 50)
    assert beliefs.price("a", LAW, 3.1) is None
    assert beliefs.has_quote("a", LAW, OLD_S - 0.1)
    assert not beliefs.has_quote("a", LAW, OLD_S)
    beliefs.hear("b", LAW, None, 1.0, 0.0)
    assert beliefs.is_fresh("b", LAW, 1.0), "who was silent is not asked at once again"
    assert not beliefs.has_quote("b", LAW, 1.0)
    assert beliefs.price("b", LAW, 0.0) is None


def test_every_request_that_shares_a_node_counts_ours_from_when_we_make_it() -> None:
    beliefs = Beliefs()
    beliefs.hear("a", LAW, quote(running=2, waiting=1), RTT_S, 10.0)
    alone = expected(beliefs, "a", 11.0)
    assert abs(alone - (0.1 + RTT_S + 3 * BUSY_S)) < 1e-9
    with beliefs.under_way("a", 9.0), beliefs.under_way("a", 11.0), beliefs.under_way("a", 11.0):
        assert abs(expected(beliefs, "a", 11.0) - alone - 2 * BUSY_S) < 1e-9
    assert expected(beliefs, "a", 11.0) == alone


def test_what_is_kept_is_bounded() -> None:
    beliefs = Beliefs()
    for number in range(MAX_HEARD + 10):
        beliefs.hear(str(number), LAW, quote(), RTT_S, 0.0)
    assert not beliefs.has_quote("0", LAW, 0.0)
    for number in range(MAX_HEARD + 9, MAX_HEARD - MAX_DOUBTED, -1):
        beliefs.learn(str(number), LAW, 100.0, 0.0)
    assert len(beliefs._heard) == MAX_HEARD
    assert len(beliefs._doubts) == MAX_DOUBTED
