"""A fetch that began through a relay goes on over the direct connection that came meanwhile."""

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2p.blocks import BlockStore, fetch_blocks, serve_blocks
from p2p.blocks.server import STREAMS_PER_PEER
from p2p.gossip import Verdict
from p2p.reach.reservations import RelayLimits

from ..helpers import address_of, eventually, open_hosts
from ..test_block_fetch import fill
from .lab import behind, lab, needs_lab, public
from .test_relayed import walled

SLOW = RelayLimits(bytes_per_s=400_000)
NUM_BLOCKS = 40  # ten megabytes: 25 s by such a relay, in which it can move


async def meet_directly(giver, asker):
    """The walled one dials the other, as after a hole was punched."""
    address = Multiaddr(asker.addresses[0].partition("/p2p/")[0])
    await giver._swarm.dial_address(address, ID.from_base58(asker.peer_id))


async def test_a_running_fetch_leaves_the_relay_and_loses_nothing_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr("p2p.meeting.KEEP_IN_TOUCH_S", 0.3)
    monkeypatch.setattr("p2p.reach.service.IDLE_RELAYED_S", 0.3)
    monkeypatch.setattr("p2p.reach.service.TEND_INTERVAL_S", 0.3)
    async with open_hosts(1, relay=SLOW) as (relay,), walled(relay) as giver:
        source, sink = BlockStore(tmp_path / "source"), BlockStore(tmp_path / "sink")
        refs = fill(source, NUM_BLOCKS)
        serve_blocks(giver, source)
        events = []
        async with open_hosts(1) as (asker,), trio.open_nursery() as nursery:
            await asker.connect_to(address_of(giver), 60)
            heard = {
                host: await host.gossip.subscribe("t", lambda data, from_peer: Verdict.ACCEPT)
                for host in (asker, giver)
            }

            def note(event):
                events.append(event)
                if len(events) == 3:
                    nursery.start_soon(meet_directly, giver, asker)

            with trio.fail_after(60):
                report = await fetch_blocks(
                    asker, sink, refs, [address_of(giver)], deadline_s=60, on_event=note
                )
            assert sink.list() == source.list()
            assert {event.kind for event in events} == {"kept"}
            assert report.blocks_by_peer == {giver.peer_id: NUM_BLOCKS}
            assert report.num_bytes == sum(ref.size_bytes for ref in refs)  # nothing came twice
            assert relay._reach._relay.bytes_carried < report.num_bytes / 2
            circuits = relay._reach._relay.reservations
            await eventually(lambda: circuits.num_circuits == 0)  # the relay is given back
            for sayer, hearer in ((asker, giver), (giver, asker)):
                await eventually(lambda sayer=sayer: sayer.gossip.peers_on("t") != ())
                await sayer.gossip.publish("t", sayer.peer_id.encode())
                with trio.fail_after(60):
                    said = await heard[hearer].receive()
                    while said.from_peer != sayer.peer_id:
                        said = await heard[hearer].receive()


async def test_where_the_provider_takes_no_more_streams_a_fetch_ends_where_it_began(tmp_path):
    async with open_hosts(1) as (relay,), walled(relay) as giver:
        source, sink = BlockStore(tmp_path / "source"), BlockStore(tmp_path / "sink")
        refs = fill(source, NUM_BLOCKS)
        serve_blocks(giver, source)
        async with open_hosts(1) as (asker,), trio.open_nursery() as nursery:
            await asker.connect_to(address_of(giver), 60)

            async def hold():
                async with asker.open_stream(giver.peer_id, "/lorikeet/blocks/1", 60):
                    await trio.sleep_forever()

            for _ in range(STREAMS_PER_PEER - 1):
                nursery.start_soon(hold)
            events = []

            def note(event):
                events.append(event.kind)
                if len(events) == 1:
                    nursery.start_soon(meet_directly, giver, asker)

            with trio.fail_after(60):
                await fetch_blocks(
                    asker, sink, refs, [address_of(giver)], deadline_s=60, on_event=note
                )
            assert sink.list() == source.list()
            assert set(events) == {"kept"}
            nursery.cancel_scope.cancel()


@needs_lab
async def test_a_fetch_between_two_routers_moves_to_the_hole_that_is_punched():
    sites = [
        public("r1", 11, relay={"bytes_per_s": 400_000}),
        behind("a", 31, "cone"),
        behind("b", 32, "cone"),
    ]
    async with lab(sites) as (relay, asker, giver):
        await giver.until_relayed(1)
        await asker.until_relayed(1)
        refs = (await giver.do("fill", num_blocks=NUM_BLOCKS))["refs"]
        found = (await asker.do("find", digest=refs[0][0]))["providers"]
        carried = (await relay.describe())["carried"]
        await asker.do("fetch", peer_id=giver.peer_id, addresses=found[giver.peer_id], refs=refs)
        carried = (await relay.describe())["carried"] - carried
        assert carried < NUM_BLOCKS * (256 << 10) / 2
