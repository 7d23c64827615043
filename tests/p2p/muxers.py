"""Pairs of connections for tests of p2p/transport, each side ours or the library's own, over a wire
that cuts, holds back or stops what passes.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader

from p2p.transport import FastUpgrader

UPGRADERS = {"ours": FastUpgrader, "stock": TransportUpgrader}


class Wire:
    """What the two sides see of one another: pieces of random size; nothing while it is `held`."""

    def __init__(self, stream: trio.StapledStream | trio.SocketStream, seed: int) -> None:
        self.stream = stream
        self.held = False
        self._random = random.Random(seed)
        self._moved = trio.lowlevel.ParkingLot()

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False
        self._moved.unpark_all()

    async def write(self, data: bytes) -> None:
        while data:
            while self.held:
                await self._moved.park()
            size = self._random.choice((1, 100, 10_000, 100_000))
            await self.stream.send_all(data[:size])
            data = data[size:]

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        size = self._random.choice((1, 20, 1000, 70_000, 300_000))
        return await self.stream.receive_some(size if n is None else min(n, size))

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


@dataclass
class Pair:
    """Two ends of one connection. `dialler` opened it."""

    dialler: Yamux
    listener: Yamux
    wires: list[Wire] = field(default_factory=list)

    async def open(self):
        """A stream, from the dialler's end and from the listener's."""
        near = await self.dialler.open_stream()
        with trio.fail_after(60):
            return near, await self.listener.accept_stream()


@asynccontextmanager
async def open_pair(
    dialler: str = "ours", listener: str = "ours", *, over_tcp: bool = False, seed: int = 0
) -> AsyncIterator[Pair]:
    """A connection between two kinds of sides, until the block ends."""
    near, far = await (_tcp_pair() if over_tcp else _memory_pair())
    wires = [] if over_tcp else [Wire(near, seed), Wire(far, seed + 1)]
    raw = [TrioTCPStream(near), TrioTCPStream(far)] if over_tcp else wires
    keys = [create_new_key_pair() for _ in range(2)]
    ids = [ID.from_pubkey(pair.public_key) for pair in keys]
    muxed: dict[bool, Yamux] = {}

    async def upgrade(is_dialler: bool, kind: str) -> None:
        own, other = (0, 1) if is_dialler else (1, 0)
        noise = NoiseTransport(keys[own], noise_privkey=create_noise_key_pair().private_key)
        upgrader = UPGRADERS[kind]({NOISE_PROTOCOL: noise}, {YAMUX_PROTOCOL: Yamux})
        secured = await upgrader.upgrade_security(
            RawConnection(raw[own], is_dialler), is_dialler, ids[other]
        )
        muxed[is_dialler] = await upgrader.upgrade_connection(secured, ids[other])

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upgrade, True, dialler)
            nursery.start_soon(upgrade, False, listener)
    async with trio.open_nursery() as nursery:
        for connection in muxed.values():
            nursery.start_soon(connection.start)
            await connection.event_started.wait()
        yield Pair(muxed[True], muxed[False], wires)
        for connection in muxed.values():
            await connection.close()
        nursery.cancel_scope.cancel()


async def _memory_pair():
    return trio.testing.memory_stream_pair()


async def _tcp_pair():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        return near, await listener.accept()
