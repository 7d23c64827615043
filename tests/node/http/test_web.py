"""A node's public face: the page and what it is told, a real host's WebSocket on the same port, and
how much of it anybody may have.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trio

from node.api.sales import Bank, PaymentRefused, Refund, Standing
from node.config import Config
from node.errors import ConfigError
from node.http.server import listen, url_of
from node.http.web import face, serve_web
from node.http.web.certificate import Certificate
from node.http.web.heads import MAX_HEAD_BYTES, asks_for_websocket
from node.http.web.places import Places, client_of
from node.web_address import web_addresses
from p2p.peers import PeerAddress
from proofs.chain.structs import DepositAuthorization
from proofs.voucher import ChannelConfig
from tests.node.twin import Twin
from tests.p2p.helpers import eventually, is_alive, open_hosts
from tests.p2p.test_websocket import certificate_for

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n"
)


class Held(Twin):
    """Keeps every WebSocket until it is told to let go."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[trio.abc.Stream] = []
        self.letting_go = trio.Event()
        self.take: Callable[[trio.abc.Stream, tuple[str, int]], Awaitable[None]] | None = None

    async def take_websocket(self, below: trio.abc.Stream, remote: tuple[str, int]) -> None:
        if self.take is not None:
            await self.take(below, remote)
            return
        self.held.append(below)
        await self.letting_go.wait()
        await below.aclose()


@asynccontextmanager
async def serve(
    daemon: Twin, certificate: Certificate | None = None, bank: Bank | None = None
) -> AsyncIterator[str]:
    sock = listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_web, daemon, sock, certificate, bank)
        yield url_of(sock)
        nursery.cancel_scope.cancel()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def test_the_page_comes_under_a_strict_policy_and_no_api_is_there() -> None:
    async with serve(Twin()) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for name in ("web.js", "style.css", "icon.svg"):
            assert (await client.get(f"/page/{name}")).status_code == 200
        told = (await client.get("/node.json")).json()
        assert told["adapters"][0]["name"] == "law"
        assert told["paid_in"] is None
        assert told["coin"] == {"symbol": "", "decimals": 6}
        for method, path in (
            ("GET", "/lorikeet/v1/status"),
            ("GET", "/lorikeet/v1/receipts"),
            ("POST", "/lorikeet/v1/withdraw"),
            ("POST", "/lorikeet/v1/session"),
            ("GET", "/v1/models"),
            ("POST", "/v1/chat/completions"),
            ("GET", "/metrics"),
            ("GET", "/page/../server.py"),
            ("GET", "/page/app.js"),
            ("POST", "/"),
        ):
            answer = await client.request(method, path)
            assert answer.status_code in (404, 405), path


async def test_who_asks_and_reads_nothing_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(face, "MAX_CONNECTIONS", 1)
    async with serve(Twin()) as url:

        async def is_answered() -> bool:
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                try:
                    return (await client.get("/")).status_code == 200
                except httpx.TransportError:
                    return False

        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the script is larger
        await sock.connect(("127.0.0.1", port_of(url)))
        async with trio.SocketStream(sock) as unread:
            await unread.send_all(b"GET /page/web.js HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await unread.receive_some(8)) == b"HTTP/1.1"
            assert not await is_answered()
            await eventually(is_answered)


async def test_a_host_dials_the_same_port_as_a_peer_and_tells_others_where_it_is() -> None:
    daemon = Held()
    async with serve(daemon) as url:
        address = f"/ip4/127.0.0.1/tcp/{port_of(url)}/ws"
        async with open_hosts(1, beside=(address,)) as (host,), open_hosts(1) as (other,):
            daemon.take = host.take_websocket
            full = f"{address}/p2p/{host.peer_id}"
            assert full in host.addresses
            await other.connect_to(PeerAddress(host.peer_id, (full,)), 60)
            assert await is_alive(other, host)
            assert await is_alive(host, other)
            assert other.peers()[0].address == address
            await other.disconnect(host.peer_id)
            await eventually(lambda: not host.peers())


async def test_a_host_that_others_reach_tells_no_address_on_loopback_beside() -> None:
    beside = ("/ip4/127.0.0.1/tcp/4182/ws", "/dns4/node.example.org/tcp/443/tls/ws")
    async with open_hosts(1, listen=("/ip4/0.0.0.0/tcp/0",), beside=beside) as (host,):
        told = [one for one in host.addresses if "/ws" in one]
        assert told == [f"{beside[1]}/p2p/{host.peer_id}"]


async def test_one_client_has_a_few_places_and_all_together_have_not_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(face, "MAX_BROWSERS", 4)
    monkeypatch.setattr(face, "MAX_BROWSERS_EACH", 2)
    daemon = Held()

    async def ask(url: str, ip: str) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(url))
        await stack.enter_async_context(stream)
        await stream.send_all(UPGRADE % f"X-Forwarded-For: 10.0.0.1, {ip}\r\n".encode())
        return stream

    async with AsyncExitStack() as stack, serve(daemon) as url:
        held = [await ask(url, ip) for ip in ("8.8.8.8", "8.8.8.8", "2001:4860::1", "2001:4860::2")]
        await eventually(lambda: len(daemon.held) == 4)
        for ip in ("8.8.8.8", "2001:4860::3", "9.9.9.9"):
            refused = await ask(url, ip)
            assert (await refused.receive_some()).startswith(b"HTTP/1.1 503")
        daemon.letting_go.set()
        for one in held:
            await one.aclose()
        daemon.letting_go = trio.Event()
        daemon.held.clear()

        async def is_taken_again() -> bool:
            await ask(url, "8.8.8.8")
            return bool(daemon.held)

        await eventually(is_taken_again)


def test_places_are_given_back_and_a_network_of_ones_own_is_one_client() -> None:
    places = Places(3, 2)
    with ExitStack() as stack:
        assert [stack.enter_context(places.one("8.8.8.8")) for _ in range(3)] == [True, True, False]
        assert stack.enter_context(places.one("127.0.0.1"))
        assert not stack.enter_context(places.one("127.0.0.1"))
    with ExitStack() as stack:
        assert all(stack.enter_context(places.one("192.168.1.7")) for _ in range(3))
    assert client_of("2001:4860::1") == client_of("2001:4860::ffff:1")
    assert client_of("2001:4860::1") != client_of("2001:4860:0:1::1")
    assert client_of("10.0.0.1") is None


async def test_what_is_no_request_ends_and_what_is_too_long_is_not_kept() -> None:
    async with serve(Twin()) as url:
        endless = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 4000
        for sent in (b"\x13/multistream/1.0.0\n" * 2000, endless):
            assert len(sent) > MAX_HEAD_BYTES
            stream = await trio.open_tcp_stream("127.0.0.1", port_of(url))
            with trio.fail_after(60):
                async with stream:
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(sent)
                        assert await stream.receive_some() == b""


class BankTwin:
    """`Bank`, in memory: relays once, and has nothing to give back."""

    def __init__(self) -> None:
        self.relayed: list[tuple[ChannelConfig, DepositAuthorization]] = []

    async def relay(self, config: ChannelConfig, deposit: DepositAuthorization) -> str:
        self.relayed.append((config, deposit))
        return "0x" + "ab" * 32

    async def balance(self, channel: bytes) -> int:
        return len(self.relayed) * 50_000

    async def refund(self, refund: Refund) -> Standing:
        raise PaymentRefused("refund_no_balance", "nothing can be given back")


async def test_a_deposit_is_relayed_as_it_was_signed_and_nothing_else_is() -> None:
    bank = BankTwin()
    config: dict[str, object] = dict.fromkeys(
        ("payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token"), "0x" + "11" * 20
    )
    config |= {"withdrawDelay": 86_400, "salt": "0x" + "22" * 32}
    signed = {"validAfter": "0", "validBefore": "9", "salt": "7", "signature": "0x" + "33" * 65}
    deposit = {"amount": "50000", "authorization": {"erc3009Authorization": signed}}
    good = {"config": config, "deposit": deposit}
    voucher = {"channelId": "0x" + "44" * 32, "maxClaimableAmount": "1", "signature": "0x"}
    async with (
        serve(Twin(), bank=bank) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        sent = await client.post("/deposit", json=good)
        assert sent.json() == {"transaction": "0x" + "ab" * 32}
        ((relayed, authorization),) = bank.relayed
        assert relayed.payer == b"\x11" * 20
        assert authorization == DepositAuthorization(50_000, 0, 9, 7, signature=b"\x33" * 65)
        told = await client.get(f"/channel/0x{'44' * 32}")
        assert told.json() == {"balance": "50000"}
        huge = {**deposit, "amount": "9" * 70}
        for path, body in (
            ("/deposit", {**good, "deposit": huge}),
            ("/deposit", {**good, "config": {**config, "payer": "0x11"}}),
            ("/deposit", {**good, "more": 1}),
            ("/deposit", [good] * 100),
            ("/deposit", {"config": config}),
            ("/refund", {"config": config, "voucher": voucher}),
        ):
            refused = await client.post(path, json=body)
            assert refused.status_code == 400, (path, refused.text)
        signature = {**voucher, "signature": "0x" + "33" * 65}
        back = await client.post("/refund", json={"config": config, "voucher": signature})
        assert back.status_code == 402
        for path in ("/channel/0x44", f"/channel/{'44' * 32}", "/deposit", "/channel/"):
            assert (await client.get(path)).status_code in (400, 404, 405)
    assert len(bank.relayed) == 1


def test_a_request_for_a_websocket_is_known_by_its_head() -> None:
    assert asks_for_websocket(UPGRADE % b"")
    assert asks_for_websocket(b"GET / HTTP/1.1\r\nUPGRADE:  WebSocket\r\n\r\nmore")
    assert not asks_for_websocket(b"GET /?Upgrade:websocket HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not asks_for_websocket(b"POST / HTTP/1.1\r\n\r\nUpgrade: websocket\r\n\r\n")


async def test_too_many_requests_of_one_client_are_refused_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(face, "REQUESTS_PER_S", 0.01)  # however slowly it asks
    async with serve(Twin()) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        headers = {"x-forwarded-for": "8.8.8.8"}
        limit = face.REQUESTS_AT_ONCE * 2
        for _ in range(limit):
            answer = await client.get("/node.json", headers=headers)
            if answer.status_code == 429:
                break
        assert answer.status_code == 429
        other = await client.get("/node.json", headers={"x-forwarded-for": "9.9.9.9"})
        assert other.status_code == 200


async def test_it_holds_its_own_certificate_and_shows_the_renewed_one(tmp_path: Path) -> None:
    path = certificate_for("node.example.org", tmp_path)
    certificate = Certificate(path, path)
    async with serve(Twin(), certificate) as url:
        secure = url.replace("http:", "https:")

        async def get(trusting: ssl.SSLContext) -> int:
            async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
                return (await client.get(f"{secure}/node.json")).status_code

        first = ssl.create_default_context(cafile=str(path))
        assert await get(first) == 200
        path.write_text("half of a ")
        assert await get(first) == 200
        certificate_for("node.example.org", tmp_path)
        assert await get(ssl.create_default_context(cafile=str(path))) == 200
        with pytest.raises(httpx.TransportError):
            await get(first)


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"web_listen": "0.0.0.0:4182"}, "/ip4/0.0.0.0/tcp/4182/ws"),
        ({"web_listen": "[::]:4182"}, "/ip6/::/tcp/4182/ws"),
        (
            {"web_listen": "127.0.0.1:4182", "web_address": "https://node.example.org"},
            "/dns4/node.example.org/tcp/443/tls/ws",
        ),
        (
            {"web_listen": "127.0.0.1:4182", "web_address": "https://192.0.2.1:8443"},
            "/ip4/192.0.2.1/tcp/8443/tls/ws",
        ),
        (
            {"web_listen": "0.0.0.0:443", "web_certificate": "c", "web_certificate_key": "k"},
            "/ip4/0.0.0.0/tcp/443/tls/ws",
        ),
    ],
)
def test_browsers_are_told_where_the_page_is(
    tmp_path: Path, settings: dict[str, str], address: str
) -> None:
    assert web_addresses(Config(home=tmp_path, **settings)) == (address,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"web_listen": "4182"},
        {"web_address": "https://node.example.org"},
        {"web_listen": "0.0.0.0:4182", "web_address": "https://node.example.org/page"},
        {"web_listen": "0.0.0.0:4182", "web_certificate": "chain.pem"},
        {"web_listen": "0.0.0.0:4182", "network_key": "ab" * 32},
    ],
)
def test_settings_that_no_browser_could_use_are_refused(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="web_"):
        Config(home=tmp_path, **settings)  # type: ignore[arg-type]
