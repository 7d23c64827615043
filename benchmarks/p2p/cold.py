"""How long an adapter that a node has never seen takes to its first token, and what a neighbour
feels of it: `python -m benchmarks.p2p.cold [--adapters 12] [--base DIR_OR_GGUF]`.

One node publishes, another one has the engine and nothing else, a client names the second one and
asks for an adapter after the other, each of 4.8 MB and new to both. Each part is what the answer's
own timings say; `offer` is from the request to the node's offer. Then the same while the client
reads another stream from that node, whose longest gap is compared with one that nobody disturbs.
Figures of one machine and hour only.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from benchmarks import write_result
from engine.messages import Choosing
from node.api.answers import CompletionRequest, Delta, Ended, Started
from node.daemon import NodeDaemon
from node.running import read_running
from node.testnet.asking import NodeClient
from tests.node.networks import Lab, until

from .answers import GREEDY, NodeProcess, spread

SOURCE = Path(__file__).parents[2] / "adapters" / "law"
NEIGHBOUR_TOKENS = 400
READY_S = 300.0
PAUSE_S = 0.3
STRIDE_BYTES = 1 << 16


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=12)
    parser.add_argument("--base", default="", help="the one that came with the installation")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        trio.run(measure, Lab(Path(folder)), arguments.adapters, arguments.base, figures)
    print(json.dumps(figures, indent=1))
    write_result("p2p-cold", figures)


async def measure(lab: Lab, num_adapters: int, base: str, figures: dict[str, Any]) -> None:
    """Publish, ask for each alone, then for each beside a neighbour."""
    known = {
        "base_path": base,
        "publishers": (lab.identity("publisher").peer_id,),
        "engine_dtype": "auto",
        "engine_threads": 2,
    }
    async with (
        lab.daemon("bootstrap", role="bootstrap"),
        lab.daemon("gateway", role="gateway", **known) as gateway,
    ):
        publisher = NodeProcess(lab, "publisher", role="gateway", **known)
        node = NodeProcess(lab, "node", **known)
        try:
            names = await publish(lab, num_adapters)
            await until_answers(gateway, node)
            half = len(names) // 2
            alone = [await ask(gateway, name, node) for name in names[:half]]
            figures["first token of a never-seen adapter"] = summary(alone)
            figures["a neighbour's longest gap ms"] = await beside(gateway, node, names[half:])
            warm = [await ask(gateway, name, node) for name in names[:half]]
            figures["first token, asked again"] = summary(warm)
        finally:
            for each in (publisher, node):
                each.kill()


async def publish(lab: Lab, num_adapters: int) -> list[str]:
    """Have the publisher publish so many that differ."""
    home = lab.folder / "publisher"
    await until(lambda: read_running(home) is not None, READY_S)
    running = read_running(home)
    assert running is not None
    names = []
    async with NodeClient(running.http) as client:
        for number in range(num_adapters):
            names.append(f"law{number}")
            await client.push(make_variant(lab.folder / "made" / names[-1], names[-1], number))
    return names


def make_variant(folder: Path, name: str, number: int) -> Path:
    """The published example, a little different."""
    shutil.copytree(SOURCE, folder)
    path = folder / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    first = 8 + int.from_bytes(data[:8], "little")
    for at in range(first, len(data), STRIDE_BYTES):  # so that no block is as before
        data[at] ^= number + 1
    path.write_bytes(data)
    told = (folder / "lorikeet.toml").read_text().splitlines()
    told = [f'name = "{name}"' if line.startswith("name =") else line for line in told]
    (folder / "lorikeet.toml").write_text("\n".join(told) + "\n")
    return folder


async def until_answers(gateway: NodeDaemon, node: NodeProcess) -> None:
    """Wait until the node's engine answers."""
    await node.revive(gateway)
    with trio.fail_after(READY_S):
        while True:
            try:
                await ask(gateway, "base", node)
            except Exception:  # it is not up yet, in whatever way
                await trio.sleep(1.0)
            else:
                return


async def ask(gateway: NodeDaemon, model: str, node: NodeProcess) -> dict[str, float]:
    """One short answer; return its time line in milliseconds."""
    began = time.perf_counter()
    times: dict[str, float] = {}
    request = CompletionRequest(
        model, "What may the court do?", max_tokens=4, choosing=GREEDY, node=node.peer_id
    )
    with trio.fail_after(60):
        async with gateway.complete(request) as events:
            async for event in events:
                match event:
                    case Started():
                        times["offer"] = (time.perf_counter() - began) * 1000
                    case Ended():
                        times |= event.timings_ms
    await trio.sleep(PAUSE_S)
    return times


async def beside(gateway: NodeDaemon, node: NodeProcess, names: Sequence[str]) -> dict[str, object]:
    """The gaps of a long answer, alone and while new adapters are asked for."""
    quiet: list[float] = []
    await listen(gateway, node, quiet)
    disturbed: list[float] = []
    cold: list[dict[str, float]] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            while True:
                await listen(gateway, node, disturbed)

        nursery.start_soon(read)
        for name in names:
            cold.append(await ask(gateway, name, node))
        nursery.cancel_scope.cancel()
    return {
        "alone": spread(quiet),
        "while adapters arrive": spread(disturbed),
        "their first tokens": summary(cold),
    }


async def listen(gateway: NodeDaemon, node: NodeProcess, gaps: list[float]) -> None:
    """Note the times between the tokens of one long answer, in milliseconds."""
    last = math.nan
    request = CompletionRequest(
        "base",
        "Once upon a time",
        max_tokens=NEIGHBOUR_TOKENS,
        choosing=Choosing(1.0),
        seed=3,
        node=node.peer_id,
    )
    async with gateway.complete(request) as events:
        async for event in events:
            if isinstance(event, Delta):
                now = time.perf_counter()
                if not math.isnan(last):
                    gaps.append((now - last) * 1000)
                last = now


def summary(lines: Sequence[Mapping[str, float]]) -> dict[str, object]:
    """The median of every part, and the spread of the first token."""
    parts: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        for part, ms in line.items():
            parts[part].append(ms)
    medians = {part: round(statistics.median(times), 1) for part, times in parts.items()}
    return {"first token ms": spread(parts["first_token"]), "medians ms": medians}


if __name__ == "__main__":
    main()
