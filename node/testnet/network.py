"""Brings a planned network up, in parallel and with visible progress, and takes it down.

Decides the order of starting; asks the nodes only whether they are ready.
"""

from __future__ import annotations

import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from proofs.chain.devchain import DevChain
from proofs.hextext import to_hex

from ..api.status import StatusInfo
from ..running import Running, read_running
from .asking import NodeClient
from .plan import BOOTSTRAP, GATEWAY, Member, Plan, write_config
from .processes import Child, Launcher, ProcessDied, find_marked, stop, wait_for_line

CHAIN_DEADLINE_S = 180.0
NODE_DEADLINE_S = 300.0  # a machine with twenty times as much to do as it has cores takes 100 s
ENGINE_DEADLINE_S = 90.0
POLL_S = 0.2
NETWORK_FILE = "network.json"
ENDED = "ended"
"""How it begins, what is told of a node that ended unplanned."""
Progress = Callable[[str, str], None]  # (name, what it is now)


class Written(msgspec.Struct, frozen=True):
    """The contents of <home>/network.json: how to find a network that runs."""

    mark: str
    rpc: str
    settlement: str
    nodes: dict[str, str]


class NetworkRuns(Exception):
    """A network already runs in that folder."""


@dataclass(frozen=True)
class Node:
    """One running node."""

    member: Member
    running: Running
    child: Child

    @property
    def url(self) -> str:
        """Return its HTTP address."""
        return self.running.http

    @property
    def peer_id(self) -> str:
        """Return its peer id."""
        return self.running.peer_id


@dataclass
class Network:
    """A running network."""

    plan: Plan
    launcher: Launcher
    progress: Progress
    children: list[Child] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    chain: DevChain | None = None

    @property
    def client(self) -> Node:
        """Return the gateway that asks and pays."""
        return self.nodes[GATEWAY]

    async def start(self) -> None:
        """Start the chain and the bootstrap node first, side by side; then all others at once."""
        bootstrap = self.plan.member(BOOTSTRAP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._start_chain)
            nursery.start_soon(self.start_node, bootstrap, NO_CHAIN, ())
        assert self.chain is not None
        start_from = self.nodes[BOOTSTRAP].running.p2p[:1]
        async with trio.open_nursery() as nursery:
            for member in self.plan.members:
                if member is not bootstrap:
                    nursery.start_soon(self.start_node, member, self.chain, start_from)
        self._write()

    async def start_node(self, member: Member, chain: DevChain, bootstrap: Sequence[str]) -> None:
        """Start one node and wait until it serves."""
        write_config(self.plan.config_of(member, chain, bootstrap))
        self.progress(member.name, "starting")
        child = self.launcher.start(
            member.name,
            [sys.executable, "-m", "node", "up", "--home", str(member.home)],
            member.home / "out.log",
        )
        self.children.append(child)
        await wait_for_line(child, "ready ", NODE_DEADLINE_S)
        running = read_running(member.home)
        assert running is not None, "a ready daemon has written where it serves"
        self.nodes[member.name] = Node(member, running, child)
        self.progress(member.name, f"ready at {running.http}")

    async def revive(self) -> None:
        """Start those nodes again that have ended, and wait until they serve. What each said is
        kept beside its new log, and of one that was not killed it is told that it ended.
        """
        assert self.chain is not None
        start_from = self.nodes[BOOTSTRAP].running.p2p[:1]
        dead = [node for node in self.nodes.values() if not node.child.is_running]
        async with trio.open_nursery() as nursery:
            for node in dead:
                self.children.remove(node.child)
                status = node.child.process.returncode
                said = node.child.log_path
                said.rename(said.with_name(f"out-{node.child.process.pid}.log"))
                if status != -signal.SIGKILL:
                    self.progress(node.member.name, f"{ENDED} by itself, with status {status}")
                nursery.start_soon(self.start_node, node.member, self.chain, start_from)

    async def wait_for_engines(self) -> None:
        """Wait until every volunteer has loaded the base."""
        async with trio.open_nursery() as nursery:
            for member in self.plan.volunteers:
                nursery.start_soon(self.wait_for_engine, self.nodes[member.name])

    async def wait_for_engine(self, node: Node) -> StatusInfo:
        """Return a volunteer's status as soon as its engine serves."""
        self.progress(node.member.name, "loads the base")
        async with NodeClient(node.url) as client:
            with trio.move_on_after(ENGINE_DEADLINE_S):
                while True:
                    status = await client.status()
                    if status.engine is not None and status.engine["up"]:
                        return status
                    await trio.sleep(POLL_S)
        raise ProcessDied(
            f"the engine of {node.member.name} was not up within {ENGINE_DEADLINE_S:.0f} s. The"
            f" last lines:\n{node.child.tail()}"
        )

    async def _start_chain(self) -> None:
        command = [
            sys.executable,
            "-m",
            "proofs.chain.devchain",
            "--aggregator",
            to_hex(self.plan.member("aggregator").address),
        ]
        for member in (*self.plan.members, *self.plan.guests):
            command += ["--fund", to_hex(member.address)]
        for member in self.plan.witnesses:
            command += ["--witness", to_hex(member.address)]
        command += ["--quorum", str(self.plan.quorum), "--fees", self.plan.fees]
        command += ["--answer-time", str(self.plan.answer_time_s)]
        self.progress("chain", "starting")
        child = self.launcher.start("chain", command, self.plan.home / "chain" / "out.log")
        self.children.append(child)
        self.chain = DevChain(**json.loads(await wait_for_line(child, "{", CHAIN_DEADLINE_S)))
        self.progress("chain", f"ready at {self.chain.rpc}")

    def _write(self) -> None:
        assert self.chain is not None
        nodes = {name: str(node.member.home) for name, node in self.nodes.items()}
        written = Written(self.launcher.mark, self.chain.rpc, self.chain.settlement, nodes)
        (self.plan.home / NETWORK_FILE).write_bytes(
            msgspec.json.format(msgspec.json.encode(written))
        )

    async def stop(self) -> int:
        """End every process; return how many were still there afterwards (none, if all is well)."""
        await stop(self.children)
        (self.plan.home / NETWORK_FILE).unlink(missing_ok=True)
        return len(find_marked(self.launcher.mark))


NO_CHAIN = DevChain(
    "", 0, "", "", token="", settlement="", aggregator="", aggregator_key=None, funded={}
)


@asynccontextmanager
async def open_network(
    plan: Plan, progress: Progress, *, keep: bool = False
) -> AsyncIterator[Network]:
    """Run a network for the length of the block. `keep`: it stays up when the block ends without an
    error.
    """
    refuse_second(plan.home)
    network = Network(plan, Launcher(secrets.token_hex(8), outlive=keep), progress)
    stays = False
    try:
        await network.start()
        yield network
        stays = keep
    finally:
        if not stays:
            await network.stop()


def read_written(home: Path) -> Written | None:
    """Read the network of that home; None when there is none."""
    try:
        return msgspec.json.decode((home / NETWORK_FILE).read_bytes(), type=Written)
    except (OSError, msgspec.DecodeError):
        return None


def refuse_second(home: Path) -> None:
    """Raise NetworkRuns if that home already has a running network."""
    written = read_written(home)
    if written is not None and find_marked(written.mark):
        raise NetworkRuns(
            f"a network runs in {home} already; end it with: lorikeet testnet down --home {home}"
        )
