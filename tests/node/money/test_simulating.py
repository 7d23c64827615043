"""What a proposal would have made of the past, as a node tells it without verifying anew."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from node.errors import BadRequest, NodeError
from node.money.audit import Audit
from node.money.simulating import Simulating
from proofs.chain.structs import PostedHeader
from proofs.hindsight import simulate
from proofs.history import History
from proofs.parameters import NODE_SHARE
from tests.golden.epochs import MANIFESTS, epochs
from tests.golden.receipts import POLICIES, VERSIONS
from tests.golden.world import NETWORK, OWNER
from tests.node.twin import PROPOSAL
from tests.p2p.helpers import eventually

CHANGES = ((NODE_SHARE, 5_000),)
BATCHES = [bytes.fromhex(one["batch"]) for one in epochs()["epochs"]]


class World:
    """Two epochs that a mirror recomputed, and proposal 7 to change the parts of the roles."""

    def __init__(self) -> None:
        history = History(NETWORK)
        self.blocks: dict[bytes, bytes] = dict(MANIFESTS)
        self.audit = Audit(history, versions=VERSIONS)
        for at, batch in enumerate(BATCHES):
            header = history.append(batch, MANIFESTS, policies=POLICIES).header
            self.blocks[header.batch_digest] = batch
            self.audit.posted.append(PostedHeader(header, bytes(32), at, at))
        self.proposal = replace(PROPOSAL, changes=CHANGES)
        self.num_walks = 0
        self.read = 0
        self.waits = 0
        self.let = trio.Event()
        self.let.set()

    def simulating(self) -> Simulating:
        governance = SimpleNamespace(find=lambda number: self.proposal if number == 7 else None)
        chain: Any = SimpleNamespace(network=NETWORK, settlement=self)
        decisions: Any = SimpleNamespace(governance=governance, versions=lambda: VERSIONS)
        mirror: Any = SimpleNamespace(history=self.audit.history)
        return Simulating(chain, decisions, mirror, self, [OWNER])  # type: ignore[arg-type]

    def headers(self) -> list[PostedHeader]:
        self.num_walks += 1
        return self.audit.posted

    def find(self, digest: bytes) -> bytes | None:
        return None  # so that every batch is asked for

    async def batch(self, digest: bytes) -> bytes:
        self.waits += 1
        await self.let.wait()
        self.read += 1
        return self.blocks[digest]

    def expected(self) -> Any:
        """What the command finds, which verifies all."""
        again = Audit(History(NETWORK), versions=VERSIONS)
        decisions: Any = SimpleNamespace(named_in=lambda _began_at: POLICIES)
        for posted in self.audit.posted:
            again.append(posted, self.blocks.__getitem__, decisions)
        last = again.posted[-1].header
        return simulate(again.settled(), dict(CHANGES), NETWORK, last=last, versions=again.versions)


async def test_a_node_finds_what_the_command_finds_and_remembers_it() -> None:
    world = World()
    simulating = world.simulating()
    told = await simulating.show("7")
    expected = world.expected()
    assert (told.answers, told.paid, told.would_pay) == (
        expected.found.receipts,
        expected.found.paid,
        expected.found.would_pay,
    )
    assert told.epochs == 2
    assert told.num_accounts == len(expected.found.lines) > 3
    by_account = {one.account: one for one in told.accounts}
    (own,) = told.own
    assert own == by_account[own.account]
    assert own.would_earn != own.earned
    (change,) = told.changes
    assert (change.name, change.then, change.refused) == (NODE_SHARE, "5000", "")
    assert await simulating.show("7") == told
    assert world.num_walks == 1, "by its content it is known"
    world.proposal = replace(world.proposal, changes=((NODE_SHARE, 5_500),))
    assert (await simulating.show("7")).digest != told.digest
    assert world.num_walks == 2


async def test_the_simulation_that_its_text_names_is_recognised() -> None:
    world = World()
    digest = (await world.simulating().show("7")).digest
    world.proposal = replace(world.proposal, description=f"# Why\n\nsimulation: {digest}")
    assert (await world.simulating().show("7")).is_named


async def test_what_nobody_waits_for_any_more_ends_and_the_next_one_begins() -> None:
    world = World()
    world.let = trio.Event()
    simulating = world.simulating()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(simulating.show, "7")
        await eventually(lambda: world.waits == 1)
        nursery.cancel_scope.cancel()
    world.let.set()
    await eventually(lambda: world.read == 1)
    assert (await simulating.show("7")).epochs == 2
    assert world.read == 3, "the first one went on to no other batch"


async def test_what_cannot_be_simulated_says_why() -> None:
    world = World()
    for number in ("8", "seven", "9" * 5_000):
        with pytest.raises(BadRequest, match="gov list"):
            await world.simulating().show(number)
    world.audit.posted.pop()
    with pytest.raises(NodeError, match="took epochs back"):
        await world.simulating().show("7")
    world.proposal = replace(world.proposal, changes=None)
    with pytest.raises(BadRequest, match="sets no parameter"):
        await world.simulating().show("7")
    world.audit.history = History(NETWORK)
    world.proposal = replace(world.proposal, changes=CHANGES)
    with pytest.raises(BadRequest, match="no epoch"):
        await world.simulating().show("7")
