"""Real hosts on loopback for tests, and a raw libp2p stream for a peer that does not play by the
rules.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio
import trio.testing

from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from p2p.peers import PeerAddress


@asynccontextmanager
async def open_hosts(count: int, **config: object) -> AsyncIterator[list[Host]]:
    """This many hosts that know nobody."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_host(Identity.generate(), NetworkConfig(**config)))
            for _ in range(count)
        ]


def address_of(host: Host) -> PeerAddress:
    return PeerAddress(host.peer_id, host.addresses)


async def connect(asker: Host, other: Host) -> None:
    await asker.connect(other.addresses[0], 60)


async def raw_stream(host: Host, peer: Host, protocol: str):
    """A library stream without any of our framing."""
    from libp2p.peer.id import ID

    return await host._library.new_stream(ID.from_base58(peer.peer_id), [protocol])


async def eventually(condition, deadline_s: float = 60.0) -> None:
    """Wait until a condition holds; it may be an async function."""
    with trio.fail_after(deadline_s):
        while True:
            answer = condition()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await trio.sleep(0.02)


async def settled() -> None:
    """Wait until every task waits for somebody else: what came over the sockets was handled."""
    await trio.testing.wait_all_tasks_blocked()


async def echo(stream) -> None:
    while True:
        await stream.send(await stream.receive(30), 60)


async def is_alive(asker: Host, other: Host) -> bool:
    """Whether a host still answers on a fresh stream."""
    other.serve("/test/alive", echo)
    async with asker.open_stream(other.peer_id, "/test/alive", 60) as stream:
        await stream.send(b"there?", 60)
        return await stream.receive(60) == b"there?"
