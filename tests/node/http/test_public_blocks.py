"""Where an operator wants it, anybody gets blocks over HTTP, a bounded number of them, and reaches
nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import trio

from node.errors import NotHere
from node.http import public
from node.http.public import serve_blocks_to_anybody
from node.http.server import listen, serve_app, url_of
from tests.node.twin import Twin

BLOCK = b"a batch"
DIGEST = hashlib.sha256(BLOCK).hexdigest()


class Holder(Twin):
    async def block(self, digest: str) -> bytes:
        if digest != DIGEST:
            raise NotHere("not here")
        return BLOCK


@asynccontextmanager
async def serve_publicly() -> AsyncIterator[str]:
    sock = listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_blocks_to_anybody, Holder(), sock)
        yield url_of(sock)
        nursery.cancel_scope.cancel()


async def test_a_stranger_gets_blocks_by_their_hash_and_reaches_nothing_else() -> None:
    async with serve_publicly() as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        found = await client.get(f"/lorikeet/v1/blocks/{DIGEST}", headers={"host": "any.example"})
        assert (found.status_code, found.content) == (200, BLOCK)
        assert "immutable" in found.headers["cache-control"]
        absent = await client.get(f"/lorikeet/v1/blocks/{bytes(32).hex()}")
        assert absent.status_code == 404
        others = [
            ("GET", "/lorikeet/v1/status"),
            ("GET", "/lorikeet/v1/receipts"),
            ("GET", "/v1/models"),
            ("GET", "/lorikeet/v1/blocks/../status"),
            ("GET", f"/lorikeet/v1/blocks/{DIGEST}/.."),
            ("GET", f"/lorikeet/v1/blocks/{DIGEST[:-1]}"),
            ("GET", "/lorikeet/v1/blocks/%2e%2e"),
            ("POST", f"/lorikeet/v1/blocks/{DIGEST}"),
            ("POST", "/lorikeet/v1/withdraw"),
            ("DELETE", f"/lorikeet/v1/blocks/{DIGEST}"),
        ]
        for method, path in others:
            assert (await client.request(method, path)).status_code == 404, path


async def test_one_address_gets_so_many_and_then_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "CLIENT_REQUESTS_PER_S", 0.01)  # however slowly it asks
    async with serve_publicly() as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        path = f"/lorikeet/v1/blocks/{DIGEST}"
        codes = [(await client.get(path)).status_code for _ in range(40)]
        assert codes[: public.CLIENT_REQUESTS_AT_ONCE] == [200] * public.CLIENT_REQUESTS_AT_ONCE
        assert codes[-1] == 429
        refused = await client.get(path)
        assert refused.headers["retry-after"] == "1"


async def test_connections_that_say_nothing_keep_out_nobody() -> None:
    async with serve_publicly() as url, AsyncExitStack() as stack:
        port = int(url.rpartition(":")[2])
        silent = [
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            for _ in range(public.MAX_CONNECTIONS)
        ]
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False))
        found = await client.get(f"/lorikeet/v1/blocks/{DIGEST}")
        assert found.status_code == 200
        with trio.fail_after(60):
            assert await silent[0].receive_some() == b"", "the oldest made room"


async def test_a_connection_that_lasts_too_long_is_cut() -> None:
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    limits: dict[str, Any] = {"max_connections": 1, "max_connection_s": 0.2}
    async with trio.open_nursery() as nursery:
        app = public.PublicBlocks(Holder())
        nursery.start_soon(partial(serve_app, app, sock, config=public.public_config(), **limits))
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /lorikeet/v1/blocks/")
            with trio.fail_after(60):
                assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()
