"""Some hosts of a network that gossips, in a process of their own: `python -m tests.p2p.gossipers
NUM_HOSTS NUM_BAD REPLACE_S [BOOTSTRAP]`.

Prints the first one's address; says things from the first line on stdin until the second; then
prints what each host said and heard, and ends. Bad hosts say what others must reject, and pass on
all. Now and then an honest one leaves and a newcomer takes its place.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import dataclass, field

import trio

from benchmarks.p2p.lookups import until_acquainted
from p2p.gossip import Verdict
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity

TOPIC = "sayings"
SAY_EVERY_S = {"good": 40.0, "bad": 10.0}  # each host, at random around that
LATE_S = 6.0  # after the end, for what is under way


@dataclass
class Member:
    """What one host said and heard, by Unix time."""

    peer_id: str
    is_bad: bool
    since: float
    until: float = float("inf")
    said: dict[str, float] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    bad_from: list[str] = field(default_factory=list)  # who handed on what must be rejected


class Crowd:
    """The hosts of this process."""

    def __init__(self, bootstrap: str) -> None:
        self.members: list[Member] = []
        self.bootstrap = bootstrap
        self.is_on = trio.Event()
        self.is_over = trio.Event()

    async def live(self, is_bad: bool, leave: trio.Event, task_status=trio.TASK_STATUS_IGNORED):
        """One host's life."""
        config = NetworkConfig(bootstrap=(self.bootstrap,) if self.bootstrap else ())
        async with open_host(Identity.generate(), config) as host, trio.open_nursery() as nursery:
            self.bootstrap = self.bootstrap or host.addresses[0]
            member = Member(host.peer_id, is_bad, time.time())
            self.members.append(member)
            await self._listen(host, member, nursery)
            await until_acquainted(host)
            task_status.started()
            if is_bad:
                nursery.start_soon(self._say, host, member, "bad")
            nursery.start_soon(self._say, host, member, "good")
            await leave.wait()
            member.until = time.time()
            nursery.cancel_scope.cancel()

    async def _listen(self, host: Host, member: Member, nursery: trio.Nursery) -> None:
        judge = host.gossip._pubsub._judge

        async def judge_and_note(topic, data, from_peer, forwarder):
            if data.startswith(b"bad"):
                member.bad_from.append(forwarder)
            return await judge(topic, data, from_peer, forwarder)

        def validate(data: bytes, from_peer: str) -> Verdict:
            is_fine = member.is_bad or not data.startswith(b"bad")
            return Verdict.ACCEPT if is_fine else Verdict.REJECT

        host.gossip._pubsub._judge = judge_and_note
        channel = await host.gossip.subscribe(TOPIC, validate)

        async def hear() -> None:
            async for message in channel:
                member.heard.setdefault(message.data.decode(), time.time())

        nursery.start_soon(hear)

    async def _say(self, host: Host, member: Member, kind: str) -> None:
        await self.is_on.wait()
        draw = random.Random(host.peer_id + kind)
        while not self.is_over.is_set():
            with trio.move_on_after(draw.uniform(0.2, 2.0) * SAY_EVERY_S[kind]):
                await self.is_over.wait()
                return
            saying = f"{kind} {len(member.said)} of {member.peer_id}"
            await host.gossip.publish(TOPIC, saying.encode())
            member.said[saying] = time.time()


async def main(num_hosts: str, num_bad: str, replace_s: str, bootstrap: str = "") -> None:
    crowd = Crowd(bootstrap)
    async with trio.open_nursery() as nursery:
        leaves = [trio.Event() for _ in range(int(num_hosts))]
        for number, leave in enumerate(leaves):
            await nursery.start(crowd.live, number >= int(num_hosts) - int(num_bad), leave)
        print(crowd.bootstrap, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        crowd.is_on.set()
        nursery.start_soon(wait_for_line, crowd.is_over)
        honest = leaves[1 : len(leaves) - int(num_bad)]
        while not crowd.is_over.is_set():
            with trio.move_on_after(float(replace_s)):
                await crowd.is_over.wait()
                break
            honest.pop(0).set()
            honest.append(trio.Event())
            await nursery.start(crowd.live, False, honest[-1])
        await trio.sleep(LATE_S)
        for leave in (*leaves, *honest):
            leave.set()
    print(json.dumps([vars(member) for member in crowd.members]), flush=True)


async def wait_for_line(is_over: trio.Event) -> None:
    await trio.to_thread.run_sync(sys.stdin.readline)
    is_over.set()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
