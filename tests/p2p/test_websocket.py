"""WebSockets beside TCP: hosts over real sockets, and each way in which the library's own listener
and dialler fail.
"""

import ssl
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p.io.exceptions import ConnectionClosedError
from multiaddr import Multiaddr
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Ping, Request, TextMessage

from p2p import admission, resolving
from p2p.dialling import dial_order, is_websocket
from p2p.errors import HostFailed, PeerUnreachable
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.peers import PeerAddress
from p2p.websocket import listener, transport
from p2p.websocket.address import WebSocketAddress, read_address
from p2p.websocket.handshake import MAX_HEADER_BYTES, accept, ask
from p2p.websocket.stream import MAX_MESSAGE_BYTES, SENT_MESSAGE_BYTES

from .helpers import connect, eventually, is_alive, open_hosts

BOTH = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")


def address_for(host, kind):
    """The host's address as that kind of client dials it."""
    (address,) = [one for one in host.addresses if is_websocket(one) == (kind == "ws")]
    return address


def port_of(host, kind="ws"):
    return int(address_for(host, kind).split("/")[4])


# --- hosts ---


async def test_hosts_speak_over_a_websocket_and_it_ends_with_the_host():
    async with open_hosts(1) as (b,):
        async with open_hosts(1, listen=BOTH) as (a,):
            await b.connect_to(PeerAddress(a.peer_id, (address_for(a, "ws"),)), 60)
            assert await is_alive(b, a)
            assert await is_alive(a, b)
            assert b.peers()[0].address == address_for(a, "ws").partition("/p2p/")[0]
        await eventually(lambda: not b.peers())


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/tcp/0/ws", "/ip6/::1/tcp/0/ws"])
async def test_a_host_may_listen_for_websockets_alone_under_a_shared_key_too(listen):
    async with open_hosts(2, listen=(listen,), psk=b"k" * 32) as (a, b):
        await connect(b, a)
        assert await is_alive(b, a)


async def test_the_remote_address_is_known():
    async with open_hosts(1, listen=BOTH) as (a,), open_hosts(1) as (b,):
        await b.connect_to(PeerAddress(a.peer_id, (address_for(a, "ws"),)), 60)
        await eventually(lambda: a.peers())
        assert a.peers()[0].address.startswith("/ip4/127.0.0.1/tcp/")


async def test_nodes_dial_one_another_over_tcp_first_whatever_order_they_are_told():
    async with open_hosts(1, listen=BOTH) as (a,), open_hosts(1) as (b,):
        await b.connect_to(PeerAddress(a.peer_id, a.addresses[::-1]), 60)
        assert b.peers()[0].address == address_for(a, "tcp").partition("/p2p/")[0]
        assert not is_websocket(a.addresses[0])  # and it tells that one first


@pytest.mark.parametrize(
    "bad",
    [
        "/ip4/127.0.0.1/tcp/9/tls/sni/node.example.org/ws",
        "/dns4/nowhere.invalid/tcp/443/tls/ws",
        "/ip4/127.0.0.1/tcp/9/wss",
        "/ip4/127.0.0.1/tcp/9/tls/sni/node.example.org/ws/p2p-circuit",
    ],
)
async def test_no_address_that_a_peer_may_tell_keeps_its_good_one_from_being_dialled(bad):
    async with open_hosts(1, listen=BOTH) as (a,), open_hosts(1) as (b,):
        await b.connect_to(PeerAddress(a.peer_id, (bad, address_for(a, "ws"))), 60)
        assert await is_alive(b, a)


async def test_a_dial_reads_no_proxy_from_the_environment(monkeypatch, capsys):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    async with open_hosts(1, listen=BOTH) as (a,), open_hosts(1) as (b,):
        await b.connect_to(PeerAddress(a.peer_id, (address_for(a, "ws"),)), 60)
        assert await is_alive(b, a)
    assert capsys.readouterr().out == ""


async def test_leaving_waits_for_no_silent_websocket():
    silent = []
    async with open_hosts(1, listen=BOTH) as (a,):
        for _ in range(4):
            one = await trio.open_tcp_stream("127.0.0.1", port_of(a))
            await one.send_all(upgrade_request())
            await one.receive_some()  # it is open, and says nothing any more
            silent.append(one)
        await eventually(lambda: a._swarm._inbound_limiter.borrowed_tokens == 4)
        began = time.monotonic()
    assert time.monotonic() - began < 30
    for one in silent:
        await read_to_end(one)
        await one.aclose()


async def test_a_port_that_is_taken_is_named_for_websockets_too():
    async with open_hosts(1, listen=("/ip4/127.0.0.1/tcp/0/ws",)) as (a,):
        taken = a.addresses[0].partition("/p2p/")[0]
        with pytest.raises(HostFailed, match=taken):
            async with open_host(Identity.generate(), NetworkConfig(listen=(taken,))):
                pass


@pytest.mark.parametrize("bad", ["/ip4/127.0.0.1/tcp/0/wss", "/ip4/127.0.0.1/tcp/0/tls/ws"])
async def test_tls_is_left_to_a_proxy_and_the_error_says_so(bad):
    with pytest.raises(HostFailed, match="put a TLS proxy before that"):
        async with open_host(Identity.generate(), NetworkConfig(listen=(bad,))):
            pass


async def test_a_place_is_free_again_when_a_browser_is_gone():
    async with open_hosts(1, listen=BOTH) as (a,):
        for _ in range(3):
            async with open_hosts(1) as (b,):
                await b.connect_to(PeerAddress(a.peer_id, (address_for(a, "ws"),)), 60)
        await eventually(lambda: a._swarm._inbound_limiter.borrowed_tokens == 0)
        assert len(a._swarm.entrance.guests) == 0


# --- sockets that do not play by the rules ---


def upgrade_request(*headers):
    request = Request(host="127.0.0.1", target="/", extra_headers=list(headers))
    return WSConnection(ConnectionType.CLIENT).send(request)


async def read_to_end(stream):
    data = b""
    with trio.fail_after(60):
        try:
            while part := await stream.receive_some():
                data += part
        except trio.BrokenResourceError:
            pass
    return data


async def test_a_socket_that_never_asks_is_closed_soon_and_has_taken_no_place(monkeypatch):
    monkeypatch.setattr(listener, "ASKING_TIMEOUT_S", 0.3)
    async with open_hosts(1, listen=BOTH) as (a,):
        silent = await trio.open_tcp_stream("127.0.0.1", port_of(a))
        half = await trio.open_tcp_stream("127.0.0.1", port_of(a))
        await half.send_all(upgrade_request()[:30])
        assert await read_to_end(silent) == b""
        assert await read_to_end(half) == b""
        assert a._swarm._inbound_limiter.borrowed_tokens == 0
        for one in (silent, half):
            await one.aclose()


async def test_of_too_many_that_are_asking_the_oldest_goes_and_a_real_peer_comes_in(monkeypatch):
    monkeypatch.setattr(listener, "MAX_ASKING", 10)
    async with open_hosts(1, listen=BOTH) as (a,), open_hosts(1) as (b,):
        idle = [await trio.open_tcp_stream("127.0.0.1", port_of(a)) for _ in range(40)]
        assert await read_to_end(idle[0]) == b""  # at once, and not after seconds
        await b.connect_to(PeerAddress(a.peer_id, (address_for(a, "ws"),)), 60)
        assert await is_alive(b, a)
        for one in idle:
            await one.aclose()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"\x13/multistream/1.0.0\n",
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * (MAX_HEADER_BYTES + 10),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_who_asks_for_something_else_is_told_what_this_is(request_bytes):
    async with open_hosts(1, listen=BOTH) as (a,), open_hosts(1) as (b,):
        async with await trio.open_tcp_stream("127.0.0.1", port_of(a)) as stream:
            await stream.send_all(request_bytes)
            await stream.send_eof()
            answer = await read_to_end(stream)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 426 ")
        await b.connect_to(PeerAddress(a.peer_id, (address_for(a, "ws"),)), 60)
        assert await is_alive(b, a)


@pytest.mark.parametrize(
    "message",
    [TextMessage("\x13/multistream/1.0.0\n"), BytesMessage(bytes(MAX_MESSAGE_BYTES + 1))],
    ids=["text", "too long"],
)
async def test_text_and_a_message_over_the_limit_end_the_connection(message):
    async with open_hosts(1, listen=BOTH) as (a,):
        protocol = WSConnection(ConnectionType.CLIENT)
        async with await trio.open_tcp_stream("127.0.0.1", port_of(a)) as stream:
            await stream.send_all(protocol.send(Request(host="x", target="/")))
            protocol.receive_data(await stream.receive_some())
            list(protocol.events())
            with suppress(trio.BrokenResourceError):
                await stream.send_all(protocol.send(message))
            await read_to_end(stream)  # at once, and not when the handshake is late
        await eventually(lambda: a._swarm._inbound_limiter.borrowed_tokens == 0)


async def test_behind_a_proxy_each_network_has_its_own_places(monkeypatch):
    monkeypatch.setattr(admission, "MAX_PER_NETWORK", 3)
    async with open_hosts(1, listen=BOTH) as (a,), open_hosts(1) as (b,):

        async def come_from(ip):
            """Open a WebSocket as the proxy's client, and say nothing in it."""
            stream = await trio.open_tcp_stream("127.0.0.1", port_of(a))
            await stream.send_all(upgrade_request((b"X-Forwarded-For", ip.encode())))
            await stream.receive_some()
            return stream

        crowd = [await come_from(f"203.0.114.{number}") for number in range(6)]
        await eventually(lambda: len(a._swarm.entrance.guests) == 3)
        other = await come_from("198.51.99.1")
        await eventually(lambda: len(a._swarm.entrance.guests) == 4)
        await b.connect_to(PeerAddress(a.peer_id, (address_for(a, "ws"),)), 60)
        assert await is_alive(b, a)
        for one in (*crowd, other):
            await one.aclose()
        await eventually(lambda: len(a._swarm.entrance.guests) == 1)


# --- the stream alone ---


@asynccontextmanager
async def pair():
    """Both ends of one WebSocket, without a host."""
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        ends = {}

        async def answer():
            ends["server"] = await accept(right, ("127.0.0.1", 1))

        nursery.start_soon(answer)
        ends["client"] = await ask(left, "host:1", None)
    yield ends["client"], ends["server"]
    await ends["client"].close()
    await ends["server"].close()


async def read_exactly(stream, num_bytes):
    data = b""
    while len(data) < num_bytes:
        part = await stream.read(num_bytes - len(data))
        assert part
        data += part
    return data


@pytest.mark.parametrize("size", [1, 125, 126, SENT_MESSAGE_BYTES, 3 * SENT_MESSAGE_BYTES + 7])
async def test_bytes_arrive_as_they_were_sent_in_both_directions(size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with pair() as ends:
        for sender, reader in (ends, ends[::-1]):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.write, data)
                assert await read_exactly(reader, size) == data


async def test_the_end_is_the_end_of_the_bytes():
    async with pair() as (client, server):
        await client.write(b"last")
        await client.close()
        assert await server.read(10) == b"last"
        assert await server.read(10) == b""
        with pytest.raises(ConnectionClosedError):
            await server.write(b"more")
            await server.write(b"more")


async def test_a_ping_is_answered_beside_what_is_written():
    left, right = trio.testing.memory_stream_pair()
    protocol = WSConnection(ConnectionType.CLIENT)
    await left.send_all(protocol.send(Request(host="x", target="/")))
    server = await accept(right, None)
    protocol.receive_data(await left.receive_some())
    list(protocol.events())
    for payload in (b"1", b"2"):
        await left.send_all(protocol.send(Ping(payload)))
    await left.send_all(protocol.send(BytesMessage(b"data")))
    assert await server.read(10) == b"data"
    await server.write(b"answer")
    received = []
    while len(received) < 2:
        protocol.receive_data(await left.receive_some())
        received += protocol.events()
    assert [type(one).__name__ for one in received] == ["Pong", "BytesMessage"]
    assert bytes(received[0].payload) == b"2"  # the last of several is enough


async def test_a_write_that_is_cancelled_ends_the_connection():
    left, right = trio.testing.lockstep_stream_pair()
    server = None

    async def answer():
        nonlocal server
        server = await accept(right, None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await ask(left, "host:1", None)
    with trio.move_on_after(0.05):
        await server.write(b"nobody reads this")
    with pytest.raises(ConnectionClosedError):
        await server.write(b"half a frame went before this")


@pytest.mark.parametrize(
    ("remote", "told", "counted"),
    [
        ("127.0.0.1", "203.0.114.7", "203.0.114.7"),
        ("10.0.0.1", "8.8.8.8, 203.0.114.7", "203.0.114.7"),
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("203.0.114.9", "198.51.99.1", "203.0.114.9"),
    ],
)
async def test_only_a_proxy_on_this_network_says_whose_place_a_connection_takes(
    remote, told, counted
):
    left, right = trio.testing.memory_stream_pair()
    headers = [(b"X-Forwarded-For", told.encode())] if told else []
    request = Request(host="x", target="/", extra_headers=headers)
    await left.send_all(WSConnection(ConnectionType.CLIENT).send(request))
    stream = await accept(right, (remote, 1))
    assert stream.counted_ip == counted
    assert stream.get_remote_address() == (remote, 1)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_from_a_peer_fail_in_another_way_than_ending_the_connection(pieces):
    async def main():
        left, right = trio.testing.memory_stream_pair()
        await left.send_all(upgrade_request())
        server = await accept(right, None)
        for piece in pieces:
            await left.send_all(piece)
        await left.send_eof()
        with trio.fail_after(60):
            try:
                while await server.read(100):
                    pass
            except ConnectionClosedError:
                pass

    trio.run(main)


# --- addresses ---


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/ip4/192.0.2.1/tcp/4102/ws", WebSocketAddress("192.0.2.1", 4102, None)),
        ("/ip6/2001:db8::1/tcp/80/ws/p2p/16U", WebSocketAddress("2001:db8::1", 80, None)),
        ("/dns4/a.org/tcp/443/tls/ws", WebSocketAddress("a.org", 443, "a.org")),
        ("/dns/a.org/tcp/443/wss", WebSocketAddress("a.org", 443, "a.org")),
        ("/ip4/192.0.2.1/tcp/443/tls/sni/a.org/ws", WebSocketAddress("192.0.2.1", 443, "a.org")),
        ("/ip4/192.0.2.1/tcp/4102", None),
        ("/ip4/192.0.2.1/udp/4102/quic-v1/webtransport", None),
        ("/ip4/192.0.2.1/tcp/4102/ws/p2p/16U/p2p-circuit", None),
        ("/ip4/192.0.2.1/tcp/4102/tls", None),
        ("", None),
        ("/ws", None),
    ],
)
def test_an_address_is_read_or_is_none(text, found):
    assert read_address(text) == found


@given(st.lists(st.sampled_from(["ip4", "1.2.3.4", "tcp", "80", "ws", "tls", "sni", "a", ""])))
def test_any_text_is_an_address_or_none(parts):
    found = read_address("/" + "/".join(parts))
    assert found is None or found.port == 80


def test_tcp_comes_before_websockets_and_relays_come_last():
    texts = [
        "/ip4/198.51.100.7/tcp/1/p2p/16Uiu2HAm4Ms862Gnqafssgvik4JJ1LuqWMcKNipq4nm2UaoLRbeP/p2p-circuit",
        "/ip4/198.51.100.7/tcp/2/ws",
        "/dns4/a.org/tcp/443/tls/ws",
        "/ip4/198.51.100.7/tcp/3",
        "/ip4/198.51.100.7/tcp/4",
    ]
    order = [str(one) for one in dial_order(map(Multiaddr, texts), with_loopback=False)]
    assert order == [*texts[3:], *texts[1:3], texts[0]]


# --- TLS, in front of which a proxy stands ---


def certificate_for(name, folder):
    """A certificate that says so, and is its own authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    names = [x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@asynccontextmanager
async def tls_proxy(certificate, target_port):
    """What stands before a node: TLS ends here, bytes go on; its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def pass_on(source, sink):
        try:
            while data := await source.receive_some():
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def serve(client):
        node = await trio.open_tcp_stream("127.0.0.1", target_port)
        async with node, trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, client, node)
            await pass_on(node, client)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        proxy = partial(
            trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1", https_compatible=True
        )
        listeners = await nursery.start(proxy)
        yield listeners[0].transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/{}/tls/ws",
        "/ip4/127.0.0.1/tcp/{}/tls/sni/node.example.org/ws",
        "/dns4/node.example.org/tcp/{}/tls/ws",
        "/dns4/node.example.org/tcp/{}/wss",
    ],
)
async def test_a_node_behind_a_tls_proxy_is_dialled_at_what_it_announces(
    address, tmp_path, monkeypatch
):
    path = certificate_for("node.example.org", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    transport._tls_context.cache_clear()

    async def ips_of(name, family):
        assert name == "node.example.org"
        return ["127.0.0.1"]

    monkeypatch.setattr(resolving, "_ips_of", ips_of)
    async with (
        open_hosts(1, listen=("/ip4/127.0.0.1/tcp/0/ws",)) as (a,),
        tls_proxy(path, port_of(a)) as port,
        open_hosts(1) as (b,),
    ):
        announced = address.format(port)
        await b.connect_to(PeerAddress(a.peer_id, (announced,)), 60)
        assert await is_alive(b, a)
    transport._tls_context.cache_clear()


async def test_a_certificate_of_another_name_is_not_taken(tmp_path, monkeypatch):
    path = certificate_for("node.example.org", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    transport._tls_context.cache_clear()
    async with (
        open_hosts(1, listen=("/ip4/127.0.0.1/tcp/0/ws",)) as (a,),
        tls_proxy(path, port_of(a)) as port,
        open_hosts(1) as (b,),
    ):
        other = f"/ip4/127.0.0.1/tcp/{port}/tls/sni/other.example.org/ws"
        with pytest.raises(PeerUnreachable):
            await b.connect_to(PeerAddress(a.peer_id, (other,)), 5)
    transport._tls_context.cache_clear()


async def test_what_a_host_announces_is_what_peers_are_told():
    announce = ("/dns4/node.example.org/tcp/443/tls/ws", "/ip4/192.0.2.1/tcp/4101")
    async with open_hosts(1, listen=BOTH, announce=announce) as (a,):
        assert [one.partition("/p2p/")[0] for one in a.addresses] == list(announce)
