"""Connections of p2p/transport: with one another and with the library's own, over wires that cut,
stall and break.
"""

import logging
import random
from contextlib import suppress
from hashlib import sha256

import pytest
import trio
import trio.testing
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.utils import encode_delim

from p2p.transport import MAX_WINDOW_BYTES, QuickMultiselectClient, frames, muxer
from p2p.transport.frames import encode_header
from p2p.transport.noise import SocketWire

from .helpers import eventually, settled
from .muxers import open_pair

SIDES = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]
START_WINDOW = 256 << 10


async def read_to_end(stream, sizes=(65_536,)):
    digest = sha256()
    total = 0
    try:
        while True:
            data = await stream.read(sizes[total % len(sizes)])
            digest.update(data)
            total += len(data)
    except MuxedStreamEOF:
        return total, digest.hexdigest()


@pytest.mark.parametrize("over_tcp", [False, True], ids=["memory", "tcp"])
@pytest.mark.parametrize(("dialler", "listener"), SIDES)
async def test_many_streams_carry_both_ways_whatever_the_pieces(
    dialler, listener, over_tcp, caplog
):
    """No window is overrun meanwhile: the library says so when its own is, we reset the stream."""
    chance = random.Random(7)
    with caplog.at_level(logging.WARNING, "libp2p.stream_muxer"):
        async with open_pair(dialler, listener, over_tcp=over_tcp) as pair:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:

                    async def send(stream, data):
                        view = memoryview(data)
                        while view:
                            size = chance.choice((1, 1000, 65_536, 400_000))
                            await stream.write(bytes(view[:size]))
                            view = view[size:]
                        await stream.close()

                    async def expect(stream, data):
                        sizes = (1000, 65_536, 300_000)
                        assert await read_to_end(stream, sizes) == (
                            len(data),
                            sha256(data).hexdigest(),
                        )

                    for _ in range(3):
                        near, far = await pair.open()
                        for out, into in ((near, far), (far, near)):
                            data = chance.randbytes(chance.choice((0, 50_000, 1_500_000)))
                            nursery.start_soon(send, out, data)
                            nursery.start_soon(expect, into, data)
            await eventually(lambda: not pair.dialler.streams and not pair.listener.streams)
    assert "exceeded" not in caplog.text


@pytest.mark.parametrize(("dialler", "listener"), SIDES)
async def test_a_window_is_used_to_the_last_byte_and_never_beyond(dialler, listener):
    async with open_pair(dialler, listener) as pair:
        near, far = await pair.open()
        num_sent = 0

        async def flood():
            nonlocal num_sent
            while True:
                await near.write(bytes(10_000))
                num_sent += 10_000

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            if listener == "stock":
                await eventually(lambda: far.recv_window == 0)
            else:
                await eventually(lambda: len(far.queue) == MAX_WINDOW_BYTES)
                assert far.recv_window == 0
            assert near.send_window == 0
            nursery.cancel_scope.cancel()


async def test_half_a_window_that_was_read_is_given_back_and_no_sooner():
    async with open_pair() as pair:
        near, far = await pair.open()
        await near.write(bytes(60_000))  # too little for a large window
        await eventually(lambda: len(far.queue) == 60_000)
        await far.read(60_000)
        await settled()
        assert near.send_window == START_WINDOW - 60_000
        await near.write(bytes(100_000))
        await eventually(lambda: near.send_window > MAX_WINDOW_BYTES - 200_000)


async def test_only_so_many_streams_of_one_connection_get_a_large_window():
    async with open_pair() as pair:
        ends = [await pair.open() for _ in range(muxer.MAX_WIDE_STREAMS + 1)]
        for near, _ in ends:
            await near.write(bytes(START_WINDOW))
        await eventually(lambda: all(len(far.queue) == START_WINDOW for _, far in ends))
        assert [far.is_wide for _, far in ends] == [True] * muxer.MAX_WIDE_STREAMS + [False]
        await ends[0][0].reset()
        await eventually(lambda: pair.listener._num_wide == muxer.MAX_WIDE_STREAMS - 1)


@pytest.mark.parametrize(("dialler", "listener"), SIDES)
async def test_each_side_may_say_all_and_still_hear_the_other(dialler, listener):
    async with open_pair(dialler, listener) as pair:
        near, far = await pair.open()
        await near.write(b"question")
        await near.close()
        with pytest.raises(MuxedStreamError):
            await near.write(b"more")
        assert await read_to_end(far) == (8, sha256(b"question").hexdigest())
        await far.write(b"answer")
        await far.close()
        assert await read_to_end(near) == (6, sha256(b"answer").hexdigest())
        await eventually(lambda: not pair.dialler.streams and not pair.listener.streams)


@pytest.mark.parametrize(("dialler", "listener"), SIDES)
async def test_a_reset_ends_whoever_reads_or_waits_to_write(dialler, listener):
    async with open_pair(dialler, listener) as pair:
        near, far = await pair.open()
        ended = []

        async def until_reset(name, action):
            with pytest.raises(MuxedStreamError):
                while True:
                    await action()
            ended.append(name)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_reset, "reads", near.read)
                nursery.start_soon(until_reset, "writes", lambda: near.write(bytes(100_000)))
                await eventually(lambda: near.send_window == 0 or listener == "ours")
                await far.reset()
        assert sorted(ended) == ["reads", "writes"]
        other_near, other_far = await pair.open()  # the connection lives
        await other_near.write(b"still here")
        assert await other_far.read(10) == b"still here"


@pytest.mark.parametrize("listener", ["ours", "stock"])
async def test_a_write_cancelled_on_a_stopped_wire_harms_no_other_stream(listener):
    """What was begun is sent wholly: otherwise the next message could not be opened."""
    async with open_pair("ours", listener) as pair:
        near, far = await pair.open()
        for round_number in range(20):
            other_near, other_far = await pair.open()
            pair.wires[0].hold()
            with trio.move_on_after(0.005 * (round_number % 3)):
                while True:
                    await near.write(bytes(50_000))
            pair.wires[0].release()
            await other_near.write(b"whole")
            with trio.fail_after(60):
                assert await other_far.read(5) == b"whole"
            await other_near.reset()
            if near.send_window < 100_000:
                break
        await near.close()
        with trio.fail_after(60):
            total, _ = await read_to_end(far)
        assert total > 0


async def test_a_read_that_is_cancelled_takes_nothing():
    async with open_pair() as pair:
        near, far = await pair.open()
        data = random.Random(1).randbytes(300_000)
        got = b""

        async def send():
            for start in range(0, len(data), 1000):
                await near.write(data[start : start + 1000])
                if start % 10_000 == 0:
                    await trio.sleep(0.001)
            await near.close()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while len(got) < len(data):
                    with trio.move_on_after(0.0005):
                        got += await far.read(5000)
        assert got == data


async def test_what_a_peer_said_wholly_is_read_after_the_connection_is_lost_and_no_more():
    async with open_pair() as pair:
        whole_near, whole_far = await pair.open()
        cut_near, cut_far = await pair.open()
        for stream in (whole_near, cut_near):
            await stream.write(b"words")
        await whole_near.close()
        await eventually(lambda: whole_far.recv_closed and len(cut_far.queue) == 5)
        await pair.dialler.close()
        await eventually(lambda: pair.listener.is_closed)
        assert await whole_far.read(10) == b"words"
        with pytest.raises(MuxedStreamEOF):
            await whole_far.read(10)
        with pytest.raises(MuxedStreamReset):
            await cut_far.read(10)
        with pytest.raises(MuxedStreamError):
            await pair.listener.open_stream()


async def test_a_peer_that_opens_no_window_is_given_up():
    async with open_pair("ours", "stock") as pair:
        near, _ = await pair.open()
        await near.write(bytes(START_WINDOW))
        with pytest.raises(MuxedStreamError, match="Timed out"):
            await near.write(b"x", stall_s=0.05)


async def test_a_slow_wire_gets_smaller_pieces_so_that_others_wait_less():
    async with open_pair() as pair:
        assert pair.dialler._burst_bytes == muxer.MAX_BURST_BYTES
        pair.dialler._adapt(0.1)
        pair.dialler._adapt(0.1)
        pair.dialler._adapt(0.1)
        assert pair.dialler._burst_bytes == muxer.MIN_BURST_BYTES
        for _ in range(3):
            pair.dialler._adapt(0.001)
        assert pair.dialler._burst_bytes == muxer.MAX_BURST_BYTES


HOSTILE = {
    "another version": bytes([9]) + bytes(11),
    "an unknown type": bytes([0, 9]) + bytes(10),
    "a frame over every window": encode_header(frames.DATA, 0, 1, MAX_WINDOW_BYTES + 1),
    "a stream under our own number": encode_header(frames.WINDOW_UPDATE, frames.SYN, 2, 0),
    "a stream under the connection's number": encode_header(frames.DATA, frames.SYN, 0, 0),
    "a goodbye": encode_header(frames.GO_AWAY, 0, 0, 0),
}


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_frame_that_cannot_be_understood_ends_the_connection(frame):
    async with open_pair("stock", "ours") as pair:
        _, far = await pair.open()
        await pair.dialler.secured_conn.write(frame)
        await eventually(lambda: pair.listener.is_closed)
        with pytest.raises(MuxedStreamReset):
            await far.read(1)


async def test_a_message_that_is_not_sealed_for_us_ends_the_connection():
    async with open_pair("stock", "ours") as pair:
        await pair.wires[0].write(b"\x00\x20" + bytes(32))
        await eventually(lambda: pair.listener.is_closed)


async def test_a_peer_beyond_its_window_loses_that_stream_and_no_other():
    async with open_pair("stock", "ours") as pair:
        near, far = await pair.open()
        other_near, other_far = await pair.open()
        stream_id = near.stream_id
        body = bytes(50_000)
        for _ in range(6):
            header = encode_header(frames.DATA, 0, stream_id, len(body))
            await pair.dialler.secured_conn.write(header + body)
            far._is_wide = True  # no more window comes
        await eventually(lambda: far.reset_received)
        assert len(far.queue) == 0
        await other_near.write(b"still here")
        assert await other_far.read(10) == b"still here"


async def test_a_number_that_is_opened_twice_loses_its_stream():
    async with open_pair("stock", "ours") as pair:
        near, far = await pair.open()
        await near.write(b"first")
        header = encode_header(frames.DATA, frames.SYN, near.stream_id, 3)
        await pair.dialler.secured_conn.write(header + b"two")
        await eventually(lambda: far.reset_received)
        assert near.stream_id not in pair.listener.streams


async def test_a_flood_of_streams_is_cut_and_ends_are_forgotten(monkeypatch):
    monkeypatch.setattr(muxer, "MAX_INBOUND_STREAMS", 20)
    async with open_pair("stock", "ours") as pair, trio.open_nursery() as nursery:

        async def accept():
            while True:
                await pair.listener.accept_stream()

        nursery.start_soon(accept)
        ends = [await pair.dialler.open_stream() for _ in range(40)]
        await eventually(lambda: sum(end.reset_received for end in ends) == 20)
        assert len(pair.listener.streams) == 20
        for end in ends:
            await end.reset()
        await eventually(lambda: not pair.listener.streams)
        assert pair.listener._num_inbound == 0
        nursery.cancel_scope.cancel()


async def test_a_peer_that_asks_and_reads_no_answer_loses_the_connection():
    async with open_pair("stock", "ours") as pair:
        pair.wires[1].hold()
        pings = encode_header(frames.PING, frames.SYN, 0, 7) * 1000
        with trio.move_on_after(5), suppress(trio.BrokenResourceError):
            for _ in range(20):
                await pair.dialler.secured_conn.write(pings)
        await eventually(lambda: pair.listener.is_closed)
        assert pair.listener._num_small < 2 * muxer.MAX_UNSENT_BYTES


async def test_random_frames_end_no_more_than_their_connection():
    chance = random.Random(3)
    for _ in range(15):
        async with open_pair("stock", "ours") as pair:
            _, far = await pair.open()
            for _ in range(30):
                kind = chance.choice((0, 0, 1, 1, 2, 3, chance.randrange(256)))
                size = chance.choice((0, 1, 500))
                header = encode_header(
                    kind, chance.randrange(16), chance.choice((0, 1, 2, 3)), size
                )
                try:
                    await pair.dialler.secured_conn.write(header + chance.randbytes(size))
                except Exception:  # the connection is over
                    break
            await settled()
            with trio.move_on_after(0.01):
                while True:
                    try:
                        await far.read(100)
                    except MuxedStreamError:
                        break
            assert sum(len(queue) for queue in pair.listener.stream_buffers.values()) < 2e6


class Line:
    """What a responder says, and what it was told in which pieces."""

    def __init__(self, *answers):
        self.told = []
        self.answers = b"".join(encode_delim(answer.encode()) for answer in answers)

    async def write(self, data):
        self.told.append(data)

    async def read(self, n):
        data, self.answers = self.answers[:n], self.answers[n:]
        return data


GREETING = "/multistream/1.0.0"


async def test_a_greeting_and_a_question_go_together_and_both_answers_count():
    def told(*messages):
        return b"".join(encode_delim(message.encode()) for message in messages)

    async def agree(line, *protocols):
        communicator = MultiselectCommunicator(line)
        return await QuickMultiselectClient().select_one_of(protocols, communicator, 5)

    line = Line(GREETING, "/a")
    assert await agree(line, "/a", "/b") == "/a"
    assert line.told == [told(GREETING, "/a")]
    line = Line(GREETING, "na", "/b")
    assert await agree(line, "/a", "/b") == "/b"
    assert line.told == [told(GREETING, "/a"), told("/b")]
    for answers in ((GREETING, "na"), ("/another/1.0.0", "/a"), (GREETING, "/b"), (GREETING,)):
        with pytest.raises(MultiselectClientError):
            await agree(Line(*answers), "/a")


async def test_a_socket_that_was_closed_here_ends_its_connection_and_is_no_mistake():
    ours, theirs = trio.socket.socketpair()
    stream = trio.SocketStream(ours)
    wire = SocketWire(stream)
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await wire.write(memoryview(b"x"))
    with pytest.raises(trio.ClosedResourceError):
        await wire.read(b"", memoryview(bytearray(10)))
    theirs.close()
