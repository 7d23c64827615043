"""The demo's story: fourteen steps in order.

What each step shows and checks stands in serving, tracing, paying, attacking, stealing, auditing
and surviving.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import trio

from node.testnet.network import Network, open_network
from node.testnet.plan import make_member, plan_network
from node.testnet.processes import find_marked
from node.testnet.standing import advice
from proofs.chain.deploy import DEVELOPMENT_TERMS

from .attacking import show_attacks
from .auditing import show_cheats
from .cast import ADAPTERS, CHEATS, A, C, creator_of
from .paying import show_payouts
from .record import Record, Step, require
from .scene import Scene, open_scene
from .serving import (
    show_adapters,
    show_base,
    show_cold_start,
    show_network,
    show_shared_batches,
    show_side_by_side,
)
from .stage import Stage
from .stealing import show_exits, show_theft
from .surviving import show_survival
from .tracing import show_words

NUM_VOLUNTEERS = 3
EPOCH_S = 6.0
CONNECT_S = 1.0
Act = Callable[[Scene, Step], Awaitable[None]]

FIRST = "A network of processes: chain, bootstrap node, aggregator, three volunteers, a client"
LAST = "It ends and leaves nothing behind"
LAST_KEPT = "It stays up"


def acts(adapters: Path) -> list[tuple[str, Act]]:
    """What happens between the start and the end."""
    return [
        ("One base model, loaded once by each engine", show_base),
        (
            "Four adapters, on volunteers that hold different ones",
            partial(show_adapters, root=adapters),
        ),
        (
            "One prompt through the base and two adapters, found by name and streamed",
            show_side_by_side,
        ),
        (
            "A node without adapters is asked for one: it fetches, verifies, loads and answers",
            show_cold_start,
        ),
        (
            "All adapters, two of them in one answer, and the base share batches in one engine",
            show_shared_batches,
        ),
        ("Whose words an answer drew on, and the split that follows from them", show_words),
        ("Vouchers, receipts, an epoch on the chain, and claims", show_payouts),
        ("Two attacks, both caught and named", show_attacks),
        ("The aggregator steals: one watcher convicts it, and its bond is paid out", show_theft),
        ("With no aggregator left, answers are paid all the same", show_exits),
        (
            "Three nodes send what they did not compute, and are asked last from then on",
            show_cheats,
        ),
        ("A node is killed in the middle of an answer, and the answer goes on", show_survival),
    ]


NUM_STEPS = 14


async def tell(home: Path, adapters: Path, stage: Stage, record: Record, *, keep: bool) -> None:
    """The whole story into `record`.

    The network ends whatever happens, unless it is to be kept and all went well.
    """
    async with AsyncExitStack() as stack:
        network = await begin(stack, home, stage, record, keep=keep)
        if network is None:
            return
        async with open_scene(network, stage, record) as scene:
            for number, (name, act) in enumerate(acts(adapters), start=2):
                await perform(scene, number, name, act)
        if keep and all(step.ok for step in record.steps):
            await perform(scene, NUM_STEPS, LAST_KEPT, show_staying)
            if not record.ok:
                await network.stop()
            return
        await perform(scene, NUM_STEPS, LAST, show_nothing_left)


async def begin(
    stack: AsyncExitStack, home: Path, stage: Stage, record: Record, *, keep: bool
) -> Network | None:
    """Start the network; None when it did not come up."""
    publishers = [creator_of(name).peer_id for name in ADAPTERS]
    plan = plan_network(home, NUM_VOLUNTEERS, publishers, EPOCH_S)
    guests = tuple(make_member(home / how, how, "volunteer") for how in CHEATS)
    plan = replace(plan, walled=frozenset({C}), guests=guests, auditor=A)
    plan = replace(plan, answer_time_s=DEVELOPMENT_TERMS.answer_time)  # claims follow in seconds
    with stepping(stage, record, 1, FIRST) as step:
        network = await stack.enter_async_context(
            open_network(plan, partial(progress, stage), keep=keep)
        )
        assert network.chain is not None
        record.chain |= {"rpc": network.chain.rpc, "settlement": network.chain.settlement}
        await show_network(network, stage, step)
        return network
    return None


async def perform(scene: Scene, number: int, name: str, act: Act) -> None:
    """One step; a failure is shown and recorded, and the next step is tried."""
    with stepping(scene.stage, scene.record, number, name) as step:
        await act(scene, step)


@contextmanager
def stepping(stage: Stage, record: Record, number: int, name: str) -> Iterator[Step]:
    """Show and record a step.

    Swallows its errors, which are in the record; never a cancellation.
    """
    stage.begin(number, name)
    try:
        with record.step(name) as step:
            yield step
    except Exception:  # the record has it; the other steps are shown all the same
        stage.end(ok=False, seconds=step.seconds, error=step.error)
    else:
        stage.end(ok=True, seconds=step.seconds)


def progress(stage: Stage, name: str, state: str) -> None:
    """One process on its way."""
    stage.say(f"{name:<12} {state}", dim=True)


async def show_staying(scene: Scene, step: Step) -> None:
    """Everything but the convicted aggregator runs on, the node that was killed as well; what to
    try.
    """
    await scene.network.revive()
    running = [child for child in scene.network.children if child.is_running]
    require(len(running) == len(scene.network.children), "every process runs")
    scene.stage.say("nobody aggregates any more, so every node settles its channels by itself")
    scene.record.figure("processes_left", len(find_marked(scene.network.launcher.mark)))
    scene.stage.give(advice(scene.network, list(ADAPTERS)))


async def show_nothing_left(scene: Scene, step: Step) -> None:
    """No process carries the network's mark, nobody listens where they listened."""
    await scene.network.stop()
    left = find_marked(scene.network.launcher.mark)
    scene.record.figure("processes_left", len(left))
    require(not left, f"no process is left (found {left})")
    urls = [scene.record.chain["rpc"], *(node.url for node in scene.network.nodes.values())]
    open_ports = [url for url in urls if await trio.to_thread.run_sync(is_listening, url)]
    require(not open_ports, f"no port is left open (found {open_ports})")
    scene.stage.say(
        f"{len(scene.network.children)} processes ended, 0 left; {len(urls)} ports closed"
    )


def is_listening(url: str) -> bool:
    """Whether somebody accepts connections there."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname, parts.port), CONNECT_S):
            return True
    except OSError:
        return False
