"""An adapter is held when its bytes are here, whole, and the engine serves them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import trio

from node.catalogue.folders import AdapterFolders
from node.catalogue.holding import Holdings
from node.catalogue.packaging import (
    CONFIG_FILE,
    MAX_FILE_BYTES,
    VERIFICATION_FILE,
    WEIGHTS_FILE,
    check_files,
)
from node.errors import AdapterError, NoProvider, WrongBase
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.identity import Identity
from proofs.manifest import File

from ...p2p.helpers import eventually
from .twins import BASE, TwinEngine, TwinSource, config_of, put_adapter

CREATOR = Identity.generate()


def size_of_file(file: File) -> int:
    return sum(size_bytes for _, size_bytes in file.blocks)


@dataclass
class Scene:
    """Holdings over twins, on a real disk."""

    home: Path
    engine: TwinEngine | None = field(default_factory=TwinEngine)
    offered: list[Cid] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = BlockStore(self.home / "blocks")
        self.source = TwinSource(self.store)
        self.folders = AdapterFolders(self.home / "adapters", self.store)
        self.holdings = Holdings(
            BASE.base, self.source, self.folders, self.engine, self.offered.append
        )

    def path(self, cid: Cid, name: str) -> Path:
        return self.home / "adapters" / str(cid) / name


async def test_an_adapter_is_written_served_and_offered(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cid, manifest = put_adapter(scene.store, CREATOR, "law")
    pulled = await scene.holdings.hold(cid)
    assert (pulled.cid, pulled.manifest) == (cid, manifest)
    assert pulled.timings_ms["load"] == 2.5
    assert scene.offered == [cid]
    assert scene.holdings.held() == [(cid, manifest)]
    assert scene.engine is not None
    served = scene.engine.served[cid.digest]
    assert served.config.read_bytes() == config_of("law") + b"}"
    assert served.weights == scene.path(cid, WEIGHTS_FILE)


async def test_what_is_held_is_not_fetched_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cid, _ = put_adapter(scene.store, CREATOR, "law")
    await scene.holdings.hold(cid)
    again = await scene.holdings.hold(cid)
    assert again.timings_ms == {}
    assert scene.source.num_fetched == 1


async def test_many_who_want_one_adapter_at_once_cause_one_fetch(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cid, _ = put_adapter(scene.store, CREATOR, "law")
    scene.source.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(scene.holdings.hold, cid)
        await trio.testing.wait_all_tasks_blocked()  # four wait for the lock of the first
        scene.source.gate.set()
    assert scene.source.num_fetched == 1
    assert scene.holdings._locks == {}


async def test_how_far_an_adapter_is_can_be_seen_until_nobody_fetches_it_any_more(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    scene.source.remote = BlockStore(tmp_path / "remote")
    cid, manifest = put_adapter(scene.source.remote, CREATOR, "law")
    [config] = [file for file in manifest.files if file.name == CONFIG_FILE]
    scene.source.gates[WEIGHTS_FILE] = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.holdings.hold, cid)
        arrived = [(cid, manifest, size_of_file(config))]
        await eventually(lambda: scene.holdings.arriving() == arrived)  # a thread writes it
        nursery.cancel_scope.cancel()
    assert scene.holdings.arriving() == []
    scene.source.gates.clear()
    await scene.holdings.hold(cid)
    assert scene.holdings.held() == [(cid, manifest)]
    assert scene.holdings.arriving() == []


async def test_one_slow_adapter_holds_up_no_other(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    slow, _ = put_adapter(scene.store, CREATOR, "slow")
    quick, _ = put_adapter(scene.store, CREATOR, "quick")
    scene.source.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.holdings.hold, slow)
        await trio.testing.wait_all_tasks_blocked()
        scene.source.gate, gate = None, scene.source.gate
        await scene.holdings.hold(quick)
        assert scene.offered == [quick]
        gate.set()
    assert scene.offered == [quick, slow]


async def test_an_adapter_that_the_engine_dropped_is_written_and_loaded_again(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    cid, _ = put_adapter(scene.store, CREATOR, "law")
    await scene.holdings.hold(cid)
    weights = scene.path(cid, WEIGHTS_FILE)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert scene.engine is not None
    scene.engine.served.clear()
    await scene.holdings.hold(cid)
    assert weights.read_bytes() == whole
    assert cid.digest in scene.engine.served


async def test_whole_files_are_left_as_they_are(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cid, manifest = put_adapter(scene.store, CREATOR, "law")
    scene.folders.write(cid, manifest)
    before = scene.path(cid, CONFIG_FILE).stat().st_ino
    scene.folders.write(cid, manifest)
    assert scene.path(cid, CONFIG_FILE).stat().st_ino == before
    assert scene.folders.written() == [str(cid)]


async def test_a_node_without_an_engine_holds_bytes(tmp_path: Path) -> None:
    scene = Scene(tmp_path, engine=None)
    cid, _ = put_adapter(scene.store, CREATOR, "law")
    await scene.holdings.hold(cid)
    assert scene.holdings.find(cid) is not None
    assert not scene.holdings.computes
    assert scene.path(cid, WEIGHTS_FILE).is_file()


async def test_an_adapter_of_another_base_is_refused_before_its_blocks_come(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cid, _ = put_adapter(scene.store, CREATOR, "alien", base=b"a" * 32)
    with pytest.raises(WrongBase, match="alien"):
        await scene.holdings.hold(cid)
    assert scene.holdings.find(cid) is None
    assert scene.folders.written() == []


@pytest.mark.parametrize("name", [CONFIG_FILE, VERIFICATION_FILE])
async def test_a_file_beyond_its_limit_is_refused_before_blocks_come(
    tmp_path: Path, name: str
) -> None:
    scene = Scene(tmp_path)
    cid, _ = put_adapter(
        scene.store, CREATOR, "fat", files=(WEIGHTS_FILE, name), size_bytes=1 << 20
    )
    with pytest.raises(AdapterError, match=f"{name}.* the limit is {MAX_FILE_BYTES[name]}"):
        await scene.holdings.hold(cid)
    assert scene.folders.written() == []


@pytest.mark.parametrize("name", MAX_FILE_BYTES)
def test_a_file_may_have_as_many_bytes_as_its_limit_and_no_more(tmp_path: Path, name: str) -> None:
    _, manifest = put_adapter(BlockStore(tmp_path), CREATOR, "fat")
    at_most = MAX_FILE_BYTES[name]
    check_files(msgspec.structs.replace(manifest, files=[File(name, at_most, [])]))
    with pytest.raises(AdapterError, match=f"{name}.* the limit is {at_most}"):
        check_files(msgspec.structs.replace(manifest, files=[File(name, at_most + 1, [])]))


async def test_a_manifest_chooses_no_path(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cid, _ = put_adapter(scene.store, CREATOR, "evil", files=(CONFIG_FILE, ".bashrc"))
    with pytest.raises(AdapterError, match=r"\.bashrc"):
        await scene.holdings.hold(cid)
    assert not (tmp_path / "adapters" / str(cid)).exists()


async def test_a_block_that_is_missing_is_named_and_nothing_half_is_left(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cid, manifest = put_adapter(scene.store, CREATOR, "law")
    missing = Cid(manifest.files[1].blocks[1][0])
    scene.store.delete(missing)
    with pytest.raises(AdapterError, match=str(missing)):
        await scene.holdings.hold(cid)
    assert scene.folders.written() == []
    assert scene.offered == []


async def test_what_the_engine_refuses_is_not_held_and_can_be_tried_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    cid, _ = put_adapter(
        scene.store, CREATOR, "law", files=(CONFIG_FILE, WEIGHTS_FILE, VERIFICATION_FILE)
    )
    assert scene.engine is not None
    scene.engine.refuses.add(cid.digest)
    with pytest.raises(AdapterError, match=r"x\.weight"):
        await scene.holdings.hold(cid)
    assert scene.offered == []
    scene.engine.refuses.clear()
    await scene.holdings.hold(cid)
    assert scene.offered == [cid]


async def test_an_adapter_nobody_provides_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NoProvider):
        await Scene(tmp_path).holdings.hold(Cid.of(b"nobody has this"))
