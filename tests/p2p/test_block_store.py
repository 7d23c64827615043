import pytest

from p2p.blocks import MAX_BLOCK_BYTES, BlockStore
from p2p.cid import Cid
from p2p.errors import BlockMismatch, InvalidInput


def test_a_block_is_found_under_its_name_until_it_is_deleted(tmp_path):
    store = BlockStore(tmp_path / "blocks")
    cid = store.put(b"some bytes")
    assert (cid, store.get(cid), store.has(cid), store.list()) == (
        Cid.of(b"some bytes"),
        b"some bytes",
        True,
        [cid],
    )
    assert store.path(cid).read_bytes() == b"some bytes"
    assert BlockStore(tmp_path / "blocks").list() == [cid]
    store.delete(cid)
    store.delete(cid)
    assert (store.get(cid), store.has(cid), store.list()) == (None, False, [])


def test_a_torn_block_is_not_given_out_and_makes_room_for_a_whole_one(tmp_path):
    store = BlockStore(tmp_path)
    cid = store.put(b"some bytes")
    store.path(cid).write_bytes(b"some")
    assert store.get(cid) is None
    assert not store.has(cid)
    store.put_checked(cid, b"some bytes")
    assert store.get(cid) == b"some bytes"


def test_what_a_crash_left_half_written_is_swept_and_never_listed(tmp_path):
    store = BlockStore(tmp_path)
    cid = store.put(b"some bytes")
    leftover = store.path(cid).with_name(".new-1-0")
    leftover.write_bytes(b"half")
    assert BlockStore(tmp_path).list() == [cid]
    assert not leftover.exists()


def test_wrong_empty_and_oversized_blocks_are_refused(tmp_path):
    store = BlockStore(tmp_path)
    with pytest.raises(BlockMismatch):
        store.put_checked(Cid.of(b"a"), b"b")
    for data in (b"", b"x" * (MAX_BLOCK_BYTES + 1)):
        with pytest.raises(InvalidInput):
            store.put(data)
    assert store.list() == []
