"""When an adapter is fetched ahead, by one node and among many."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock as Clock

from node.catalogue.demand import Demand
from node.catalogue.replicating import (
    BUSY_BYTES_PER_S,
    BYTES_PER_S,
    FILLED_S,
    QUIET_S,
    REPLICAS,
    GentleRate,
    Replicator,
)
from node.errors import AdapterError, EngineBusy, NoProvider
from node.telemetry import Telemetry
from p2p.cid import Cid
from p2p.errors import PeerTimeout

LAW, VERSE = Cid.of(b"law"), Cid.of(b"verse")
SIZE_BYTES = 5_000_000
ROOM_BYTES = 8 << 30


@dataclass
class World:
    """Who holds what, and what the network says of it."""

    holders: dict[Cid, set[str]] = field(default_factory=dict)
    fetch_s: float = 2.0
    error: Exception | None = None
    fetches: list[tuple[str, Cid, float]] = field(default_factory=list)
    looks: int = 0


@dataclass
class Node:
    """One node's view of it."""

    name: str
    world: World
    seed: int = 0
    idle_s: float = 100.0
    interval_s: float = 60.0

    def __post_init__(self) -> None:
        self.demand = Demand(trio.current_time)
        self.replicator = Replicator(
            self.demand,
            self,
            self,
            lambda: self.idle_s,
            Telemetry(stream=io.StringIO()),
            interval_s=self.interval_s,
            guest_bytes=ROOM_BYTES,
            random=random.Random(self.seed),
        )

    def wants(self, cid: Cid, *, pays: bool = True, num: int = 2) -> None:
        for number in range(num):
            self.demand.note(cid, f"client {number}", pays=pays)

    async def count_others(self, cid: Cid) -> int:
        self.world.looks += 1
        if isinstance(self.world.error, PeerTimeout):
            raise self.world.error
        return min(len(self.world.holders.get(cid, set()) - {self.name}), 8)

    async def fetch_ahead(self, cid: Cid) -> int:
        if self.world.error is not None:
            raise self.world.error
        self.world.fetches.append((self.name, cid, trio.current_time()))
        await trio.sleep(self.world.fetch_s)
        self.world.holders[cid].add(self.name)
        return SIZE_BYTES


async def test_what_is_wanted_and_thinly_held_is_fetched_most_wanted_first(
    autojump_clock: Clock,
) -> None:
    world = World({LAW: {"a"}, VERSE: {"a", "b"}})
    node = Node("me", world)
    node.wants(LAW)
    node.wants(VERSE, num=3)
    assert await node.replicator.look() == SIZE_BYTES
    assert await node.replicator.look() == SIZE_BYTES
    assert [cid for _, cid, _ in world.fetches] == [VERSE, LAW]
    assert await node.replicator.look() == 0, "it is here, and nobody asks any more"


@pytest.mark.parametrize("holders", [set(), {str(number) for number in range(REPLICAS)}])
async def test_what_nobody_has_or_enough_have_is_left(
    autojump_clock: Clock, holders: set[str]
) -> None:
    world = World({LAW: holders})
    node = Node("me", world)
    node.wants(LAW)
    assert await node.replicator.look() == 0
    assert world.fetches == []


async def test_nothing_is_looked_up_or_fetched_while_answers_run(autojump_clock: Clock) -> None:
    world = World({LAW: {"a"}})
    node = Node("me", world, idle_s=QUIET_S / 2)
    node.wants(LAW)
    with trio.move_on_after(300):
        await node.replicator.run()
    assert world.looks == 0
    node.idle_s = QUIET_S
    node.wants(LAW)
    with trio.move_on_after(120):
        await node.replicator.run()
    assert len(world.fetches) == 1


async def test_what_cannot_be_served_is_tried_once_and_what_is_away_again(
    autojump_clock: Clock,
) -> None:
    world = World({LAW: {"a"}}, error=AdapterError("tensor x.weight"))
    node = Node("me", world)
    node.wants(LAW)
    assert await node.replicator.look() == 0
    node.wants(LAW)
    assert node.demand.wanted() == []
    for error in (NoProvider("away"), EngineBusy("no room")):
        world.error = error
        world.holders[VERSE] = {"a"}
        node.wants(VERSE)
        assert await node.replicator.look() == 0
        assert node.demand.wanted() == [VERSE]


async def test_it_outlives_a_network_that_answers_nothing(autojump_clock: Clock) -> None:
    world = World({LAW: {"a"}}, error=PeerTimeout("nobody answered"))
    node = Node("me", world)
    node.wants(LAW)
    with trio.move_on_after(400):
        await node.replicator.run()
    assert world.looks > 2


async def test_it_fills_its_place_no_faster_than_its_time(autojump_clock: Clock) -> None:
    names = [Cid.of(b"%d" % number) for number in range(400)]
    world = World({cid: {"a"} for cid in names}, fetch_s=0.1)
    node = Node("me", world, interval_s=0.5)
    with trio.move_on_after(600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.replicator.run)
            for number in range(0, 400, 20):
                for cid in names[number : number + 20]:
                    node.wants(cid)
                await trio.sleep(25)
    most = ROOM_BYTES / FILLED_S * 600 / SIZE_BYTES
    assert most / 2 < len(world.fetches) <= most + 1


@pytest.mark.parametrize("seed", range(5))
async def test_among_many_nodes_enough_fetch_it_and_not_all(
    autojump_clock: Clock, seed: int
) -> None:
    world = World({LAW: {"the first"}})
    nodes = [Node(str(number), world, seed=1000 * seed + number) for number in range(40)]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            node.wants(LAW)
            nursery.start_soon(node.replicator.run)
        await trio.sleep(120)
        assert REPLICAS <= len(world.holders[LAW]) <= 3 * REPLICAS, "everybody was told"
        world.holders[LAW].discard("the first")
        world.holders[LAW] = set(sorted(world.holders[LAW])[:1])
        for node in nodes:
            node.wants(LAW)
        await trio.sleep(120)
        assert len(world.holders[LAW]) >= REPLICAS, "what its holders take with them comes back"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(3))
async def test_a_stranger_with_many_names_and_peers_has_nothing_fetched(
    autojump_clock: Clock, seed: int
) -> None:
    names = [Cid.of(b"%d" % number) for number in range(1000)]
    world = World({cid: {"his own node"} for cid in names})
    nodes = [Node(str(number), world, seed=seed + number) for number in range(3)]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.replicator.run)
            for number, cid in enumerate(names):
                for peer in range(8):
                    node.demand.note(cid, f"made up {number % 50} {peer}", pays=False)
        await trio.sleep(900)
        assert world.fetches == []
        nursery.cancel_scope.cancel()


async def test_its_rate_sinks_while_an_answer_runs(autojump_clock: Clock) -> None:
    idle_s = 5.0
    rate = GentleRate(0, lambda: idle_s)
    began = trio.current_time()
    quiet = rate.reserve(BYTES_PER_S) - began
    idle_s = 0.0
    busy = rate.reserve(BYTES_PER_S) - began - quiet
    assert busy == pytest.approx(BYTES_PER_S / BUSY_BYTES_PER_S)
    slow = GentleRate(1000, lambda: 5.0)
    assert slow.reserve(2000) - trio.current_time() == pytest.approx(2.0, abs=0.3)
