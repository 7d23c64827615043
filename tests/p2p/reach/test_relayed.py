"""A host that nobody can dial is reached through relays: one that listens nowhere, on loopback."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from libp2p.utils.varint import encode_uvarint

from p2p.blocks import BlockStore, fetch_blocks, serve_blocks
from p2p.cid import Cid
from p2p.errors import P2pError, PeerUnreachable
from p2p.hardening import HardenedHost
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.reach.circuits import Circuits
from p2p.reach.dialback import AUTONAT
from p2p.reach.punch import DCUTR
from p2p.reach.relay import HOP, STOP
from p2p.reach.reservations import RelayLimits

from ..helpers import address_of, connect, echo, eventually, is_alive, open_hosts, raw_stream
from ..test_block_fetch import fill


@asynccontextmanager
async def walled(*relays, **config):
    """A host that takes no connection, and has a place at two of these."""
    settings = {"listen": (), "bootstrap": tuple(one.addresses[0] for one in relays)} | config
    async with open_host(Identity.generate(), NetworkConfig(**settings)) as host:
        await eventually(lambda: len(host.reachability().relays) == min(2, len(relays)))
        yield host


async def test_a_walled_host_is_found_in_the_dht_and_gives_blocks_through_a_relay(tmp_path):
    async with AsyncExitStack() as stack:
        relays = await stack.enter_async_context(open_hosts(2))
        await connect(*relays)
        giver = await stack.enter_async_context(walled(*relays))
        assert all("/p2p-circuit/p2p/" + giver.peer_id in one for one in giver.addresses)
        source = BlockStore(tmp_path / "source")
        refs = fill(source, 8)
        serve_blocks(giver, source)
        await giver.dht.provide(refs[0].cid)
        asker = await stack.enter_async_context(
            open_host(Identity.generate(), NetworkConfig(bootstrap=(relays[0].addresses[0],)))
        )
        await eventually(lambda: len(asker.peers()) > 0)
        (found,) = await asker.dht.find_providers(refs[0].cid)
        assert set(found.addresses) == set(giver.addresses)
        sink = BlockStore(tmp_path / "sink")
        await fetch_blocks(asker, sink, refs, [found], deadline_s=60)
        assert sink.list() == source.list()
        (way,) = [peer.address for peer in asker.peers() if peer.peer_id == giver.peer_id]
        assert "p2p-circuit" in way
        assert sum(one._reach._relay.bytes_carried for one in relays) > sum(
            ref.size_bytes for ref in refs
        )


async def test_relays_that_are_reached_by_websocket_alone_carry_too():
    async with AsyncExitStack() as stack:
        listen = {"listen": ("/ip4/127.0.0.1/tcp/0/ws",)}
        relays = await stack.enter_async_context(open_hosts(2, **listen))
        walled_host = await stack.enter_async_context(walled(*relays))
        assert all("/ws/p2p/" in way and "/p2p-circuit/" in way for way in walled_host.addresses)
        (asker,) = await stack.enter_async_context(open_hosts(1))
        await asker.connect_to(address_of(walled_host), 60)
        assert await is_alive(asker, walled_host)


async def test_two_walled_hosts_talk_both_ways_and_inside_a_private_network():
    async with AsyncExitStack() as stack:
        key = {"psk": b"k" * 32}
        relays = await stack.enter_async_context(open_hosts(2, **key))
        one = await stack.enter_async_context(walled(*relays, **key))
        other = await stack.enter_async_context(walled(*relays, **key))
        await one.connect_to(address_of(other), 60)
        assert await is_alive(one, other)
        assert await is_alive(other, one)


async def test_a_relay_that_is_gone_is_replaced_and_the_dht_hears_of_it():
    async with AsyncExitStack() as stack:
        relays = await stack.enter_async_context(open_hosts(2))
        (short_lived,) = await stack.enter_async_context(open_hosts(1))
        await connect(short_lived, relays[0])
        giver = await stack.enter_async_context(walled(short_lived, relays[0]))
        cid = Cid.of(b"something")
        await giver.dht.provide(cid)
        await connect(relays[1], relays[0])
        await giver.connect(relays[1].addresses[0], 60)
        assert short_lived.peer_id in giver.reachability().relays
        await short_lived.shut_down()
        expected = {relay.peer_id for relay in relays}
        await eventually(lambda: set(giver.reachability().relays) == expected)

        async def is_told():
            found = await relays[1].dht.find_providers(cid)
            ways = [way for one in found for way in one.addresses]
            return ways and not any(short_lived.peer_id in way for way in ways)

        await eventually(is_told)


async def test_relays_that_refused_once_are_asked_again_in_seconds(monkeypatch):
    reserve = Circuits.reserve
    refused = set()

    async def refusing(self, relay):
        if relay not in refused:
            refused.add(relay)
            raise PeerUnreachable(f"{relay} is busy")
        return await reserve(self, relay)

    monkeypatch.setattr(Circuits, "reserve", refusing)
    async with open_hosts(2) as relays, walled(*relays):
        assert len(refused) == 2


async def test_who_came_by_the_only_relay_becomes_the_second_one():
    async with AsyncExitStack() as stack:
        relays = await stack.enter_async_context(open_hosts(3))
        host = await stack.enter_async_context(walled(relays[0]))
        for other in relays[1:]:
            await other.connect_to(address_of(host), 10)
        await eventually(lambda: len(host.reachability().relays) == 2)


async def test_relays_are_found_where_what_they_told_was_lost(monkeypatch):
    identify = HardenedHost._identify_peer
    lost = set()

    async def losing(self, peer_id, *, reason):
        if (self, peer_id) in lost:
            await identify(self, peer_id, reason=reason)
        lost.add((self, peer_id))

    async def say_nothing(self):
        pass

    monkeypatch.setattr(HardenedHost, "_identify_peer", losing)
    monkeypatch.setattr(HardenedHost, "_push_identify_to_all_peers", say_nothing)
    async with open_hosts(2) as relays, walled(*relays):
        assert len(lost) >= 2


def break_bytes(how):
    """Make a relay that loses, or turns round, every piece that it carries after a while."""

    async def carry(self, source, target, circuit):
        count = 0
        while True:
            data = bytes(await source.receive())
            count += 1
            if count > how["after"]:
                data = data[: how["keep"]] if "keep" in how else data[::-1]
            await target.write(data)

    return carry


@pytest.mark.parametrize("how", [{"after": 0, "keep": 0}, {"after": 0}, {"after": 3}])
async def test_a_relay_that_loses_or_reorders_bytes_is_left_for_another(how, monkeypatch):
    monkeypatch.setattr("p2p.reach.circuits.PROBE_TIMEOUT_S", 3.0)
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(open_hosts(2))
        bad, asker = await stack.enter_async_context(open_hosts(2))
        bad._reach._relay._carry = break_bytes(how).__get__(bad._reach._relay)
        told = []
        giver = await stack.enter_async_context(
            open_host(Identity.generate(), NetworkConfig(listen=(), bootstrap=bad.addresses[:1]))
        )
        giver._reach.on_new_addresses = lambda: told.append(giver.addresses)
        for relay in good:
            await giver.connect(relay.addresses[0], 60)
        expected = {one.peer_id for one in good}
        await eventually(lambda: set(giver.reachability().relays) == expected)
        assert any(bad.peer_id in way for ways in told for way in ways)  # it was tried
        await asker.connect_to(address_of(giver), 60)
        assert await is_alive(asker, giver)


async def test_a_relay_enforces_its_bytes_its_rate_and_its_places():
    limits = RelayLimits(max_reservations=1, circuit_bytes=300_000, bytes_per_s=200_000)
    async with AsyncExitStack() as stack:
        (relay,) = await stack.enter_async_context(open_hosts(1, relay=limits))
        giver = await stack.enter_async_context(walled(relay))
        late = await stack.enter_async_context(
            open_host(Identity.generate(), NetworkConfig(listen=(), bootstrap=relay.addresses[:1]))
        )
        (asker,) = await stack.enter_async_context(open_hosts(1))
        giver.serve("/test/echo", echo)
        await asker.connect_to(address_of(giver), 60)
        began = trio.current_time()
        carried = 0
        with pytest.raises(P2pError):
            async with asker.open_stream(giver.peer_id, "/test/echo", 5) as stream:
                while True:
                    await stream.send(bytes(20_000), 60)
                    carried += 2 * len(await stream.receive(60))
        assert carried <= limits.circuit_bytes
        assert trio.current_time() - began > 0.5 * carried / limits.bytes_per_s
        assert late.reachability().relays == ()
        await eventually(lambda: relay.reachability().circuits == 0)
        await asker.connect_to(address_of(giver), 60)  # and begins anew
        assert await is_alive(asker, giver)


async def test_nobody_relays_who_was_told_not_to():
    async with open_hosts(2, relay=None) as (a, b):
        await connect(b, a)
        assert HOP not in a._library.protocols_served()
        assert a.reachability().circuits is None


@pytest.mark.parametrize("protocol", [HOP, STOP, DCUTR, AUTONAT])
@pytest.mark.parametrize(
    "garbage", [b"\xff" * 50, encode_uvarint(7) + b"garbage", encode_uvarint(2 << 20), b""]
)
async def test_garbage_on_a_protocol_of_reaching_ends_that_stream_at_most(protocol, garbage):
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        raw = await raw_stream(b, a, protocol)
        await raw.write(garbage)
        await raw.close_write()
        assert await is_alive(b, a)
        assert await is_alive(a, b)


async def test_a_circuit_that_was_not_reserved_is_neither_carried_nor_taken():
    async with open_hosts(3) as (relay, a, b):
        await connect(a, relay)
        await connect(b, relay)
        for message, protocol, asker in (
            (
                pb.HopMessage(
                    type=pb.HopMessage.CONNECT, peer=pb.PeerId(id=b._library.get_id().to_bytes())
                ),
                HOP,
                (a, relay),
            ),
            (
                pb.StopMessage(
                    type=pb.StopMessage.CONNECT, peer=pb.PeerId(id=b._library.get_id().to_bytes())
                ),
                STOP,
                (relay, a),
            ),
        ):
            raw = await raw_stream(*asker, protocol)
            data = message.SerializeToString()
            await raw.write(encode_uvarint(len(data)) + data)
            with trio.fail_after(60):
                answer = type(message)()
                answer.ParseFromString((await raw.read(100))[1:])
            expected = pb.NO_RESERVATION if protocol == HOP else pb.PERMISSION_DENIED
            assert answer.status == expected
