"""A network under load and faults for as long as one likes: `scripts/soak [--minutes 60]`.

A chain, and eight nodes, each a process of its own: a bootstrap node, an aggregator, a gateway that
pays, and five volunteers on a tiny base, one of them walled in. Questions come at random times, for
the first adapter most; volunteers crash, freeze and spoil their files. Looked at: each process's
memory, tracebacks in the logs, and, when the load is over, every receipt that a client saw: is it
in a header, does anything stand twice in one place, and does every epoch follow from the chain and
the batches (`lorikeet verify`)? Writes one JSON object; status 1 where something is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations, takewhile
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import trio

from benchmarks import write_result
from benchmarks.p2p.idle import resident_mb
from node.api.money import ReceiptInfo
from node.testnet.asking import AskFailed, Asking, NodeClient
from node.testnet.faults import EVERY_S, plan_faults, run_faults
from node.testnet.loading import Planned, plan_load
from node.testnet.network import ENDED, Network, open_network
from node.testnet.plan import plan_network
from tests.node.tiny import make_adapter, make_base

LOOK_S = 10.0
SETTLE_S = 240.0
MAX_GROWTH_MB = 24.0
"""How much more a process may hold in the last fifth of its time than in its second fifth."""
MIN_LOOKS = 20
WARM = 1 / 3
"""The part of a process's time in which what is bounded fills up: 512 traces, the pages of its
ledger that SQLite keeps, a place for each request that was ever under way at once. What grows in
the rest of it has no bound, or one that it should tell of."""
MIN_LIFE_S = 1200.0
"""Of a process whose slope is judged; one that was killed earlier has hardly warmed up."""
MAX_SLOPE_MB = 12.0
"""How much (MB) a process may grow in an hour once it is warm."""
ADAPTERS = ("law", "verse", "recipes", "birds")
EXPECTED = (
    "each answer's receipt in one header, once; nobody refused for want of money; no traceback; no"
    f" process grows by more than {MAX_GROWTH_MB:.0f} MB, nor, once warm, by more than"
    f" {MAX_SLOPE_MB:.0f} MB an hour"
)
PLACED = ("included", "final")
NUMBER = re.compile(r"\d+")
MAX_SAID = 200
SHOWN_CHARACTERS = 4_000
TRACEBACK = re.compile(r"^Traceback|^  \+ Exception Group", re.MULTILINE)


@dataclass(frozen=True)
class Look:
    """What a process held (MB) at a time."""

    at_s: float
    mb: float


@dataclass
class Seen:
    """What came of the load, and how the processes did. `memory`: by name and process id."""

    receipts: list[str] = field(default_factory=list)
    settled_later: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    memory: dict[tuple[str, int], list[Look]] = field(default_factory=dict)


async def soak(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run it; the figures."""
    plan = plan_network(home, options.volunteers)
    names = [one.name for one in plan.volunteers]
    plan = replace(plan, walled=frozenset(names[-1:]))
    seen = Seen()

    def tell(name: str, what: str) -> None:
        seen.ended += what.startswith(ENDED)
        print(f"{time.strftime('%H:%M:%S')} {name} {what}", flush=True)

    def fault(name: str, what: str) -> None:
        seen.faults[what.split(",")[0].split(" ")[0]] += 1
        tell(name, what)

    async with open_network(plan, tell) as network:
        await network.wait_for_engines()
        async with NodeClient(network.nodes[names[0]].url) as publisher:
            for number, name in enumerate(ADAPTERS):
                await publisher.push(make_adapter(home / "made" / name, name, number + 1))
        async with trio.open_nursery() as beside:
            beside.start_soon(look, network, seen)
            planned = takewhile(
                lambda one: one.at_s < 60 * options.minutes,
                plan_faults(names[1:], seed=options.seed, every_s=options.every_s),
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_faults, network, planned, Random(options.seed), fault)
                nursery.start_soon(load, network, seen, options)
            tell("load", f"is over: {len(seen.receipts)} answers, {dict(seen.errors)}")
            placed = await settle(network, seen, names)
            beside.cancel_scope.cancel()
        verified = await verify(network)
    return judge(home, seen, placed, verified)


async def load(network: Network, seen: Seen, options: argparse.Namespace) -> None:
    """Ask the gateway as planned, however slow the answers are; return when all have ended."""
    began = trio.current_time()
    planned = plan_load(
        (*ADAPTERS, "base"),
        rate=options.rate,
        zipf=1.0,
        seconds=60 * options.minutes,
        seed=options.seed,
    )
    async with NodeClient(network.client.url) as client, trio.open_nursery() as nursery:
        for one in planned:
            await trio.sleep_until(began + one.at_s)
            nursery.start_soon(ask, client, one, seen)


async def ask(client: NodeClient, one: Planned, seen: Seen) -> None:
    """Ask one question; keep what it left."""
    try:
        answer = await client.ask(Asking(one.model, "hello"), max_tokens=24)
    except AskFailed as error:
        seen.errors[error.code or "failed"] += 1
        seen.said[NUMBER.sub("N", str(error))[:MAX_SAID]] += 1
    else:
        receipt = answer.facts["receipt"]
        if receipt is None:  # its node was lost behind the last token, and shows it later
            seen.settled_later += 1
        else:
            seen.receipts.append(receipt)


async def look(network: Network, seen: Seen) -> None:
    """Note each process's memory now and then, until cancelled."""
    while True:
        for name, node in network.nodes.items():
            pid = node.child.process.pid
            with suppress(OSError, StopIteration):  # it was just killed
                now = Look(trio.current_time(), resident_mb(pid))
                seen.memory.setdefault((name, pid), []).append(now)
        await trio.sleep(LOOK_S)


async def settle(network: Network, seen: Seen, names: list[str]) -> dict[str, ReceiptInfo]:
    """Wait until every receipt that the client saw is in a header; those of all volunteers."""
    found: dict[str, ReceiptInfo] = {}
    with trio.move_on_after(SETTLE_S):
        while True:
            for name in names:
                with suppress(AskFailed):
                    async with NodeClient(network.nodes[name].url) as client:
                        listed = await client.receipts()
                        found |= {one.digest: one for one in listed if one.role == "node"}
            placed = sum(one.state in PLACED for one in found.values())
            is_each = all(one in found and found[one].state in PLACED for one in seen.receipts)
            if is_each and placed >= len(seen.receipts) + seen.settled_later:
                break
            await trio.sleep(2.0)
    return found


async def verify(network: Network) -> int:
    """Have `lorikeet verify` recompute every epoch; its status."""
    command = [sys.executable, "-m", "node", "verify", "--home", str(network.client.member.home)]
    done = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)
    if done.returncode:
        print(done.stdout.decode(), done.stderr.decode(), flush=True)
    return done.returncode


def judge(home: Path, seen: Seen, placed: dict[str, ReceiptInfo], verified: int) -> dict[str, Any]:
    """Put the figures together."""
    for path in home.rglob("out*.log"):
        if found := TRACEBACK.search(path.read_text(errors="replace")):
            print(path, path.read_text(errors="replace")[found.start() :][:SHOWN_CHARACTERS])
    logs = [path for path in home.rglob("*") if re.fullmatch(r"out.*\.log|log(\.1)?", path.name)]
    tracebacks = {
        str(path.relative_to(home)): count
        for path in logs
        if (count := len(TRACEBACK.findall(path.read_text(errors="replace"))))
    }
    places = Counter((one.channel, one.sequence) for one in placed.values())
    unplaced = [
        one for one in seen.receipts if one not in placed or placed[one].state not in PLACED
    ]
    lives = {
        f"{name} ({pid})": looks
        for (name, pid), looks in seen.memory.items()
        if len(looks) >= MIN_LOOKS
    }
    return {
        "answers": len(seen.receipts) + seen.settled_later,
        "answers_settled_later": seen.settled_later,
        "receipts_in_a_header": sum(one.state in PLACED for one in placed.values()),
        "answers_failed": dict(seen.errors),
        "failed_most": dict(seen.said.most_common(5)),
        "faults": dict(seen.faults),
        "ended_by_themselves": seen.ended,
        "receipts_not_in_a_header": len(unplaced),
        "receipts_seen_twice": len(seen.receipts) - len(set(seen.receipts)),
        "places_signed_twice": sum(count > 1 for count in places.values()),
        "epochs_verified": verified == 0,
        "tracebacks": tracebacks,
        "most_mb": {
            name: max(look.mb for look in looks) for (name, _), looks in seen.memory.items()
        },
        "growth_mb": {name: round(grown(looks), 1) for name, looks in lives.items()},
        "slope_mb_an_hour": {
            name: round(slope(looks), 1)
            for name, looks in lives.items()
            if looks[-1].at_s - looks[0].at_s >= MIN_LIFE_S
        },
    }


def grown(looks: list[Look]) -> float:
    """How much more (MB) there was in the last fifth than in the second."""
    held = [look.mb for look in looks]
    part = len(held) // 5
    return median(held[-part:]) - median(held[part : 2 * part])


def slope(looks: list[Look]) -> float:
    """How fast a process grew once it was warm (MB an hour): the median over all pairs of looks, so
    that one request's peak counts for little.
    """
    warm = looks[round(WARM * len(looks)) :]
    return 3600 * median(
        (later.mb - look.mb) / (later.at_s - look.at_s) for look, later in combinations(warm, 2)
    )


def is_well(figures: dict[str, Any]) -> bool:
    """Whether everything is as it must be."""
    nothing = (
        "ended_by_themselves",
        "receipts_not_in_a_header",
        "receipts_seen_twice",
        "places_signed_twice",
    )
    return (
        0 < figures["answers"] <= figures["receipts_in_a_header"]
        and not any(figures[name] for name in nothing)
        and not figures["tracebacks"]
        and figures["epochs_verified"]
        and all(grew <= MAX_GROWTH_MB for grew in figures["growth_mb"].values())
        and all(grew <= MAX_SLOPE_MB for grew in figures["slope_mb_an_hour"].values())
    )


def main() -> None:
    """Run, write the result, and say whether it held."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--volunteers", type=int, default=5)
    parser.add_argument("--rate", type=float, default=1.0, help="questions a second")
    parser.add_argument("--every-s", type=float, default=2 * EVERY_S, help="between faults")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORIKEET_BASE_PATH"] = str(make_base(Path(folder) / "base"))
        figures = trio.run(soak, Path(folder) / "network", options)
    asked = {**vars(options), "expected": EXPECTED}
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    told = {**asked, "busy": busy, **figures, "held": is_well(figures)}
    print(json.dumps(told, indent=1))
    write_result("soak", told)
    sys.exit(0 if is_well(figures) else 1)


if __name__ == "__main__":
    main()
