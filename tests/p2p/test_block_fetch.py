"""Fetches between real hosts, with peers that lie, die, stall and flood."""

import random

import pytest
import trio

from p2p.blocks import (
    BLOCK_BYTES,
    MAX_BLOCK_BYTES,
    PROTOCOL,
    BlockRef,
    BlockStore,
    exchange,
    fetch_block,
    fetch_blocks,
    serve_blocks,
)
from p2p.cid import Cid
from p2p.errors import FetchFailed
from p2p.identity import Identity
from p2p.peers import PeerAddress

from .helpers import address_of, is_alive, open_hosts, raw_stream


def fill(store, num_blocks=24, seed=0):
    """A file of this many blocks, the last one shorter."""
    rng = random.Random(seed)
    sizes = [BLOCK_BYTES] * (num_blocks - 1) + [1234]
    return [BlockRef(store.put(rng.randbytes(size)), size) for size in sizes]


class Corrupting:
    """A provider's store that flips one bit of every block from the n-th on."""

    def __init__(self, store, after=0):
        self.store = store
        self.num_left = after

    def get(self, cid):
        block = self.store.get(cid)
        self.num_left -= 1
        return block if self.num_left >= 0 else bytes([block[0] ^ 1]) + block[1:]


async def test_two_providers_share_the_work_and_every_block_is_verified(tmp_path):
    async with open_hosts(3) as (a, b, c):
        source = BlockStore(tmp_path / "source")
        sink = BlockStore(tmp_path / "sink")
        refs = fill(source, 40)
        events = []
        serve_blocks(a, source)
        serve_blocks(b, source)
        report = await fetch_blocks(
            c, sink, refs, [address_of(a), address_of(b)], deadline_s=60, on_event=events.append
        )
        assert sink.list() == source.list()
        assert report.num_bytes == sum(ref.size_bytes for ref in refs)
        assert set(report.blocks_by_peer) == {a.peer_id, b.peer_id}
        assert sum(report.blocks_by_peer.values()) == len(refs)
        assert report.rejected == []
        assert 0 < report.verify_s < report.seconds
        assert sorted(event.cid for event in events if event.kind == "kept") == sink.list()


async def test_a_corrupted_block_is_caught_and_named_and_the_other_provider_brings_it(tmp_path):
    async with open_hosts(3) as (a, b, c):
        source = BlockStore(tmp_path / "source")
        sink = BlockStore(tmp_path / "sink")
        refs = fill(source)
        events = []
        serve_blocks(a, source)
        serve_blocks(b, Corrupting(source, after=2))
        report = await fetch_blocks(
            c, sink, refs, [address_of(a), address_of(b)], deadline_s=60, on_event=events.append
        )
        assert sink.list() == source.list()
        ((peer_id, cid, reason),) = report.rejected
        assert peer_id == b.peer_id
        assert cid in {ref.cid for ref in refs}
        assert "hash" in reason
        assert [event.peer_id for event in events if event.kind == "rejected"] == [b.peer_id]
        assert c.bans.find(b.peer_id, trio.current_time()) is not None
        with pytest.raises(FetchFailed, match="banned"):
            await fetch_blocks(
                c, BlockStore(tmp_path / "again"), refs, [address_of(b)], deadline_s=60
            )


async def test_a_fetch_that_failed_goes_on_where_it_stopped(tmp_path):
    async with open_hosts(2) as (a, c):
        source, half, sink = (BlockStore(tmp_path / name) for name in ("source", "half", "sink"))
        refs = fill(source)
        for ref in refs[:10]:
            half.put(source.get(ref.cid))
        serve_blocks(a, half)
        with pytest.raises(FetchFailed) as failed:
            await fetch_blocks(c, sink, refs, [address_of(a)], deadline_s=60)
        assert len(failed.value.missing) == len(refs) - 10
        assert len(sink.list()) == 10
        serve_blocks(a, source)
        report = await fetch_blocks(
            c, BlockStore(tmp_path / "sink"), refs, [address_of(a)], deadline_s=60
        )
        assert report.num_resumed == 10
        assert report.blocks_by_peer == {a.peer_id: len(refs) - 10}
        assert sink.list() == source.list()


async def test_a_stalling_provider_is_dropped_at_its_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "ANSWER_DEADLINE_S", 1.0)  # the honest one has it, too
    monkeypatch.setattr(exchange, "SLOWEST_BYTES_PER_S", 1e9)
    async with open_hosts(3) as (a, b, c):
        source = BlockStore(tmp_path / "source")
        sink = BlockStore(tmp_path / "sink")
        refs = fill(source, 4)

        async def stall(stream):
            await stream.receive(60)
            await trio.sleep_forever()

        serve_blocks(a, source)
        b.serve(PROTOCOL, stall)
        report = await fetch_blocks(c, sink, refs, [address_of(b), address_of(a)], deadline_s=60)
        assert sink.list() == source.list()
        assert b.peer_id not in report.blocks_by_peer
        with pytest.raises(FetchFailed, match="stalled") as failed:
            await fetch_blocks(
                c, BlockStore(tmp_path / "again"), refs, [address_of(b)], deadline_s=60
            )
        assert dict(failed.value.reasons) == {b.peer_id: "stalled"}


async def test_an_unknown_cid_and_dead_providers_fail_quickly_and_say_what_is_missing(tmp_path):
    async with open_hosts(2) as (a, c):
        store = BlockStore(tmp_path / "empty")
        serve_blocks(a, store)
        dead = PeerAddress(Identity.generate().peer_id, ("/ip4/127.0.0.1/tcp/9",))
        unknown = Cid.of(b"nobody has this")
        with trio.fail_after(60), pytest.raises(FetchFailed, match=str(unknown)) as failed:
            await fetch_block(
                c,
                BlockStore(tmp_path / "sink"),
                unknown,
                1000,
                providers=[address_of(a), dead],
                deadline_s=60,
            )
        reasons = dict(failed.value.reasons)
        assert reasons[a.peer_id] == "has none of them"
        assert dead.peer_id in reasons[dead.peer_id]
        with pytest.raises(FetchFailed, match="no provider was given"):
            await fetch_block(
                c, BlockStore(tmp_path / "sink"), unknown, 1000, providers=[], deadline_s=60
            )


async def test_one_block_of_unknown_size_is_fetched_within_its_limit(tmp_path):
    async with open_hosts(2) as (a, c):
        source = BlockStore(tmp_path / "source")
        sink = BlockStore(tmp_path / "sink")
        cid = source.put(b"a manifest" * 100)
        serve_blocks(a, source)
        assert (
            await fetch_block(c, sink, cid, 64 << 10, providers=[address_of(a)], deadline_s=60)
            == b"a manifest" * 100
        )
        with pytest.raises(FetchFailed, match=r"allowed|missing"):
            await fetch_block(
                c,
                BlockStore(tmp_path / "other"),
                cid,
                999,
                providers=[address_of(a)],
                deadline_s=60,
            )
        assert c.bans.find(a.peer_id, trio.current_time()) is None


@pytest.mark.parametrize(
    "lie",
    [b"\xff\xff\xff\xff", (MAX_BLOCK_BYTES + 1).to_bytes(4, "big"), b"\x00\x00\x00\x05wrong" * 50],
)
async def test_a_provider_with_hostile_lengths_is_banned_and_the_fetch_completes(tmp_path, lie):
    async with open_hosts(3) as (a, b, c):
        source = BlockStore(tmp_path / "source")
        sink = BlockStore(tmp_path / "sink")
        refs = fill(source, 6)

        async def liar(stream):
            await stream.receive(60)
            await stream._stream.write(lie)
            await trio.sleep_forever()

        serve_blocks(a, source)
        b.serve(PROTOCOL, liar)
        report = await fetch_blocks(c, sink, refs, [address_of(a), address_of(b)], deadline_s=60)
        assert sink.list() == source.list()
        assert {rejection.peer_id for rejection in report.rejected} == {b.peer_id}
        assert c.bans.find(b.peer_id, trio.current_time()) is not None


@pytest.mark.parametrize(
    "request_bytes", [b"", b"x" * 31, b"x" * 33, b"x" * 32 * 65, b"x" * 300_000]
)
async def test_a_hostile_request_ends_its_stream_and_nothing_else(tmp_path, request_bytes):
    async with open_hosts(2) as (a, c):
        serve_blocks(a, BlockStore(tmp_path))
        await c.connect(a.addresses[0], 60)
        raw = await raw_stream(c, a, PROTOCOL)
        await raw.write(len(request_bytes).to_bytes(4, "big") + request_bytes[:5000])
        with trio.fail_after(60):
            await _wait_for_end(raw)
        assert await is_alive(c, a)


async def _wait_for_end(raw):
    from libp2p.network.stream.exceptions import StreamError

    try:
        while True:
            await raw.read(100)
    except StreamError:
        return
