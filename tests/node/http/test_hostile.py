"""Clients that mean harm, over raw sockets: each is refused in our own words, none costs memory,
and honest ones are answered meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pytest
import trio

from node.api.answers import CompletionEvent, CompletionRequest, Delta, Started
from node.http import connection, guard, server
from tests.node.http.raw import Raw, Reply, ask, request
from tests.node.networks import until
from tests.node.twin import PEER, Twin, serve_twin

MODELS = request("GET", "/v1/models")
CHAT = b'{"model": "law", "messages": [{"role": "user", "content": "May I?"}]}'
POST = request("POST", "/v1/chat/completions", CHAT)
T = TypeVar("T")


async def away(work: Callable[[], T]) -> T:
    """Do what blocks beside the server."""
    with trio.fail_after(120):
        return await trio.to_thread.run_sync(work)


async def honest(url: str) -> None:
    """Somebody who means no harm is answered."""
    for data in (MODELS, POST):
        assert (await away(partial(ask, url, data))).status == 200


@asynccontextmanager
async def many(url: str, count: int, data: bytes) -> AsyncIterator[list[Raw]]:
    """So many connections, each of which has sent that and does not go away."""
    with contextlib.ExitStack() as stack:

        def connect() -> list[Raw]:
            raws = [stack.enter_context(Raw(url)) for _ in range(count)]
            for raw in raws:
                raw.send(data)
            return raws

        yield await away(connect)


def is_ours(reply: Reply, status: int, code: str) -> bool:
    """Whether it is that refusal, in the form of all our errors."""
    return (reply.status, reply.json["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    "start", [b"", b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ", POST[:-20]]
)
async def test_who_never_finishes_a_request_makes_room_for_who_does(
    monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 8)
    async with serve_twin(Twin()) as url, many(url, 24, start) as slow:
        await honest(url)
        assert await away(slow[0].is_closed), "the oldest made room"
        await away(lambda: slow[-1].send(b"\r\n\r\n"))
        await honest(url)


async def test_when_all_are_being_answered_the_next_is_told_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 4)
    twin = Twin(word_delay_s=1000)
    async with serve_twin(twin) as url, many(url, 4, POST):
        await until(lambda: len(twin.asked) == 4)
        reply = await away(partial(ask, url, MODELS))
    assert is_ours(reply, 503, "too_many_connections")
    assert reply.headers["retry-after"] == "1"


async def test_a_body_that_drips_is_refused_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_DEADLINE_S", 1.0)  # honest bodies have it, too
    async with serve_twin(Twin()) as url, many(url, 8, POST[:-20]) as slow:
        await honest(url)
        replies = [await away(raw.reply) for raw in slow]
    assert all(is_ours(reply, 408, "request_timeout") for reply in replies)


async def test_huge_bodies_are_refused_and_cost_no_memory() -> None:
    head = request("POST", "/v1/chat/completions", headers=("transfer-encoding: chunked",))
    chunk = b"40000\r\n" + bytes(0x40000) + b"\r\n"

    def flood(url: str) -> Reply:
        with Raw(url) as raw:
            raw.send(head + chunk * 16 + b"0\r\n\r\n")
            return raw.reply()

    told = request("POST", "/v1/chat/completions", headers=("content-length: 99999999999",))
    odd = request("POST", "/v1/chat/completions", headers=("content-length: 9" + "9" * 400,))
    async with serve_twin(Twin()) as url:
        assert is_ours(await away(partial(ask, url, told)), 413, "request_too_large")
        assert (await away(partial(ask, url, odd))).status in (400, 413)
        await away(partial(flood, url))
        before = resident_bytes()
        for _ in range(20):  # 80 MiB
            assert is_ours(await away(partial(flood, url)), 413, "request_too_large")
        assert resident_bytes() - before < 32 << 20
        await honest(url)


async def test_large_bodies_that_stay_unfinished_are_bounded_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "MAX_BODIES_BYTES", 1 << 20)
    started = request("POST", "/v1/completions", headers=("content-length: 900000",))
    async with serve_twin(Twin()) as url, many(url, 3, started + bytes(500_000)) as large:
        refused = await away(partial(first_to_answer, large))
        assert is_ours(await away(refused.reply), 503, "too_many_bodies")
        await honest(url)


def first_to_answer(raws: list[Raw]) -> Raw:
    ready, _, _ = select.select([raw.socket for raw in raws], [], [], 60)
    return next(raw for raw in raws if raw.socket in ready)


@pytest.mark.parametrize(
    "headers",
    [
        ("x: " + "a" * 200_000,),
        tuple(f"x-{number}: 1" for number in range(20_000)),
        ("cookie: " + "a=b; " * 40_000,),
    ],
)
async def test_floods_of_headers_are_refused(headers: tuple[str, ...]) -> None:
    async with serve_twin(Twin()) as url:
        reply = await away(partial(ask, url, request("GET", "/v1/models", headers=headers)))
        assert is_ours(reply, 431, "headers_too_large")
        await honest(url)


BAD = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",  # TLS
    b"GET /v1/models\r\n\r\n",
    b"GET  HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nhost : 127.0.0.1\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nx: a\x00b\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n",
    b"GET /v1/mo dels HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    request("POST", "/v1/completions", headers=("content-length: 5, 6",)),
    request("POST", "/v1/completions", headers=("content-length: -5",)),
    request("POST", "/v1/completions", headers=("content-length: 5", "content-length: 6")),
    request("POST", "/v1/completions", headers=("transfer-encoding: gzip, chunked",)),
    request("POST", "/v1/completions", headers=("transfer-encoding: chunked",)) + b"zz\r\n",
]


async def test_bytes_that_are_no_request_are_refused_in_our_form() -> None:
    async with serve_twin(Twin()) as url:
        for data in BAD:
            reply = await away(partial(ask, url, data))
            assert reply.status in (400, 403, 501), data
            assert reply.json["error"]["message"], data
        await honest(url)


async def test_what_asks_for_another_protocol_is_answered_in_this_one() -> None:
    socket_headers = (
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    settings = ("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABk")
    async with serve_twin(Twin()) as url:
        for headers in (socket_headers, settings):
            data = request("GET", "/v1/models", headers=headers)
            assert (await away(partial(ask, url, data))).status == 200
            from_a_page = request(
                "GET", "/v1/models", headers=(*headers, "origin: http://evil.example")
            )
            assert is_ours(await away(partial(ask, url, from_a_page)), 403, "forbidden")
        prior = await away(partial(ask, url, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)))
        assert prior.status in (400, 403)


TRICKS = [
    "/page/../../../../etc/passwd",
    "/page/..%2f..%2f..%2fetc%2fpasswd",
    "/page/%2e%2e/%2e%2e/files.py",
    "/page/static/%00app.js",
    "/page//etc/passwd",
    "/page/./app.js",
    "/page/" + "a/" * 3000,
    "//evil.example/v1/models",
    "http://evil.example/v1/models",
    "/lorikeet/v1/../v1/status",
    "/lorikeet/v1/%73tatus/",
    "/lorikeet/v1/versions/../../status",
    "/hub/../lorikeet/v1/session",
    "/hub/api/models/..%2f..%2fkey",
    "/hub/law/resolve/main/../../../../key",
    "/hub/law/resolve/main/%2e%2e%2fkey",
    "/v1/models/%ff%fe",
    "/v1/models/\\..\\..\\key",
    "/%",
    "*",
    "?",
    "/;/v1/models",
]


async def test_tricks_with_paths_lead_nowhere() -> None:
    async with serve_twin(Twin()) as url:
        for path in TRICKS:
            reply = await away(partial(ask, url, request("GET", path)))
            assert reply.status in (400, 403, 404, 405), path
            assert b"root:" not in reply.body, path
            assert reply.json["error"], path


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "evil.example:80",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "127.0.0.1, evil.example",
        "",
    ],
)
async def test_a_name_that_is_bound_to_this_machine_is_not_its_name(host: str) -> None:
    async with serve_twin(Twin()) as url:
        for data in (
            request("GET", "/lorikeet/v1/status", host=host),
            request("POST", "/lorikeet/v1/withdraw", b'{"channel": null}', host=host),
        ):
            reply = await away(partial(ask, url, data))
            assert is_ours(reply, 403, "forbidden"), host


@dataclass
class Talker(Twin):
    """A daemon whose answers go on for ever."""

    told: int = 0

    async def _events(self, request: CompletionRequest) -> AsyncIterator[CompletionEvent]:
        yield Started(PEER, request.model, None, {})
        while True:
            yield Delta("and so on, " * 6000, (self.told,))
            self.told += 1


STREAM = request("POST", "/v1/chat/completions", CHAT[:-1] + b', "stream": true}')


async def test_who_does_not_read_is_let_go_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "MAX_STALL_S", 0.2)
    talker = Talker()
    async with serve_twin(talker) as url, many(url, 1, STREAM):
        assert (await away(partial(ask, url, MODELS))).status == 200
        with trio.fail_after(60):
            await talker.cancelled.wait()


async def test_who_does_not_read_does_not_keep_the_daemon_from_ending() -> None:
    talker = Talker()

    async def is_stuck() -> bool:
        before = talker.told
        await trio.sleep(0.1)
        return 0 < talker.told == before

    with contextlib.ExitStack() as stack:
        async with serve_twin(talker) as url:
            raw = stack.enter_context(Raw(url))
            await away(partial(raw.send, STREAM))
            await until(is_stuck)
            ended = trio.current_time()
        assert trio.current_time() - ended < connection.MAX_STALL_S / 2


def resident_bytes() -> int:
    """How much of this process is in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_thousand_connections_that_say_nothing_are_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096  # both ends of each lie in this process
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} files may be open here, and this takes {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        async with serve_twin(Twin()) as url, many(url, 1000, b"") as idle:
            before = resident_bytes()
            await honest(url)
            for raw in (idle[0], idle[999]):
                await away(partial(raw.send, MODELS))
                assert (await away(raw.reply)).status == 200, "it was held"
            assert resident_bytes() - before < 64 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("host", "named"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]")],
)
def test_who_listens_everywhere_is_named_by_a_host_that_it_lets_in(host: str, named: str) -> None:
    try:
        sock = server.listen(host, 0)
    except OSError:
        pytest.skip(f"nothing can listen on {host} here")
    with sock:
        url = server.url_of(sock)
    assert url == f"http://{named}:{url.rpartition(':')[2]}"
    assert named.strip("[]") in guard.LOOPBACK_HOSTS
