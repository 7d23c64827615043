"""What a daemon costs that does nothing: `python -m benchmarks.p2p.idle [--peers N] [--seconds N]
[--chain still|moving] [--look-s N]`.

One daemon in a process of its own (everything but an engine), connected to so many hosts in another
process that do nothing either. With a chain it is a gateway on a development chain on which nothing
happens, or a block comes each second, and looks at it every `--look-s` seconds. Its CPU time is
counted after a minute, in which the newcomers are greeted. Writes one JSON object.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import trio

from benchmarks import write_result
from node.config import Config
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from proofs.chain.devchain import DevChain, open_chain
from proofs.chain.rpc import Rpc

SETTLE_S = 60.0
BLOCK_S = 1.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """The CPU time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_mb(pid: int) -> float:
    """Its resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@contextmanager
def running(home: Path, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a daemon on loopback while the block lasts."""
    everybody = {"role": "bootstrap", "listen": "/ip4/127.0.0.1/tcp/0", "http_port": "0"}
    said = {f"LORIKEET_{name.upper()}": value for name, value in (everybody | settings).items()}
    command = [sys.executable, "-m", "node", "up", "--home", str(home)]
    daemon = subprocess.Popen(command, env=os.environ | said, stdout=subprocess.PIPE, text=True)
    try:
        yield daemon
    finally:
        daemon.terminate()
        daemon.wait()
        assert daemon.stdout is not None
        daemon.stdout.close()


def on_chain(chain: DevChain, look_s: float) -> dict[str, str]:
    """The settings of a gateway on this chain."""
    return {
        "role": "gateway",
        "chain_rpc": chain.rpc,
        "settlement": chain.settlement,
        "channels": chain.channels,
        "token": chain.token,
        "watch_interval_s": str(look_s),
    }


async def mine(url: str) -> None:
    """Bring a block each second, until cancelled."""
    rpc = Rpc(url)
    try:
        while True:
            await trio.to_thread.run_sync(rpc.call, "evm_mine")
            await trio.sleep(BLOCK_S)
    finally:
        rpc.close()


async def count(daemon: subprocess.Popen[str], num_peers: int, seconds: float) -> dict[str, float]:
    """Connect the peers, wait, and count."""
    assert daemon.stdout is not None
    ready = await trio.to_thread.run_sync(daemon.stdout.readline)
    address = ready.rpartition("p2p=")[2].strip()
    alone_mb = resident_mb(daemon.pid)
    async with AsyncExitStack() as stack:
        config = NetworkConfig(bootstrap=(address,))
        for _ in range(num_peers):
            await stack.enter_async_context(open_host(Identity.generate(), config))
        await trio.sleep(SETTLE_S)
        before = cpu_s(daemon.pid)
        await trio.sleep(seconds)
        spent = cpu_s(daemon.pid) - before
        with_peers_mb = resident_mb(daemon.pid)
    return {
        "resident_mb_alone": round(alone_mb, 1),
        "resident_mb_with_peers": round(with_peers_mb, 1),
        "share_of_a_core": round(spent / seconds, 4),
    }


async def measure(options: argparse.Namespace, chain: DevChain | None) -> dict[str, float]:
    """Measure a daemon with its peers, and with a chain where one is given."""
    settings = {} if chain is None else on_chain(chain, options.look_s)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), settings) as daemon:
        async with trio.open_nursery() as nursery:
            if chain is not None and options.chain == "moving":
                nursery.start_soon(mine, chain.rpc)
            found = await count(daemon, options.peers, options.seconds)
            nursery.cancel_scope.cancel()
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--chain", choices=("still", "moving"))
    parser.add_argument("--look-s", type=float, default=Config(Path()).watch_interval_s)
    options = parser.parse_args()
    with ExitStack() as stack:
        chain = stack.enter_context(open_chain()) if options.chain else None
        found = trio.run(measure, options, chain)
    asked = {"peers": options.peers, "seconds": options.seconds}
    name = "p2p-idle"
    if options.chain:
        asked["look_s"] = options.look_s
        name += f"-chain-{options.chain}-{options.look_s:g}s"
    print(asked | found)
    write_result(name, asked | found)


if __name__ == "__main__":
    main()
