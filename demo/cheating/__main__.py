"""Nodes that cheat, all in one process, each with an engine of its own: `python -m demo.cheating
--adapter CID CHEAT=HOME …`. Each home has its lorikeet.toml; what the cheats are, engine.py says.

Prints a line for each that serves, and serves until a signal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from node.app import open_daemon
from node.config import load_config
from node.daemon import NodeDaemon
from node.errors import NoProvider
from node.testnet.interrupts import run_until_signal

ENGINE_DEADLINE_S = 90.0
PULL_DEADLINE_S = 60.0
POLL_S = 0.2


async def serve(cheats: Sequence[tuple[str, Path]], adapter: str) -> None:
    """Run all of them until cancelled."""
    async with trio.open_nursery() as nursery:
        for how, home in cheats:
            nursery.start_soon(cheat, how, home, adapter)


async def cheat(how: str, home: Path, adapter: str) -> None:
    """Run one: a daemon like any other, which takes what it finds for its engine."""
    command = (sys.executable, "-m", "demo.cheating.engine", how, "serve")
    async with open_daemon(load_config(home), engine_command=command) as daemon:
        assert daemon.engine is not None, "a volunteer has an engine"
        await daemon.engine.wait_up(ENGINE_DEADLINE_S)
        await pull(daemon, adapter)
        print(f"ready {how} {daemon.host.peer_id}", flush=True)
        await trio.sleep_forever()


async def pull(daemon: NodeDaemon, adapter: str) -> None:
    """Fetch what it is to be paid for; who has just come may know nobody yet who has it."""
    with trio.fail_after(PULL_DEADLINE_S):
        while True:
            try:
                await daemon.pull(adapter)
            except NoProvider:
                await trio.sleep(POLL_S)
            else:
                return


def read_cheat(text: str) -> tuple[str, Path]:
    """Return a cheat and the home of the node that does it, from CHEAT=HOME."""
    how, _, home = text.partition("=")
    return how, Path(home)


def main() -> int:
    """Read the command line and cheat."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.cheating", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--adapter", required=True, metavar="CID")
    parser.add_argument("cheats", nargs="+", type=read_cheat, metavar="CHEAT=HOME")
    options = parser.parse_args()
    run_until_signal(lambda: serve(options.cheats, options.adapter))
    return 0


if __name__ == "__main__":
    sys.exit(main())
