"""A hostile peer for the demo, built on the same p2p package as the honest ones: `python -m
demo.attacker …`.

It offers an adapter whose blocks it corrupts by one bit, and gossips a promised receipt that it
overheard, with a raised amount. Prints a line when each is done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from node.wire.receipts import TOPIC, Promised
from p2p.blocks.client import fetch_block, fetch_blocks
from p2p.blocks.exchange import BlockRef
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.gossip import Verdict
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from proofs.envelope import decode_envelope
from proofs.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from proofs.receipt import decode_body, decode_receipt, encode_body

CONNECT_S = 10.0
FETCH_S = 60.0
MESH_S = 2.5  # some gossip heartbeats, until others forward to us
STOLEN = 1_000_000


class CorruptStore:
    """Honest about manifests, so that it is believed; every other block has its first bit
    flipped.
    """

    def __init__(self, store: BlockStore, honest: Cid) -> None:
        self._store = store
        self._honest = honest

    def get(self, cid: Cid) -> bytes | None:
        """The block, more or less."""
        data = self._store.get(cid)
        return data if data is None or cid == self._honest else bytes([data[0] ^ 0x80]) + data[1:]


def tamper(data: bytes) -> bytes:
    """A promise of a receipt that gives its operator more: the form is right and the arithmetic
    too, only nobody signed it.
    """
    promised = msgspec.msgpack.decode(data, type=Promised)
    envelope = decode_envelope(promised.envelope)
    signed = decode_receipt(envelope.receipt)
    receipt = decode_body(signed.body)
    extra = -(-STOLEN // receipt.completion_price)
    raised = msgspec.structs.replace(
        receipt,
        completion_tokens=receipt.completion_tokens + extra,
        amount=receipt.amount + extra * receipt.completion_price,
        cumulative=receipt.cumulative + extra * receipt.completion_price,
    )
    lie = msgspec.structs.replace(signed, body=encode_body(raised))
    forged = msgspec.structs.replace(envelope, receipt=msgspec.msgpack.encode(lie))
    return msgspec.msgpack.encode(
        msgspec.structs.replace(promised, envelope=msgspec.msgpack.encode(forged))
    )


async def attack(bootstrap: Sequence[str], network: str, folder: Path, adapter: Cid) -> None:
    """Join, advertise, overhear, lie; then serve until killed."""
    store = BlockStore(folder)
    async with open_host(
        Identity.generate(), NetworkConfig(bootstrap=tuple(bootstrap), network=network)
    ) as host:
        say(f"attacker {host.peer_id}")
        for address in bootstrap:
            await host.connect(address, CONNECT_S)
        overheard = await host.gossip.subscribe(TOPIC, lambda data, peer: Verdict.ACCEPT)
        manifest = await copy_manifest(host, store, adapter)
        await copy_blocks(host, store, adapter, manifest)
        serve_blocks(host, CorruptStore(store, adapter))
        await host.dht.provide(adapter)
        say(f"advertising {adapter}")
        await trio.sleep(MESH_S)
        say("listening")
        async for message in overheard:
            await host.gossip.publish(TOPIC, tamper(message.data))
            say("gossiped")
            break
        await trio.sleep_forever()


async def copy_manifest(host: Host, store: BlockStore, adapter: Cid) -> Manifest:
    """What there is to be corrupted."""
    providers = await host.dht.find_providers(adapter)
    return parse_manifest(
        await fetch_block(
            host, store, adapter, MAX_MANIFEST_BYTES, providers=providers, deadline_s=FETCH_S
        )
    )


async def copy_blocks(host: Host, store: BlockStore, adapter: Cid, manifest: Manifest) -> None:
    """The true blocks, from the honest."""
    wanted = [
        BlockRef(Cid(digest), size) for file in manifest.files for digest, size in file.blocks
    ]
    await fetch_blocks(
        host, store, wanted, await host.dht.find_providers(adapter), deadline_s=FETCH_S
    )


def say(line: str) -> None:
    """One line for whoever started us."""
    print(line, flush=True)


def main() -> int:
    """Read the command line and attack."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.attacker", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--bootstrap", action="append", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--adapter", type=Cid.parse, required=True)
    options = parser.parse_args()
    trio.run(attack, options.bootstrap, options.network, options.folder, options.adapter)
    return 0


if __name__ == "__main__":
    sys.exit(main())
