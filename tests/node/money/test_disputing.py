"""A node sees that what it registered is disputed, and says until when its owner may answer."""

from __future__ import annotations

import trio

from node.doctor.running import tell_dispute
from node.money.disputing import Disputing
from node.money.heads import Heads
from node.telemetry import Telemetry
from proofs.hextext import to_hex
from tests.node.networks import until
from tests.proofs.chain.disputable import RULES, WEIGHTS, Disputable
from tests.proofs.chain.world import address, memory_world

INTERVAL_S = 0.02


def watch(scene: Disputable, name: str) -> Disputing:
    """A node of this name, which signs and pays by one key."""
    client = scene.world.client(name)
    registry = client.open_registry(scene.registry)
    heads = Heads(scene.world.rpc)
    return Disputing(client, registry, heads, Telemetry(), (address(name),))


async def test_an_owner_is_warned_while_he_can_do_something() -> None:
    scene = Disputable(memory_world(("payer", "other", "anybody"))[0])
    owner, stranger = watch(scene, "other"), watch(scene, "anybody")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.run, INTERVAL_S)
        nursery.start_soon(stranger.run, INTERVAL_S)
        for digest in (WEIGHTS.half, WEIGHTS.brain):
            await trio.to_thread.run_sync(scene.by("payer").open, digest)
        await until(lambda: len(owner.against_us) == 2)
        first = owner.describe()[0]
        assert (first["number"], first["weights"]) == (1, to_hex(WEIGHTS.half))
        assert first["challenger"] == to_hex(address("payer"))
        warned = owner.against_us[0]
        told = tell_dispute(warned, warned.dispute.until - 450)
        assert told.state == "wrong"
        assert "lost in 7 minutes" in told.what
        assert told.mend == "lorikeet registry answer 1 --key KEY, with 100.00 LORI"
        assert "once it is closed" in tell_dispute(warned, warned.dispute.until).mend

        await trio.to_thread.run_sync(scene.by("other").answer, 1)
        await until(lambda: owner.describe()[0]["state"] == "answered")
        assert tell_dispute(owner.against_us[0], 0.0).state == "note"
        scene.world.wait(RULES.answer_time)
        await trio.to_thread.run_sync(scene.by("anybody").close, 2)
        await until(lambda: not owner.against_us)
        assert stranger.describe() == []
        nursery.cancel_scope.cancel()
