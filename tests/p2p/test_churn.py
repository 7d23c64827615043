"""Hosts, of which the oldest leaves and a new one joins, again and again: every newcomer finds and
fetches, and nothing of those that left stays behind.
"""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio_typing import TaskStatus

from p2p.blocks import BlockStore, fetch_block, serve_blocks
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from p2p.names import sign_name

from .helpers import eventually

CREATOR = Identity.from_secret(bytes(range(1, 33)))
BLOCK = bytes(range(256)) * 100


@dataclass
class Member:
    """A host of the network, until it is told to leave."""

    host: Host
    leave: trio.Event
    has_left: trio.Event


class Swarm:
    """Hosts that come and go; the bootstrap host stays."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.members: list[Member] = []
        self.num_joined = 0
        self.num_fetched = 0
        self._nursery = nursery

    async def join(self) -> Member:
        meet = (self.members[0].host.addresses[0],) if self.members else ()
        self.members.append(await self._nursery.start(run_member, meet))
        self.num_joined += 1
        return self.members[-1]

    async def leave(self, index: int) -> str:
        member = self.members.pop(index)
        member.leave.set()
        await member.has_left.wait()
        return member.host.peer_id

    async def fetch_as(self, member: Member) -> None:
        """Find by name, fetch, and serve on: those who had it before will be gone."""
        host = member.host
        store = BlockStore(self.folder / host.peer_id)
        record = await host.dht.find_name(CREATOR.peer_id, "law", deadline_s=60)
        assert record is not None
        providers = await host.dht.find_providers(record.target, deadline_s=60)
        assert providers
        data = await fetch_block(
            host, store, record.target, len(BLOCK), providers=providers, deadline_s=60
        )
        assert data == BLOCK
        serve_blocks(host, store)
        await eventually(lambda: host.dht.provide(record.target))
        self.num_fetched += 1


async def run_member(meet: tuple[str, ...], task_status: TaskStatus[Member]) -> None:
    async with open_host(Identity.generate(), NetworkConfig(bootstrap=meet)) as host:
        member = Member(host, trio.Event(), trio.Event())
        task_status.started(member)
        await member.leave.wait()
    member.has_left.set()


async def run_swarm(
    folder: Path,
    num_hosts: int,
    num_joins: int = 0,
    minutes: float = 0.0,
    patience_s: float = 60.0,
    pace_s: float = 0.0,
) -> None:
    """Let hosts come and go, one in `pace_s` at most, then see what is still known of those that
    left.
    """
    async with trio.open_nursery() as nursery:
        swarm = Swarm(folder, nursery)
        await publish(swarm, num_hosts)
        left = set()
        until = trio.current_time() + 60 * minutes
        while swarm.num_fetched < num_joins or trio.current_time() < until:
            next_at = trio.current_time() + pace_s
            await swarm.fetch_as(await swarm.join())
            left.add(await swarm.leave(1))
            await trio.sleep_until(next_at)
        first = swarm.members[0].host
        table = first.dht._kademlia.routing_table
        for peers in (table.get_peer_ids, first._library.peerstore.peer_ids):
            await eventually(lambda peers=peers: not left & set(map(str, peers())), patience_s)
        assert swarm.num_fetched == swarm.num_joined - num_hosts
        while swarm.members:
            await swarm.leave(-1)


async def publish(swarm: Swarm, num_hosts: int) -> None:
    """Some hosts, one of which has something and named it."""
    for _ in range(num_hosts):
        await swarm.join()
    store = BlockStore(swarm.folder / "first")
    cid = store.put(BLOCK)
    publisher = swarm.members[1].host
    serve_blocks(publisher, store)
    record = sign_name(CREATOR, "law", int(time.time()), cid)
    await eventually(lambda: publisher.dht.provide(cid))
    await eventually(lambda: publisher.dht.put_name(record))


async def test_newcomers_find_and_fetch_while_the_oldest_leave(tmp_path, monkeypatch):
    monkeypatch.setattr("p2p.routing.PROBE_INTERVAL_S", 1)
    monkeypatch.setattr("p2p.routing.STRANGER_S", 1)
    monkeypatch.setattr("p2p.meeting.KEEP_IN_TOUCH_S", 0.5)
    await run_swarm(tmp_path, num_hosts=4, num_joins=4)


@pytest.mark.slow
async def test_twenty_minutes_of_coming_and_going_leave_nothing_behind(tmp_path):
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    tasks = trio.lowlevel.current_statistics().tasks_living
    await run_swarm(tmp_path, num_hosts=8, minutes=20, patience_s=700, pace_s=3.0)
    await trio.sleep(5)
    gc.collect()
    assert trio.lowlevel.current_statistics().tasks_living <= tasks + 3
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 3
