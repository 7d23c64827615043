"""Adapters that strangers asked for: a bounded place, nothing left of what came to nothing, and the
operator's own stay.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from node.catalogue.folders import AdapterFolders
from node.catalogue.holding import SPARED_NS, Holdings, size_of
from node.catalogue.packaging import CONFIG_FILE, WEIGHTS_FILE
from node.errors import AdapterError, EngineBusy, NoProvider
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.identity import Identity

from ...p2p.helpers import eventually
from . import twins
from .twins import BASE, TwinEngine, TwinSource, put_adapter

CREATOR = Identity.generate()
ROOM = 3  # adapters


@dataclass
class Scene:
    """A node whose disk is empty, beside one that has everything."""

    home: Path
    engine: TwinEngine = field(default_factory=TwinEngine)

    def __post_init__(self) -> None:
        self.far = BlockStore(self.home / "far")
        self.store = BlockStore(self.home / "blocks")
        self.source = TwinSource(self.store, self.far)
        self.size_bytes = size_of(put_adapter(self.far, CREATOR, "a0")[1])
        self.restart()

    def restart(self) -> None:
        self.folders = AdapterFolders(self.home / "adapters", self.store)
        self.holdings = Holdings(
            BASE.base,
            self.source,
            self.folders,
            self.engine,
            lambda cid: None,
            guest_bytes=ROOM * self.size_bytes,
        )

    def adapter(self, name: str, **changes: object) -> Cid:
        return put_adapter(self.far, CREATOR, name, **changes)[0]  # type: ignore[arg-type]

    @property
    def size_on_disk(self) -> int:
        files = [*(self.home / "adapters").rglob("adapter_*"), *(self.home / "blocks").rglob("*")]
        return sum(path.stat().st_size for path in files if path.is_file())


async def test_an_adapter_that_the_engine_refuses_leaves_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for number in range(3):
        cid = scene.adapter(f"junk{number}")
        scene.engine.refuses.add(cid.digest)
        with pytest.raises(AdapterError, match=r"x\.weight"):
            await scene.holdings.hold_guest(cid)
    assert scene.size_on_disk == 0
    assert scene.store.list() == []
    assert scene.folders.written() == []


@pytest.mark.parametrize(
    "config", [b"\x00 random", b'{"peft_type": "IA3"', b'{"peft_type": "LORA", "r": 4096']
)
async def test_weights_are_not_fetched_for_a_configuration_that_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: bytes
) -> None:
    monkeypatch.setattr(twins, "config_of", lambda name: config)
    scene = Scene(tmp_path)
    cid = scene.adapter("junk")
    with pytest.raises(AdapterError, match="cannot be served"):
        await scene.holdings.hold_guest(cid)
    assert scene.source.files_fetched == [CONFIG_FILE]
    assert scene.store.list() == []


async def test_the_guest_that_nobody_wanted_for_longest_makes_room(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cids = [scene.adapter(f"a{number}") for number in range(5)]
    for cid in cids[:3]:
        await scene.holdings.hold_guest(cid)
    await scene.holdings.hold_guest(cids[0])
    scene.restart()  # who was wanted when is remembered
    await scene.holdings.hold_guest(cids[3])
    assert sorted(scene.folders.written()) == sorted(str(cids[each]) for each in (0, 2, 3))
    assert cids[1].digest not in scene.engine.served
    for number in range(5, 20):
        await scene.holdings.hold_guest(scene.adapter(f"a{number}"))
    manifests = ROOM * 2_000
    assert scene.size_on_disk <= ROOM * scene.size_bytes + manifests


async def test_what_the_operator_wants_is_no_guest(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    own, invited = scene.adapter("own"), scene.adapter("invited")
    await scene.holdings.hold(own)
    await scene.holdings.hold_guest(own)
    await scene.holdings.hold_guest(invited)
    await scene.holdings.hold(invited)
    scene.restart()
    for text in scene.folders.written():
        await scene.holdings.restore(Cid.parse(text))
    for number in range(5):
        await scene.holdings.hold_guest(scene.adapter(f"a{number}"))
    assert {own, invited} <= {cid for cid, _ in scene.holdings.held()}
    assert scene.folders.guests()[0].cid not in (own, invited)


async def test_what_is_unpinned_makes_room_like_a_guest_and_leaves_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    own = scene.adapter("own")
    with pytest.raises(AdapterError, match="not held"):
        scene.holdings.unpin(own)
    await scene.holdings.hold(own)
    assert scene.holdings.unpin(own).name == "own"
    for number in range(ROOM):
        await scene.holdings.hold_guest(scene.adapter(f"a{number}"))
    assert scene.holdings.find(own) is None
    assert not scene.store.has(own)
    assert str(own) not in scene.folders.written()
    await scene.holdings.hold(own)
    for number in range(ROOM, 2 * ROOM):
        await scene.holdings.hold_guest(scene.adapter(f"a{number}"))
    assert scene.holdings.find(own) is not None


async def test_a_guest_takes_no_block_with_it_that_others_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "config_of", lambda name: b'{"peft_type": "LORA"')  # all the same
    scene = Scene(tmp_path)
    guest, own = scene.adapter("guest"), scene.adapter("own")
    await scene.holdings.hold_guest(guest)
    await scene.holdings.hold(own)
    for number in range(4):
        await scene.holdings.hold_guest(scene.adapter(f"a{number}"))
    assert scene.holdings.find(guest) is None
    manifest = scene.holdings.find(own)
    assert manifest is not None
    blocks = [Cid(digest) for file in manifest.files for digest, _ in file.blocks]
    assert all(scene.store.has(block) for block in blocks)


async def test_an_adapter_larger_than_the_place_is_refused_before_a_block_of_it_comes(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    cid = scene.adapter("fat", size_bytes=2 << 20)
    with pytest.raises(AdapterError, match="max_guest_bytes"):
        await scene.holdings.hold_guest(cid)
    assert scene.source.files_fetched == []
    assert scene.store.list() == []


async def test_whoever_goes_away_leaves_nothing_half(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    real = scene.source.fetch_blocks

    async def fetch_slowly(*arguments: object) -> None:
        await real(*arguments)  # type: ignore[arg-type]
        if scene.source.files_fetched[-1] == WEIGHTS_FILE:
            await trio.sleep_forever()

    scene.source.fetch_blocks = fetch_slowly  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.holdings.hold_guest, scene.adapter("slow"))
        await eventually(scene.store.list)
        nursery.cancel_scope.cancel()
    assert scene.store.list() == []


async def test_what_is_on_its_way_takes_its_place(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    gate = trio.Event()
    real = scene.source.fetch_blocks

    async def fetch_late(*arguments: object) -> None:
        await gate.wait()
        await real(*arguments)  # type: ignore[arg-type]

    scene.source.fetch_blocks = fetch_late  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        for number in range(ROOM):
            nursery.start_soon(scene.holdings.hold_guest, scene.adapter(f"a{number}"))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(EngineBusy):
            await scene.holdings.hold_guest(scene.adapter("one more"))
        gate.set()
    assert len(scene.folders.guests()) == ROOM


@contextmanager
def full_from(number: int) -> Iterator[None]:
    """From the `number`th file that is opened to be written, or block that is written to one, on,
    the disk takes nothing.
    """
    count = 0
    real = io.open
    real_pwrite = os.pwrite

    def open_on_a_full_disk(path: Any, mode: str = "r", *values: Any, **named: Any) -> Any:
        nonlocal count
        count += mode[0] in "wxa"
        if mode[0] in "wxa" and count >= number:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, mode, *values, **named)

    def write_on_a_full_disk(*values: Any) -> int:
        nonlocal count
        count += 1
        if count >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_pwrite(*values)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(io, "open", open_on_a_full_disk)
        patched.setattr(os, "pwrite", write_on_a_full_disk)
        yield


@pytest.mark.parametrize("number", range(1, 8))
async def test_whichever_write_the_disk_refuses_nothing_half_is_left_and_room_mends_it(
    tmp_path: Path, number: int
) -> None:
    scene = Scene(tmp_path)
    cid = scene.adapter("law")
    with full_from(number), suppress(OSError):
        await scene.holdings.hold_guest(cid)
    assert list((tmp_path / "adapters").glob(".*")) == []
    assert list((tmp_path / "blocks").rglob(".*")) == []
    await scene.holdings.hold_guest(cid)
    assert cid.digest in scene.engine.served
    with full_from(1):
        await scene.holdings.hold_guest(cid)  # it is here: that it is wanted takes no room
    scene.folders.delete(cid, set())
    assert scene.size_on_disk == 0, "what was fetched for it is known"


async def test_a_guest_that_a_crash_cut_off_goes_on_or_makes_room(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cid = scene.adapter("cut")
    real = scene.source.fetch_blocks

    async def fetch_until_killed(*arguments: object) -> None:
        if CONFIG_FILE not in scene.source.files_fetched:
            return await real(*arguments)  # type: ignore[arg-type]
        snapshot(tmp_path, tmp_path.with_name("killed"))
        raise NoProvider("killed")

    scene.source.fetch_blocks = fetch_until_killed  # type: ignore[method-assign]
    with pytest.raises(NoProvider):
        await scene.holdings.hold_guest(cid)
    assert list((tmp_path / "adapters").iterdir()) == []

    scene = Scene(tmp_path.with_name("killed"))  # what the disk was like at that moment
    assert [guest.cid for guest in scene.folders.guests()] == [cid]
    assert scene.folders.written() == []
    for number in range(ROOM):
        await scene.holdings.hold_guest(scene.adapter(f"a{number}"))
    assert cid not in [guest.cid for guest in scene.folders.guests()]

    await scene.holdings.hold_guest(cid)
    assert scene.holdings.find(cid) is not None


async def test_an_adapters_bytes_lie_on_the_disk_once_and_are_given_out_from_there(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    cid = scene.adapter("once")
    await scene.holdings.hold(cid)
    manifest = scene.holdings.find(cid)
    assert manifest is not None
    blocks = [Cid(digest) for file in manifest.files for digest, _ in file.blocks]
    assert sorted([*blocks, cid]) == scene.store.list()
    assert [scene.store.get(block) for block in blocks] == [
        scene.far.get(block) for block in blocks
    ]
    assert BlockStore(tmp_path / "blocks").list() == [cid]
    weights = tmp_path / "adapters" / str(cid) / WEIGHTS_FILE
    weights.write_bytes(b"broken" * 20)  # nothing wrong is given to others
    of_weights = [Cid(digest) for digest, _ in manifest.files[1].blocks]
    assert [scene.store.get(block) for block in of_weights] == [None, None]


def snapshot(home: Path, copy: Path) -> None:
    """Copy a home as it is now."""
    shutil.copytree(home, copy, dirs_exist_ok=True)


# --- fetched ahead ---


def whys(scene: Scene) -> dict[Cid, bool | None]:
    return {cid: scene.holdings.is_ahead(cid) for cid, _ in scene.holdings.held()}


async def test_what_is_fetched_ahead_is_a_guest_and_says_so_until_somebody_asks(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    ahead, own = scene.adapter("ahead"), scene.adapter("own")
    assert 0 < await scene.holdings.fetch_ahead(ahead, scene.source) <= 2 * scene.size_bytes
    assert ahead.digest in scene.engine.served
    assert await scene.holdings.fetch_ahead(ahead, scene.source) == 0
    await scene.holdings.hold(own)
    assert await scene.holdings.fetch_ahead(own, scene.source) == 0
    assert whys(scene) == {ahead: True, own: None}
    scene.restart()
    for text in scene.folders.written():
        await scene.holdings.restore(Cid.parse(text))
    assert whys(scene) == {ahead: True, own: None}
    with full_from(1):
        await scene.holdings.hold_guest(ahead)  # that it is asked for takes no room
    await scene.holdings.hold_guest(ahead)
    assert whys(scene) == {ahead: False, own: None}
    assert await scene.holdings.hold(ahead)
    assert whys(scene) == {ahead: None, own: None}


async def test_what_is_fetched_ahead_takes_its_part_and_nothing_from_who_is_wanted(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    first, second = scene.adapter("a1"), scene.adapter("a2")
    await scene.holdings.fetch_ahead(first, scene.source)
    with pytest.raises(EngineBusy, match="fetched ahead"):
        await scene.holdings.fetch_ahead(second, scene.source)
    assert whys(scene) == {first: True}
    await scene.holdings.hold_guest(first)
    for name in ("a3", "a4"):
        await scene.holdings.hold_guest(scene.adapter(name))
    with pytest.raises(EngineBusy):
        await scene.holdings.fetch_ahead(second, scene.source)
    assert len(scene.folders.guests()) == ROOM
    mark = tmp_path / "adapters" / str(first) / ".guest"
    os.utime(mark, ns=(0, mark.stat().st_mtime_ns - 2 * SPARED_NS))
    await scene.holdings.fetch_ahead(second, scene.source)
    assert scene.holdings.find(first) is None
    assert scene.holdings.find(second) is not None
    assert scene.size_on_disk <= ROOM * scene.size_bytes + ROOM * 2_000


async def test_when_an_adapter_was_wanted_last_is_known(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    own, guest = scene.adapter("own"), scene.adapter("guest")
    for hold, cid in ((scene.holdings.hold, own), (scene.holdings.hold_guest, guest)):
        await hold(cid)
        folder = tmp_path / "adapters" / str(cid)
        for path in (folder, folder / ".guest"):
            if path.exists():
                os.utime(path, (1000.0, 1000.0))
        assert scene.holdings.used_at(cid) == 1000.0
        await scene.holdings.hold_guest(cid)
        used_at = scene.holdings.used_at(cid)
        assert used_at is not None
        assert abs(used_at - time.time()) < 60
    assert scene.holdings.used_at(scene.adapter("away")) is None
