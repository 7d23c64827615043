"""What the DHT keeps for others stays bounded, and the honest keep their place in it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo

from p2p import kademlia
from p2p.kademlia import BoundedProviders, BoundedValues

PLACES = [PeerInfo(ID(b"peer %d" % number), []) for number in range(12)]
KEYS = [b"key %d" % number for number in range(12)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(kademlia, "MAX_PROVIDER_RECORDS", 20)
    monkeypatch.setattr(kademlia, "MAX_PROVIDER_RECORDS_OF_PEER", 6)
    monkeypatch.setattr(kademlia, "MAX_PROVIDERS_OF_KEY", 5)
    monkeypatch.setattr(kademlia, "MAX_VALUES", 20)
    monkeypatch.setattr(kademlia, "_DROPPED_AT_ONCE", 4)


def host_of(name: bytes) -> Mock:
    return Mock(get_id=lambda: ID(name))


def providers() -> BoundedProviders:
    return BoundedProviders(host_of(b"me"), None)


said = st.tuples(st.sampled_from(PLACES), st.sampled_from(KEYS))


@settings(max_examples=200)
@given(st.lists(st.one_of(said, st.sampled_from(PLACES)), max_size=80))
def test_what_is_said_of_providers_stays_within_its_bounds_and_is_counted_truly(steps):
    store = providers()
    for step in steps:
        if isinstance(step, PeerInfo):
            store.forget(step.peer_id)
            assert not any(str(step.peer_id) in kept for kept in store.providers.values())
            continue
        peer, key = step
        store.add_provider(key, peer)
        assert str(peer.peer_id) in store.providers[key]
        kept = [(one, key) for key, of_key in store.providers.items() for one in of_key]
        assert len(kept) == store.num_records <= 20
        assert max(len(of_key) for of_key in store.providers.values()) <= 5
        assert max(len(keys) for keys in store._said.values()) <= 6
        assert {(one, key) for one, keys in store._said.items() for key in keys} == set(kept)


def test_whoever_says_most_makes_room_for_the_others():
    store = providers()
    store.add_provider(b"ours", PLACES[0])
    for number in range(500):
        store.add_provider(b"flood %d" % number, PLACES[1 + number % 3])
    assert [info.peer_id for info in store.get_providers(b"ours")] == [PLACES[0].peer_id]


def test_a_crowd_at_one_key_hides_nobody_who_says_it_again(monkeypatch):
    monkeypatch.setattr(kademlia, "MAX_PROVIDERS_OF_KEY", 100)
    monkeypatch.setattr(kademlia, "MAX_PROVIDER_RECORDS", 1000)
    store = providers()
    for number in range(99):
        store.add_provider(b"key", PeerInfo(ID(b"false %d" % number), []))
    store.add_provider(b"key", PLACES[0])
    told = [{info.peer_id for info in store.get_providers(b"key")} for _ in range(80)]
    assert all(len(peers) == kademlia.TOLD_PROVIDERS for peers in told)
    assert any(PLACES[0].peer_id in peers for peers in told)


def test_values_far_from_this_node_make_room_and_near_ones_stay():
    values = BoundedValues(host_of(b"me"), ID(b"me"))
    own = kademlia._place(b"me")
    keys = sorted((b"%d" % number for number in range(300)), key=lambda k: kademlia._place(k) ^ own)
    for key in [*keys[:5], *reversed(keys)]:
        values.put_value(key, b"value")
    assert len(values.store) <= 20
    assert all(values.get(key).value == b"value" for key in keys[:5])


def test_only_the_value_itself_is_kept_of_what_is_sent():
    from libp2p.kad_dht.pb.kademlia_pb2 import Record

    values = BoundedValues(host_of(b"me"), ID(b"me"))
    padded = Record(key=b"k", value=b"v", author=b"x" * 100_000, signature=b"y" * 100_000)
    values.put_record(b"k", padded)
    assert len(values.get(b"k").SerializeToString()) < 200
