"""A provider as its own process: `python -m tests.p2p.provider STORE [BOOTSTRAP…]` prints "ready
ADDRESS" and serves until SIGTERM.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import trio

from p2p.blocks import BlockStore, serve_blocks
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity


async def main(folder: str, *bootstrap: str) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_host(Identity.generate(), NetworkConfig(bootstrap=bootstrap)) as host:
            serve_blocks(host, BlockStore(Path(folder)))
            print(f"ready {host.addresses[0]}", flush=True)
            async for _ in signals:
                break


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
