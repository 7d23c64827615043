from __future__ import annotations

from node.answering.router import BENCH_S, MAX_REMEMBERED, REMEMBER_S, Router
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
