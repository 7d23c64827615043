"""Daemons to be spoken to with spoilt messages, in a process of their own: `python -m
tests.fuzz.target FOLDER [chain]`.

Prints one JSON line when they are up: each one's addresses, its base, and what it serves. For each
line on stdin it prints what it holds then: tasks, descriptors, peers, streams, memory. Ends
when stdin does. Without `chain` one volunteer that asks for nothing; with it also an aggregator and
a witness.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from node.daemon import NodeDaemon
from p2p.host import Host
from tests.node.networks import Lab, open_lab

LISTEN = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")


def describe(name: str, daemon: NodeDaemon) -> dict[str, Any]:
    """What an attacker knows of a daemon."""
    host = daemon.host
    return {
        "name": name,
        "peer_id": host.peer_id,
        "addresses": list(host.addresses),
        "protocols": list(host._library.protocols_served()),
        "topics": sorted(host.gossip._subscriptions),
        "base": daemon._catalogue.base.hex() if daemon._catalogue and daemon.engine else "",
    }


def count(hosts: list[Host]) -> dict[str, int]:
    """What the process holds now."""
    gc.collect()
    connections = [one for host in hosts for one in host._swarm.get_connections()]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")),
        # The honest peer may have a second one: this node may dial it as well. Attackers never come
        # back under the same name, so none of theirs is hidden by this.
        "peers": len({one.muxed_conn.peer_id for one in connections}),
        "streams": sum(len(one.get_streams()) for one in connections),
        "judging": sum(host.gossip._pubsub._num_judging for host in hosts),  # type: ignore[union-attr]
        "inbound": sum(host._swarm._inbound_limiter.borrowed_tokens for host in hosts),  # type: ignore[attr-defined]
        "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") >> 20,
    }


async def open_all(lab: Lab, stack: AsyncExitStack) -> dict[str, NodeDaemon]:
    """The daemons that are spoken to."""
    roles: dict[str, dict[str, Any]] = {"volunteer": {"chain_rpc": (), "settlement": ""}}
    if lab.chain is not None:
        roles |= {"aggregator": {"role": "aggregator"}, "witness": {"role": "gateway"}}
    return {
        name: await stack.enter_async_context(lab.daemon(name, listen=LISTEN, **changes))
        for name, changes in roles.items()
    }


async def main(folder: str, *options: str) -> None:
    names = ("aggregator", "witness") if "chain" in options else ()
    with open_lab(Path(folder), chain_for=names) as lab:
        async with AsyncExitStack() as stack:
            daemons = await open_all(lab, stack)
            print(json.dumps([describe(*one) for one in daemons.items()]), flush=True)
            hosts = [daemon.host for daemon in daemons.values()]
            while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                print(json.dumps(count(hosts)), flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
