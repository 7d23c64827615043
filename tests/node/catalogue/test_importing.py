"""What lies in a hub's cache is found, and offered without a copy; changes there are noticed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from node.api.adapters import FoundInfo, PushTold
from node.catalogue.fitting import BaseShape
from node.catalogue.importing import find_all, name_of
from node.catalogue.packaging import WEIGHTS_FILE
from node.errors import AdapterError, BadRequest, NoProvider
from p2p.cid import Cid
from p2p.names import check_name
from tests.node.networks import until
from tests.node.tiny import HIDDEN, LAYERS, make_adapter, make_base

from .caches import add_repo, disk_bytes
from .test_publishing import Scene

BASE = BaseShape(("Tiny",), HIDDEN, LAYERS)
CARD = "---\nlicense: mit\nlanguage: en\n---\n"


def bare_adapter(folder: Path, seed: int = 1, *, padding_rank: int = 0) -> Path:
    """As others publish them: a card, no lorikeet.toml."""
    make_adapter(folder, "x", seed, padding_rank=padding_rank)
    (folder / "lorikeet.toml").unlink()
    (folder / "README.md").write_text(CARD)
    return folder


def cache_with_law(folder: Path, *, padding_rank: int = 1024) -> tuple[Path, FoundInfo]:
    cache = folder / "cache"
    add_repo(cache, "org/Law", bare_adapter(folder / "source", padding_rank=padding_rank))
    shutil.rmtree(folder / "source")
    [found] = find_all(cache, BASE)
    return cache, found


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system, to which no hard link leads."""
    shm = Path("/dev") / "shm"
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system here")
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)


# --- finding ---


def test_each_thing_in_a_cache_is_listed_with_what_can_be_done(tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    good = bare_adapter(tmp_path / "good")
    other = bare_adapter(tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "org/another"
    (other / "adapter_config.json").write_text(json.dumps(config))
    nested = tmp_path / "nested"
    bare_adapter(nested / "en")
    bare_adapter(nested / "de")
    (tmp_path / "dull").mkdir()
    (tmp_path / "dull" / "notes.txt").write_text("nothing")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "big.gguf").write_bytes(b"GGUF")
    add_repo(cache, "a/Law", good)
    add_repo(cache, "b/law", good)
    add_repo(cache, "c/other", other)
    add_repo(cache, "d/nested", nested)
    add_repo(cache, "e/dull", tmp_path / "dull")
    base = add_repo(cache, "f/base", make_base(tmp_path / "base"))
    gguf = add_repo(cache, "g/gguf", tmp_path / "gguf")
    (cache / "datasets--h--data").mkdir()
    (cache / "models--i--empty").mkdir()
    for path in (cache, tmp_path):
        found = {one.repo: one for one in find_all(path, BASE)}
        assert {repo: (one.state, one.name) for repo, one in found.items()} == {
            "a/Law": ("fits", "a-law"),
            "b/law": ("fits", "b-law"),
            "c/other": ("doubtful", "other"),
            "d/nested/de": ("fits", "de"),
            "d/nested/en": ("fits", "en"),
            "e/dull": ("other", ""),
            "f/base": ("base", ""),
            "g/gguf": ("base", ""),
        }
    assert found["a/Law"].told == PushTold(
        languages=("en",), licence="mit", name="a-law", source=f"a/Law@{'a' * 40}"
    )
    assert f"base_path = {base}" in found["f/base"].reason
    assert f"base_path = {gguf / 'big.gguf'}" in found["g/gguf"].reason


def test_of_several_revisions_main_counts_else_the_newest(tmp_path: Path) -> None:
    old = add_repo(tmp_path / "hub", "org/law", bare_adapter(tmp_path / "old"), revision="b" * 40)
    new = add_repo(
        tmp_path / "hub", "org/law", bare_adapter(tmp_path / "new", 2), revision="c" * 40
    )
    repo = tmp_path / "hub" / "models--org--law"
    os.utime(old, (1, 1))
    assert [one.revision for one in find_all(repo, BASE)] == [new.name]
    (repo / "refs" / "main").write_text(old.name)
    assert [one.revision for one in find_all(repo, BASE)] == [old.name]
    (repo / "refs" / "main").write_text("../../elsewhere")
    assert [one.revision for one in find_all(repo, BASE)] == [new.name]


def test_a_folder_that_describes_itself_is_taken_at_its_word(tmp_path: Path) -> None:
    [found] = find_all(make_adapter(tmp_path / "law", "justice", 1), BASE)
    assert (found.state, found.name, found.told) == ("fits", "justice", PushTold())


def test_what_is_neither_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="models--ORG--NAME"):
        find_all(tmp_path, BASE)


@pytest.mark.parametrize("repo", ["org/Law LoRA (v2)", "org/..", "ü", "org/" + "x" * 90, "org/_a"])
def test_every_repository_has_a_name(repo: str) -> None:
    assert check_name(name_of(repo))


# --- offering ---


async def test_an_imported_adapter_lies_on_the_disk_once(tmp_path: Path) -> None:
    cache, found = cache_with_law(tmp_path)
    scene = Scene(tmp_path / "home")
    before = disk_bytes(cache)
    info = await scene.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    added = disk_bytes(cache, tmp_path / "home") - before
    assert found.size_bytes > 500_000
    assert added < 64_000, "a manifest, a page and two names"
    manifest = scene.catalogue.holdings.find(Cid.parse(info.cid))
    assert manifest is not None
    assert (manifest.licence, manifest.source) == ("mit", f"org/Law@{'a' * 40}")
    assert info.languages == ("en",)
    place = tmp_path / "home" / "adapters" / info.cid / WEIGHTS_FILE
    assert place.stat().st_ino == (Path(found.folder) / WEIGHTS_FILE).stat().st_ino
    for file in manifest.files:
        for digest, _ in file.blocks:
            data = scene.store.get(Cid(digest))
            assert data is not None
            assert Cid.of(data).digest == digest
    again = await scene.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    assert again.cid == info.cid


async def test_a_cache_that_is_cleaned_takes_nothing_away(tmp_path: Path) -> None:
    cache, found = cache_with_law(tmp_path)
    scene = Scene(tmp_path / "home")
    info = await scene.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    shutil.rmtree(cache)
    after = Scene(tmp_path / "home")
    await after.catalogue.publisher.restore()
    assert [str(cid) for cid, _ in after.catalogue.holdings.held()] == [info.cid]
    assert after.lines == []


async def test_on_another_file_system_the_files_are_served_in_place(
    tmp_path: Path, elsewhere: Path
) -> None:
    cache, found = cache_with_law(elsewhere)
    scene = Scene(tmp_path / "home")
    info = await scene.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    place = tmp_path / "home" / "adapters" / info.cid / WEIGHTS_FILE
    assert place.is_symlink()
    assert disk_bytes(tmp_path / "home") < 64_000
    after = Scene(tmp_path / "home")
    await after.catalogue.publisher.restore()
    assert [str(cid) for cid, _ in after.catalogue.holdings.held()] == [info.cid]
    shutil.rmtree(cache)
    gone = Scene(tmp_path / "home")
    await gone.catalogue.publisher.restore()
    assert gone.catalogue.holdings.held() == []
    assert info.cid in gone.lines[0]


@pytest.mark.parametrize("change", ["written over", "shortened", "removed"])
async def test_a_file_that_changed_is_said_and_not_served(tmp_path: Path, change: str) -> None:
    _, found = cache_with_law(tmp_path)
    scene = Scene(tmp_path / "home")
    info = await scene.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    cid = Cid.parse(info.cid)
    manifest = scene.catalogue.holdings.find(cid)
    assert manifest is not None
    weights = tmp_path / "home" / "adapters" / info.cid / WEIGHTS_FILE
    if change == "removed":
        weights.unlink()
    else:
        with (Path(found.folder) / WEIGHTS_FILE).open("r+b") as file:
            file.write(bytes(100)) if change == "written over" else file.truncate(1000)
    first, _ = manifest.files[1].blocks[0]
    assert scene.store.get(Cid(first)) is None
    scene.records.provided.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.catalogue.publisher.run_republish, 0.02)
        await until(lambda: len(scene.records.provided) >= 2)
        nursery.cancel_scope.cancel()
    assert cid not in scene.records.provided
    [line] = [line for line in scene.lines if "not served any more" in line]
    assert "law@1 (org/Law@aaaa" in line
    assert scene.engine is not None
    assert not scene.engine.serves(cid.digest)
    with pytest.raises((NoProvider, AdapterError)):
        await scene.catalogue.hold(cid)


async def test_a_file_that_was_only_touched_is_served_on(tmp_path: Path) -> None:
    _, found = cache_with_law(tmp_path)
    scene = Scene(tmp_path / "home")
    info = await scene.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    os.utime(Path(found.folder) / WEIGHTS_FILE)
    scene.records.provided.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.catalogue.publisher.run_republish, 0.02)
        await until(lambda: Cid.parse(info.cid) in scene.records.provided)
        nursery.cancel_scope.cancel()
    assert not any("not served" in line for line in scene.lines)


async def test_the_mended_files_of_another_are_fetched_beside_and_never_written_over_the_users(
    tmp_path: Path,
) -> None:
    _, found = cache_with_law(tmp_path)
    scene = Scene(tmp_path / "home")
    info = await scene.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    source = Path(found.folder) / WEIGHTS_FILE
    good = source.read_bytes()
    with source.open("r+b") as file:
        file.write(b"the user's own change")
    changed = source.read_bytes()
    cid = Cid.parse(info.cid)
    scene.catalogue.holdings.drop(cid)
    with pytest.raises((NoProvider, AdapterError)):
        await scene.catalogue.hold(cid)
    assert source.read_bytes() == changed
    for at in range(0, len(good), 256 << 10):
        scene.store.put(good[at : at + (256 << 10)])
    await scene.catalogue.hold(cid)
    assert source.read_bytes() == changed
    assert (tmp_path / "home" / "adapters" / info.cid / WEIGHTS_FILE).read_bytes() == good


async def test_a_name_of_another_adapter_is_not_taken_over(tmp_path: Path) -> None:
    _, found = cache_with_law(tmp_path, padding_rank=0)
    scene = Scene(tmp_path / "home")
    await scene.catalogue.publish(make_adapter(tmp_path / "own", "law", 9), None)
    with pytest.raises(AdapterError, match="--as"):
        await scene.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    told = PushTold(name="law-org", source=found.told.source)
    first = await scene.catalogue.publish(Path(found.folder), None, told, in_place=True)
    newer = add_repo(
        tmp_path / "cache", "org/Law", bare_adapter(tmp_path / "n", 5), revision="b" * 40
    )
    told = PushTold(name="law-org", source=f"org/Law@{'b' * 40}")
    second = await scene.catalogue.publish(newer, None, told, in_place=True)
    assert (first.version, second.version) == ("1", "2")


async def test_an_import_that_a_crash_cut_short_is_done_anew(tmp_path: Path) -> None:
    _, found = cache_with_law(tmp_path, padding_rank=0)
    scene = Scene(tmp_path / "home")
    info = await scene.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    folder = tmp_path / "home" / "adapters" / info.cid
    (folder / "about.json").write_text("half")
    folder.rename(folder.with_name(f".link-{info.cid}"))
    after = Scene(tmp_path / "home")
    again = await after.catalogue.publish(Path(found.folder), None, found.told, in_place=True)
    assert [path.name for path in (tmp_path / "home" / "adapters").iterdir()] == [again.cid]
