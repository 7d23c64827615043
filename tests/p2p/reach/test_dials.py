"""Which doors are knocked at, how long, and what stands behind a name."""

from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
from multiaddr import Multiaddr

from p2p import resolving, swarm
from p2p.dialling import Realm
from p2p.errors import P2pError
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.peers import PeerAddress
from p2p.reach import service
from p2p.resolving import resolve

from ..helpers import connect, eventually, is_alive, open_hosts


async def silent(nursery):
    """The address of something that takes connections and says nothing."""

    async def say_nothing(stream):
        await trio.sleep_forever()

    (listener,) = await nursery.start(partial(trio.serve_tcp, say_nothing, 0, host="127.0.0.1"))
    return f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"


async def test_silent_addresses_do_not_hold_up_the_one_that_answers():
    async with open_hosts(2) as (a, b), trio.open_nursery() as nursery:
        dead = [await silent(nursery) for _ in range(4)]
        began = trio.current_time()
        await b.connect_to(PeerAddress(a.peer_id, (*dead, a.addresses[0])), 60)
        assert trio.current_time() - began < 3 * swarm.DIAL_ADDRESS_TIMEOUT_S, "not one by one"
        assert await is_alive(b, a)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["/dns4/localhost", "/dns/localhost"])
async def test_a_bootstrap_peer_may_be_named_by_its_host(name):
    async with open_hosts(1) as (a,):
        named = a.addresses[0].replace("/ip4/127.0.0.1", name)
        async with open_host(Identity.generate(), NetworkConfig(bootstrap=(named,))) as b:
            await eventually(lambda: b.is_connected(a.peer_id))


async def test_a_name_that_does_not_exist_costs_its_deadline_at_most(monkeypatch):
    monkeypatch.setattr(resolving, "RESOLVE_TIMEOUT_S", 0.5)
    async with open_hosts(1) as (b,):
        peer = Identity.generate().peer_id
        with trio.fail_after(60), pytest.raises(P2pError):
            await b.connect(f"/dns4/no.such.name.invalid/tcp/4101/p2p/{peer}", 2.5)


async def test_a_dnsaddr_is_followed_but_not_without_end(monkeypatch):
    peer = Identity.generate().peer_id
    other = Identity.generate().peer_id
    records = {
        "boot.example": [f"/dnsaddr/one.example/p2p/{peer}", f"/ip4/45.0.0.9/tcp/9/p2p/{other}"],
        "one.example": [
            f"/ip4/45.0.0.1/tcp/4101/p2p/{peer}",
            f"/dnsaddr/one.example/p2p/{peer}",
            "/nonsense",
            *(f"/ip4/45.0.1.{n}/tcp/4101/p2p/{peer}" for n in range(200)),
        ],
    }
    asked = []

    async def answer(name, tail):
        asked.append(name)
        return [one for one in records.get(name, []) if one.endswith(tail)]

    monkeypatch.setattr(resolving, "_dnsaddr_records", answer)
    found = await resolve(Multiaddr(f"/dnsaddr/boot.example/p2p/{peer}"))
    assert f"/ip4/45.0.0.1/tcp/4101/p2p/{peer}" in [str(one) for one in found]
    assert len(found) <= resolving.MAX_RESOLVED
    assert not any(other in str(one) for one in found)
    assert len(asked) <= resolving.MAX_DNSADDR_DEPTH


async def test_ipv6_listens_dials_and_is_not_told_as_nowhere():
    async with AsyncExitStack() as stack:
        try:
            (a,) = await stack.enter_async_context(open_hosts(1, listen=("/ip6/::/tcp/0",)))
        except P2pError as error:
            pytest.skip(f"no IPv6 on this machine: {error}")
        assert a.addresses
        assert not any(one.startswith("/ip6/::/") for one in a.addresses)
        port = a._library.get_transport_addrs()[0].value_for_protocol("tcp")
        (b,) = await stack.enter_async_context(open_hosts(1))
        await b.connect(f"/ip6/::1/tcp/{port}/p2p/{a.peer_id}", 30)
        assert await is_alive(b, a)
        (seen,) = [peer.address for peer in a.peers()]
        assert seen.startswith("/ip6/::1/")


async def test_a_host_that_listens_everywhere_tells_no_loopback_and_dials_none_for_strangers():
    async with open_hosts(1, listen=("/ip4/0.0.0.0/tcp/0",)) as (a,):
        assert not any("/127.0.0.1/" in one for one in a.addresses)
        peer = Identity.generate().peer_id
        stranger = PeerAddress(peer, ("/ip4/127.0.0.1/tcp/4101",))
        with pytest.raises(P2pError, match="no address"):
            await a.connect_to(stranger, 2)


async def test_four_hundred_idle_sockets_and_a_thousand_attempts_leave_a_host_alive():
    async with open_hosts(3) as (a, b, late):
        await connect(b, a)
        host, port = a.addresses[0].split("/")[2], int(a.addresses[0].split("/")[4])
        idle = [await trio.open_tcp_stream(host, port) for _ in range(400)]
        limiter = trio.CapacityLimiter(50)

        async def knock():
            async with limiter:
                try:
                    async with await trio.open_tcp_stream(host, port) as stream:
                        await stream.send_all(b"\x13/multistream/1.0.0\n")
                except (OSError, trio.BrokenResourceError):
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(knock)
        assert await is_alive(b, a)
        for stream in idle:
            await stream.aclose()
        await connect(late, a)
        assert await is_alive(late, a)
        await eventually(lambda: a._swarm._inbound_limiter.borrowed_tokens <= 5)


async def test_a_dial_back_that_failed_once_is_asked_for_again_in_seconds(monkeypatch):
    monkeypatch.setattr(service, "ASK_SOON_S", 0.1)
    monkeypatch.setattr(service, "ASK_INTERVAL_S", 0.05)
    answers = iter([None, None])

    async def ask(_peer, addresses):
        return Realm.PUBLIC, next(answers, addresses[0])

    async with open_hosts(2, listen=("/ip4/0.0.0.0/tcp/0",)) as (a, b):
        monkeypatch.setattr(a._reach._dial_back, "ask", ask)
        (listening,) = b._reach._listening()[:1]
        port = listening.value_for_protocol("tcp")
        await a.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{b.peer_id}", 30)
        await eventually(lambda: a.reachability().state == "behind")
        await eventually(lambda: a.reachability().state == "reachable")
