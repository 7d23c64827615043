"""Versions: each push is one, a name means one of them, and a withdrawn one is not served."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from node.api.adapters import AdapterInfo
from node.errors import AdapterError, BadRequest, UnknownModel
from p2p.cid import Cid
from p2p.errors import NameRefused
from p2p.identity import Identity
from p2p.names import MAX_AHEAD_S, sign_name

from .test_publishing import ME, Scene
from .twins import make_folder

CREATOR = Identity.generate()


async def push(scene: Scene, name: str, weights: str, creator: Identity | None = None) -> Cid:
    info = await push_info(scene, name, weights, creator)
    return Cid.parse(info.cid)


async def push_info(
    scene: Scene, name: str, weights: str, creator: Identity | None = None, version: str = ""
) -> AdapterInfo:
    folder = scene.home.parent / f"{name}-{weights}-{version}"
    if not folder.exists():
        make_folder(folder, name)
        (folder / "adapter_model.safetensors").write_text(weights)
        if version:
            with (folder / "lorikeet.toml").open("a") as file:
                file.write(f'version = "{version}"\n')
    return await scene.catalogue.publish(folder, creator)


async def means(scene: Scene, text: str) -> Cid | None:
    return await scene.catalogue.names.resolve(text)


async def test_each_push_is_the_next_version_and_the_name_means_the_newest(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    first, second = [await push(scene, "law", weights) for weights in ("one", "two")]
    assert await means(scene, "law") == second
    assert await means(scene, "law@1") == first
    assert await means(scene, f"{ME.peer_id}/law@2") == second
    assert await push(scene, "law", "two") == second, "what is published already is no new version"
    listed = await scene.catalogue.versions("law")
    assert [(one.name, one.cid, one.is_meant) for one in listed] == [
        ("law@1", str(first), False),
        ("law@2", str(second), True),
    ]


async def test_what_a_version_is_never_changes(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    info = await push_info(scene, "law", "one", version="1.2")
    assert info.version == "1.2"
    assert (await push_info(scene, "law", "one", version="1.2")).cid == info.cid
    with pytest.raises(AdapterError, match=r"law@1\.2 is published already.*raise version"):
        await push_info(scene, "law", "two", version="1.2")
    with pytest.raises(AdapterError, match="is no name"):
        await push_info(scene, "law", "two", version="no version")


async def test_a_name_rolls_back_to_an_earlier_version_for_everybody(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    first, _ = [await push(scene, "law", weights) for weights in ("one", "two")]
    await scene.catalogue.publisher.roll_back("law@1")
    assert await means(scene, "law") == first
    assert scene.records.names[ME.peer_id, "law"].target == first
    assert await push_info(scene, "law", "three")
    assert scene.records.names[ME.peer_id, "law@3"].target == await means(scene, "law")
    for text in ("law", "law@9", "verse@1", "law@no version"):
        with pytest.raises(BadRequest):
            await scene.catalogue.publisher.roll_back(text)


async def test_a_withdrawn_version_is_not_resolved_found_or_served_anew(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    first, second = [await push(scene, "law", weights) for weights in ("one", "two")]
    await scene.catalogue.hold(second)
    await scene.catalogue.publisher.retract("law@2")
    assert await means(scene, "law") == first
    with pytest.raises(UnknownModel, match="withdrawn"):
        await means(scene, "law@2")
    for hold in (scene.catalogue.hold, scene.catalogue.hold_guest):
        with pytest.raises(AdapterError, match="was withdrawn by its creator"):
            await hold(second)
        await hold(first)
    assert scene.engine is not None
    assert second.digest in scene.engine.served, "what runs ends well"
    assert [one.version for one in await scene.catalogue.listing()] == ["1", "2"]
    with pytest.raises(BadRequest, match="is withdrawn"):
        await scene.catalogue.publisher.roll_back("law@2")
    await scene.catalogue.publisher.retract("law@1")
    with pytest.raises(UnknownModel, match="withdrawn"):
        await means(scene, "law")


async def test_nodes_obey_a_withdrawal_that_they_heard_of_or_look_up(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    heard, missed = [await push(scene, name, name, CREATOR) for name in ("law", "verse")]
    scene.known.learn_name(sign_name(CREATOR, "law@1", int(time.time()) + 1, None))
    with pytest.raises(AdapterError, match="withdrawn"):
        await scene.catalogue.hold_guest(heard)
    other = Scene(tmp_path / "other")
    other.store.put(scene.store.get(missed) or b"")
    for block in scene.store.list():
        other.store.put(scene.store.get(block) or b"")
    withdrawal = sign_name(CREATOR, "verse@1", int(time.time()) + 1, None)
    other.records.names[CREATOR.peer_id, "verse@1"] = withdrawal
    with pytest.raises(AdapterError, match="withdrawn"):
        await other.catalogue.hold_guest(missed)
    assert (CREATOR.peer_id, "verse@1") in other.records.asked


async def test_six_names_with_two_versions_and_restarts_never_fall_back(tmp_path: Path) -> None:
    """Also with a clock that ran ahead at the first push, and back before the second."""
    names = [f"name-{number}" for number in range(6)]
    now = time.time()
    home = tmp_path / "home"
    network = Scene(home).records
    newest: dict[str, Cid] = {}
    for round_number, clock_s in enumerate((now + MAX_AHEAD_S / 2, now - 3600, now)):
        scene = Scene(home, records=network, clock=lambda clock_s=clock_s: clock_s)
        await scene.catalogue.publisher.restore()
        assert {name: await means(scene, name) for name in newest} == newest
        for name in names:
            newest[name] = await push(scene, name, f"weights {round_number}")
        assert {name: network.names[ME.peer_id, name].target for name in names} == newest
    last = Scene(home, records=network)
    await last.catalogue.publisher.restore()
    assert {name: network.names[ME.peer_id, name].target for name in names} == newest


async def test_a_push_wins_against_one_that_the_same_key_made_elsewhere(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    later = int(time.time()) + 3600
    scene.records.names[ME.peer_id, "law"] = sign_name(ME, "law", later, Cid.of(b"elsewhere"))
    cid = await push(scene, "law", "here")
    assert scene.records.names[ME.peer_id, "law"].target == cid
    assert scene.records.names[ME.peer_id, "law"].sequence == later + 1


async def test_a_push_that_others_do_not_believe_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    scene.records.refuses = NameRefused("a record from the future is not believed: set the clock")
    with pytest.raises(AdapterError, match=r"others do not see it: .* set the clock"):
        await push(scene, "law", "one")
    scene.records.refuses = None
    cid = await push(scene, "law", "one")
    assert scene.records.names[ME.peer_id, "law"].target == cid


async def test_a_node_that_kept_an_older_push_takes_up_the_newer_and_does_not_undo_it(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path / "home")
    await push(scene, "law", "here")
    newer = sign_name(ME, "law", int(time.time()) + 60, Cid.of(b"elsewhere"))
    scene.records.names[ME.peer_id, "law"] = newer
    restarted = Scene(tmp_path / "home", records=scene.records)
    await restarted.catalogue.publisher.restore()
    assert scene.records.names[ME.peer_id, "law"] == newer
    assert restarted.book.find(ME.peer_id, "law") == newer
    assert await means(restarted, "law") == Cid.of(b"elsewhere")


async def test_a_name_that_a_wild_clock_signed_stops_no_start_and_is_pushed_anew(
    tmp_path: Path,
) -> None:
    wild = Scene(tmp_path / "home", clock=lambda: time.time() + 3 * MAX_AHEAD_S)
    wild.records.refuses = NameRefused("a record from the future is not believed")
    with pytest.raises(AdapterError, match="from the future"):
        await push(wild, "law", "one")
    mended = Scene(tmp_path / "home")
    await mended.catalogue.publisher.restore()
    cid = await push(mended, "law", "two")
    assert mended.records.names[ME.peer_id, "law"].target == cid
    assert mended.records.names[ME.peer_id, "law"].sequence <= time.time() + 1
