"""How long names and providers take to find: `python -m benchmarks.p2p.lookups [--tries 40]`.

A network of hosts in child processes, a few in each, which join one after the other; some of the
processes are frozen (SIGSTOP: their connections stay open and say nothing). A client in this one
knows the bootstrap address. Two sides in one run, turn by turn: the walk, and the look-up by the
library's rounds that it replaced. Prints and writes one JSON object; figures of one machine and
hour only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio
from libp2p.abc import INetStream
from libp2p.kad_dht.kad_dht import KadDHT
from libp2p.peer.id import ID

from benchmarks import write_result
from p2p.cid import Cid
from p2p.errors import InvalidNameRecord
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from p2p.names import NameRecord, name_key, newest, sign_name, validate_name

CREATOR = Identity.from_secret(bytes(range(1, 33)))
NUM_NAMES = 8
HOLDERS = 3  # hosts that provide each thing
DEADLINE_S = 5.0
WARM_S = 15.0
ACQUAINTED_S = 15.0
LOOK_AROUND_S = 0.7
HOSTS_PER_PROCESS = 8  # more, and on two cores one process is too busy to answer its own peers
SCENES = ((20, 0), (50, 0), (50, 30))  # hosts, and how many of a hundred are frozen


def target_of(index: int) -> Cid:
    """What a name means, and some hosts provide."""
    return Cid.of(b"manifest %d" % index)


# --- the network, in child processes ---


async def run_hosts(num_hosts: int, bootstrap: str, publish: bool) -> None:
    """The child: run hosts until stdin closes; publish everything when a line comes."""
    gc.set_threshold(100_000, 50, 1000)
    async with AsyncExitStack() as stack:
        hosts: list[Host] = []
        for _ in range(num_hosts):
            meet = (bootstrap or hosts[0].addresses[0],) if bootstrap or hosts else ()
            config = NetworkConfig(bootstrap=meet)
            hosts.append(await stack.enter_async_context(open_host(Identity.generate(), config)))
            await until_acquainted(hosts[-1])
        print(hosts[0].addresses[0], flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            if publish and line.strip() == "publish":
                await publish_all(hosts)
                print("published", flush=True)


async def until_acquainted(host: Host) -> None:
    """Wait until a newcomer meets nobody new any more. A crowd that shakes hands all at once, on
    two cores, is too busy to do so in time, and begins anew for ever.
    """
    num_met = -1
    with trio.move_on_after(ACQUAINTED_S):
        while len(host.peers()) > num_met:
            num_met = len(host.peers())
            await trio.sleep(LOOK_AROUND_S)


async def publish_all(hosts: list[Host]) -> None:
    """Name and provide everything."""
    for index in range(NUM_NAMES):
        for host in hosts[1 : 1 + HOLDERS]:
            await host.dht.provide(target_of(index))
        record = sign_name(CREATOR, f"name-{index}", int(time.time()), target_of(index))
        if not await hosts[1].dht.put_name(record):
            raise SystemExit("nobody took a name; the machine is too busy to measure now")


class Child:
    """A process with some hosts of the network."""

    def __init__(self, num_hosts: int, bootstrap: str, publish: bool) -> None:
        command = [sys.executable, "-m", "benchmarks.p2p.lookups", "--hosts", str(num_hosts)]
        command += ["--bootstrap", bootstrap] if bootstrap else []
        command += ["--publish"] if publish else []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self._read()

    def publish(self) -> None:
        """Have everything named and provided."""
        assert self._process.stdin is not None
        self._process.stdin.write("publish\n")
        self._process.stdin.flush()
        self._read()

    def freeze(self) -> None:
        """Say nothing from now on."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


# --- the two sides ---


class Rounds:
    """The look-up that was: the library's search in rounds, then the twenty closest again."""

    def __init__(self, host: Host) -> None:
        self._kademlia: KadDHT = host.dht._kademlia
        self._own = host.peer_id

    async def find_name(self, owner: str, name: str, deadline_s: float) -> NameRecord | None:
        """Find a name as it was found."""
        key = name_key(owner, name)
        found: list[NameRecord] = []

        async def ask(peer: ID) -> bool:
            value = await self._kademlia.value_store._get_from_peer(peer, key.encode())
            if isinstance(value, bytes):
                try:
                    found.append(validate_name(key, value))
                except InvalidNameRecord:
                    return False
            return False

        await self._ask_closest(key.encode(), ask, deadline_s)
        return found[newest(found)] if found else None

    async def find_providers(self, cid: Cid, limit: int, deadline_s: float) -> set[str]:
        """Find providers as they were found."""
        key = bytes((0x12, 32)) + cid.digest
        found: set[str] = set()
        store = self._kademlia.provider_store

        async def ask(peer: ID) -> bool:
            providers, _ = await store._get_providers_from_peer_with_closers(peer, key)
            found.update(str(info.peer_id) for info in providers)
            return len(found) >= limit

        await self._ask_closest(key, ask, deadline_s)
        return found

    async def _ask_closest(
        self, key: bytes, ask: Callable[[ID], Awaitable[bool]], deadline_s: float
    ) -> None:
        with trio.move_on_after(deadline_s) as scope:
            peers = await self._kademlia.peer_routing.find_closest_peers_network(key)
            limiter = trio.CapacityLimiter(10)

            async def ask_one(peer: ID) -> None:
                async with limiter:
                    with trio.move_on_after(5):
                        if await ask(peer):
                            scope.cancel()

            async with trio.open_nursery() as nursery:
                for peer in peers:
                    if str(peer) != self._own:
                        nursery.start_soon(ask_one, peer)


@dataclass
class Figures:
    """What one side did with one kind of look-up."""

    asked: int = 0
    found: int = 0
    streams: int = 0
    cpu_s: float = 0.0
    times_ms: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Times of all tries, found or not."""
        times = sorted(self.times_ms)
        return {
            "asked": self.asked,
            "found": self.found,
            "p50_ms": round(statistics.median(times), 1),
            "p95_ms": round(times[min(len(times) - 1, int(len(times) * 0.95))], 1),
            "streams": round(self.streams / self.asked, 1),
            "client_cpu_ms": round(1000 * self.cpu_s / self.asked, 1),
        }


class Client:
    """A host that looks up, and counts the streams that it opens."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.figures: dict[str, Figures] = {}
        self._num_streams = 0
        new_stream = host._swarm.new_stream

        async def counted(peer: ID) -> INetStream:
            self._num_streams += 1
            return await new_stream(peer)

        host._swarm.new_stream = counted  # type: ignore[method-assign]

    async def measure(self, kind: str, look_up: Callable[[], Awaitable[bool]]) -> None:
        """Time one look-up."""
        figures = self.figures.setdefault(kind, Figures())
        streams, cpu = self._num_streams, time.process_time()
        began = time.perf_counter()
        figures.found += await look_up()
        figures.times_ms.append(1000 * (time.perf_counter() - began))
        figures.asked += 1
        figures.streams += self._num_streams - streams
        figures.cpu_s += time.process_time() - cpu


@asynccontextmanager
async def open_client(bootstrap: str) -> AsyncIterator[Client]:
    """A client that has looked around."""
    config = NetworkConfig(bootstrap=(bootstrap,))
    async with open_host(Identity.generate(), config) as host:
        await trio.sleep(WARM_S)
        yield Client(host)


async def look_up_all(client: Client, tries: int, tries_rounds: int) -> None:
    """Ask for every name and thing, the two sides turn by turn."""
    dht, rounds = client.host.dht, Rounds(client.host)
    for number in range(tries):
        index = number % NUM_NAMES
        name, cid = f"name-{index}", target_of(index)

        async def name_by_walk(name: str = name, cid: Cid = cid) -> bool:
            record = await dht.find_name(CREATOR.peer_id, name, DEADLINE_S)
            return record is not None and record.target == cid

        async def providers_by_walk(cid: Cid = cid) -> bool:
            return bool(await dht.find_providers(cid, 8, DEADLINE_S))

        async def name_by_rounds(name: str = name, cid: Cid = cid) -> bool:
            record = await rounds.find_name(CREATOR.peer_id, name, DEADLINE_S)
            return record is not None and record.target == cid

        async def providers_by_rounds(cid: Cid = cid) -> bool:
            return bool(await rounds.find_providers(cid, 8, DEADLINE_S))

        await client.measure("walk: name", name_by_walk)
        await client.measure("walk: providers", providers_by_walk)
        if number < tries_rounds:
            await client.measure("rounds: name", name_by_rounds)
            await client.measure("rounds: providers", providers_by_rounds)


def in_processes(num_hosts: int) -> list[int]:
    """Share hosts out among processes."""
    starts = range(0, num_hosts, HOSTS_PER_PROCESS)
    return [min(HOSTS_PER_PROCESS, num_hosts - start) for start in starts]


async def run_scene(num_hosts: int, frozen_percent: int, tries: int) -> list[dict[str, object]]:
    """One network; where some of it freezes, a client from before and one from after."""
    num_frozen = num_hosts * frozen_percent // 100
    children: list[Child] = []

    def start(count: int, *, publish: bool = False) -> None:
        address = children[0].address if children else ""
        children.append(Child(count, address, publish=publish))

    tries_rounds = min(tries, 8) if num_frozen else tries
    rows: list[dict[str, object]] = []

    def note(client: Client, when: str) -> None:
        kinds = {kind: figures.summary() for kind, figures in client.figures.items()}
        rows.append({"hosts": num_hosts, "frozen_percent": frozen_percent, "client": when} | kinds)

    try:
        for count in in_processes(num_hosts - num_frozen):
            start(count, publish=not children)
        num_living = len(children)
        for count in in_processes(num_frozen):
            start(count)
        await trio.sleep(WARM_S)
        children[0].publish()
        async with open_client(children[0].address) as client:
            for child in children[num_living:]:
                child.freeze()
            await look_up_all(client, tries, tries_rounds)
            note(client, "from before")
        if num_frozen:
            async with open_client(children[0].address) as client:
                await look_up_all(client, tries, tries_rounds)
                note(client, "came later")
    finally:
        for child in children:
            child.end()
    return rows


def main() -> None:
    """Measure every scene."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--scene", nargs=2, type=int, metavar=("HOSTS", "PERCENT"))
    parser.add_argument("--hosts", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--bootstrap", default="", help=argparse.SUPPRESS)
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hosts:
        trio.run(run_hosts, arguments.hosts, arguments.bootstrap, arguments.publish)
        return
    rows: list[dict[str, object]] = []
    for num_hosts, percent in [arguments.scene] if arguments.scene else SCENES:
        measured = trio.run(run_scene, num_hosts, percent, arguments.tries)
        print(json.dumps(measured, indent=1), flush=True)
        rows += measured
    scene = "".join(f"-{number}" for number in arguments.scene or ())
    figures = {"rows": rows, "names": NUM_NAMES, "holders": HOLDERS}
    write_result(f"p2p-lookups{scene}", figures)


if __name__ == "__main__":
    main()
