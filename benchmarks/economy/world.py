"""A world to play: how many of whom, and what holds in it. Draws its people by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from node.answering.router import Router
from node.config import settings
from node.verifying.trust import Trust
from node.wire.metering import Price
from node.wire.quote import Quote
from p2p.peers import PeerAddress
from proofs.attribution.shares import AdapterTerms
from proofs.parameters import DEFAULTS, Values

from .before import FormerTrust
from .measured import Work, works
from .money import BASE
from .strategies import HONEST_NODE, STRATEGIES, Strategy

PRICE = Price(settings()["prompt_price"].default, settings()["completion_price"].default)
ROUND_TRIP_S = 0.04
CONTRIBUTORS = 4
HELD = 4  # adapters at each node


@dataclass(frozen=True)
class World:
    """What is fixed before the first answer.

    `part_each`: the part of the nodes that follows each dishonest strategy. `verifying`: the part
    of the clients that replay by an engine of their own, one in `one_in`; `elsewhere`: the part
    that pay others for it, of whom `blind` are auditors that compute nothing. `named`: how many of
    the clients that replay each client names as auditors, by lot. `work_part`: what an
    honest answer's work costs of the node's part of its fee. `seen`: the part of what was measured
    that a replay sees. `life_hours`: how long a client stays connected to a node, on average.
    """

    nodes: int = 10_000
    clients: int = 50
    adapters: int = 200
    answers: int = 1_000_000
    days: float = 5.0
    part_each: float = 0.02
    strategies: Sequence[Strategy] = STRATEGIES
    verifying: float = 0.5
    elsewhere: float = 0.0
    blind: float = 0.0
    accusing: float = 0.0
    named: int = 0
    one_in: int = DEFAULTS["audit.one-in"]
    is_former: bool = False
    work_part: float = 0.5
    seen: float = 1.0
    life_hours: float = 8.0
    values: Values = field(default_factory=lambda: DEFAULTS)


@dataclass
class Node:
    """One machine, whatever its name is now."""

    number: int
    strategy: Strategy
    adapters: tuple[int, ...]
    work: Work
    first_s: float
    owner: bytes
    address: PeerAddress = field(default_factory=lambda: PeerAddress(""))
    operator: bytes = b""
    quote: Quote | None = None
    names: int = 0

    @property
    def price(self) -> Price:
        """Return what it asks."""
        part = self.strategy.price
        return Price(round(PRICE.prompt * part), round(PRICE.completion * part))

    def take_name(self) -> None:
        """Begin under a fresh name, of which nobody knows anything."""
        self.names += 1
        self.operator = _address(b"node", self.number * 100_000 + self.names)
        self.address = PeerAddress(self.operator.hex())
        self.quote = Quote(
            "slot",
            None,
            running=0,
            waiting=0,
            tokens_outstanding=0,
            prompt_price=self.price.prompt,
            completion_price=self.price.completion,
            first_token_ms=round(self.first_s * 1000),
            stands_ms=10_000,
            answers=64,
        )


@dataclass
class Adapter:
    """One adapter, who is paid for it, and who holds it."""

    digest: bytes
    terms: AdapterTerms
    holders: list[Node] = field(default_factory=list)


@dataclass
class Client:
    """One daemon that buys answers for its people.

    `known`: for each adapter the nodes that it is connected to and until when; `paid`: with whom it
    has a channel; `convicted`: of whom its trust says less than 1 at times; `believed_by`: who
    named it as an auditor.
    """

    number: int
    address: bytes
    router: Router
    trust: Trust
    verifies: bool
    asks_others: bool
    accuses: bool
    known: dict[int, dict[str, tuple[Node, float]]] = field(default_factory=dict)
    paid: set[str] = field(default_factory=set)
    convicted: set[bytes] = field(default_factory=set)
    bought: dict[bytes, int] = field(default_factory=dict)
    believed_by: list[Client] = field(default_factory=list)


@dataclass
class People:
    """Everybody in a world."""

    nodes: list[Node]
    adapters: list[Adapter]
    clients: list[Client]
    wanted: list[float]  # cumulative weights of the adapters


def populate(world: World, dice: random.Random) -> People:
    """Draw everybody."""
    adapters = [_adapter(number, dice) for number in range(world.adapters)]
    wanted = list(accumulate(1 / (rank + 1) for rank in range(world.adapters)))
    work = works()
    nodes = []
    for number, strategy in enumerate(_strategies(world)):
        held = _draw(world, wanted, dice)
        node = Node(
            number,
            strategy,
            held,
            work[strategy.work],
            first_s=work["honest" if strategy.honest_first else strategy.work].first_s
            * dice.lognormvariate(0.0, 0.3),
            owner=_address(b"ownr", number),
        )
        node.take_name()
        for one in held:
            adapters[one].holders.append(node)
        nodes.append(node)
    clients = [_client(number, world) for number in range(world.clients)]
    _name_auditors(clients, world.named, dice)
    return People(nodes, adapters, clients, wanted)


def _strategies(world: World) -> list[Strategy]:
    false = [one for one in world.strategies if one is not HONEST_NODE]
    each = max(1, round(world.nodes * world.part_each))
    drawn = [one for one in false for _ in range(each)]
    return [HONEST_NODE] * (world.nodes - len(drawn)) + drawn


def _draw(world: World, wanted: Sequence[float], dice: random.Random) -> tuple[int, ...]:
    """Draw what a node holds: what is wanted much, more often."""
    everything = range(world.adapters)
    held: set[int] = set()
    while len(held) < min(HELD, world.adapters):
        held.update(dice.choices(everything, cum_weights=wanted, k=1))
    return tuple(sorted(held))


def _adapter(number: int, dice: random.Random) -> Adapter:
    contributors = tuple(
        (_address(b"cont", number * 100 + place), dice.randrange(1, 1_000))
        for place in range(CONTRIBUTORS)
    )
    terms = AdapterTerms.of_one(_address(b"crea", number), contributors, BASE)
    return Adapter(_address(b"adap", number).ljust(32, b"\1"), terms)


def _client(number: int, world: World) -> Client:
    """The first of them verify, the next have others verify; those that accuse come last."""
    place = (number + 0.5) / world.clients
    trust = FormerTrust() if world.is_former else Trust()
    return Client(
        number,
        _address(b"clnt", number),
        Router("", has_engine=False),
        trust,
        verifies=place < world.verifying,
        asks_others=world.verifying <= place < world.verifying + world.elsewhere,
        accuses=place > 1 - world.accusing,
    )


def _name_auditors(clients: Sequence[Client], each: int, dice: random.Random) -> None:
    for client in clients:
        others = [one for one in clients if one.verifies and one is not client]
        for auditor in dice.sample(others, min(each, len(others))):
            auditor.believed_by.append(client)


def _address(kind: bytes, number: int) -> bytes:
    return kind + number.to_bytes(16, "big")
