"""Files that are put together out of blocks, and blocks that are given out of files."""

import os
import random
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p.blocks import BLOCK_BYTES, BlockRef, BlockStore, Draft, Rate, fetch_blocks, serve_blocks
from p2p.cid import Cid
from p2p.errors import InvalidInput

from .helpers import address_of, open_hosts


def cut(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


def layout_of(path, data, size=1000):
    return {path: [(Cid.of(block).digest, len(block)) for block in cut(data, size)]}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 9000), st.randoms(use_true_random=False), st.integers(0, 9))
def test_a_file_is_whole_when_all_its_blocks_came_in_any_order_over_any_crash(
    tmp_path, size, chance, num_before
):
    path = Path(tempfile.mkdtemp(dir=tmp_path)) / "file"
    data = chance.randbytes(size // 2) * 2  # so that blocks may have two places
    layout = layout_of(path, data)
    blocks = {Cid.of(block): block for block in cut(data, 1000)}
    order = list(blocks)
    chance.shuffle(order)
    with Draft(layout) as draft:
        for cid in order[:num_before]:
            draft.put_verified(cid, blocks[cid])
        left = draft.missing
    with Draft(layout) as draft:  # the process was killed
        assert draft.missing == left
        assert set(left) == set(order[num_before:])
        for cid in left:
            assert (draft.has(cid), draft.get(cid)) == (False, None)
            draft.put(blocks[cid])
            assert (draft.has(cid), draft.get(cid)) == (True, blocks[cid])
        assert draft.missing == ()
    assert path.read_bytes() == data


def test_a_block_that_a_crash_tore_is_missing_again(tmp_path):
    data = random.Random(1).randbytes(5000)
    layout = layout_of(tmp_path / "file", data)
    with Draft(layout) as draft:
        for block in cut(data, 1000):
            draft.put(block)
    with (tmp_path / "file").open("r+b") as file:
        file.seek(2500)
        file.write(bytes(400))
    with Draft(layout) as draft:
        assert draft.missing == (Cid.of(data[2000:3000]),)


def test_bytes_without_a_place_are_dropped_and_those_of_another_size_refused(tmp_path):
    block = b"x" * 100
    with Draft({tmp_path / "file": [(Cid.of(block).digest, 99)]}) as draft:
        draft.put(b"something else")
        with pytest.raises(InvalidInput, match="99"):
            draft.put(block)
        assert draft.missing == (Cid.of(block),)
    with pytest.raises(InvalidInput):
        Draft({tmp_path / "file": [(Cid.of(b"").digest, 0)]})


def test_a_store_gives_blocks_out_of_a_file_as_long_as_they_are_in_it(tmp_path):
    store = BlockStore(tmp_path / "blocks")
    data = random.Random(2).randbytes(3500)
    path = tmp_path / "file"
    path.write_bytes(data)
    layout = layout_of(path, data)
    cids = [Cid.of(block) for block in cut(data, 1000)]
    store.adopt(layout)
    store.adopt(layout)
    assert [store.get(cid) for cid in cids] == cut(data, 1000)
    assert store.list() == sorted(cids)
    assert list((tmp_path / "blocks").rglob("b*")) == []
    path.write_bytes(data[:1500] + bytes(2000))
    os.utime(path, ns=(1, 1))
    assert [store.get(cid) is None for cid in cids] == [False, True, True, True]
    assert not store.has(cids[1])
    store.put(data[1000:2000])
    assert store.get(cids[1]) == data[1000:2000]
    store.forget(tmp_path)
    assert store.list() == [cids[1]]
    path.unlink()


def test_a_block_is_hashed_again_only_when_its_file_has_changed(tmp_path, monkeypatch):
    store = BlockStore(tmp_path)
    cid = store.put(b"some bytes")
    num_hashed = 0
    matches = Cid.matches

    def count(self, data):
        nonlocal num_hashed
        num_hashed += 1
        return matches(self, data)

    monkeypatch.setattr(Cid, "matches", count)
    for _ in range(3):
        assert store.get(cid) == b"some bytes"
    assert num_hashed == 1
    os.utime(store.path(cid), ns=(1, 1))
    assert store.get(cid) == b"some bytes"
    assert num_hashed == 2


async def test_a_file_is_fetched_into_its_place_and_given_on_from_there(tmp_path):
    data = random.Random(3).randbytes(20 * BLOCK_BYTES + 5)
    refs = [BlockRef(Cid.of(block), len(block)) for block in cut(data, BLOCK_BYTES)]
    async with open_hosts(3) as (a, b, c):
        first, second, third = (tmp_path / name for name in ("first", "second", "third"))
        first.write_bytes(data)
        source = BlockStore(tmp_path / "source")
        source.adopt(layout_of(first, data, BLOCK_BYTES))
        serve_blocks(a, source)
        with Draft(layout_of(second, data, BLOCK_BYTES)) as draft:
            report = await fetch_blocks(b, draft, refs, [address_of(a)], deadline_s=60)
        assert second.read_bytes() == data
        assert report.num_bytes == len(data)
        relay = BlockStore(tmp_path / "relay")
        relay.adopt(layout_of(second, data, BLOCK_BYTES))
        serve_blocks(b, relay)
        with Draft(layout_of(third, data, BLOCK_BYTES)) as draft:
            await fetch_blocks(c, draft, refs, [address_of(b)], deadline_s=60)
        assert third.read_bytes() == data


@pytest.mark.parametrize("limited", ["giver", "asker"])
async def test_a_bound_on_bytes_a_second_is_kept(tmp_path, limited):
    rate = Rate(20 * BLOCK_BYTES)
    async with open_hosts(2) as (a, c):
        source = BlockStore(tmp_path / "source")
        refs = [
            BlockRef(source.put(bytes([index]) * BLOCK_BYTES), BLOCK_BYTES) for index in range(25)
        ]
        serve_blocks(a, source, rate if limited == "giver" else None)
        started = trio.current_time()
        report = await fetch_blocks(
            c,
            BlockStore(tmp_path / "sink"),
            refs,
            [address_of(a)],
            deadline_s=60,
            rate=rate if limited == "asker" else None,
        )
        seconds = trio.current_time() - started
        assert seconds > 25 / 20 - 0.35  # a quarter of a second's worth may pass at once
        assert report.rejected == []


async def test_whoever_is_slowed_down_by_us_is_not_called_late(tmp_path, monkeypatch):
    from p2p.blocks import exchange

    monkeypatch.setattr(exchange, "ANSWER_DEADLINE_S", 0.5)
    monkeypatch.setattr(exchange, "SLOWEST_BYTES_PER_S", 1e9)
    async with open_hosts(2) as (a, c):
        source = BlockStore(tmp_path / "source")
        refs = [BlockRef(source.put(bytes([i]) * BLOCK_BYTES), BLOCK_BYTES) for i in range(4)]
        serve_blocks(a, source)
        slow = Rate(BLOCK_BYTES * 5 // 3)  # 0.6 s for each
        sink = BlockStore(tmp_path / "sink")
        report = await fetch_blocks(c, sink, refs, [address_of(a)], deadline_s=60, rate=slow)
        assert report.rejected == []
