"""Step 9: a separate hostile process gossips a tampered receipt and offers corrupted blocks; both
are caught, and it is named.
"""

from __future__ import annotations

import sys

import trio

from node.testnet.asking import Asking
from node.testnet.plan import BOOTSTRAP, NETWORK
from node.testnet.processes import Child, stop, wait_for_line

from . import cast
from .record import ClaimFailed, Step, require
from .scene import Scene

ATTACKER_READY_S = 60.0
CAUGHT_DEADLINE_S = 20.0
BAIT = "law"  # held by others too, so that the victim gets it all the same


async def show_attacks(scene: Scene, step: Step) -> None:
    """Start the attacker, look who caught it, end it."""
    attacker = start_attacker(scene)
    try:
        peer_id = (await wait_for_line(attacker, "attacker ", ATTACKER_READY_S)).split()[1]
        scene.stage.say(f"the attacker is …{peer_id[-8:]}, process {attacker.process.pid}")
        await wait_for_line(attacker, "advertising ", ATTACKER_READY_S)
        await show_corrupted_block(scene, step, peer_id)
        await wait_for_line(attacker, "listening", ATTACKER_READY_S)
        await scene.client.ask(Asking("base", cast.OVERHEARD_PROMPT), max_tokens=8)
        await wait_for_line(attacker, "gossiped", ATTACKER_READY_S)
        await show_tampered_receipt(scene, step, peer_id)
    finally:
        await stop([attacker])
        scene.network.children.remove(attacker)
    step.facts["attacker"] = peer_id


def start_attacker(scene: Scene) -> Child:
    """Another process of the network."""
    folder = scene.network.plan.home / "attacker"
    folder.mkdir(exist_ok=True)
    bootstrap = [
        address
        for name in (BOOTSTRAP, "aggregator")
        for address in scene.network.nodes[name].running.p2p[:1]
    ]
    command = [
        sys.executable,
        "-m",
        "demo.attacker",
        "--network",
        NETWORK,
        "--folder",
        str(folder / "blocks"),
    ]
    command += [
        "--adapter",
        scene.published[BAIT].cid,
        *(word for address in bootstrap for word in ("--bootstrap", address)),
    ]
    child = scene.network.launcher.start("attacker", command, folder / "out.log")
    scene.network.children.append(child)
    return child


async def show_corrupted_block(scene: Scene, step: Step, peer_id: str) -> None:
    """B pulls what the attacker offers, too: the bad block is named with its sender, the adapter
    comes whole from the others.
    """
    before = (await scene.nodes[cast.B].status()).counters.get("blocks_rejected", 0)
    report = await scene.nodes[cast.B].pull(BAIT)
    named = [(peer, cid, reason) for peer, cid, reason in report.rejected if peer == peer_id]
    require(
        named,
        f"{cast.B} named the attacker as sender of a bad block (it rejected"
        f" {list(report.rejected)})",
    )
    require(peer_id not in report.blocks_by_peer, "no block of the attacker was kept")
    require(report.cid == scene.published[BAIT].cid, "the adapter came all the same")
    after = (await scene.nodes[cast.B].status()).counters.get("blocks_rejected", 0)
    scene.stage.say(
        f"corrupted block: caught by {cast.B}, {named[0][2]}: block …{named[0][1][-8:]} from"
        f" …{peer_id[-8:]}"
    )
    scene.stage.say(
        "good blocks came from "
        + ", ".join(
            f"{scene.name_of(peer)} ({count})" for peer, count in report.blocks_by_peer.items()
        )
    )
    scene.record.figure("blocks_rejected", after - before)
    step.facts["bad_block"] = {"from": peer_id, "cid": named[0][1], "reason": named[0][2]}


async def show_tampered_receipt(scene: Scene, step: Step, peer_id: str) -> None:
    """Somebody's validator stops it, and nobody's ledger has it."""
    caught = await wait_for_rejection(scene, "receipt", peer_id)
    for name, reason in caught.items():
        scene.stage.say(f"tampered receipt: caught by {name}, {reason}: from …{peer_id[-8:]}")
    counts = [
        (await client.status()).counters.get("receipts_rejected", 0)
        for client in scene.nodes.values()
    ]
    scene.record.figure("receipts_rejected", sum(counts))
    step.facts["bad_receipt"] = {"from": peer_id, "caught_by": caught}


async def wait_for_rejection(scene: Scene, what: str, peer_id: str) -> dict[str, str]:
    """Which nodes rejected such a thing from that peer, and why."""
    with trio.move_on_after(CAUGHT_DEADLINE_S):
        while True:
            caught: dict[str, str] = {}
            for name, client in scene.nodes.items():
                told = (await client.status()).rejections
                caught.update(
                    (name, reason) for kind, peer, reason in told if (kind, peer) == (what, peer_id)
                )
            if caught:
                return caught
            await trio.sleep(0.3)
    raise ClaimFailed(f"nobody rejected the {what} of {peer_id} within {CAUGHT_DEADLINE_S:.0f} s")
