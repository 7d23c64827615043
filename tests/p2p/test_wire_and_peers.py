import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FrameTooLarge
from p2p.gossip import RateLimit
from p2p.peers import GONE_S, SLOW_ONCE_S, BanList, Silences
from p2p.wire import FrameDecoder, encode_frame


@given(st.lists(st.binary(max_size=300), max_size=20), st.data())
def test_frames_survive_any_cutting_of_the_stream(frames, data):
    stream = b"".join(encode_frame(frame) for frame in frames)
    decoder = FrameDecoder()
    received = []
    position = 0
    while position < len(stream):
        step = data.draw(st.integers(1, 500))
        decoder.feed(stream[position : position + step])
        position += step
        while (frame := decoder.next_frame()) is not None:
            received.append(frame)
    assert received == frames
    assert decoder.is_empty


def test_an_announced_length_is_judged_before_its_bytes_come():
    decoder = FrameDecoder(max_bytes=1000)
    decoder.feed((1001).to_bytes(4, "big"))
    for _ in range(2):
        with pytest.raises(FrameTooLarge, match="1001"):
            decoder.next_frame()


def test_a_reader_can_lower_the_limit_for_one_frame_but_not_raise_it():
    decoder = FrameDecoder(max_bytes=1000)
    decoder.feed(encode_frame(b"x" * 100) + (5000).to_bytes(4, "big"))
    with pytest.raises(FrameTooLarge):
        decoder.next_frame(max_bytes=99)
    assert decoder.next_frame(max_bytes=100) == b"x" * 100
    with pytest.raises(FrameTooLarge):
        decoder.next_frame(max_bytes=10_000)


def test_a_frame_over_the_limit_is_not_sent():
    with pytest.raises(FrameTooLarge):
        encode_frame(b"x" * 11, max_bytes=10)


def test_a_ban_ends_by_itself_and_the_longest_one_wins():
    bans = BanList()
    bans.ban("p", "lied", now=0, duration_s=10)
    bans.ban("p", "stalled", now=0, duration_s=5)
    assert bans.find("p", now=9).reason == "lied"
    assert bans.find("p", now=10) is None
    assert len(bans) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 100)), max_size=100))
def test_the_ban_list_stays_bounded(bans_made):
    bans = BanList(max_bans=10)
    for peer, duration_s in bans_made:
        bans.ban(str(peer), "x", now=0, duration_s=duration_s)
        assert len(bans) <= 10


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=300))
def test_a_rate_limit_lets_through_no_more_than_burst_and_rate(gaps):
    limit = RateLimit(per_second=10, burst=5)
    now = 0.0
    allowed = 0
    for gap in gaps:
        now += gap
        allowed += limit.allow(("peer", "topic"), now)
    assert allowed <= 5 + 10 * now + 1
    assert limit.allow(("another peer", "topic"), now)


def test_a_peer_that_was_slow_once_is_left_out_for_a_moment_and_one_that_is_gone_for_longer():
    silences = Silences()
    assert not silences.note(b"slow", 0.0, is_sure=False)
    assert silences.note(b"gone", 0.0, is_sure=True)
    assert silences.is_silent(b"slow", SLOW_ONCE_S - 0.1)
    assert not silences.is_silent(b"slow", SLOW_ONCE_S)
    assert not silences.is_gone(b"slow", 0.0)
    assert silences.is_gone(b"gone", GONE_S - 0.1)
    assert not silences.is_silent(b"gone", GONE_S)
    assert silences.note(b"slow", GONE_S - 0.1, is_sure=False)
    assert not silences.note(b"gone", 3 * GONE_S, is_sure=False)
    silences.lift(b"slow")
    assert not silences.is_silent(b"slow", GONE_S)


def test_what_others_say_of_its_place_makes_nobody_gone():
    silences = Silences(max_peers=2)
    for _ in range(3):
        assert not silences.note(b"far", 0.0, is_sure=False, counts=False)
    silences.note(b"a", 0.0, is_sure=True)
    silences.note(b"b", 0.0, is_sure=True)
    assert not silences.is_silent(b"far", 0.0)
