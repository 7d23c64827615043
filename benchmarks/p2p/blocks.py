"""Verified blocks per second between two processes on loopback: `python -m benchmarks.p2p.blocks
[--mb 200]`.

The parent fetches, hashes and writes to disk; a child process provides. Prints and writes one JSON
object; figures of one machine and hour only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from benchmarks import write_result
from p2p.blocks import BLOCK_BYTES, BlockRef, BlockStore, FetchReport, fetch_blocks, serve_blocks
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.peers import PeerAddress


async def provide(folder: str) -> None:
    """The child: serve a store until stdin closes."""
    async with open_host(Identity.generate(), NetworkConfig()) as host:
        serve_blocks(host, BlockStore(Path(folder)))
        print(host.addresses[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def fetch(addresses: list[str], refs: list[BlockRef], folder: Path) -> FetchReport:
    """The parent: fetch everything from the children."""
    providers = [PeerAddress(address.rpartition("/")[2], (address,)) for address in addresses]
    async with open_host(Identity.generate(), NetworkConfig()) as host:
        for provider in providers:
            await host.connect_to(provider, 10)
        return await fetch_blocks(host, BlockStore(folder), refs, providers, deadline_s=300)


def start_provider(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A child and its address."""
    command = [sys.executable, "-m", "benchmarks.p2p.blocks", "--provide", str(folder)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


def measure(num_mb: int, num_providers: int) -> dict[str, object]:
    """One fetch of `num_mb` MB from this many providers."""
    with tempfile.TemporaryDirectory() as folder:
        source = BlockStore(Path(folder) / "source")
        refs = [
            BlockRef(source.put(os.urandom(BLOCK_BYTES)), BLOCK_BYTES)
            for _ in range(num_mb * 1_000_000 // BLOCK_BYTES)
        ]
        children = [start_provider(Path(folder) / "source") for _ in range(num_providers)]
        cpu = time.process_time()
        report = trio.run(fetch, [address for _, address in children], refs, Path(folder) / "sink")
        cpu = time.process_time() - cpu
        for child, _ in children:
            child.communicate()
    return {
        "providers": num_providers,
        "mb": round(report.num_bytes / 1e6, 1),
        "seconds": round(report.seconds, 3),
        "verified_mb_s": round(report.num_bytes / 1e6 / report.seconds, 1),
        "verify_s": round(report.verify_s, 3),
        "receiver_cpu_ms_per_mb": round(1000 * cpu / (report.num_bytes / 1e6), 2),
    }


def main() -> None:
    """Measure one and two providers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--provide", metavar="STORE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.provide:
        trio.run(provide, arguments.provide)
        return
    runs = [measure(arguments.mb, count) for count in (1, 1, 2)]
    print(json.dumps(runs, indent=1))
    write_result("p2p-blocks", {"runs": runs})


if __name__ == "__main__":
    main()
