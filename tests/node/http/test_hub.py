"""Programs made for a hub of models take adapters from the swarm, unchanged: the real clients,
through whole daemons.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from node.api.status import FileInfo, FilesInfo
from node.daemon import NodeDaemon
from node.errors import NodeError, NoProvider, UnknownModel, WrongBase
from node.http import hub
from node.http.server import listen, serve_http, url_of
from p2p.cid import Cid
from proofs.basecard import parse_card
from tests.node.bases.test_fetching import shard
from tests.node.catalogue.caches import disk_bytes
from tests.node.networks import ask, open_lab, until
from tests.node.tiny import make_adapter
from tests.node.twin import Twin, serve_twin

CLIENT = """
import json, sys
import huggingface_hub as hf
from huggingface_hub import errors

repo, owned, cid, commit = sys.argv[1:]

def fails(kind, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        return str(error)
    raise SystemExit(f"{call.__name__} {arguments} {named} brought something")

info = hf.model_info(repo, files_metadata=True)
first = hf.hf_hub_download(repo, "adapter_config.json")
print(json.dumps({
    "sha": info.sha,
    "files": {one.rfilename: [one.size, one.lfs.sha256] for one in info.siblings},
    "config": first,
    "snapshots": [
        hf.snapshot_download(repo),
        hf.snapshot_download(owned),
        hf.snapshot_download(cid),
        hf.snapshot_download(repo, revision="1"),
        hf.snapshot_download(repo, revision=commit),
    ],
    "exists": [hf.file_exists(repo, "adapter_config.json"), hf.file_exists(repo, "config.json")],
    "repos": [hf.repo_exists(repo), hf.repo_exists("nobody")],
    "base": fails(errors.RepositoryNotFoundError, hf.snapshot_download, "nobody"),
    "entry": fails(errors.EntryNotFoundError, hf.hf_hub_download, repo, "config.json"),
    "revision": fails(errors.RevisionNotFoundError, hf.snapshot_download, repo, revision="9"),
    "commit": fails(errors.RevisionNotFoundError, hf.hf_hub_download, repo, "adapter_config.json",
                    revision="0" * 40),
}))
"""

FETCH = """
import json, sys
import huggingface_hub as hf
hf.snapshot_download(sys.argv[1], allow_patterns=["*.json"])  # as SGLang begins
print(json.dumps([hf.snapshot_download(repo) for repo in sys.argv[1:]]))
"""


@dataclass
class Shelves(Twin):
    """A daemon that has whole folders."""

    folders: dict[str, Path] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    """The hash that it states of a file, where that is not the file's."""
    lines: list[str] = field(default_factory=list)
    num_asked: int = 0

    async def files(self, model: str, commit: str | None = None) -> FilesInfo:
        self.num_asked += 1
        if model not in self.folders:
            raise UnknownModel(model)
        paths = sorted(path for path in self.folders[model].iterdir() if path.is_file())
        files = tuple(self.describe(path) for path in paths)
        digest = hashlib.sha256(repr(files).encode()).hexdigest()
        return FilesInfo(model, "bafkreiit", digest, "16Uiu2", licence="MIT", files=files)

    def describe(self, path: Path) -> FileInfo:
        data = path.read_bytes()
        sha256 = self.states.get(path.name, hashlib.sha256(data).hexdigest())
        return FileInfo(path.name, path, len(data), sha256)


@asynccontextmanager
async def serving(daemon: Any) -> AsyncIterator[str]:
    sock = listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_http, daemon, sock)
        yield url_of(sock)
        nursery.cancel_scope.cancel()


async def run(program: str, url: str, home: Path, *arguments: str) -> Any:
    """Run a program that knows of nothing but HF_ENDPOINT; return what it prints."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": f"{url}/hub", "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
    with trio.fail_after(200):
        done = await trio.run_process(
            [sys.executable, "-W", "ignore", "-c", program, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=env,
        )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode().splitlines()[-1])


@asynccontextmanager
async def creator_and_gateway(
    folder: Path, role: str = "gateway"
) -> AsyncIterator[tuple[NodeDaemon, NodeDaemon]]:
    """The creator has no engine; the other has no adapter."""
    with open_lab(folder) as lab:
        publishers = (lab.identity("creator").peer_id,)
        async with (
            lab.daemon("creator", role="gateway") as creator,
            lab.daemon("gateway", role=role, publishers=publishers) as gateway,
        ):
            yield creator, gateway


async def test_the_hubs_own_client_takes_adapters_from_the_swarm(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "law", "law", 1, padding_rank=1024)
    files = [folder / "adapter_config.json", folder / "adapter_model.safetensors"]
    assert files[1].stat().st_size > 2 * 256 * 1024
    async with creator_and_gateway(tmp_path) as (creator, gateway):
        law = await creator.push(folder)
        commit = Cid.parse(law.cid).digest.hex()[:40]
        owned = f"{creator.host.peer_id}/law"
        async with serving(gateway) as url:
            told = await run(CLIENT, url, tmp_path / "hf", "law", owned, law.cid, commit)
        [held] = await gateway.adapters()
        assert held.cid == law.cid
        assert held.state == "held"
    assert told["sha"] == commit
    assert told["files"] == {
        path.name: [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in files
    }
    config = await trio.Path(told["config"]).read_bytes()
    assert config == files[0].read_bytes()
    assert len(set(told["snapshots"])) == 3, "by name, by owner and by CID; versions share a folder"
    for snapshot in told["snapshots"]:
        for path in files:
            assert (Path(snapshot) / path.name).read_bytes() == path.read_bytes()
            assert (Path(snapshot) / path.name).resolve().name == told["files"][path.name][1]
    assert told["exists"] == [True, False]
    assert told["repos"] == [True, False]
    assert "lorikeet base show" in told["base"]


BASE = """
import json, sys
import huggingface_hub as hf
from huggingface_hub import errors

names, commit = sys.argv[1].split(), sys.argv[2]
info = hf.model_info(names[0], files_metadata=True)
print(json.dumps({
    "library": info.library_name,
    "sha": info.sha,
    "files": {one.rfilename: one.lfs.sha256 for one in info.siblings},
    "snapshots": [hf.snapshot_download(name) for name in names],
    "commit": hf.snapshot_download(names[0], revision=commit),
}))
"""

FROM_PRETRAINED = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

def answers(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(base)("hello there", return_tensors="pt").input_ids
    with torch.no_grad():
        plain = model(ids).logits
        return ids, plain, PeftModel.from_pretrained(model, adapter)(ids).logits

swarm, local = answers(*sys.argv[1:3]), answers(*sys.argv[3:])
equal = [bool(torch.equal(*pair)) for pair in zip(swarm, local)]
print(json.dumps([*equal, bool(torch.equal(swarm[1], swarm[2]))]))
"""


@asynccontextmanager
async def only_a_digest(folder: Path) -> AsyncIterator[tuple[NodeDaemon, NodeDaemon]]:
    """One has a base in two shards, the other the base's digest."""
    with open_lab(folder) as lab:
        digest = shard(folder / "base").hex()
        async with lab.daemon("giver") as giver:
            card = giver.base().card
            wanted = {"base_path": "", "base": digest, "base_card": card}
            async with lab.daemon("gateway", role="gateway", **wanted) as gateway:
                await until(lambda: gateway.waits_for() == "")
                yield giver, gateway


async def test_the_hubs_own_client_takes_the_base_from_the_swarm(tmp_path: Path) -> None:
    async with only_a_digest(tmp_path) as (giver, gateway):
        info = gateway.base()
        assert (info.name, info.path) == ("base", "")
        index = parse_card(giver.base_card()).index
        commit = index.blocks[0][0].hex()[:40]
        names = ("base", f"{giver.host.peer_id}/base", info.digest, info.card)
        async with serving(gateway) as url:
            told = await run(BASE, url, tmp_path / "hf", " ".join(names), commit)
    assert (told["library"], told["sha"]) == ("transformers", commit)
    own = {path.name: path for path in (tmp_path / "base").iterdir()}
    assert told["files"].keys() == own.keys()
    for name, path in own.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert told["files"][name] == digest
        for snapshot in (*told["snapshots"], told["commit"]):
            assert hashlib.sha256((Path(snapshot) / name).read_bytes()).hexdigest() == digest


async def test_transformers_loads_the_base_and_peft_an_adapter_from_the_swarm(
    tmp_path: Path,
) -> None:
    """In one process: to import both takes ten times as long as all the rest."""
    pytest.importorskip("peft")
    folder = make_adapter(tmp_path / "law", "law", 1)
    async with only_a_digest(tmp_path) as (giver, gateway):
        await giver.push(folder)
        async with serving(gateway) as url:
            swarm = ("base", f"{giver.host.peer_id}/law")
            local = (str(tmp_path / "base"), str(folder))
            told = await run(FROM_PRETRAINED, url, tmp_path / "hf", *swarm, *local)
    ids, plain, adapted, is_without = told
    assert ids
    assert plain
    assert adapted
    assert not is_without


async def test_a_commit_is_what_it_was_after_the_name_has_moved_on(tmp_path: Path) -> None:
    async with creator_and_gateway(tmp_path) as (creator, gateway):
        old = await creator.push(make_adapter(tmp_path / "old", "law", 1))
        first = await gateway.files("law")
        new = make_adapter(tmp_path / "new", "law", 2)
        about = new / "lorikeet.toml"
        about.write_text(about.read_text().replace('version = "1"', 'version = "2"'))
        cid = (await creator.push(new)).cid
        async with (
            serving(creator) as url,
            httpx.AsyncClient(base_url=f"{url}/hub", trust_env=False) as client,
        ):
            latest = (await client.get("/api/models/law")).json()["sha"]
            second = (await client.get("/api/models/law/revision/2")).json()["sha"]
            by_commit = await client.get(f"/law/resolve/{first.digest[:40]}/adapter_config.json")
            elsewhere = await client.get(f"/verse/resolve/{first.digest[:40]}/adapter_config.json")
    assert first.cid == old.cid
    assert latest == second == Cid.parse(cid).digest.hex()[:40]
    assert by_commit.headers["x-repo-commit"] == first.digest[:40]
    assert elsewhere.headers["x-error-code"] == "RepoNotFound"


@pytest.mark.parametrize("role", ["gateway", "volunteer"])
async def test_a_file_that_broke_on_the_disk_is_mended_and_never_given(
    tmp_path: Path, role: str
) -> None:
    folder = make_adapter(tmp_path / "law", "law", 1, padding_rank=1024)
    good = (folder / "adapter_model.safetensors").read_bytes()
    async with creator_and_gateway(tmp_path, role) as (creator, gateway):
        await creator.push(folder)
        found = await gateway.files("law")
        [weights] = [file for file in found.files if file.name == "adapter_model.safetensors"]
        assert tmp_path / "gateway" in weights.path.parents
        broken = bytearray(good)
        broken[300_000] ^= 1
        weights.path.write_bytes(broken)
        async with (
            serving(gateway) as url,
            httpx.AsyncClient(base_url=f"{url}/hub", trust_env=False, timeout=60) as client,
        ):
            for damage in (None, b"", good + b"x"):
                if damage is not None:
                    weights.path.write_bytes(damage)
                answer = await client.get("/law/resolve/main/adapter_model.safetensors")
                assert answer.content == good
                assert answer.headers["etag"] == f'"{hashlib.sha256(good).hexdigest()}"'
            weights.path.unlink()
            answer = await client.get("/law/resolve/main/adapter_model.safetensors")
            assert answer.content == good


async def test_what_a_hub_brought_is_imported_and_served_to_the_swarm_from_where_it_lies(
    tmp_path: Path,
) -> None:
    folder = make_adapter(tmp_path / "law", "law", 1, padding_rank=1024)
    (folder / "lorikeet.toml").unlink()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    afar = Shelves(folders={"org/law": folder, "org/base": tmp_path / "base"})
    async with creator_and_gateway(tmp_path, "volunteer") as (taker, importer):
        async with serving(afar) as url:
            await run(FETCH, url, tmp_path / "hf", "org/law", "org/base")
        before = disk_bytes(tmp_path / "hf", tmp_path / "gateway")
        listed = await importer.find_on_disk(tmp_path / "hf")
        [found] = [one for one in listed if one.state == "fits"]
        info = await importer.push(Path(found.folder), told=found.told, in_place=True)
        added = disk_bytes(tmp_path / "hf", tmp_path / "gateway") - before
        await taker.pull(f"{importer.host.peer_id}/law")
        pulled = await taker.files(info.cid)
        answer = await ask(importer, "hello", model="law", max_tokens=4)
    assert [(one.repo, one.state) for one in listed] == [("org/base", "base"), ("org/law", "fits")]
    assert found.told.licence == "mit"
    assert found.told.source.startswith("org/law@")
    assert added < 100_000 < found.size_bytes
    assert answer.started.cid == info.cid
    for file in pulled.files:
        if file.name != "about.json":
            assert file.path.read_bytes() == (folder / file.name).read_bytes()


# --- what needs no network ---

DATA = bytes(range(256)) * 1024
SHA = hashlib.sha256(DATA).hexdigest()
DIGEST = "ab" * 32
COMMIT = DIGEST[:40]
WEIGHTS = "adapter_model.safetensors"


@dataclass
class Shelf(Twin):
    """Has one adapter, `law`; `fault` is raised instead. `busiest`: most questions at a time."""

    path: Path = Path()
    fault: NodeError | None = None
    gate: trio.Event | None = None
    files_asked: list[str] = field(default_factory=list)
    num_now: int = 0
    busiest: int = 0

    async def files(self, model: str, commit: str | None = None) -> FilesInfo:
        self.files_asked.append(model)
        self.num_now += 1
        self.busiest = max(self.busiest, self.num_now)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.num_now -= 1
        if self.fault is not None:
            raise self.fault
        if model != "law":
            raise UnknownModel(model, ["law"])
        file = FileInfo(WEIGHTS, self.path, len(DATA), SHA)
        return FilesInfo("law", "bafkreilaw", DIGEST, "16Uiu2", licence="CC0-1.0", files=(file,))


@asynccontextmanager
async def shelf(folder: Path, **settings: Any) -> AsyncIterator[tuple[Shelf, httpx.AsyncClient]]:
    path = folder / WEIGHTS
    path.write_bytes(DATA)
    twin = Shelf(path=path, **settings)
    async with (
        serve_twin(twin) as url,
        httpx.AsyncClient(base_url=f"{url}/hub", trust_env=False, timeout=60) as client,
    ):
        yield twin, client


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=1000-", 206, 1000, len(DATA)),
        ("bytes=-5", 206, len(DATA) - 5, len(DATA)),
        ("bytes=5-99999999", 206, 5, len(DATA)),
        ("bytes=70000-200000", 206, 70_000, 200_001),
        (f"bytes={len(DATA)}-", 416, 0, 0),
        ("pages=1-2", 400, 0, 0),
        ("bytes=b-a", 400, 0, 0),
    ],
)
async def test_a_range_of_a_file_is_given(
    tmp_path: Path, asked: str, status: int, start: int, end: int
) -> None:
    async with shelf(tmp_path) as (_, client):
        answer = await client.get(f"/law/resolve/main/{WEIGHTS}", headers={"range": asked})
    assert answer.status_code == status
    if status == 206:
        assert answer.content == DATA[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
        assert answer.headers["etag"] == f'"{SHA}"'


async def test_a_head_tells_what_a_get_gives(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (_, client):
        head = await client.head(f"/law/resolve/main/{WEIGHTS}")
        whole = await client.get(f"/law/resolve/{COMMIT}/{WEIGHTS}")
    assert whole.content == DATA
    assert head.content == b""
    for answer in (head, whole):
        assert answer.headers["content-length"] == str(len(DATA))
        assert answer.headers["x-repo-commit"] == COMMIT
        assert answer.headers["etag"] == f'"{SHA}"'
        assert answer.headers["accept-ranges"] == "bytes"


async def test_the_listing_names_each_file_by_its_hash(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (_, client):
        [entry] = (await client.get(f"/api/models/law/tree/{COMMIT}?recursive=true")).json()
        nothing = await client.get("/api/models/law/tree/main/folder")
    assert (entry["path"], entry["size"]) == (WEIGHTS, len(DATA))
    assert entry["lfs"] == {"oid": SHA, "size": len(DATA), "pointerSize": 131}
    assert nothing.headers["x-error-code"] == "EntryNotFound"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/nobody", "RepoNotFound"),
        ("/api/models/nobody/revision/main", "RepoNotFound"),
        ("/api/models/a/b/c/d", "RepoNotFound"),
        (f"/nobody/resolve/main/{WEIGHTS}", "RepoNotFound"),
        (f"/{'n' * 5000}/resolve/main/{WEIGHTS}", "RepoNotFound"),
        (f"/n%0dset-cookie:%20a/resolve/main/{WEIGHTS}", "RepoNotFound"),
        (f"/n%C3%A9/resolve/main/{WEIGHTS}", "RepoNotFound"),
        ("/api/models/law/revision/refs%2Fpr%2F1", "RevisionNotFound"),
        (f"/law/resolve/7/{WEIGHTS}", "RevisionNotFound"),
        (f"/law/resolve/{'0' * 40}/{WEIGHTS}", "RevisionNotFound"),
        ("/law/resolve/main/config.json", "EntryNotFound"),
        ("/law/resolve/main/..%2F..%2Fkey", "EntryNotFound"),
        ("/law/resolve/main/%2Fetc%2Fpasswd", "EntryNotFound"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_does_not_exist_is_named(
    tmp_path: Path, method: str, path: str, code: str
) -> None:
    async with shelf(tmp_path) as (_, client):
        request = client.build_request(method, "/")
        request.url = request.url.copy_with(raw_path=f"/hub{path}".encode())
        answer = await client.send(request)
    assert answer.status_code == 404
    assert answer.headers["x-error-code"] == code
    assert ("x-repo-commit" in answer.headers) == (code == "EntryNotFound")
    assert "set-cookie" not in answer.headers
    if method == "GET":
        assert answer.json()["error"]


@pytest.mark.parametrize(
    ("fault", "status"), [(NoProvider("nobody has it"), 503), (WrongBase("for another base"), 400)]
)
async def test_what_cannot_be_had_now_is_said_in_its_own_words(
    tmp_path: Path, fault: NodeError, status: int
) -> None:
    async with shelf(tmp_path, fault=fault) as (_, client):
        answer = await client.head(f"/law/resolve/main/{WEIGHTS}")
    assert (answer.status_code, answer.headers["x-error-message"]) == (status, str(fault))


async def test_a_page_from_elsewhere_gets_no_adapter(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (twin, client):
        rebound = await client.get("/api/models/law", headers={"host": "evil.example"})
        crossing = await client.get("/api/models/law", headers={"origin": "https://evil.example"})
        written = await client.post("/api/models/law", json={})
    assert (rebound.status_code, crossing.status_code, written.status_code) == (403, 403, 405)
    assert twin.files_asked == []


async def test_so_many_adapters_are_fetched_at_a_time_and_the_rest_wait(tmp_path: Path) -> None:
    gate = trio.Event()
    async with shelf(tmp_path, gate=gate) as (twin, client):
        codes = []

        async def ask() -> None:
            codes.append((await client.get("/api/models/law")).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(hub.MAX_AT_ONCE + 8):
                nursery.start_soon(ask)
            await until(lambda: twin.num_now == hub.MAX_AT_ONCE)
            gate.set()
    assert codes == [200] * (hub.MAX_AT_ONCE + 8)
    assert twin.busiest == hub.MAX_AT_ONCE


async def test_what_is_on_its_way_arrives_though_its_client_gave_up(tmp_path: Path) -> None:
    gate = trio.Event()
    async with shelf(tmp_path, gate=gate) as (twin, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.head, f"/law/resolve/main/{WEIGHTS}")
            await until(lambda: twin.num_now == 1)
            nursery.cancel_scope.cancel()
        assert twin.num_now == 1
        gate.set()
        found = await client.head(f"/law/resolve/main/{WEIGHTS}")
    assert found.status_code == 200
