"""What a daemon costs that does nothing: `python -m benchmarks.p2p.idle [--peers N] [--seconds N]`.

One daemon in a process of its own (role bootstrap: everything but an engine and a base), connected
to so many hosts in another process that do nothing either. Its CPU time is counted after a minute,
in which the newcomers are greeted. Writes one JSON object.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from benchmarks import write_result
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity

SETTLE_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """The CPU time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_mb(pid: int) -> float:
    """Its resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def start(home: Path) -> subprocess.Popen[str]:
    """Run a daemon on loopback."""
    env = os.environ | {
        "LORIKEET_ROLE": "bootstrap",
        "LORIKEET_LISTEN": "/ip4/127.0.0.1/tcp/0",
        "LORIKEET_HTTP_PORT": "0",
    }
    command = [sys.executable, "-m", "node", "up", "--home", str(home)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


async def measure(num_peers: int, seconds: float) -> dict[str, float]:
    """Connect the peers, wait, and count."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = start(Path(folder))
        try:
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
        finally:
            daemon.terminate()
            daemon.wait()
    return {
        "peers": num_peers,
        "seconds": seconds,
        "resident_mb_alone": round(alone_mb, 1),
        "resident_mb_with_peers": round(with_peers_mb, 1),
        "share_of_a_core": round(spent / seconds, 4),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    found = trio.run(measure, arguments.peers, arguments.seconds)
    print(found)
    write_result("p2p-idle", found)


if __name__ == "__main__":
    main()
