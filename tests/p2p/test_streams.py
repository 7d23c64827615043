import pytest
import trio
from libp2p.network.stream.exceptions import StreamError

from p2p.errors import (
    FrameTooLarge,
    InvalidAddress,
    PeerTimeout,
    PeerUnreachable,
    ProtocolRefused,
    StreamClosed,
)
from p2p.identity import Identity
from p2p.peers import PeerAddress
from p2p.transport import MAX_WINDOW_BYTES
from p2p.wire import MAX_FRAME_BYTES

from .helpers import connect, echo, eventually, is_alive, open_hosts, raw_stream, settled


async def test_frames_of_every_size_come_back_in_order():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        a.serve("/echo", echo)
        async with b.open_stream(a.peer_id, "/echo", 60) as stream:
            assert stream.remote == a.peer_id
            for size in (0, 1, 65_535, 65_536, MAX_FRAME_BYTES):
                frame = bytes([size % 251]) * size
                await stream.send(frame, 60)
                assert await stream.receive(60) == frame


async def test_a_receive_that_runs_out_of_time_loses_nothing():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        go = trio.Event()

        async def late(stream):
            await go.wait()
            await stream.send(b"x" * 200_000, 60)
            await stream.receive(60)

        a.serve("/late", late)
        async with b.open_stream(a.peer_id, "/late", 60) as stream:
            with pytest.raises(PeerTimeout, match=a.peer_id):
                await stream.receive(0.05)
            go.set()
            for _ in range(1000):  # cancelled at many points of the frame
                with trio.move_on_after(0.0005):
                    assert await stream.receive(60) == b"x" * 200_000
                    break
            else:
                pytest.fail("the frame never came")


async def test_leaving_by_a_cancellation_is_noticed_by_the_other_side_at_once():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        begun, noticed = trio.Event(), trio.Event()

        async def watch(stream):
            begun.set()
            try:
                await stream.receive(60)
            except StreamClosed:
                noticed.set()

        a.serve("/watch", watch)
        with trio.CancelScope() as scope:
            async with b.open_stream(a.peer_id, "/watch", 60):
                await begun.wait()
                scope.cancel()
                await trio.sleep_forever()
        with trio.fail_after(60):
            await noticed.wait()


async def test_leaving_properly_lets_the_last_frame_arrive():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        send, received = trio.open_memory_channel(10)
        left = trio.Event()

        async def keep(stream):
            await left.wait()
            while True:
                await send.send(await stream.receive(60))

        a.serve("/keep", keep)
        async with b.open_stream(a.peer_id, "/keep", 60) as stream:
            await stream.send(b"first", 60)
            await stream.send(b"last", 60)
        left.set()
        with trio.fail_after(60):
            assert [await received.receive(), await received.receive()] == [b"first", b"last"]


async def test_a_reader_that_does_not_read_holds_the_writer_back():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        num_sent = 0

        async def flood(stream):
            nonlocal num_sent
            for _ in range(200):
                await stream.send(b"x" * 100_000, 60)
                num_sent += 1
            await stream.receive(60)

        a.serve("/flood", flood)
        async with b.open_stream(a.peer_id, "/flood", 60) as stream:
            await eventually(lambda: num_sent * 100_000 >= MAX_WINDOW_BYTES - 200_000)
            await settled()
            assert (
                num_sent * 100_000 <= MAX_WINDOW_BYTES + 200_000
            )  # no more than a window is under way
            for _ in range(200):
                await stream.receive(60)


async def test_a_peer_that_takes_nothing_is_given_up_at_the_deadline():
    async with open_hosts(2) as (a, b):
        await connect(b, a)

        async def deaf(stream):
            await trio.sleep_forever()

        a.serve("/deaf", deaf)
        async with b.open_stream(a.peer_id, "/deaf", 60) as stream:
            with pytest.raises(PeerTimeout):
                for _ in range(100):
                    await stream.send(b"x" * 100_000, 0.3)
            with pytest.raises(StreamClosed):
                await stream.send(b"more", 1)


async def test_hostile_lengths_are_refused_before_they_are_stored():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        errors = []

        async def read(stream):
            try:
                await stream.receive(60)
            except FrameTooLarge as error:
                errors.append(error)
                raise

        a.serve("/read", read)
        raw = await raw_stream(b, a, "/read")
        await raw.write(b"\xff\xff\xff\xff" + b"x" * 1000)
        with trio.fail_after(60):
            with pytest.raises(StreamError):
                while True:
                    await raw.read(100)
        assert len(errors) == 1
        assert await is_alive(b, a)


async def test_one_peer_gets_only_so_many_streams_of_a_protocol_and_others_still_get_theirs():
    async with open_hosts(3) as (a, b, c):
        await connect(b, a)
        await connect(c, a)
        a.serve("/few", echo, streams_per_peer=2)
        async with trio.open_nursery() as nursery:

            async def hold(opened):
                async with b.open_stream(a.peer_id, "/few", 60) as stream:
                    await stream.send(b"hello", 60)
                    await stream.receive(60)
                    opened.set()
                    await trio.sleep_forever()

            for _ in range(2):
                opened = trio.Event()
                nursery.start_soon(hold, opened)
                await opened.wait()
            with pytest.raises((StreamClosed, ProtocolRefused)):
                async with b.open_stream(a.peer_id, "/few", 5) as stream:
                    await stream.send(b"one too many", 60)
                    await stream.receive(60)
            async with c.open_stream(a.peer_id, "/few", 60) as stream:
                await stream.send(b"another peer", 60)
                assert await stream.receive(60) == b"another peer"
            nursery.cancel_scope.cancel()


async def test_errors_name_what_is_wrong():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        with pytest.raises(ProtocolRefused, match="/nothing"):
            async with b.open_stream(a.peer_id, "/nothing", 5):
                pass
        nobody = Identity.generate().peer_id
        with pytest.raises(PeerUnreachable, match=nobody):
            async with b.open_stream(nobody, "/echo", 5):
                pass
        with pytest.raises(PeerUnreachable):
            await b.connect(f"/ip4/127.0.0.1/tcp/9/p2p/{nobody}", 5)
        with pytest.raises(PeerUnreachable, match="itself"):
            await b.connect(b.addresses[0], 5)
        for bad in ("", "garbage", "/ip4/127.0.0.1/tcp/9", "/ip4/999.0.0.1/tcp/9/p2p/" + nobody):
            with pytest.raises(InvalidAddress):
                await b.connect(bad, 5)
        with pytest.raises(InvalidAddress, match="names"):
            await b.connect_to(PeerAddress(nobody, (a.addresses[0],)), 5)
