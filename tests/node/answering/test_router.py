from __future__ import annotations

from node.answering.router import (
    BENCH_S,
    MAX_MEASURED,
    MAX_REMEMBERED,
    MEASURED_S,
    MIN_PATIENCE_S,
    PATIENCE,
    REMEMBER_S,
    UNKNOWN_OFFER_S,
    Router,
)
from p2p.cid import Cid
from p2p.peers import PeerAddress

A, B, C = (PeerAddress(name) for name in "abc")
LAW = Cid.of(b"law")


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
    router.offered("b", 1.0, now_s=0.0)
    router.offered("b", 2.0, now_s=0.0)
    assert router.patience("b", now_s=0.0) == PATIENCE * 1.25


def test_what_is_measured_is_bounded() -> None:
    router = Router("me", has_engine=False)
    for number in range(MAX_MEASURED + 1):
        router.late(str(number), 9.0, now_s=0.0)
    assert router.patience("0", now_s=0.0) == UNKNOWN_OFFER_S
    assert router.patience(str(MAX_MEASURED), now_s=0.0) == PATIENCE * 9.0
