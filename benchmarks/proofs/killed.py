"""A node that is killed again and again while it is asked: `python -m benchmarks.proofs.killed
[--kills 50]`.

One volunteer, a gateway that pays it, an aggregator and a chain, each a process of its own, on a
tiny base. Two clients ask all the time; after an answer the volunteer gets SIGKILL in the middle of
the next ones and is started again. How soon does it serve (its engine aside), is every receipt that
a client saw in its ledger, and is none signed twice for one place? `answers_failed` are what the
clients were told while no node served. Figures of one machine and hour.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from benchmarks import write_result
from node.config import Config
from node.testnet.asking import AskFailed, Asking, NodeClient
from node.testnet.network import Network, open_network
from node.testnet.plan import plan_network
from proofs.receipt import decode_body, decode_receipt
from tests.node.tiny import make_base

CLIENTS = 2
ANSWER_DEADLINE_S = 120.0
END_DEADLINE_S = 10.0
PAUSE_S = 0.05
TOKENS = 24


@dataclass
class Seen:
    """What the clients got."""

    receipts: list[str] = field(default_factory=list)
    failures: int = 0


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORIKEET_BASE_PATH"] = str(make_base(Path(folder) / "base"))
        figures = trio.run(measure, Path(folder) / "network", kills)
    write_result("proofs-killed", figures)


async def measure(home: Path, kills: int) -> dict[str, Any]:
    """Kill a network's volunteer so often; what that cost."""
    back_s: list[float] = []
    seen = Seen()
    async with open_network(plan_network(home, 1), lambda name, state: None) as network:
        await network.wait_for_engines()
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(ask, network, seen)
            for _ in range(kills):
                await answered(seen, len(seen.receipts) + 1)
                await kill(network.nodes["volunteer-a"].child.process)
                began = time.monotonic()
                await network.revive()
                back_s.append(time.monotonic() - began)
            await answered(seen, len(seen.receipts) + 1)
            nursery.cancel_scope.cancel()
        kept = await find(network.nodes["volunteer-a"].url, seen.receipts)
    bodies = [decode_body(decode_receipt(data).body) for data in kept.values()]
    places = {(body.channel_id, body.sequence) for body in bodies}
    return {
        "kills": kills,
        "answers": len(seen.receipts),
        "answers_failed": seen.failures,
        "receipts_lost": len(set(seen.receipts) - set(kept)),
        "places_signed_twice": len(bodies) - len(places),
        "back_s": {
            "median": round(sorted(back_s)[len(back_s) // 2], 2),
            "most": round(max(back_s), 2),
        },
    }


async def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and wait until the system has taken it away."""
    process.kill()
    await trio.to_thread.run_sync(process.wait, END_DEADLINE_S)


async def ask(network: Network, seen: Seen) -> None:
    """Ask all the time, until cancelled."""
    async with NodeClient(network.client.url) as client:
        while True:
            try:
                answer = await client.ask(Asking("base", "hello"), max_tokens=TOKENS)
            except AskFailed:
                seen.failures += 1
            else:
                seen.receipts.append(str(answer.facts["receipt"]))
            await trio.sleep(PAUSE_S)


async def answered(seen: Seen, count: int) -> None:
    """Wait until so many answers came."""
    with trio.fail_after(ANSWER_DEADLINE_S):
        while len(seen.receipts) < count:  # noqa: ASYNC110
            await trio.sleep(PAUSE_S)


async def find(url: str, digests: list[str]) -> dict[str, bytes]:
    """Return those of the receipts that a node has: of an answer whose client's signature did not
    reach it, it makes one itself when its grace for that is over.
    """
    missing = set(digests)
    found: dict[str, bytes] = {}
    async with NodeClient(url) as client:
        with trio.move_on_after(2 * Config.grace_s):
            while missing:
                for digest in sorted(missing):
                    with suppress(AskFailed):
                        found[digest] = await client.receipt(digest)
                missing -= set(found)
                await trio.sleep(1)
    return found


if __name__ == "__main__":
    main()
