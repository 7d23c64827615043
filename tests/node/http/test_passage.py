"""A file that passes in parts is judged as a whole."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from node.http import passage
from node.http.passage import MARK_BYTES, MAX_FILES, MAX_MARKS, Passage, Passages

FILE = bytes(range(251)) * (5 * MARK_BYTES // 251)
SHA = hashlib.sha256(FILE).hexdigest()


def go_on(passages: Passages, key: str, start: int) -> Passage | None:
    known = passages.find(key)
    assert known is not None
    mark = Passages.mark(known, start)
    return None if mark is None else Passage(known, mark)


@given(
    breaks=st.lists(st.integers(0, len(FILE)), max_size=4),
    lags=st.lists(st.integers(0, 2 * MARK_BYTES), min_size=4, max_size=4),
    chunk=st.sampled_from([65_536, 300_000, MARK_BYTES, 3 * MARK_BYTES]),
    flipped=st.none() | st.integers(0, len(FILE) - 1),
)
def test_a_file_that_breaks_and_goes_on_is_judged_by_all_its_bytes(
    breaks: list[int], lags: list[int], chunk: int, flipped: int | None
) -> None:
    data = bytearray(FILE)
    if flipped is not None:
        data[flipped] ^= 1
    passages = Passages()
    one = passages.begin("file", SHA)
    for end, lag in zip([*sorted(breaks), len(FILE)], [*lags[: len(breaks)], 0], strict=True):
        while one.offset < end:
            one.take(bytes(data[one.offset : min(one.offset + chunk, end)]))
        start = max(1, end - lag)  # what the client has of it
        if end < len(FILE):
            following = go_on(passages, "file", start)
            assert following is not None
            assert following.offset <= start
            assert start - following.offset < MARK_BYTES + chunk
            one = following
    assert one.is_true(now=5.0) == (flipped is None)
    assert passages.is_false("file", 6.0) == (flipped is not None)


def test_whoever_is_too_far_behind_gets_no_mark() -> None:
    passages = Passages()
    one = passages.begin("file", SHA)
    for _ in range(MAX_MARKS + 4):
        one.take(bytes(MARK_BYTES))
    assert go_on(passages, "file", 2 * MARK_BYTES) is None
    near = go_on(passages, "file", 10 * MARK_BYTES)
    assert near is not None
    assert near.offset == 10 * MARK_BYTES


def test_a_false_file_is_tried_again_later_and_the_oldest_is_forgotten() -> None:
    passages = Passages()
    one = passages.begin("file", SHA)
    one.take(b"false")
    assert not one.is_true(now=5.0)
    assert passages.is_false("file", 5.0)
    assert not passages.is_false("file", 5.0 + passage.FALSE_S)
    assert not passages.is_false("another", 5.0)
    for number in range(MAX_FILES):
        passages.begin(f"other {number}", SHA)
    assert passages.find("file") is None


def test_a_mark_is_small() -> None:
    assert passage.MAX_FILES * passage.MAX_MARKS * 500 < 4 << 20
