"""A small real network: one bootstrap host, two providers, a bystander, and a client that knows
only the bootstrap address.
"""

from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise

import pytest
import trio
from libp2p.peer.id import ID

from p2p.blocks import BlockRef, BlockStore, fetch_block, fetch_blocks, serve_blocks
from p2p.cid import Cid
from p2p.errors import MessageTooLarge, StaleName
from p2p.gossip import Verdict
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.names import sign_name

from .helpers import connect, echo, eventually, open_hosts
from .test_block_fetch import fill


@pytest.mark.parametrize("num_steps", range(6))
async def test_a_stream_that_nobody_waits_for_any_more_is_not_kept(num_steps: int) -> None:
    async with open_hosts(2) as (asker, other):
        other.serve("/test/echo", echo)
        await connect(asker, other)
        [connection] = asker._swarm.live_connections(ID.from_base58(other.peer_id))
        for _ in range(3):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, scope, num_steps)
                    async with asker.open_stream(other.peer_id, "/test/echo", 60):
                        await trio.sleep_forever()
        unowned = (None, "/test/echo")
        await eventually(
            lambda: not [s for s in connection.get_streams() if s.get_protocol() in unowned]
        )


async def cancel_after(scope: trio.CancelScope, num_steps: int) -> None:
    for _ in range(num_steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_client_that_knows_one_address_gets_from_a_name_to_verified_blocks(tmp_path):
    creator = Identity.generate()
    async with AsyncExitStack() as stack:

        async def join(identity, **config):
            return await stack.enter_async_context(open_host(identity, NetworkConfig(**config)))

        bootstrap = await join(Identity.generate())
        meet = {"bootstrap": (bootstrap.addresses[0],)}
        first, second, bystander = [
            await join(identity, **meet)
            for identity in (creator, Identity.generate(), Identity.generate())
        ]
        source = BlockStore(tmp_path / "source")
        refs = fill(source, 8)
        manifest = source.put(
            b"".join(ref.cid.digest + ref.size_bytes.to_bytes(4, "big") for ref in refs)
        )
        for host in (first, second):
            serve_blocks(host, source)
            assert await host.dht.provide(manifest)
        assert (
            await first.dht.put_name(sign_name(creator, "law", 1, Cid.of(b"an older manifest")))
            >= 1
        )
        await first.dht.put_name(sign_name(creator, "law", 2, manifest))
        with pytest.raises(StaleName, match="sequence 2"):
            await first.dht.put_name(sign_name(creator, "law", 1, manifest))

        client = await join(Identity.generate(), dht_server=False, **meet)
        record = await client.dht.find_name(creator.peer_id, "law")
        assert (record.target, record.sequence) == (manifest, 2)
        assert await client.dht.find_name(creator.peer_id, "medicine") is None
        providers = await client.dht.find_providers(record.target)
        assert {provider.peer_id for provider in providers} == {first.peer_id, second.peer_id}
        assert all(provider.addresses for provider in providers)
        sink = BlockStore(tmp_path / "sink")
        parsed = await fetch_block(
            client, sink, record.target, 64 << 10, providers=providers, deadline_s=60
        )
        wanted = [
            BlockRef(Cid(parsed[i : i + 32]), int.from_bytes(parsed[i + 32 : i + 36], "big"))
            for i in range(0, len(parsed), 36)
        ]
        await fetch_blocks(client, sink, wanted, providers, deadline_s=60)
        assert sink.list() == source.list()

        serve_blocks(client, sink)
        await client.dht.provide(manifest)
        await eventually(lambda: bystander.peers() != [])
        found = await bystander.dht.find_providers(manifest)
        assert {provider.peer_id for provider in found} == {
            first.peer_id,
            second.peer_id,
            client.peer_id,
        }
        assert await bystander.dht.find_providers(Cid.of(b"nobody has this")) == []


async def test_an_accepted_message_reaches_all_and_a_rejected_one_is_not_forwarded():
    verdicts = {b"good": Verdict.ACCEPT, b"bad": Verdict.REJECT, b"odd": Verdict.IGNORE}
    async with AsyncExitStack() as stack:
        hub, *others = await stack.enter_async_context(open_line(5))
        seen = {host.peer_id: [] for host in (hub, *others)}

        def judge_for(host, accept_all):
            async def judge(data, from_peer):
                seen[host.peer_id].append(data)
                return Verdict.ACCEPT if accept_all else verdicts[data]

            return judge

        # Everybody but the two in the middle would accept anything: only the middle keeps the bad
        # message from the far end.
        hosts = [hub, *others]
        channels = [
            await host.gossip.subscribe("receipts", judge_for(host, index == 0))
            for index, host in enumerate(hosts)
        ]
        for index, host in enumerate(hosts):
            await eventually(
                lambda host=host, n=(1 if index in (0, 4) else 2): (
                    len(host.gossip.peers_on("receipts")) == n
                )
            )
        for index, host in enumerate(hosts):
            await grafted(host, "receipts", 1 if index in (0, 4) else 2)
        for data in (b"bad", b"odd", b"good"):
            await hub.gossip.publish("receipts", data)
        with trio.fail_after(60):
            for channel in channels[1:]:
                message = await channel.receive()
                assert (message.data, message.from_peer) == (b"good", hub.peer_id)
        assert sorted(seen[hosts[1].peer_id]) == [b"bad", b"good", b"odd"]
        assert all(seen[host.peer_id] == [b"good"] for host in hosts[2:])
        assert hosts[1].gossip.score(hub.peer_id, "receipts") < 0
        assert hosts[2].gossip.score(hosts[1].peer_id, "receipts") >= 0
        with pytest.raises(MessageTooLarge):
            await hub.gossip.publish("receipts", b"x" * 70_000)


async def grafted(host, topic, count):
    """Wait for the heartbeat in which a topic's mesh takes in this many peers."""
    mesh = host.gossip._pubsub.router.mesh
    await eventually(lambda: len(mesh.get(f"/lorikeet-devnet/{topic}", ())) == count)


@asynccontextmanager
async def open_line(count):
    """Hosts in a row, each connected only to its neighbours."""
    async with open_hosts(count) as hosts:
        for left, right in pairwise(hosts):
            await left.connect(right.addresses[0], 60)
        yield hosts


async def test_a_burst_of_messages_arrives_whole():
    async with open_line(2) as (a, b):
        channels = [
            await host.gossip.subscribe("t", lambda data, from_peer: Verdict.ACCEPT)
            for host in (a, b)
        ]
        await eventually(lambda: a.gossip.peers_on("t") != () and b.gossip.peers_on("t") != ())
        for host in (a, b):
            await grafted(host, "t", 1)
        for index in range(150):
            await a.gossip.publish("t", index.to_bytes(2, "big"))
        with trio.fail_after(60):
            received = {(await channels[1].receive()).data for _ in range(150)}
        assert len(received) == 150


async def test_what_is_provided_before_anybody_is_there_is_said_again_later(monkeypatch):
    monkeypatch.setattr("p2p.dht.PROVIDE_RETRY_S", 0.1)
    async with open_hosts(2) as (a, b):
        cid = Cid.of(b"early")
        assert not await a.dht.provide(cid)
        await b.connect(a.addresses[0], 60)
        await eventually(lambda: b.dht.find_providers(cid))


async def test_networks_of_different_names_or_keys_do_not_mix():
    async with (
        open_hosts(1) as (a,),
        open_hosts(1, network="another", bootstrap=a.addresses) as (b,),
    ):
        cid = Cid.of(b"only in the first")
        await a.dht.provide(cid)
        assert not await b.dht.provide(cid)
        assert await b.dht.find_providers(cid) == []
    async with (
        open_hosts(1, psk=b"k" * 32) as (a,),
        open_hosts(1, psk=b"k" * 32, bootstrap=a.addresses) as (b,),
    ):
        assert b.is_connected(a.peer_id)
        async with open_hosts(1, bootstrap=a.addresses) as (stranger,):
            assert stranger.peers() == []
