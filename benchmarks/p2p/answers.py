"""Whether answers survive their node, and what a slow one costs:
`python -m benchmarks.p2p.answers [--kills 200] [--asks 300]`.

1. Two nodes are up; the one that answers is killed (SIGKILL, with its engine) after its first
   tokens. How long until the next token, and is the text the one of an unbroken answer?
2. Four nodes, one of which is stopped for most of the time: how long until the first token, where
   nodes quote first and a second one is asked when the first is late, and where that is not done.

Nodes are daemons of their own with real engines over a tiny base; answers are greedy. Figures of
one machine and hour only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from benchmarks import write_result
from engine.messages import Choosing
from node.answering.choosing import Chooser
from node.answering.router import Router, There
from node.api.answers import CompletionRequest, Continued, Delta, Ended, Started
from node.config import CONFIG_FILE, dump_config
from node.daemon import NodeDaemon
from node.errors import NodeError
from node.wire.quote import AskQuote
from p2p.cid import Cid
from p2p.peers import PeerAddress
from tests.node.networks import Lab, open_lab, until

GREEDY = Choosing(0.0)
LONG = 900
READY_S = 120.0
STOPPED_S = 0.4  # of each half second, for a node that is slow
RUNNING_S = 0.1


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="0: only the second part")
    parser.add_argument("--asks", type=int, default=300)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, open_lab(Path(folder)) as lab:
        trio.run(measure, lab, arguments.kills, arguments.asks, figures)
    print(json.dumps(figures, indent=1))
    write_result("p2p-answers", figures)


async def measure(lab: Lab, kills: int, asks: int, figures: dict[str, Any]) -> None:
    """Both parts, in one network."""
    async with (
        lab.daemon("bootstrap", role="bootstrap"),
        lab.daemon("gateway", role="gateway") as gateway,
    ):
        if kills:
            figures["killed"] = await survive(lab, gateway, kills)
        figures["one slow node of four"] = await race(lab, gateway, asks)


# --- a node is killed ---


async def survive(lab: Lab, gateway: NodeDaemon, kills: int) -> dict[str, Any]:
    """Kill whoever answers, again and again."""
    gaps_ms = []
    same = 0
    with open_nodes(lab, ("one", "two")) as both:
        nodes = {each.peer_id: each for each in both}
        await wait_served(gateway, both)
        whole = (await ask(gateway)).token_ids
        for _ in range(kills):
            asked = await ask(gateway, on_first=lambda peer_id: nodes[peer_id].kill())
            if asked.has_moved:  # else its last token was on its way already
                same += asked.token_ids == whole
                gaps_ms.append(asked.ended.timings_ms["resume"])
            for each in both:
                await each.revive(gateway)
    return {
        "kills in the middle": len(gaps_ms),
        "went on with the same text": same,
        "next token ms": spread(gaps_ms),
    }


# --- a node is slow ---


async def race(lab: Lab, gateway: NodeDaemon, asks: int) -> dict[str, Any]:
    """The same requests with quotes and a second node, with a second node alone, with neither."""
    own = gateway.host.peer_id
    sides = {
        "quotes, and a second node": Router(own, has_engine=False),
        "a second node": Unquoted(own, has_engine=False),
        "neither": Patient(own, has_engine=False),
    }
    found: dict[str, list[float]] = {side: [] for side in sides}
    with open_nodes(lab, ("a", "b", "c", "slow")) as nodes:
        await wait_served(gateway, nodes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nodes[-1].stutter)
            for _ in range(asks):
                for side, router in sides.items():
                    use(gateway, router)
                    asked = await ask(gateway, max_tokens=4)
                    found[side].append(asked.first_s * 1000)
            nursery.cancel_scope.cancel()
    return {f"first token ms, {side}": spread(times) for side, times in found.items()}


def use(gateway: NodeDaemon, router: Router) -> None:
    """Have a gateway choose by another router."""
    assert gateway._service is not None
    service = gateway._service
    service._router = router
    service._chooser = Chooser(service._catalogue, router, service._peers, service._telemetry)


class Unquoted(Router):
    """Asks for no quotes."""

    def unasked(
        self, candidates: Sequence[PeerAddress], adapter: bytes, now_s: float
    ) -> list[PeerAddress]:
        """Ask nobody."""
        return []

    def choose(
        self,
        candidates: Sequence[PeerAddress],
        wanted: AskQuote,
        now_s: float,
        *,
        paid: Collection[str],
    ) -> There:
        """Keep the order."""
        return There(tuple(candidates))


class Patient(Unquoted):
    """Knows nothing of how fast nodes are."""

    def rank(
        self, candidates: Iterable[PeerAddress], connected: Collection[str], now_s: float
    ) -> There:
        """Put them in any order."""
        peers = [peer for peer in candidates if peer.peer_id != self.own_peer_id]
        return There(tuple(random.sample(peers, len(peers))))

    def patience(self, peer_id: str, now_s: float) -> float:
        """Wait for whoever was asked."""
        return math.inf


# --- nodes and requests ---


class NodeProcess:
    """`python -m node up`, with its engine, in a session of its own."""

    def __init__(self, lab: Lab, name: str, **changes: Any) -> None:
        config = lab.config(name, http_port=0, **changes)
        config.home.mkdir(parents=True, exist_ok=True)
        (config.home / CONFIG_FILE).write_text(dump_config(config))
        self.peer_id = lab.identity(name).peer_id
        self._command = [sys.executable, "-m", "node", "up", "--home", str(config.home)]
        self.start()

    def start(self) -> None:
        """Begin, or begin again."""
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def signal(self, number: int) -> None:
        """Send a signal to the daemon and its engine."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End both as a power cut would."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    async def revive(self, gateway: NodeDaemon) -> None:
        """Start it again if it ended, and wait until its engine answers."""
        if self.process.poll() is None:
            return
        self.start()
        with trio.fail_after(READY_S):
            while True:
                try:
                    await ask(gateway, node=self.peer_id, max_tokens=1)
                except NodeError:
                    await trio.sleep(0.1)
                else:
                    return

    async def stutter(self) -> None:
        """Stop for most of the time, until cancelled."""
        try:
            while True:
                self.signal(signal.SIGSTOP)
                await trio.sleep(STOPPED_S)
                self.signal(signal.SIGCONT)
                await trio.sleep(RUNNING_S)
        finally:
            self.signal(signal.SIGCONT)


@contextmanager
def open_nodes(lab: Lab, names: Sequence[str]) -> Iterator[list[NodeProcess]]:
    """Nodes that run until the block ends."""
    nodes = [NodeProcess(lab, name) for name in names]
    try:
        yield nodes
    finally:
        for each in nodes:
            if each.process.poll() is None:
                each.kill()


async def wait_served(gateway: NodeDaemon, nodes: Sequence[NodeProcess]) -> None:
    """Wait until the network names all of them as providers of the base."""
    base = Cid(bytes.fromhex((await gateway.status()).base.split()[-1]))
    wanted = {each.peer_id for each in nodes}

    async def are_found() -> bool:
        return wanted <= {each.peer_id for each in await gateway.host.dht.find_providers(base)}

    await until(are_found, READY_S)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile, and the highest."""
    ordered = sorted(times)
    places = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "most": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[math.ceil(part * last)], 1) for name, part in places.items()}


class Asked:
    """What one answer brought."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.has_moved = False
        self.first_s = math.nan
        self.ended: Any = None


async def ask(
    gateway: NodeDaemon,
    on_first: Callable[[str], None] | None = None,
    *,
    max_tokens: int = LONG,
    node: str | None = None,
) -> Asked:
    """One greedy answer; `on_first` hears who answers, with the first tokens."""
    asked = Asked()
    began = time.perf_counter()
    request = CompletionRequest("base", "hello", max_tokens=max_tokens, choosing=GREEDY, node=node)
    by = ""
    with trio.fail_after(120):
        async with gateway.complete(request) as events:
            async for event in events:
                match event:
                    case Started():
                        by = event.served_by
                    case Continued():
                        asked.has_moved = True
                    case Delta():
                        if not asked.token_ids:
                            asked.first_s = time.perf_counter() - began
                            if on_first is not None:
                                on_first(by)
                        asked.token_ids += event.token_ids
                    case Ended():
                        asked.ended = event
    return asked


if __name__ == "__main__":
    main()
