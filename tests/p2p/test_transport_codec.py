"""Frames, queues and sealed messages of p2p/transport, without a connection."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.io.exceptions import ConnectionClosedError
from noise.connection import NoiseConnection

from p2p.transport import frames
from p2p.transport.frames import BadFrame, ByteQueue, Frame, FrameReader, Payload
from p2p.transport.noise import MAX_PLAIN_BYTES, Opener, Sealer

MAX_DATA = 1000
FRAMES = st.one_of(
    st.tuples(
        st.just(frames.DATA),
        st.integers(0, 15),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=MAX_DATA),
    ),
    st.tuples(
        st.sampled_from((frames.WINDOW_UPDATE, frames.PING, frames.GO_AWAY)),
        st.integers(0, 15),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
    ),
)


def encode(frame):
    kind, flags, stream_id, value = frame
    if kind != frames.DATA:
        return frames.encode_header(kind, flags, stream_id, value)
    return frames.encode_header(kind, flags, stream_id, len(value)) + value


def read_back(events):
    """The frames that some events tell of."""
    found = []
    for event in events:
        if isinstance(event, Frame):
            value = b"" if event.kind == frames.DATA else event.value
            found.append([event.kind, event.flags, event.stream_id, value])
            left = event.value if event.kind == frames.DATA else 0
        else:
            kind, flags, stream_id, value = found[-1]
            left -= len(event.data)
            ends = 0 if left else flags & (frames.FIN | frames.RST)
            assert (event.stream_id, event.flags, kind) == (stream_id, ends, frames.DATA)
            found[-1][3] = value + bytes(event.data)
    return [tuple(frame) for frame in found]


def pieces_of(data, cuts):
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 10_000), max_size=20))
def test_frames_are_the_same_however_they_are_cut(sent, cuts):
    reader = FrameReader(MAX_DATA)
    data = b"".join(map(encode, sent))
    events = [event for piece in pieces_of(data, cuts) for event in reader.feed(piece)]
    assert read_back(events) == sent


@pytest.mark.parametrize(
    "header",
    [
        bytes([1, 0]) + bytes(10),
        bytes([0, 4]) + bytes(10),
        frames.encode_header(frames.DATA, 0, 1, MAX_DATA + 1),
        frames.encode_header(frames.DATA, frames.SYN, 1, 2**32 - 1),
    ],
)
def test_what_is_no_frame_is_refused_at_its_header(header):
    with pytest.raises(BadFrame):
        list(FrameReader(MAX_DATA).feed(header))


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=9000), st.integers(1, 20_000), st.none())))
def test_a_queue_gives_back_what_it_took_in_order(steps):
    queue, expected = ByteQueue(), b""
    for step in steps:
        if isinstance(step, bytes):
            queue.append(memoryview(step)[: len(step) // 2])
            expected += step[: len(step) // 2]
            continue
        got = queue.read(step) if step else bytes(queue.pop()) if queue else b""
        assert got == expected[: len(got)]
        assert len(got) == min(step, len(expected)) if step else bool(got) == bool(expected)
        expected = expected[len(got) :]
        assert len(queue) == len(expected)


def test_tiny_parts_of_large_messages_keep_only_their_bytes():
    queue = ByteQueue()
    for index in range(4096):
        message = memoryview(bytes([index % 251]) * 60_000)
        queue.append(message[:1])
    assert len(queue._parts) == 1
    assert queue.read(None) == bytes(index % 251 for index in range(4096))


def ciphers():
    """Two ends of one direction of a Noise session."""
    states = []
    near, far = (NoiseConnection.from_name(b"Noise_NN_25519_ChaChaPoly_SHA256") for _ in range(2))
    near.set_as_initiator()
    far.set_as_responder()
    for each in (near, far):
        each.start_handshake()
    far.read_message(near.write_message())
    near.read_message(far.write_message())
    states = near.noise_protocol.cipher_state_encrypt, far.noise_protocol.cipher_state_decrypt
    return Sealer(states[0]), Opener(states[1]), far


@given(
    st.lists(st.integers(0, 3 * MAX_PLAIN_BYTES), max_size=4),
    st.lists(st.integers(0, 10**6), max_size=8),
)
def test_messages_are_the_same_however_they_are_cut(sizes, cuts):
    sealer, opener, _ = ciphers()
    plains = [bytes([size % 251]) * size for size in sizes]
    sealed = b"".join(bytes(sealer.seal(plain)) for plain in plains)
    opened = b""
    for piece in pieces_of(sealed, cuts):
        opened += b"".join(opener.open(memoryview(opener.rest + piece)))
    assert opened == b"".join(plains)
    assert opener.rest == b""


def test_what_is_sealed_here_is_what_the_library_opens():
    sealer, _, far = ciphers()
    sealed = bytes(sealer.seal(b"x" * (MAX_PLAIN_BYTES + 5)))
    first = 2 + MAX_PLAIN_BYTES + 16
    assert far.decrypt(sealed[2:first]) == b"x" * MAX_PLAIN_BYTES
    assert far.decrypt(sealed[first + 2 :]) == b"x" * 5


@given(st.integers(2, 120), st.integers(0, 7))
def test_a_changed_message_is_not_opened(byte, bit):
    sealer, opener, _ = ciphers()
    sealed = sealer.seal(b"y" * 200)
    sealed[byte] ^= 1 << bit
    with pytest.raises(ConnectionClosedError):
        opener.open(memoryview(sealed))


def test_an_event_is_one_of_two_kinds():
    events = list(FrameReader(9).feed(frames.encode_header(frames.DATA, frames.FIN, 3, 2) + b"ab"))
    assert events == [Frame(frames.DATA, frames.FIN, 3, 2), Payload(3, b"ab", frames.FIN)]
