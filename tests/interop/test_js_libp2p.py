"""A js-libp2p client (client.mjs), which knows docs/protocols alone, against real hosts, by
WebSocket and by TCP. It speaks as a browser would: with a key of another kind, serving nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import trio

from p2p.blocks.limits import BLOCK_BYTES
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.lookup.server import Lookups
from p2p.names import decode_name, sign_name
from tests.p2p.helpers import eventually

HERE = Path(__file__).parent
MIN_NODE = 20
DEADLINE_S = 60.0
LISTEN = NetworkConfig(listen=("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"))
BLOCKS = [os.urandom(BLOCK_BYTES) for _ in range(7)] + [b"the last is shorter"]


def find_node() -> str | None:
    """Find a Node that js-libp2p runs on, where both are."""
    found = shutil.which("node")
    if found is None or not (HERE / "node_modules" / "libp2p").is_dir():
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    return found if int(version.stdout.lstrip("v").partition(".")[0]) >= MIN_NODE else None


NODE = find_node()


@pytest.mark.skipif(NODE is None, reason="no js-libp2p here (scripts/npm tests/interop)")
async def test_a_js_client_finds_and_fetches_by_websocket_and_by_tcp(tmp_path: Path) -> None:
    owner = Identity.generate()
    store = BlockStore(tmp_path)
    digests = [store.put(block).digest for block in BLOCKS]
    manifest = store.put(b"a manifest")
    record = sign_name(owner, "law", int(time.time()), manifest)
    async with (
        open_host(Identity.generate(), LISTEN) as helper,
        open_host(Identity.generate(), LISTEN) as provider,
    ):
        Lookups(helper)
        serve_blocks(provider, store)
        await provider.connect(helper.addresses[0], 5)
        await provider.dht.put_name(record)
        await provider.dht.provide(manifest)
        task = {
            "helper": helper.addresses,
            "name": record.key,
            "digests": [digest.hex() for digest in digests],
        }
        found = await run_client(task)
        # only the provider stays
        await eventually(lambda: helper._swarm._inbound_limiter.borrowed_tokens == 1)
    for way in ("ws", "tcp"):
        told = found[way]
        assert decode_name(bytes.fromhex(told["record"])) == record
        assert Cid.of(b"a manifest") == record.target
        assert told["providers"] == [[provider.peer_id, list(provider.addresses)]]
        assert told["hashes"] == [hashlib.sha256(block).hexdigest() for block in BLOCKS]
        assert all(("/ws" in address) == (way == "ws") for address in told["over"])


async def run_client(task: dict[str, object]) -> dict[str, dict[str, list[str]]]:
    """Run the client to its end; what it found, by the way it took."""
    assert NODE is not None
    # Node 20 has a browser's WebSocket behind this; that of the package `ws` would lose what comes
    # with the handshake.
    command = [NODE, "--experimental-websocket", str(HERE / "client.mjs"), json.dumps(task)]
    with trio.fail_after(DEADLINE_S):
        done = await trio.run_process(
            command, stdin=subprocess.DEVNULL, capture_stdout=True, capture_stderr=True, check=False
        )
    assert done.returncode == 0, done.stderr.decode()[:3000]
    found: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    return found
