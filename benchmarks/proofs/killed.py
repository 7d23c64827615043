"""A node that is killed again and again while it is asked: `python -m benchmarks.proofs.killed
[--kills 50]`.

A volunteer, another that publishes adapters, a gateway that pays, an aggregator and a chain, each
a process of its own, on a tiny base. Two clients ask the first volunteer all the time, for the base
and for the adapters that it was told to pull, one after another; after an answer it gets SIGKILL in
the middle of the next ones and of a pull, and is started again. How soon does it serve (its engine
aside), is every receipt that a client saw in its ledger, is none signed twice for one place, and
has each adapter whose pull ended the bytes that were published? `answers_failed` are what the
clients were told while no node served; `answers_unreceipted` those that came whole from a node that
was killed before it showed a receipt: nobody signed one, and the node made them for nothing.
`back_cpu_s`: what of `back_s` its own work took; its modules were compiled once before, as
scripts/setup leaves them. Figures of one machine and hour.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import trio

from benchmarks import write_result
from benchmarks.p2p.idle import cpu_s
from node.catalogue.packaging import WEIGHTS_FILE
from node.config import Config
from node.testnet.asking import AskFailed, Asking, NodeClient
from node.testnet.network import Network, open_network
from node.testnet.plan import plan_network
from p2p.cid import Cid
from p2p.errors import InvalidCid
from proofs.receipt import decode_body, decode_receipt
from tests.node.tiny import make_adapter, make_base

CLIENTS = 2
ANSWER_DEADLINE_S = 120.0
END_DEADLINE_S = 10.0
PAUSE_S = 0.05
TOKENS = 24
KILLED = "volunteer-a"
PUBLISHER = "volunteer-b"
MAX_ADAPTERS = 200


@dataclass
class Seen:
    """What the clients got. `pulled`: the CIDs of adapters whose pull ended, by name."""

    receipts: list[str] = field(default_factory=list)
    unreceipted: int = 0
    failures: int = 0
    pulled: dict[str, str] = field(default_factory=dict)

    def note(self, facts: Mapping[str, Any]) -> None:
        """Count a whole answer, by the receipt that it names."""
        if facts["receipt"] is None:
            self.unreceipted += 1
        else:
            self.receipts.append(facts["receipt"])


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    kills = parser.parse_args().kills
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # of the daemons: else each start compiles all
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORIKEET_BASE_PATH"] = str(make_base(Path(folder) / "base"))
        figures = trio.run(measure, Path(folder) / "network", kills)
    write_result("proofs-killed", figures)


async def measure(home: Path, kills: int) -> dict[str, Any]:
    """Kill a network's volunteer so often; what that cost."""
    back: list[tuple[float, float]] = []
    seen = Seen()
    made = home / "made"
    async with open_network(plan_network(home, 2), lambda name, state: None) as network:
        await network.wait_for_engines()
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(ask, network, seen, Random(number))
            nursery.start_soon(pull, network, seen, made)
            for _ in range(kills):
                await answered(seen, len(seen.receipts) + 1)
                await kill(network.nodes[KILLED].child.process)
                began = time.monotonic()
                await network.revive()
                took_s = time.monotonic() - began
                back.append((took_s, cpu_s(network.nodes[KILLED].child.process.pid)))
            await answered(seen, len(seen.receipts) + 1)
            nursery.cancel_scope.cancel()
        kept = await find(network.nodes[KILLED].url, seen.receipts)
    bodies = [decode_body(decode_receipt(data).body) for data in kept.values()]
    places = {(body.channel_id, body.sequence) for body in bodies}
    return {
        "kills": kills,
        "answers": len(seen.receipts),
        "answers_failed": seen.failures,
        "answers_unreceipted": seen.unreceipted,
        "receipts_lost": len(set(seen.receipts) - set(kept)),
        "places_signed_twice": len(bodies) - len(places),
        "adapters_pulled": len(seen.pulled),
        "adapters_corrupted": corrupted(home / KILLED, made, seen.pulled),
        "blocks_corrupted": misnamed(home / KILLED / "blocks"),
        "back_s": middle_and_most([took_s for took_s, _ in back]),
        "back_cpu_s": middle_and_most([used_s for _, used_s in back]),
    }


def middle_and_most(values: list[float]) -> dict[str, float]:
    """The median and the largest."""
    return {"median": round(sorted(values)[len(values) // 2], 2), "most": round(max(values), 2)}


def corrupted(home: Path, made: Path, pulled: dict[str, str]) -> list[str]:
    """Names of adapters whose weights a home has not, or otherwise than they were published."""
    wrong = []
    for name, cid in pulled.items():
        weights = home / "adapters" / cid / WEIGHTS_FILE
        published = (made / name / WEIGHTS_FILE).read_bytes()
        if not weights.is_file() or weights.read_bytes() != published:
            wrong.append(name)
    return wrong


def misnamed(blocks: Path) -> list[str]:
    """Files named by a hash that their bytes do not have."""
    wrong = []
    for path in blocks.rglob("*"):
        with suppress(InvalidCid):  # one that was never whole has another name
            if path.is_file() and Cid.parse(path.name) != Cid.of(path.read_bytes()):
                wrong.append(path.name)
    return wrong


async def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and wait until the system has taken it away."""
    process.kill()
    await trio.to_thread.run_sync(process.wait, END_DEADLINE_S)


async def pull(network: Network, seen: Seen, made: Path) -> None:
    """Publish one adapter after another, and have the volunteer that is killed pull each, until it
    says that it has it.
    """
    async with NodeClient(network.nodes[PUBLISHER].url) as publisher:
        for number in range(MAX_ADAPTERS):
            name = f"adapter-{number}"
            await publisher.push(make_adapter(made / name, name, number + 1))
            while name not in seen.pulled:
                with suppress(AskFailed):
                    async with NodeClient(network.nodes[KILLED].url) as client:
                        seen.pulled[name] = (await client.pull(name)).cid
                await trio.sleep(PAUSE_S)


async def ask(network: Network, seen: Seen, dice: Random) -> None:
    """Ask all the time, until cancelled."""
    node = {"node": network.nodes[KILLED].peer_id}
    async with NodeClient(network.client.url) as client:
        while True:
            model = dice.choice(["base", *seen.pulled])
            try:
                answer = await client.ask(Asking(model, "hello"), max_tokens=TOKENS, lorikeet=node)
            except AskFailed:
                seen.failures += 1
            else:
                seen.note(answer.facts)
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
