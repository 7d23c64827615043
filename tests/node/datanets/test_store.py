"""What was accepted is on the disk: after a kill at any byte, and on a disk that is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from node.datanets.ground import Held, open_all
from node.datanets.store import LOG, TEXTS
from node.errors import DatanetRefused
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from proofs.datanet.entries import digest_of, parse_entry
from proofs.datanet.log import fold, register
from proofs.errors import DatanetError
from tests.proofs.datanets import World, document

TEXT = b"one whole text of ann's"


def world_of_texts() -> tuple[World, bytes]:
    """A log, and the digest of a contribution whose text is `TEXT`."""
    world = World()
    world.join("ann", "ben")
    listed = [document(TEXT.decode())]
    claim = world.put(world.claiming("ann", listed))
    said: dict[str, Any] = {"blocks": [(digest_of(TEXT), len(TEXT))]}
    return world, world.put(world.giving("ann", claim, listed, **said))


def hold(folder: Path, world: World) -> Held:
    store = BlockStore(folder / "blocks")
    held = Held.create(folder / "datanet", store, world.rows[0])
    for row in world.rows[1:]:
        trio.run(held.append, row)
    return held


def test_killed_at_any_byte_of_a_write_nothing_that_was_accepted_is_lost(tmp_path: Path) -> None:
    world, _ = world_of_texts()
    held = hold(tmp_path, world)
    path = held.folder / LOG
    whole = path.read_bytes()
    world.give("ben")
    for row in world.rows[-2:]:
        trio.run(held.append, row)
    more = path.read_bytes()
    middle = len(more) - len(world.rows[-1][0]) - len(world.rows[-1][1]) - 8
    near = {at + by for at in (len(whole), middle, len(more) - 1) for by in (-1, 0, 1, 4, 5)}
    cuts = {at for at in near if len(whole) <= at < len(more)}
    for length in sorted(cuts | set(range(len(whole), len(more), 47))):
        path.write_bytes(more[:length])
        again = Held(held.folder, BlockStore(tmp_path / "blocks"))
        assert again.state.seq in (world.state.seq - 2, world.state.seq - 1)
        for row in world.rows[again.state.seq + 1 :]:  # and it goes on where it was cut
            trio.run(again.append, row)
        assert again.state == world.state
        assert path.read_bytes() == more


def test_a_full_disk_refuses_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _ = world_of_texts()
    held = hold(tmp_path, world)
    before = (held.folder / LOG).read_bytes()
    entry = world.claiming("ben", [document("one more text of ben's")])
    row = (register(world.state, world.sequencer, entry, world.now), entry)
    write = os.pwrite

    def full(file: int, data: Any, offset: int) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, bytes(data)[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        trio.run(held.append, row)
    assert held.state == world.state
    assert (held.folder / LOG).read_bytes() == before
    monkeypatch.undo()
    trio.run(held.append, row)
    assert held.state.seq == world.state.seq + 1
    assert Held(held.folder, BlockStore(tmp_path / "blocks")).state == held.state


def test_a_datanet_that_never_became_one_is_not_there(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "half" / TEXTS).mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / LOG).write_bytes(b"")
    assert not open_all(tmp_path, BlockStore(tmp_path / "blocks"), said.append)
    assert len(said) == 1
    world, _ = world_of_texts()
    with pytest.raises(DatanetError, match="chain"):
        Held.create(tmp_path / "new", BlockStore(tmp_path / "blocks"), world.rows[1])


def test_a_text_is_whole_or_not_there_and_is_given_to_others(tmp_path: Path) -> None:
    world, digest = world_of_texts()
    held = hold(tmp_path, world)
    entry = held.contribution(digest)
    draft = held.folder / TEXTS / f".{digest.hex()}"
    draft.mkdir()
    (draft / "text").write_bytes(TEXT[:5])  # a kill in the middle of writing
    again = Held(held.folder, BlockStore(tmp_path / "blocks"))
    assert not again.texts.has(digest)
    files = {"text": TEXT, "report": b"report"}
    again.texts.write(digest, entry, files)
    store = BlockStore(tmp_path / "blocks")
    restarted = Held(held.folder, store)
    assert restarted.texts.read(digest) == TEXT
    assert store.get(Cid.of(TEXT)) == TEXT
    world.withdraw("ann", digest)
    trio.run(restarted.append, world.rows[-1])
    restarted.texts.drop(digest)
    assert store.get(Cid.of(TEXT)) is None
    assert not restarted.texts.has(digest)


def test_rows_are_given_in_pages_that_have_a_bound(tmp_path: Path) -> None:
    world, _ = world_of_texts()
    held = hold(tmp_path, world)
    assert held.rows(0, 64, 1 << 20) == world.rows
    sizes = [len(one) + len(other) for one, other in world.rows]
    assert held.rows(1, 64, sizes[1] + sizes[2]) == world.rows[1:3]
    assert held.rows(1, 64, 1) == world.rows[1:2]  # one at least, else nobody gets on
    assert held.rows(99, 64, 1 << 20) == []
    assert fold(held.all_rows()) == world.state
    assert held.find_place(digest_of(world.rows[2][1])) == world.rows[2][0]
    assert parse_entry(world.rows[2][1]) == held.entry(digest_of(world.rows[2][1]))


def test_a_fork_is_kept_and_shown_after_a_restart(tmp_path: Path) -> None:
    world, _ = world_of_texts()
    held = hold(tmp_path, world)
    first = world.rows[1][0]
    other = World()
    other.now += 7
    other.join("ben")
    second = other.rows[1][0]
    assert other.state.datanet == world.state.datanet
    assert not held.note_fork(first, first)
    assert held.note_fork(first, second)
    again = Held(held.folder, BlockStore(tmp_path / "blocks"))
    assert again.fork == (first, second)
    with pytest.raises(Exception, match="signed two entries"):
        again.refuse_if_forked()


def test_a_log_that_cannot_be_read_is_not_begun_anew(tmp_path: Path) -> None:
    """Else whoever joins again by his invite would lose what he alone had."""
    world, _ = world_of_texts()
    held = hold(tmp_path, world)
    path = held.folder / LOG
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    path.write_bytes(spoilt)
    said: list[str] = []
    assert not open_all(tmp_path, BlockStore(tmp_path / "blocks"), said.append)
    assert str(held.folder) in said[0]
    with pytest.raises(DatanetRefused, match="move that folder away"):
        Held.create(held.folder, BlockStore(tmp_path / "blocks"), world.rows[0])
    assert path.read_bytes() == bytes(spoilt)


def test_a_text_without_a_place_is_gone_after_a_start_and_one_with_a_place_is_not(
    tmp_path: Path,
) -> None:
    world, digest = world_of_texts()
    held = hold(tmp_path, world)
    files = {"text": TEXT, "report": b"report"}
    entry = held.contribution(digest)
    for one in (digest, bytes(32)):
        held.texts.write(one, entry, files)
    again = Held(held.folder, BlockStore(tmp_path / "blocks"))
    assert again.texts.has(digest)
    assert not again.texts.has(bytes(32))


def test_what_a_failed_write_left_behind_is_not_read_as_a_row(tmp_path: Path) -> None:
    """Where neither the write nor the cut after it did well."""
    world, _ = world_of_texts()
    held = hold(tmp_path, world)
    with (held.folder / LOG).open("ab") as file:
        file.write(b"\0\0\0\1x" * 200)
    world.give("ben", [document("a short text of his")])
    for row in world.rows[-2:]:
        trio.run(held.append, row)
    assert Held(held.folder, BlockStore(tmp_path / "blocks")).state == world.state
