"""Decides who is in a test network and how each node is configured.

Pure, except that it creates each home and its key. Starts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p.identity import Identity
from proofs.chain.devchain import DevChain, known_secret
from proofs.chain.structs import FeeToken
from proofs.hextext import to_hex
from proofs.signing import address_of

from ..config import CONFIG_FILE, Config, Role, dump_config

LISTEN = ("/ip4/127.0.0.1/tcp/0",)
NETWORK = "lorikeet-testnet"
BOOTSTRAP = "bootstrap"
AGGREGATOR = "aggregator"
GATEWAY = "client"
MAX_WITNESSES = 3
WATCH_INTERVAL_S = 1.0
ANSWER_TIME_S = 60
"""A development chain's own 3 s convict an honest aggregator on a machine that is busy enough: its
clock goes on by a second with every transaction, too. A header is final after twice as long.
"""


@dataclass(frozen=True)
class Member:
    """One planned node: its name, role, home and key."""

    name: str
    role: Role
    home: Path
    identity: Identity

    @property
    def address(self) -> bytes:
        """Return its operator's address (20 bytes)."""
        return address_of(self.identity.public_key)


@dataclass(frozen=True)
class Plan:
    """A planned network.

    `publishers` are the peer ids whose names every node knows; `epoch_s` is how often receipts are
    sealed.
    """

    home: Path
    members: tuple[Member, ...]
    publishers: tuple[str, ...] = ()
    epoch_s: float = 5.0
    engine_threads: int = 1
    fees: FeeToken = "dollars"
    answer_time_s: int = ANSWER_TIME_S
    """Within which the aggregator answers a demand."""
    walled: frozenset[str] = frozenset()
    """Names of nodes that take no connection, as behind a router: relays carry to them."""
    guests: tuple[Member, ...] = ()
    """Nodes that somebody else starts: the chain gives them money, and that is all."""
    auditor: str = ""
    """The name of a volunteer that replays every answer it buys, and whose word the gateway takes
    as its own."""

    @property
    def witnesses(self) -> list[Member]:
        """Those whose signatures a header needs."""
        return self.volunteers[:MAX_WITNESSES]

    @property
    def quorum(self) -> int:
        """How many of them must sign: more than half, so one may be away where there are three."""
        return len(self.witnesses) // 2 + 1

    @property
    def volunteers(self) -> list[Member]:
        """Return the members that serve."""
        return [member for member in self.members if member.role == "volunteer"]

    def member(self, name: str) -> Member:
        """Return a member by its name."""
        return next(member for member in self.members if member.name == name)

    def config_of(self, member: Member, chain: DevChain, bootstrap: Sequence[str]) -> Config:
        """Return a member's whole configuration."""
        paid = member.role != "bootstrap"
        return Config(
            home=member.home,
            role=member.role,
            listen=() if member.name in self.walled else LISTEN,
            bootstrap=tuple(bootstrap),
            network=NETWORK,
            http_port=0,
            publishers=self.publishers or tuple(one.identity.peer_id for one in self.volunteers),
            aggregator=self.member(AGGREGATOR).identity.peer_id,
            chain_rpc=(chain.rpc,) if paid else (),
            settlement=chain.settlement if paid else "",
            channels=chain.channels if paid else "",
            token=chain.token if paid else "",
            registry=chain.registry if paid else "",
            governor=chain.governor if paid else "",
            stake=chain.stake if paid else "",
            owner=to_hex(owner_of(member.name)) if member.role == "volunteer" else "",
            engine_threads=self.engine_threads,
            witnesses=tuple(one.identity.peer_id for one in self.witnesses),
            epoch_s=self.epoch_s,
            claim_interval_s=self.epoch_s,
            watch_interval_s=WATCH_INTERVAL_S,
            **self._checks_of(member),
        )

    def _checks_of(self, member: Member) -> dict[str, Any]:
        """Return what a member does about answers that nobody computed, where that is planned."""
        if self.auditor and member.role == "gateway":
            return {"auditors": (self.member(self.auditor).identity.peer_id,)}
        return {"verify_one_in": 1} if member.name == self.auditor else {}


def plan_network(
    home: Path, num_volunteers: int, publishers: Sequence[str] = (), epoch_s: float = 5.0
) -> Plan:
    """Plan a bootstrap node, an aggregator, volunteers a, b, c …, and a client; create their homes
    and keys.
    """
    names: list[tuple[str, Role]] = [
        (BOOTSTRAP, "bootstrap"),
        (AGGREGATOR, "aggregator"),
        (GATEWAY, "gateway"),
    ]
    names += [(f"volunteer-{letter}", "volunteer") for letter in letters(num_volunteers)]
    members = tuple(make_member(home / name, name, role) for name, role in names)
    threads = max(1, (os.cpu_count() or 1) // max(1, num_volunteers))
    return Plan(home, members, tuple(publishers), epoch_s, threads)


def letters(count: int) -> Iterator[str]:
    """Yield a, b, c … z, then a1, b1 …"""
    for index in range(count):
        yield chr(ord("a") + index % 26) + (str(index // 26) if index >= 26 else "")


def make_member(home: Path, name: str, role: Role) -> Member:
    """Create a member with its key on disk."""
    home.mkdir(parents=True, exist_ok=True)
    return Member(name, role, home, Identity.load_or_create(Config(home=home).key_path))


def owner_of(name: str) -> bytes:
    """Return the cold address that a test network's volunteer is paid at.

    Its key is public, like all keys here.
    """
    return address_of(Identity.from_secret(known_secret(f"owner of {name}")).public_key)


def write_config(config: Config) -> None:
    """Write a configuration where its daemon reads it."""
    (config.home / CONFIG_FILE).write_text(dump_config(config))
