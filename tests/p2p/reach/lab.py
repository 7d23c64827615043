"""Small internets with real routers: Linux network namespaces, nftables, and hosts inside.

    R1 45.0.0.11 ┐                      ┌ NAT a 45.0.0.31 ── a 192.168.1.10
    R2 45.0.0.12 ┤ the internet (a delay ├ NAT b 45.0.0.32 ── b 192.168.2.10
                 └ on every way)         ┘

A router is a `cone` (keeps the port of a connection; lets in what answers from the same address and
port) or `symmetric` (another port for each connection). What nobody asked for it drops, or answers
with a reset. Needs root and nft.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from p2p.identity import Identity

PORT = 4101
ORDER_TIMEOUT_S = 90.0
_RULES = """
table ip nat {
    chain leaving {
        type nat hook postrouting priority 100
        oifname "net0" %(how)s
    }
}
table ip filter {
    chain incoming {
        type filter hook input priority 0
        iifname "net0" ct state established,related accept
        iifname "net0" meta l4proto tcp %(refuse)s
        iifname "net0" drop
    }
    chain passing {
        type filter hook forward priority 0
        iifname "net0" ct state established,related accept
        iifname "net0" drop
    }
}
"""

needs_lab = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("ip") is None,
    reason="needs root, nft and ip (apt-get install nftables iproute2) to make networks with NATs",
)


@dataclass
class Site:
    """Where one host is: with a public address, or behind a router of a kind."""

    name: str
    ip: str
    nat: str | None = None  # "cone" or "symmetric"
    resets: bool = False
    private_ip: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    secret: bytes = field(default_factory=lambda: Identity.generate().secret)

    @property
    def peer_id(self) -> str:
        return Identity.from_secret(self.secret).peer_id

    @property
    def address(self) -> str:
        return f"/ip4/{self.ip}/tcp/{PORT}/p2p/{self.peer_id}"


def public(name: str, last: int, **settings: Any) -> Site:
    return Site(name, f"45.0.0.{last}", settings=settings)


def behind(name: str, last: int, nat: str, *, resets: bool = False, **settings: Any) -> Site:
    return Site(name, f"45.0.0.{last}", nat, resets, f"192.168.{last}.10", settings=settings)


def sh(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


def in_namespace(namespace: str, command: str) -> None:
    sh(f"ip netns exec {namespace} {command}")


@contextmanager
def networks(sites: list[Site], delay_s: float | None) -> Iterator[dict[str, str]]:
    """Make a namespace for each host and router; yield the host's name → its namespace."""
    prefix = f"lk{os.getpid()}-"
    made: list[str] = []

    def add(name: str) -> str:
        sh(f"ip netns add {prefix}{name}")
        made.append(prefix + name)
        in_namespace(prefix + name, "ip link set lo up")
        return prefix + name

    hub = None
    try:
        inner = {site.name: add(site.name) for site in sites}
        outer = {
            site.name: add(f"{site.name}-nat") if site.nat else inner[site.name] for site in sites
        }
        ends = {outer[site.name]: site.ip for site in sites}
        hub = _join_slowly(ends, delay_s) if delay_s is not None else _join_fast(ends, add("core"))
        for site in sites:
            if site.nat:
                _translate(site, inner[site.name], outer[site.name])
            else:
                in_namespace(inner[site.name], "ip route add default via 45.0.0.1 dev net0")
        yield inner
    finally:
        if hub is not None:
            hub.kill()
            hub.wait()
        for namespace in made:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


def _join_slowly(ends: dict[str, str], delay_s: float) -> subprocess.Popen[bytes]:
    arguments = [f"{namespace}={ip}" for namespace, ip in ends.items()]
    command = [sys.executable, "-m", "tests.p2p.reach.hub", str(delay_s), *arguments]
    hub = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert hub.stdout is not None
    assert hub.stdout.readline() == b"up\n"
    hub.stdout.close()
    return hub


def _join_fast(ends: dict[str, str], core: str) -> None:
    in_namespace(core, "ip link add bridge0 type bridge")
    in_namespace(core, "ip link set bridge0 up")
    for number, (namespace, ip) in enumerate(ends.items()):
        sh(f"ip link add net0 netns {namespace} type veth peer name port{number} netns {core}")
        in_namespace(core, f"ip link set port{number} master bridge0 up")
        in_namespace(namespace, f"ip addr add {ip}/24 dev net0")
        in_namespace(namespace, "ip link set net0 up")


def _translate(site: Site, inner: str, outer: str) -> None:
    """Put a router between a host and its public address."""
    lan = site.private_ip.rpartition(".")[0]
    sh(f"ip link add net0 netns {inner} type veth peer name lan0 netns {outer}")
    in_namespace(inner, f"ip addr add {site.private_ip}/24 dev net0")
    in_namespace(inner, "ip link set net0 up")
    in_namespace(outer, f"ip addr add {lan}.1/24 dev lan0")
    in_namespace(outer, "ip link set lan0 up")
    in_namespace(inner, f"ip route add default via {lan}.1")
    in_namespace(outer, "sysctl -qw net.ipv4.ip_forward=1")
    how = "masquerade fully-random" if site.nat == "symmetric" else "masquerade"
    refuse = "reject with tcp reset" if site.resets else "drop"
    rules = _RULES % {"how": how, "refuse": refuse}
    subprocess.run(
        ["ip", "netns", "exec", outer, "nft", "-f", "-"],
        input=rules.encode(),
        check=True,
        capture_output=True,
    )


class Remote:
    """A host in its own process and namespace. `do` gives it an order and returns its answer."""

    def __init__(self, site: Site, orders: socket.socket) -> None:
        self.site = site
        self.peer_id = site.peer_id
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(orders))
        self._buffer = b""

    async def answer(self) -> dict[str, Any]:
        with trio.fail_after(ORDER_TIMEOUT_S):
            while b"\n" not in self._buffer:
                data = await self._stream.receive_some()
                assert data, f"the host {self.site.name} is gone"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.site.name}: {answer['error']}")
        return answer["ok"]

    async def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        await self._stream.send_all(json.dumps({"do": what, **arguments}).encode() + b"\n")
        return await self.answer()

    async def start(self) -> None:
        """Let the host begin; `answer` says when it runs."""
        await self._stream.send_all(b"\n")

    async def describe(self) -> dict[str, Any]:
        return await self.do("describe")

    async def until(self, condition: Any, deadline_s: float = 60.0) -> dict[str, Any]:
        """Wait until the host describes itself so that the condition holds."""
        with trio.fail_after(deadline_s):
            while not condition(described := await self.describe()):  # noqa: ASYNC110  # asks it
                await trio.sleep(0.05)
        return described

    async def until_relayed(self, num_relays: int = 2) -> dict[str, Any]:
        """Wait until others can dial the host through this many relays."""
        return await self.until(lambda found: len(found["relays"]) >= num_relays)


async def part(one: Remote, other: Remote) -> None:
    """Close all connections between two hosts; others may make them meet again meanwhile."""
    with trio.fail_after(ORDER_TIMEOUT_S):
        while True:
            await one.do("leave", peer_id=other.peer_id)
            await other.do("leave", peer_id=one.peer_id)
            met = [await one.describe(), await other.describe()]
            if not any({one.peer_id, other.peer_id} & set(each["peers"]) for each in met):
                return


def _start(specs: list[dict[str, Any]], descriptors: list[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.p2p.reach.nodes", *map(json.dumps, specs)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors)


@asynccontextmanager
async def lab(
    sites: list[Site], *, delay_s: float | None = 0.02, with_bootstrap: bool = True
) -> AsyncIterator[list[Remote]]:
    """Run a host at each site; those with a public address are everybody's bootstrap peers, unless
    there are to be none.
    """
    with networks(sites, delay_s) as inner:
        pairs = [socket.socketpair() for _ in sites]
        bootstrap = [one.address for one in sites if one.nat is None and with_bootstrap]
        specs = [
            {
                "namespace": inner[site.name],
                "fd": theirs.fileno(),
                "secret": site.secret.hex(),
                "listen": [f"/ip4/0.0.0.0/tcp/{PORT}"],
                "bootstrap": [one for one in bootstrap if one != site.address],
                "relay": {},
                **site.settings,
            }
            for site, (_, theirs) in zip(sites, pairs, strict=True)
        ]
        process = _start(specs, [theirs.fileno() for _, theirs in pairs])
        for _, theirs in pairs:
            theirs.close()
        try:
            hosts = [Remote(site, ours) for site, (ours, _) in zip(sites, pairs, strict=True)]
            for in_the_open in (True, False):  # first those whom all others want to meet
                started = [host for host in hosts if (host.site.nat is None) == in_the_open]
                for host in started:
                    await host.start()
                for host in started:
                    await host.answer()
            yield hosts
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
            for ours, _ in pairs:
                ours.close()
