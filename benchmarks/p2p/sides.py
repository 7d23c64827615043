"""The sides of the comparison in blocks.py: who gives and who takes the same bytes, each in a
process of its own.

    python -m benchmarks.p2p.sides give SIDE FILE [BYTES_PER_S]
        prints its address and serves until stdin ends
    python -m benchmarks.p2p.sides take SIDE ADDRESS[,ADDRESS…] LIST FOLDER
        prints one JSON object

`FILE` is what is given; `LIST` holds the digests of its blocks, one after the other. Sides: `stock`
(py-libp2p as it comes, one raw stream), `fast` (the same stream over p2p/transport), `blocks` (the
block protocol: verified, on disk) and `tls` (Python's ssl over blocking sockets, the same blocks
hashed and written the same way). A `liar` changes a bit of every block from its third on, a
`staller` gives three and is silent.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from p2p.blocks import (
    BLOCK_BYTES,
    BlockRef,
    BlockStore,
    Draft,
    FetchReport,
    Rate,
    fetch_blocks,
    serve_blocks,
)
from p2p.cid import DIGEST_BYTES, Cid
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.peers import PeerAddress

RAW_PROTOCOL = "/benchmark/raw/1"
WRITE_BYTES = 1 << 20
READ_BYTES = 64 << 10  # the library is slower with more


def give(side: str, path: Path, bytes_per_s: int = 0) -> None:
    """Serve a file until stdin ends."""
    if side == "tls":
        _give_tls(path)
    elif side in ("stock", "fast"):
        trio.run({"stock": _give_stock, "fast": _give_fast}[side], path)
    else:
        trio.run(_give_blocks, side, path, bytes_per_s)


@dataclass
class Took:
    """What a transfer took, from its first byte to its last."""

    seconds: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Measure what happens inside."""
        started, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds, self.cpu_s = time.perf_counter() - started, time.process_time() - cpu


def take(side: str, address: str, refs: list[BlockRef], folder: Path) -> dict[str, float]:
    """Take the file once and say how long it took."""
    took = Took()
    num_mb = sum(ref.size_bytes for ref in refs) / 1e6
    num_bytes = 0
    if side == "tls":
        _take_tls(address, refs, folder, took)
    elif side == "blocks":
        num_bytes = trio.run(_take_blocks, address.split(","), refs, folder, took).num_bytes
    else:
        run = {"stock": _take_stock, "fast": _take_fast}[side]
        trio.run(run, address, sum(ref.size_bytes for ref in refs), took)
    return {
        "mb_s": num_mb / took.seconds,
        "cpu_ms_per_mb": 1000 * took.cpu_s / num_mb,
        "mb_fetched": num_bytes / 1e6,
    }


async def _until_told(address: str) -> None:
    print(address, flush=True)
    await trio.to_thread.run_sync(sys.stdin.read)


# --- the library's raw stream, as it comes and over p2p/transport ---


def _stock_host() -> object:
    keys = create_new_key_pair()
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    return new_host(
        key_pair=keys, sec_opt={NOISE_PROTOCOL: noise}, muxer_opt={YAMUX_PROTOCOL: Yamux}
    )


async def _write_raw(stream, data: bytes) -> None:
    view = memoryview(data)
    for start in range(0, len(view), WRITE_BYTES):
        await stream.write(bytes(view[start : start + WRITE_BYTES]))


async def _read_raw(stream, size_bytes: int, took: Took) -> None:
    left = size_bytes
    with took.measure():
        while left:
            left -= len(await stream.read(min(READ_BYTES, left)))


async def _give_stock(path: Path) -> None:
    data = path.read_bytes()  # noqa: ASYNC240  # nobody waits yet
    host = _stock_host()
    host.set_stream_handler(RAW_PROTOCOL, lambda stream: _write_raw(stream, data))
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        await _until_told(str(host.get_addrs()[0]))


async def _take_stock(address: str, size_bytes: int, took: Took) -> None:
    host = _stock_host()
    async with host.run(listen_addrs=[]):
        peer = info_from_p2p_addr(Multiaddr(address))
        await host.connect(peer)
        stream = await host.new_stream(peer.peer_id, [RAW_PROTOCOL])
        await _read_raw(stream, size_bytes, took)


async def _give_fast(path: Path) -> None:
    data = path.read_bytes()  # noqa: ASYNC240  # nobody waits yet
    async with open_host(Identity.generate(), NetworkConfig()) as host:
        host._library.set_stream_handler(RAW_PROTOCOL, lambda stream: _write_raw(stream, data))
        await _until_told(host.addresses[0])


async def _take_fast(address: str, size_bytes: int, took: Took) -> None:
    async with open_host(Identity.generate(), NetworkConfig()) as host:
        await host.connect(address, 10)
        peer_id = info_from_p2p_addr(Multiaddr(address)).peer_id
        stream = await host._library.new_stream(peer_id, [RAW_PROTOCOL])
        await _read_raw(stream, size_bytes, took)


# --- the block protocol ---


class _Faulty:
    """A store that lies or falls silent after a few blocks."""

    def __init__(self, store: BlockStore, side: str) -> None:
        self._store = store
        self._side = side
        self._num_left = 3

    def get(self, cid: Cid) -> bytes | None:
        data = self._store.get(cid)
        self._num_left -= 1
        if self._num_left >= 0 or data is None:
            return data
        if self._side == "staller":
            time.sleep(3600)  # its whole process: it answers nothing
        return bytes([data[0] ^ 1]) + data[1:]


async def _give_blocks(side: str, path: Path, bytes_per_s: int) -> None:
    store = BlockStore(path.with_name("store"))
    refs = read_list(path.with_name("list"))
    store.adopt({path: [(ref.cid.digest, ref.size_bytes) for ref in refs]})
    for ref in refs:  # as a daemon does when it starts: what it holds is hashed once
        assert store.get(ref.cid) is not None
    async with open_host(Identity.generate(), NetworkConfig()) as host:
        source = store if side == "blocks" else _Faulty(store, side)
        serve_blocks(host, source, Rate(bytes_per_s))
        await _until_told(host.addresses[0])


async def _take_blocks(
    addresses: list[str], refs: list[BlockRef], folder: Path, took: Took
) -> FetchReport:
    providers = [PeerAddress(address.rpartition("/")[2], (address,)) for address in addresses]
    layout = {folder / "taken": [(ref.cid.digest, ref.size_bytes) for ref in refs]}
    async with open_host(Identity.generate(), NetworkConfig()) as host:
        for provider in providers:
            await host.connect_to(provider, 10)
        with Draft(layout) as draft, took.measure():
            return await fetch_blocks(host, draft, refs, providers, deadline_s=300)


# --- TLS ---


def _give_tls(path: Path) -> None:
    data = memoryview(path.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(_certificate(Path(folder)))
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
    while True:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as secured:
            for start in range(0, len(data), BLOCK_BYTES):
                secured.sendall(data[start : start + BLOCK_BYTES])
            secured.recv(1)


def _take_tls(address: str, refs: list[BlockRef], folder: Path, took: Took) -> None:
    host, _, port = address.partition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    file = os.open(folder / "taken", os.O_RDWR | os.O_CREAT)
    buffer = memoryview(bytearray(BLOCK_BYTES))
    offset = 0
    with (
        context.wrap_socket(socket.create_connection((host, int(port)))) as secured,
        took.measure(),
    ):
        for ref in refs:
            have = 0
            while have < ref.size_bytes:
                have += secured.recv_into(buffer[have : ref.size_bytes])
            block = buffer[: ref.size_bytes]
            assert sha256(block).digest() == ref.cid.digest
            offset += os.pwrite(file, block, offset)
    os.close(file)


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def read_list(path: Path) -> list[BlockRef]:
    """Read what `write_list` wrote."""
    data = path.read_bytes()
    return [
        BlockRef(Cid(data[start : start + DIGEST_BYTES]), BLOCK_BYTES)
        for start in range(0, len(data), DIGEST_BYTES)
    ]


def main() -> None:
    """Be one side."""
    verb, side, *rest = sys.argv[1:]
    if verb == "give":
        give(side, Path(rest[0]), *map(int, rest[1:]))
    else:
        address, digests, folder = rest
        print(json.dumps(take(side, address, read_list(Path(digests)), Path(folder))))


if __name__ == "__main__":
    main()
