"""vLLM gets adapters by name and by CID from a real node's hub, checked by their hashes."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

import lorikeet_vllm
from node.daemon import NodeDaemon
from node.http.server import listen, serve_http, url_of
from p2p.cid import Cid
from tests.node.networks import open_lab
from tests.node.tiny import make_adapter

FOLDER = Path(lorikeet_vllm.__file__).parent.parent
BASE = "org/Tiny"
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass
class Scene:
    """A node with an adapter that another one published, and where vLLM keeps what it takes."""

    creator: NodeDaemon
    gateway: NodeDaemon
    source: Path
    cid: str
    url: str
    cache: Path

    def settings(self, **changes: str) -> dict[str, str]:
        return {"LORIKEET_URL": self.url, "LORIKEET_VLLM_CACHE": str(self.cache)} | changes

    async def resolve(self, registry: Any, name: str, base: str = BASE) -> Any:
        """What a vLLM that starts now does with a request for a model that it does not know."""
        resolver = registry.get_resolver("Lorikeet")
        with trio.fail_after(60):
            return await trio.to_thread.run_sync(
                lambda: asyncio.run(resolver.resolve_lora(base, name))
            )


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    with open_lab(folder) as lab:
        publishers = (lab.identity("creator").peer_id,)
        async with (
            lab.daemon("creator", role="gateway") as creator,
            lab.daemon("gateway", role="gateway", publishers=publishers) as gateway,
            trio.open_nursery() as nursery,
        ):
            source = make_adapter(folder / "law", "law", 1, padding_rank=1024)
            info = await creator.push(source)
            sock = listen("127.0.0.1", 0)
            nursery.start_soon(serve_http, gateway, sock)
            yield Scene(creator, gateway, source, info.cid, url_of(sock), folder / "cache")
            nursery.cancel_scope.cancel()


def start(registry: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    """Start vLLM: it loads its plug-ins by their entry points."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    registry.resolvers.clear()
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    for entry in project["entry-points"]["vllm.general_plugins"].values():
        module, _, function = entry.partition(":")
        getattr(importlib.import_module(module), function)()


async def test_an_adapter_comes_by_name_and_by_cid_and_lies_there_by_its_content(
    tmp_path: Path, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path) as there:
        start(vllm, monkeypatch, there.settings())
        named = await there.resolve(vllm, "law")
        owned = await there.resolve(vllm, f"{there.creator.host.peer_id}/law")
        version = await there.resolve(vllm, "law@1")
        by_cid = await there.resolve(vllm, there.cid)
    assert [one.lora_name for one in (named, version, by_cid)] == ["law", "law@1", there.cid]
    paths = {one.lora_path for one in (named, owned, version, by_cid)}
    assert paths == {str(there.cache / there.cid)}
    for name in FILES:
        assert (there.cache / there.cid / name).read_bytes() == (there.source / name).read_bytes()
    assert {path.name for path in there.cache.iterdir()} == {there.cid}


async def test_a_cid_comes_straight_from_the_swarm_and_then_from_the_disk(
    tmp_path: Path, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path) as there:
        start(vllm, monkeypatch, there.settings())
        assert await there.resolve(vllm, there.cid) is not None
    start(vllm, monkeypatch, there.settings())  # the node is away now
    assert await there.resolve(vllm, there.cid) is not None
    assert await there.resolve(vllm, "law") is None


async def test_what_the_swarm_does_not_have_is_left_to_the_next_resolver(
    tmp_path: Path, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = str(Cid.of(b"nobody has this"))
    async with scene(tmp_path) as there:
        start(vllm, monkeypatch, there.settings())
        names = ("verse", "../../etc", "a b?c#d", "", "x" * 500, nobody)
        assert [await there.resolve(vllm, name) for name in names] == [None] * len(names)
    assert not there.cache.exists() or not list(there.cache.iterdir())


async def test_an_adapter_for_another_base_is_refused_with_the_mend(
    tmp_path: Path,
    vllm: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scene(tmp_path) as there:
        config = there.source / "adapter_config.json"
        config.write_text(
            config.read_text().replace("{", '{"base_model_name_or_path": "org/Tiny", ', 1)
        )
        about = there.source / "lorikeet.toml"
        about.write_text(about.read_text().replace('version = "1"', 'version = "2"'))
        await there.creator.push(there.source)
        start(vllm, monkeypatch, there.settings())
        assert await there.resolve(vllm, "law@2", base="/models/tiny/") is not None
        assert await there.resolve(vllm, "law@2", base="org/Other") is None
        assert "LORIKEET_VLLM_BASE=org/Other" in caplog.text
        start(vllm, monkeypatch, there.settings(LORIKEET_VLLM_BASE="org/Other"))
        assert await there.resolve(vllm, "law@2", base="org/Other") is not None


async def test_what_broke_in_the_cache_is_fetched_again(
    tmp_path: Path, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path) as there:
        start(vllm, monkeypatch, there.settings())
        await there.resolve(vllm, "law")
        weights = there.cache / there.cid / FILES[1]
        for damage in (b"", weights.read_bytes() + b"x", bytes(weights.stat().st_size)):
            weights.write_bytes(damage)
            start(vllm, monkeypatch, there.settings())
            assert await there.resolve(vllm, there.cid) is not None
            assert weights.read_bytes() == (there.source / FILES[1]).read_bytes()


async def test_a_cache_that_is_full_drops_what_earlier_runs_left_and_nothing_in_use(
    tmp_path: Path,
    vllm: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scene(tmp_path) as there:
        await there.creator.push(make_adapter(tmp_path / "verse", "verse", 2, padding_rank=1024))
        size = sum((there.source / name).stat().st_size for name in FILES)
        settings = there.settings(LORIKEET_VLLM_MAX_BYTES=str(size + 100_000))
        start(vllm, monkeypatch, settings)
        assert await there.resolve(vllm, "law") is not None
        assert await there.resolve(vllm, "verse") is None
        assert "LORIKEET_VLLM_MAX_BYTES" in caplog.text
        start(vllm, monkeypatch, settings)
        assert await there.resolve(vllm, "verse") is not None
        assert await there.resolve(vllm, "law") is None
    [left] = there.cache.iterdir()
    assert left.name != there.cid


async def test_many_requests_at_once_leave_one_whole_copy(
    tmp_path: Path, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path) as there:
        start(vllm, monkeypatch, there.settings())
        resolver = vllm.get_resolver("Lorikeet")

        async def all_at_once() -> list[Any]:
            names = ["law", "law@1", there.cid] * 4
            return await asyncio.gather(*(resolver.resolve_lora(BASE, name) for name in names))

        found = await trio.to_thread.run_sync(lambda: asyncio.run(all_at_once()))
    assert all(one is not None for one in found)
    assert [path.name for path in there.cache.iterdir()] == [there.cid]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LORIKEET_URL", "127.0.0.1:4180"),
        ("LORIKEET_VLLM_MAX_BYTES", "much"),
        ("LORIKEET_VLLM_TIMEOUT_S", "0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    vllm: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(ValueError, match=name):
        start(vllm, monkeypatch, {name: value})


def test_vllm_may_load_it_twice_and_it_asks_nobody_at_the_start(
    vllm: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start(vllm, monkeypatch, {"LORIKEET_URL": "http://127.0.0.1:9"})
    first = vllm.get_resolver("Lorikeet")
    lorikeet_vllm.register()
    assert vllm.get_resolver("Lorikeet") is first
    caplog.set_level(logging.WARNING)
    assert asyncio.run(first.resolve_lora(BASE, "law")) is None
    assert "127.0.0.1:9" in caplog.text


def test_it_imports_nothing_of_this_repository(tmp_path: Path) -> None:
    copied = shutil.copytree(FOLDER / "lorikeet_vllm", tmp_path / "lorikeet_vllm")
    without = ("resolver", "draws", "__init__")  # these import vLLM
    names = [path.stem for path in copied.glob("*.py") if path.stem not in without]
    program = "import sys\n" + "".join(f"import lorikeet_vllm.{name}\n" for name in names)
    program += "print(sorted({'node', 'engine', 'p2p', 'proofs', 'tests'} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    for path in copied.glob("*.py"):
        imports = [
            line for line in path.read_text().splitlines() if line.lstrip().startswith("from ")
        ]
        ours = ("node", "engine", "p2p", "proofs", "tests")
        assert not [line for line in imports if line.split()[1].split(".")[0] in ours]
