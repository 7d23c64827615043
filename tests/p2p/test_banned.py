"""Whom an operator bans: no connection either way, across restarts, until it is lifted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.banned import MAX_BANNED, BannedPeers
from p2p.errors import BanRefused, HostFailed, InvalidPeerId, P2pError, PeerUnreachable
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.transport import Meters

from .helpers import address_of, connect, echo, eventually, is_alive, open_hosts

PEER = Identity.generate().peer_id


async def test_a_banned_peer_is_hung_up_on_and_refused_also_after_a_restart(tmp_path):
    path = tmp_path / "banned.json"
    identity = Identity.generate()
    settings = NetworkConfig(banned_peers=path)
    async with open_hosts(2) as (bad, good):
        async with open_host(identity, settings) as host:
            await connect(bad, host)
            await connect(good, host)
            await eventually(lambda: host.is_connected(bad.peer_id))
            await host.ban(bad.peer_id, "floods")
            await eventually(lambda: not bad.is_connected(host.peer_id))
            assert not host.is_connected(bad.peer_id)
            await stays_out(bad, host)
            assert await is_alive(good, host)
        async with open_host(identity, settings) as host:
            (one,) = host.banned()
            assert (one.peer_id, one.reason) == (bad.peer_id, "floods")
            await stays_out(bad, host)
            host.unban(bad.peer_id)
            await bad.connect_to(address_of(host), 60)
            assert await is_alive(bad, host)
    assert json.loads(path.read_text()) == []


async def stays_out(bad, host):
    """Neither may open a stream to the other."""
    with pytest.raises(PeerUnreachable, match="banned"):
        await host.connect_to(address_of(bad), 60)
    host.serve("/test/echo", echo)
    with pytest.raises(P2pError):
        await bad.connect_to(address_of(host), 60)
        async with bad.open_stream(host.peer_id, "/test/echo", 60) as stream:
            await stream.send(b"there?", 60)
            await stream.receive(30)
    await eventually(lambda: not host.is_connected(bad.peer_id))


async def test_what_cannot_be_banned_is_named(tmp_path):
    async with open_hosts(1) as (host,):
        with pytest.raises(BanRefused, match="itself"):
            await host.ban(host.peer_id, "")
        with pytest.raises(InvalidPeerId):
            await host.ban("nobody", "")
        with pytest.raises(BanRefused, match="is not banned"):
            host.unban(PEER)
        assert host.banned() == []


def test_a_ban_is_on_disk_before_it_holds_and_nothing_is_forgotten_in_silence(tmp_path):
    path = tmp_path / "banned.json"
    banned = BannedPeers(path)
    banned.add(PEER, "lies", 7.5)
    banned.add(PEER, "lies much", 9.0)
    assert BannedPeers(path).listing() == banned.listing()
    assert [(one.reason, one.since) for one in banned.listing()] == [("lies much", 7)]
    with pytest.raises(BanRefused, match="at most"):
        banned.add(PEER, "x" * 201, 9.0)
    path.write_text(path.read_text()[:-4])
    with pytest.raises(HostFailed, match="mend or delete"):
        BannedPeers(path)
    nowhere = BannedPeers(tmp_path / "gone" / "banned.json")
    with pytest.raises(BanRefused, match="cannot be written"):
        nowhere.add(PEER, "", 1.0)
    assert not nowhere.holds(PEER)


def test_bans_are_bounded():
    banned = BannedPeers(None)
    for number in range(MAX_BANNED):
        banned.add(str(number), "", 0.0)
    with pytest.raises(BanRefused, match="the most"):
        banned.add("one more", "", 0.0)
    banned.add("3", "known already", 0.0)


async def test_what_two_peers_send_one_another_is_counted_on_both_sides_over_connections():
    async with open_hosts(2) as (a, b):
        b.serve("/test/echo", echo)
        for _ in range(2):
            await connect(a, b)
            async with a.open_stream(b.peer_id, "/test/echo", 60) as stream:
                await stream.send(bytes(100_000), 30)
                assert await stream.receive(30) == bytes(100_000)
            (there,) = a.peers()
            await a.disconnect(b.peer_id)
            await eventually(lambda: not b.peers())
        assert 200_000 < there.sent_bytes < 260_000
        assert 200_000 < there.received_bytes < 260_000
        assert there.heard_at > 1.7e9


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9)), max_size=40))
def test_of_too_many_meters_the_one_silent_longest_goes(events):
    meters = Meters(max_meters=3)
    heard = {}
    for now, (peer, size) in enumerate(events):
        if peer not in heard and len(heard) == 3:
            del heard[min(heard, key=lambda one: heard[one])]
        heard[peer] = now
        meters.of(peer, now).take(size, now)
        assert len(meters) == len(heard)
        assert all(meters.find(one).heard_s == heard[one] for one in heard)
