"""The border's frames: whatever cuts the stream, the same messages come out."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BorderError
from engine.framing import MessageDecoder, encode_frames
from engine.messages import MAX_FRAME_BYTES, Cancel, Embed, GetStats, Grant, HoldAdapter, ToEngine

MESSAGES = st.one_of(
    st.builds(Grant, st.integers(0, 2**32), st.integers(0, 2**32)),
    st.builds(Cancel, st.integers(0, 2**32)),
    st.builds(HoldAdapter, st.binary(min_size=32, max_size=32), st.text(), st.text()),
    st.builds(
        Embed, st.integers(0, 2**32), st.lists(st.integers(0, 2**24)), st.none() | st.binary()
    ),
    st.just(GetStats()),
)


def decoder() -> MessageDecoder[ToEngine]:
    return MessageDecoder[ToEngine](ToEngine)


@given(st.lists(MESSAGES, max_size=20), st.data())
def test_messages_survive_any_cutting_of_the_stream(
    messages: list[ToEngine], data: st.DataObject
) -> None:
    stream = encode_frames(messages)
    frames = decoder()
    received: list[ToEngine] = []
    position = 0
    while position < len(stream):
        step = data.draw(st.integers(1, 200))
        frames.feed(stream[position : position + step])
        position += step
        while (message := frames.next_message()) is not None:
            received.append(message)
    assert received == messages
    assert frames.is_empty


def test_a_frame_is_a_big_endian_length_and_one_messagepack_array() -> None:
    body = msgspec.msgpack.encode(["Grant", 1, 40])
    assert encode_frames([Grant(1, 40)]) == len(body).to_bytes(4, "big") + body


def test_a_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    frames = decoder()
    frames.feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    for _ in range(2):
        with pytest.raises(BorderError, match=str(MAX_FRAME_BYTES)):
            frames.next_message()


@pytest.mark.parametrize("body", [b"hello", b"\x92\xa1x", b"\x92\xa5Grant\x01", b"\x91\xa1\xff"])
def test_a_frame_that_is_not_a_message_is_refused(body: bytes) -> None:
    frames = decoder()
    frames.feed(len(body).to_bytes(4, "big") + body)
    with pytest.raises(BorderError, match="not a message"):
        frames.next_message()


def test_a_stream_that_ends_inside_a_frame_is_not_empty() -> None:
    frames = decoder()
    frames.feed(encode_frames([Grant(1, 40)])[:-1])
    assert frames.next_message() is None
    assert not frames.is_empty
