"""What the swarm lacks comes from an origin: a second hub over real HTTP, and unchanged clients."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from node.http.server import hypercorn_config, listen, serve_app, serve_http, url_of
from tests.node.tiny import make_adapter, make_base

from .test_hub import Shelves, run

CLIENT = """
import json, sys
import huggingface_hub as hf
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, other = sys.argv[1:]

def logits(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        return PeftModel.from_pretrained(model, adapter)(torch.tensor([[5, 6, 7]])).logits

info = hf.model_info("org/base", files_metadata=True)
brought = logits("org/base", "org/adapter")
print(json.dumps({
    "equal": torch.equal(brought, logits(base, adapter)),
    "differs": not torch.equal(brought, logits(base, other)),
    "ids": AutoTokenizer.from_pretrained("org/base")("Hello").input_ids,
    "local_ids": AutoTokenizer.from_pretrained(base)("Hello").input_ids,
    "snapshot": hf.snapshot_download("org/base"),
    "sha": info.sha,
    "law": hf.hf_hub_download("law", "adapter_config.json"),
    "repos": [hf.repo_exists("org/base"), hf.repo_exists("org/none")],
    "files": [hf.file_exists("org/base", "config.json"), hf.file_exists("org/base", "no.json")],
}))
"""
ONE_FILE = """
import json, sys
import huggingface_hub as hf
try:
    print(json.dumps(hf.hf_hub_download("org/big", "model.safetensors")))
except Exception as error:
    print(json.dumps([repr(error), repr(error.__cause__)]))
"""
SNAPSHOT = """
import json
import huggingface_hub as hf
try:
    hf.snapshot_download("org/big")
except Exception as error:
    print(json.dumps([repr(error), repr(error.__cause__)]))
"""
BIG = os.urandom(25 << 20)
"""The client writes 10 MiB at a time: what comes of less it asks for again."""
BIG_SHA = hashlib.sha256(BIG).hexdigest()
BIG_PATH = "/org/big/resolve/main/model.safetensors"


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@asynccontextmanager
async def hub(shelf: Shelves, origin: str = "") -> AsyncIterator[str]:
    """A whole hub over HTTP; yields its URL without the /hub."""
    sock = listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_http, shelf, sock, origin, shelf.lines.append)
        yield url_of(sock)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def strange_hub(
    answer: Callable[[Request], Awaitable[Response]],
) -> AsyncIterator[str]:
    """An origin that answers everything by one function; it can be reached by any name."""
    app = Starlette(routes=[Route("/{path:path}", answer)])
    sock = listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve, app, sock)
        yield url_of(sock)
        nursery.cancel_scope.cancel()


async def _serve(app: Any, sock: Any) -> None:
    await serve_app(app, sock, config=hypercorn_config())


def asking(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"{url}/hub", trust_env=False, timeout=60)


def big(folder: Path, **states: str) -> Shelves:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(BIG)
    return Shelves(folders={"org/big": folder}, states=states)


class Cutter:
    """A wire to a hub that is cut after so many bytes of an answer, the first `times` times."""

    def __init__(self, url: str, after_bytes: int, times: int) -> None:
        self._port = int(url.rpartition(":")[2])
        self._after_bytes = after_bytes
        self.times = times

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, self._carry, [listener])
            yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()

    async def _carry(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, client, server, nursery.cancel_scope)
            nursery.start_soon(self._back, server, client, nursery.cancel_scope)

    async def _forward(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()

    async def _back(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        num_bytes = 0
        try:
            async for data in source:
                num_bytes += len(data)
                if self.times and num_bytes > self._after_bytes:
                    self.times -= 1
                    break
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()


async def test_unchanged_clients_take_from_the_origin_what_the_swarm_lacks(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", "adapter", 1)
    mine = make_adapter(tmp_path / "mine", "law", 2)
    theirs = make_adapter(tmp_path / "theirs", "law", 3, rank=8)
    afar = Shelves(folders={"org/base": base, "org/adapter": adapter, "law": theirs})
    here = Shelves(folders={"law": mine})
    async with hub(afar) as origin, hub(here, f"{origin}/hub") as url:
        told = await run(CLIENT, url, tmp_path / "hf", str(base), str(adapter), str(mine))
    assert told["equal"]
    assert told["differs"]
    assert told["ids"] == told["local_ids"]
    for path in base.iterdir():
        assert (Path(told["snapshot"]) / path.name).read_bytes() == path.read_bytes()
    law = await trio.Path(told["law"]).read_bytes()
    assert law == (mine / "adapter_config.json").read_bytes()
    assert told["repos"] == [True, False]
    assert told["files"] == [True, False]
    assert any("/law/" in line and line.endswith("from swarm") for line in here.lines)
    weights = [line for line in here.lines if "/org/base/" in line and "model.safe" in line]
    assert weights
    assert all(line.endswith(f"from {origin}/hub") for line in weights)


async def test_names_of_the_swarm_win_and_an_answer_says_whose_it_is(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir()
        (folder / "config.json").write_text(folder.name)
    (theirs / "more.json").write_text("more")
    afar = Shelves(folders={"law": theirs, "verse": theirs})
    async with (
        hub(afar) as origin,
        hub(Shelves(folders={"law": mine}), f"{origin}/hub") as url,
        asking(url) as client,
    ):
        swarm = await client.get("/law/resolve/main/config.json")
        lacking = await client.get("/law/resolve/main/more.json")
        other = await client.get("/verse/resolve/main/config.json")
    assert (swarm.text, swarm.headers["x-lorikeet-from"]) == ("mine", "swarm")
    assert (lacking.status_code, lacking.headers["x-error-code"]) == (404, "EntryNotFound")
    assert lacking.headers["x-lorikeet-from"] == "swarm"
    assert (other.text, other.headers["x-lorikeet-from"]) == ("theirs", f"{origin}/hub")
    assert other.headers["x-lorikeet-hash"] == "sha256"


async def test_a_head_tells_what_the_origin_tells(tmp_path: Path) -> None:
    afar = big(tmp_path / "big")
    async with hub(afar) as origin, hub(Shelves(), f"{origin}/hub") as url, asking(url) as client:
        head = await client.head(BIG_PATH)
        async with httpx.AsyncClient(trust_env=False) as direct:
            there = await direct.head(f"{origin}/hub{BIG_PATH}")
    assert head.status_code == 200
    for name in ("etag", "content-length", "x-repo-commit", "accept-ranges"):
        assert head.headers[name] == there.headers[name]


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=100-199", "bytes=-7", f"bytes={len(BIG)}-"])
async def test_ranges_come_as_from_the_origin(tmp_path: Path, asked: str) -> None:
    afar = big(tmp_path / "big")
    async with hub(afar) as origin, hub(Shelves(), f"{origin}/hub") as url, asking(url) as client:
        here = await client.get(BIG_PATH, headers={"range": asked})
        there = await client.get(f"{origin}/hub{BIG_PATH}", headers={"range": asked})
    assert here.status_code == there.status_code
    if here.status_code == 206:
        assert here.content == there.content
        assert here.headers["content-range"] == there.headers["content-range"]


@pytest.mark.parametrize("side", ["origin", "client"])
async def test_a_download_goes_on_after_its_connection_broke(tmp_path: Path, side: str) -> None:
    afar = big(tmp_path / "big")
    here = Shelves()
    async with hub(afar) as real:
        if side == "origin":
            cutter = Cutter(real, 12 << 20, times=2)
            async with cutter.open() as origin, hub(here, f"{origin}/hub") as url:
                path = await run(ONE_FILE, url, tmp_path / "hf")
        else:
            async with hub(here, f"{real}/hub") as direct:
                cutter = Cutter(direct, 12 << 20, times=2)
                async with cutter.open() as url:
                    path = await run(ONE_FILE, url, tmp_path / "hf")
    assert cutter.times == 0
    assert await trio.Path(path).read_bytes() == BIG
    assert sum("(206)" in line for line in here.lines) == 2, "it begins once, and goes on twice"


async def test_the_rest_of_a_file_is_checked_with_what_passed_before(tmp_path: Path) -> None:
    afar = big(tmp_path / "big")
    async with hub(afar) as real:
        cutter = Cutter(real, 3 << 20, times=1)
        async with (
            cutter.open() as origin,
            hub(Shelves(), f"{origin}/hub") as url,
            asking(url) as client,
        ):
            got = b""
            with pytest.raises(httpx.RemoteProtocolError):
                async with client.stream("GET", BIG_PATH) as answer:
                    async for data in answer.aiter_raw():
                        got += data
            assert 1 << 20 < len(got) < len(BIG)
            rest = await client.get(BIG_PATH, headers={"range": f"bytes={len(got)}-"})
            strange = await client.get(
                BIG_PATH.replace("main", "0" * 40), headers={"range": "bytes=9-"}
            )
    assert got + rest.content == BIG
    assert rest.headers["x-lorikeet-hash"] == "sha256"
    assert rest.headers["content-range"] == f"bytes {len(got)}-{len(BIG) - 1}/{len(BIG)}"
    assert strange.status_code == 404


async def test_a_file_that_is_not_what_the_origin_states_never_becomes_whole(
    tmp_path: Path,
) -> None:
    afar = big(tmp_path / "big", **{"model.safetensors": "ab" * 32})
    async with hub(afar) as origin, hub(Shelves(), f"{origin}/hub") as url:
        told = await run(ONE_FILE, url, tmp_path / "hf")
        async with asking(url) as client:
            rest = await client.get(BIG_PATH, headers={"range": "bytes=4000000-"})
    assert rest.status_code == 502
    assert "its sha-256 is another" in rest.headers["x-error-message"]
    assert "its sha-256 is another" in "".join(told)
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
    assert not list((tmp_path / "hf").rglob("*.incomplete"))


async def test_an_origin_that_is_away_is_named(tmp_path: Path) -> None:
    sock = listen("127.0.0.1", 0)
    away = url_of(sock)
    sock.close()
    here = Shelves()
    async with hub(here, away) as url, asking(url) as client:
        head = await client.head(BIG_PATH)
        told = await run(SNAPSHOT, url, tmp_path / "hf")
    assert head.status_code == 502
    assert away in head.headers["x-error-message"]
    assert away in here.lines[0]
    assert away in "".join(told)


async def test_an_origin_that_refuses_is_quoted_beside_the_swarm() -> None:
    async def gated(request: Request) -> Response:
        headers = {"x-error-code": "GatedRepo", "x-error-message": "ask for access\x85 first"}
        return Response("no", 403, headers)

    async with strange_hub(gated) as origin, hub(Shelves(), origin) as url, asking(url) as client:
        head = await client.head(BIG_PATH)
        info = await client.get("/api/models/org/big")
    for answer in (head, info):
        assert (answer.status_code, answer.headers["x-error-code"]) == (403, "GatedRepo")
        assert f"{origin}: ask for access" in answer.headers["x-error-message"]
        assert "no adapter named 'org/big'" in answer.headers["x-error-message"]


async def test_a_token_is_told_to_the_origin_alone_and_its_word_counts(tmp_path: Path) -> None:
    tokens: dict[str, list[str | None]] = {"origin": [], "elsewhere": []}

    async def elsewhere(request: Request) -> Response:
        tokens["elsewhere"].append(request.headers.get("authorization"))
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        headers = {"etag": '"md5"', "x-repo-commit": "f" * 40}
        if not start:
            return Response(BIG, 200, headers)
        headers["content-range"] = f"bytes {start}-{len(BIG) - 1}/{len(BIG)}"
        return Response(BIG[start:], 206, headers)

    async with strange_hub(elsewhere) as other:

        async def redirecting(request: Request) -> Response:
            tokens["origin"].append(request.headers.get("authorization"))
            if "moved" not in request.url.path:
                return RedirectResponse("/moved", 307, {"x-repo-commit": "a" * 40})
            headers = {"x-linked-etag": f'"{BIG_SHA}"', "x-linked-size": str(len(BIG))}
            return RedirectResponse(f"{other}/blob", 302, headers | {"etag": '"pointer"'})

        async with (
            strange_hub(redirecting) as origin,
            hub(Shelves(), origin) as url,
            asking(url) as client,
        ):
            token = {"authorization": "Bearer hf_secret", "cookie": "a=b"}
            head = await client.head(BIG_PATH, headers=token)
            assert tokens["elsewhere"] == []
            whole = await client.get(BIG_PATH, headers=token)
            rest = await client.get(BIG_PATH, headers={**token, "range": "bytes=2000000-"})
            assert tokens["elsewhere"] == [None, None]
            path = await run(ONE_FILE, url, tmp_path / "hf")
    assert set(tokens["origin"][:6]) == {"Bearer hf_secret"}
    assert head.status_code == 200
    for answer in (head, whole):
        assert answer.headers["content-length"] == str(len(BIG))
        assert answer.headers["x-linked-etag"] == f'"{BIG_SHA}"'
        assert answer.headers["etag"] == '"pointer"'
        assert answer.headers["x-repo-commit"] == "a" * 40
    assert whole.content == BIG
    assert rest.content == BIG[2_000_000:]
    assert rest.headers["x-lorikeet-hash"] == "sha256"
    assert (await trio.Path(path).resolve()).name == BIG_SHA


async def test_pages_of_a_listing_are_asked_for_here_and_no_file_past_this_hub() -> None:
    async def listing(request: Request) -> Response:
        if "cursor" in request.query_params:
            return JSONResponse([{"path": "b", "type": "file", "lfs": {"oid": BIG_SHA}}])
        following = f"{request.base_url}api/models/org/big/tree/main?recursive=True&cursor=2"
        entry = {"path": "a", "type": "file", "xetHash": "c" * 64}
        return JSONResponse([entry], headers={"link": f'<{following}>; rel="next"'})

    async with strange_hub(listing) as origin, hub(Shelves(), origin) as url, asking(url) as client:
        first = await client.get("/api/models/org/big/tree/main?recursive=True")
        second = await client.get(first.links["next"]["url"])
    assert first.json() == [{"path": "a", "type": "file"}]
    assert first.links["next"]["url"].startswith(f"{url}/hub/api/models/org/big/tree/main")
    assert [entry["path"] for entry in second.json()] == ["b"]


@pytest.mark.parametrize("path", ["/api/datasets/org/data", "/datasets/org/d/resolve/main/a.txt"])
async def test_what_only_an_origin_has_is_asked_there(path: str) -> None:
    asked = []

    async def anything(request: Request) -> Response:
        asked.append(request.url.path)
        return JSONResponse({"id": "org/data"}, headers={"etag": '"x"', "x-repo-commit": "a" * 40})

    here = Shelves()
    async with strange_hub(anything) as origin, hub(here, origin) as url, asking(url) as client:
        found = await client.get(path)
        written = await client.post(path, json={})
    assert (found.status_code, found.headers["x-lorikeet-from"]) == (200, origin)
    assert found.json() == {"id": "org/data"}
    assert written.status_code == 405
    assert asked == [path]


@pytest.mark.parametrize("kind", ["endless", "circle", "insecure", "silent"])
async def test_an_origin_that_misbehaves_is_named(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.http.origin.MAX_LISTING_BYTES", 1000)
    if kind == "silent":
        monkeypatch.setattr("node.http.origin.SILENCE_S", 0.3)
        monkeypatch.setattr("node.http.origin.HEAD_SILENCE_S", 0.3)

    async def misbehaving(request: Request) -> Response:
        if kind == "circle":
            return RedirectResponse(str(request.url), 302)
        if kind == "insecure":
            return RedirectResponse("ftp://127.0.0.1/file", 302)
        if kind == "silent":
            await trio.sleep(5)
        return Response(bytes(2000))

    async with (
        strange_hub(misbehaving) as origin,
        hub(Shelves(), origin) as url,
        asking(url) as client,
    ):
        answer = await client.get("/api/models/org/big")
        head = await client.head(BIG_PATH) if kind in ("circle", "silent") else answer
    assert answer.status_code == head.status_code == 502
    assert origin in answer.json()["error"]
    assert origin in head.headers["x-error-message"]


async def test_a_client_that_leaves_ends_the_download_at_the_origin() -> None:
    ended = trio.Event()

    class Endless(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-length", b"9" * 15), (b"etag", b'"x"')]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    ended.set()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                while True:
                    body = {"type": "http.response.body", "body": bytes(65_536), "more_body": True}
                    await send(body)

    async def endless(request: Request) -> Response:
        return Endless()

    async with strange_hub(endless) as origin, hub(Shelves(), origin) as url:
        client = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        async with client:
            await client.send_all(
                f"GET /hub{BIG_PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
            )
            assert await client.receive_some()
        with trio.fail_after(60):
            await ended.wait()


async def test_a_name_that_the_swarm_lacks_is_not_looked_up_for_each_of_its_files(
    tmp_path: Path,
) -> None:
    here = Shelves()
    async with (
        hub(big(tmp_path / "big")) as origin,
        hub(here, f"{origin}/hub") as url,
        asking(url) as client,
    ):
        for _ in range(5):
            assert (await client.head(BIG_PATH)).status_code == 200
    assert here.num_asked == 1


SAID = [
    b"",
    b"nonsense\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\netag: " + b"x" * 200_000 + b"\r\n\r\n12345",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\netag: \xff\x01\r\n\r\n12345",
    b"HTTP/1.1 200 OK\r\netag: x\r\nx-linked-size: -7\r\n\r\n12345",
    b"HTTP/1.1 200 OK\r\netag: x\r\nx-linked-size: 2\r\n\r\n12345",
    b"HTTP/1.1 200 OK\r\netag: x\r\nx-linked-size: 9999\r\n\r\n12345",
    b"HTTP/1.1 206 Partial\r\ncontent-range: bytes 9-2/1\r\ncontent-length: 5\r\n\r\n12345",
    b"HTTP/1.1 206 Partial\r\ncontent-range: bytes x\r\ncontent-length: 5\r\n\r\n12345",
    b"HTTP/1.1 302 Found\r\nlocation: http://[::bad\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\n12345",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n12345",
    b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n12345",
]
"""What an origin may answer."""


@pytest.mark.parametrize("asked", [None, "bytes=2-", "bytes=1-2"])
async def test_whatever_an_origin_says_the_next_request_is_answered(
    asked: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    said = b""

    async def say(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(said)

    headers = {} if asked is None else {"range": asked}
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, say, [listener])
        origin = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with hub(Shelves(), origin) as url, asking(url) as client:
            for said in SAID:
                for method, path in (
                    ("HEAD", BIG_PATH),
                    ("GET", BIG_PATH),
                    ("GET", "/api/models/a"),
                ):
                    try:
                        answer = await client.request(method, path, headers=headers)
                    except httpx.RemoteProtocolError:
                        continue  # it broke off, as the origin did
                    assert answer.status_code in (200, 206, 416, 502), said
                    if answer.status_code == 502:
                        assert origin in answer.headers["x-error-message"]
        nursery.cancel_scope.cancel()
    assert "an error of ours" not in caplog.text
    assert "Error in ASGI" not in caplog.text
