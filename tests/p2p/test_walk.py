"""Whom a look-up asks: a network in memory, in which some peers are gone and some lie."""

from __future__ import annotations

import random
from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.walk import (
    ACQUAINTED,
    CLOSEST,
    MAX_ASKED,
    MAX_CANDIDATES,
    MAX_UNDER_WAY,
    PARALLEL,
    SLOW_S,
    Walk,
)

KEY = b"what is looked for"


def distance(peer: bytes) -> int:
    return int.from_bytes(sha256(peer).digest(), "big") ^ int.from_bytes(
        sha256(KEY).digest(), "big"
    )


def peers(count: int) -> list[bytes]:
    return [b"peer %d" % number for number in range(count)]


def nearest(those: list[bytes], count: int) -> list[bytes]:
    return sorted(those, key=distance)[:count]


def go(walk: Walk, network: dict[bytes, list[bytes]], gone: set[bytes], seed: int) -> list[bytes]:
    """Walk to the end; answers come in any order. Returns who was asked."""
    order = random.Random(seed)
    asked: list[bytes] = []
    under_way: list[bytes] = []
    while not walk.is_over:
        while (peer := walk.next_peer(0.0)) is not None:
            assert peer not in asked
            asked.append(peer)
            under_way.append(peer)
            walk.check()
        assert 0 < len(under_way) <= PARALLEL
        peer = under_way.pop(order.randrange(len(under_way)))
        if peer in gone or peer not in network:
            walk.failed(peer)
        else:
            walk.answered(peer, network[peer])
        walk.check()
    return asked


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 120), st.integers(0, 60), st.integers(0, 2**32))
def test_it_ends_at_the_closest_that_live_however_many_are_gone(
    count: int, gone_percent: int, seed: int
) -> None:
    """Everybody knows those near to himself, as the routing tables of Kademlia see to."""
    everybody = peers(count)
    draw = random.Random(seed)
    gone = set(draw.sample(everybody, count * gone_percent // 100))
    living = [peer for peer in everybody if peer not in gone]
    known = {peer: nearest(everybody, 30) + draw.sample(everybody, 3) for peer in everybody}
    walk = Walk(KEY, b"me", ())
    walk.learn(draw.sample(living, min(3, len(living))))
    asked = go(walk, known, gone, seed)
    reachable = [peer for peer in nearest(everybody, 30) if peer in living]
    assert walk.closest()[: min(len(reachable), CLOSEST)] == reachable[:CLOSEST]
    assert not gone.intersection(walk.closest())
    assert len(asked) <= MAX_ASKED


def test_whoever_is_connected_is_asked_first_however_far() -> None:
    everybody = peers(200)
    order = nearest(everybody, 200)
    far = order[-10:]
    walk = Walk(KEY, b"me", far)
    walk.learn(everybody)
    first = [walk.next_peer(0.0) for _ in range(PARALLEL)]
    assert first == far[:ACQUAINTED] + order[: PARALLEL - ACQUAINTED]


def test_one_that_is_slow_gives_its_place_away_and_may_still_answer() -> None:
    walk = Walk(KEY, b"me", ())
    walk.learn(peers(50))
    slow = [walk.next_peer(0.0) for _ in range(PARALLEL)]
    assert walk.next_peer(SLOW_S / 2) is None
    more = [walk.next_peer(SLOW_S) for _ in range(PARALLEL)]
    assert None not in more
    assert walk.next_peer(SLOW_S) is None
    rest = [walk.next_peer(2 * SLOW_S) for _ in range(PARALLEL)]
    assert len([peer for peer in [*slow, *more, *rest] if peer]) == MAX_UNDER_WAY
    assert slow[0] is not None
    walk.answered(slow[0], [])
    assert walk.closest() == [slow[0]]
    walk.check()


def test_a_liar_who_names_ever_closer_peers_does_not_keep_it_going_for_ever() -> None:
    walk = Walk(KEY, b"me", ())
    walk.learn([b"liar"])
    made_up = iter(range(10**9))
    asked = 0
    while not walk.is_over:
        peer = walk.next_peer(0.0)
        assert peer is not None
        asked += 1
        walk.answered(peer, [b"fake %d" % next(made_up) for _ in range(20)])
    assert asked <= MAX_ASKED
    assert len(walk._states) <= MAX_CANDIDATES


def test_it_asks_neither_itself_nor_anybody_twice() -> None:
    everybody = peers(8)
    walk = Walk(KEY, everybody[0], ())
    walk.learn(everybody + everybody)
    asked = go(walk, dict.fromkeys(everybody, everybody), set(), 1)
    assert sorted(asked) == sorted(everybody[1:])


def test_where_nobody_is_known_it_is_over_at_once() -> None:
    walk = Walk(KEY, b"me", ())
    assert walk.is_over
    assert walk.closest() == []
