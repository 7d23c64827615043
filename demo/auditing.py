"""Step 12: three nodes answer what they did not compute. The auditor replays what it bought of
them, and the client, which has no engine, asks them last.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from node.api.verifying import AttestationInfo
from node.money.addresses import address_of_peer
from node.testnet.asking import Asking, NodeClient
from node.testnet.plan import BOOTSTRAP, write_config
from node.testnet.processes import Child, stop, wait_for_line
from proofs.hextext import to_hex

from . import cast
from .record import ClaimFailed, Step, require
from .scene import Scene

READY_S = 90.0
MET_S = 60.0
JUDGED_S = 8.0  # a round of answers; then the next
POLL_S = 0.1
AT_ONCE = 2
LOST = 0.01  # who counts less is asked last


@dataclass
class Suspect:
    """A node that is asked, and whether it computes: what its answers cost, and what the auditor
    says of them.
    """

    name: str
    peer_id: str
    is_honest: bool
    asked: int = 0
    paid: int = 0
    found: list[AttestationInfo] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Return its operator's address."""
        return to_hex(address_of_peer(self.peer_id))


async def show_cheats(scene: Scene, step: Step) -> None:
    """Start them, ask each like any node until the auditor knows, look who counts how much."""
    farm = start_cheats(scene)
    try:
        suspects = [
            Suspect(f"{how} node", peer_id, is_honest=False)
            for how, peer_id in [await find_ready(farm, how) for how in cast.CHEATS]
        ]
        suspects.append(Suspect(cast.C, scene.peer_id(cast.C), is_honest=True))
        before = await meet(scene, suspects)
        async with trio.open_nursery() as nursery:
            for suspect in suspects:
                nursery.start_soon(ask_until_judged, scene, suspect)
        after = await lose_weight(scene, suspects)
        show_table(scene, suspects, before, after)
        await check_honest(scene, suspects, after)
    finally:
        await stop([farm])
        scene.network.children.remove(farm)
    scene.record.figure("cheats_caught", sum(not one.is_honest for one in suspects))
    step.facts["suspects"] = {
        one.name: {
            "answers": one.asked,
            "outcomes": [word.outcome for word in one.found],
            "weight": [before[one.peer_id], after[one.peer_id]],
        }
        for one in suspects
    }


def start_cheats(scene: Scene) -> Child:
    """One more process, with three nodes in it, whose homes look like anybody's."""
    network = scene.network
    assert network.chain is not None
    bootstrap = [network.nodes[name].running.p2p[0] for name in (BOOTSTRAP, cast.A)]
    for member in network.plan.guests:
        write_config(network.plan.config_of(member, network.chain, bootstrap))
    command = [
        *(sys.executable, "-m", "demo.cheating", "--adapter", scene.published[cast.AUDITED].cid),
        *(f"{member.name}={member.home}" for member in network.plan.guests),
    ]
    child = network.launcher.start("cheats", command, network.plan.home / "cheats" / "out.log")
    network.children.append(child)
    return child


async def find_ready(farm: Child, how: str) -> tuple[str, str]:
    """A cheat, and its peer id once it serves."""
    return how, (await wait_for_line(farm, f"ready {how} ", READY_S)).split()[2]


async def meet(scene: Scene, suspects: list[Suspect]) -> dict[str, float]:
    """Wait until auditor and client are connected to all of them; how much each counts at the
    client.
    """
    with trio.move_on_after(MET_S):
        while True:
            here = await weights_at(scene.client)
            there = await weights_at(scene.nodes[cast.A])
            if all(one.peer_id in here and one.peer_id in there for one in suspects):
                wrong = [one.name for one in suspects if here[one.peer_id] != 1.0]
                require(not wrong, f"everybody counts alike at first (but {wrong})")
                return here
            await trio.sleep(POLL_S)
    raise ClaimFailed(f"not everybody met everybody within {MET_S:.0f} s")


async def weights_at(client: NodeClient) -> dict[str, float]:
    """How much each peer of a node counts there."""
    return {one.peer_id: one.weight for one in await client.peers()}


async def ask_until_judged(scene: Scene, suspect: Suspect) -> None:
    """Buy some answers, until replays of them have said what the node does."""
    prompts = iter(cast.AUDIT_PROMPTS)
    while asked := list(itertools.islice(prompts, AT_ONCE)):
        async with trio.open_nursery() as nursery:
            for prompt in asked:
                nursery.start_soon(buy, scene, suspect, prompt)
        with trio.move_on_after(JUDGED_S):
            await await_judgement(scene, suspect)
            return
    raise ClaimFailed(f"not so: {suspect.asked} answers of {suspect.name} say what it does")


async def buy(scene: Scene, suspect: Suspect, prompt: str) -> None:
    """One answer, paid like any."""
    answer = Asking(cast.AUDITED, prompt)
    await scene.nodes[cast.A].ask(
        answer,
        max_tokens=cast.AUDIT_TOKENS,
        lorikeet={"node": suspect.peer_id},
        **cast.AUDIT_SAMPLING,
    )
    require(answer.facts.get("receipt"), f"the answer of {suspect.name} left a receipt")
    suspect.asked += 1
    suspect.paid += answer.facts["amount"]


async def await_judgement(scene: Scene, suspect: Suspect) -> None:
    """Wait until the auditor knows; nobody tells when that is."""
    while True:
        if await is_judged(scene, suspect):
            return
        await trio.sleep(POLL_S)


async def is_judged(scene: Scene, suspect: Suspect) -> bool:
    """Whether the auditor knows: of an honest node by an answer that agrees, of others by one that
    differs, which takes their weight.
    """
    auditor = scene.nodes[cast.A]
    suspect.found = [one for one in await auditor.attestations() if one.node == suspect.address]
    if suspect.is_honest or not suspect.found:
        return bool(suspect.found)
    return (await weights_at(auditor)).get(suspect.peer_id, 1.0) < LOST


async def lose_weight(scene: Scene, suspects: list[Suspect]) -> dict[str, float]:
    """Wait until the client has heard; how much each counts now."""
    with trio.move_on_after(JUDGED_S):
        while True:
            weights = {one.peer_id: 1.0 for one in suspects} | await weights_at(scene.client)
            if all(one.is_honest or weights[one.peer_id] < LOST for one in suspects):
                return weights
            await trio.sleep(POLL_S)
    raise ClaimFailed(f"not so: within {JUDGED_S:.0f} s the client asks every cheat last")


def show_table(
    scene: Scene, suspects: list[Suspect], before: Mapping[str, float], after: Mapping[str, float]
) -> None:
    """What each was paid, what its answers miss by at worst, and what that cost it."""
    rows = []
    for one in suspects:
        worst = max(one.found, key=lambda word: word.score - word.limit)
        rows.append(
            (
                one.name,
                str(one.asked),
                cast.money(one.paid),
                f"{worst.score:.4f} of {worst.limit:.4f}",
                worst.outcome,
                f"{before[one.peer_id]:.2f} → {after[one.peer_id]:.2f}",
            )
        )
    scene.stage.table(
        ("node", "answers", "paid", "missed by, of allowed", "replayed", "weight at the client"),
        rows,
    )


async def check_honest(scene: Scene, suspects: list[Suspect], after: Mapping[str, float]) -> None:
    """Nobody honest lost anything, and the client asks one of them."""
    for one in suspects:
        if one.is_honest:
            require({word.outcome for word in one.found} == {"agrees"}, f"{one.name} computes")
            require(after[one.peer_id] == 1.0, f"{one.name} counts as before")
    cheats = {one.peer_id for one in suspects if not one.is_honest}
    answer = Asking(cast.AUDITED, cast.AUDIT_PROMPTS[0])
    await scene.client.ask(answer, max_tokens=8)
    server = answer.facts["served_by"]
    require(server not in cheats, "the client asks an honest node")
    scene.stage.say(
        f"{cast.A} replayed what it bought and told the client, which has no engine and took its"
        f" word; asked for {cast.AUDITED} again, the client goes to {scene.name_of(server)}"
    )
