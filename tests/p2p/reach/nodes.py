"""Hosts in network namespaces: imports once, then forks one process for each host, which obeys
orders on its socket, JSON lines both ways. Run by lab.py.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import traceback
from pathlib import Path

import trio

from p2p.blocks import BlockRef, BlockStore, fetch_blocks, serve_blocks
from p2p.cid import Cid
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from p2p.peers import PeerAddress
from p2p.reach.reservations import RelayLimits

from .hub import enter

BLOCK_BYTES = 256 << 10


class Node:
    """One host and its blocks."""

    def __init__(self, host: Host, store: BlockStore) -> None:
        self.host = host
        self.store = store

    async def describe(self) -> dict:
        """Say what the host is and knows."""
        found = self.host.reachability()
        return {
            "peer_id": self.host.peer_id,
            "addresses": list(self.host.addresses),
            "peers": {peer.peer_id: peer.address for peer in self.host.peers()},
            "state": found.state,
            "relays": list(found.relays),
            "circuits": found.circuits,
            "holes_punched": found.holes_punched,
            "carried": self.host._reach._relay.bytes_carried if self.host._reach._relay else 0,
        }

    async def fill(self, num_blocks: int) -> dict:
        """Make blocks; provide the first one."""
        refs = [
            (self.store.put(os.urandom(BLOCK_BYTES)).digest.hex(), BLOCK_BYTES)
            for _ in range(num_blocks)
        ]
        await self.host.dht.provide(Cid(bytes.fromhex(refs[0][0])))
        return {"refs": refs}

    async def connect(self, peer_id: str, addresses: list[str], deadline_s: float = 10) -> dict:
        """Connect and say how long that took."""
        before = trio.current_time()
        await self.host.connect_to(PeerAddress(peer_id, tuple(addresses)), deadline_s)
        return {"s": trio.current_time() - before, "is_direct": self.is_direct(peer_id)}

    async def find(self, digest: str) -> dict:
        """Look up who provides a block."""
        found = await self.host.dht.find_providers(Cid(bytes.fromhex(digest)))
        return {"providers": {one.peer_id: list(one.addresses) for one in found}}

    async def fetch(
        self, peer_id: str, addresses: list[str], refs: list[list], deadline_s: float = 60
    ) -> dict:
        """Fetch blocks from one peer and say how long that took."""
        before = trio.current_time()
        wanted = [BlockRef(Cid(bytes.fromhex(digest)), size) for digest, size in refs]
        giver = PeerAddress(peer_id, tuple(addresses))
        await fetch_blocks(self.host, self.store, wanted, [giver], deadline_s=deadline_s)
        return {"s": trio.current_time() - before}

    async def until_direct(self, peer_id: str, deadline_s: float) -> dict:
        """Wait for a direct connection and say how long that took."""
        before = trio.current_time()
        with trio.move_on_after(deadline_s):
            while not self.is_direct(peer_id):  # noqa: ASYNC110  # no event tells it
                await trio.sleep(0.01)
        return {"s": trio.current_time() - before, "is_direct": self.is_direct(peer_id)}

    async def leave(self, peer_id: str) -> dict:
        """Close all connections to a peer."""
        await self.host.disconnect(peer_id)
        return {}

    def is_direct(self, peer_id: str) -> bool:
        """Return whether a direct connection leads to a peer."""
        addresses = [one.address for one in self.host.peers() if one.peer_id == peer_id]
        return bool(addresses) and "p2p-circuit" not in addresses[0]


async def serve(orders: socket.socket, spec: dict) -> None:
    """Open the host and obey until the socket ends."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(orders))
    config = NetworkConfig(
        listen=tuple(spec["listen"]),
        bootstrap=tuple(spec["bootstrap"]),
        relay=RelayLimits(**spec["relay"]) if spec["relay"] is not None else None,
        port_mapping=spec.get("port_mapping", False),
        psk=bytes.fromhex(spec["psk"]) if spec.get("psk") else None,
        mdns=spec.get("mdns", False),
    )
    await stream.receive_some(1)  # until it is wanted
    with tempfile.TemporaryDirectory() as folder:
        async with open_host(Identity.from_secret(bytes.fromhex(spec["secret"])), config) as host:
            store = BlockStore(Path(folder))
            serve_blocks(host, store)
            node = Node(host, store)
            await stream.send_all(b'{"ok": {}}\n')
            buffer = b""
            async for data in stream:
                buffer += data
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    answer = await obey(node, json.loads(line))
                    await stream.send_all(json.dumps(answer).encode() + b"\n")


async def obey(node: Node, order: dict) -> dict:
    try:
        return {"ok": await getattr(node, order.pop("do"))(**order)}
    except Exception as error:  # told to the test, which asked
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Fork the hosts; wait until stdin ends, then end them all."""
    children = []
    for argument in sys.argv[1:]:
        spec = json.loads(argument)
        child = os.fork()
        if not child:
            try:
                enter(spec["namespace"])
                trio.run(serve, socket.socket(fileno=spec["fd"]), spec)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        children.append(child)
        os.close(spec["fd"])
    sys.stdin.read()
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
