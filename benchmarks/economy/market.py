"""Plays a world: one answer after the other is asked for, sold, perhaps replayed, and told of.

    a client, an adapter → candidates → quotes → Router.choose → an answer → award_by
      → drawn by lot or watched? → Trust.learn → convicted? → its weight → Router.choose …

What decides is the code that daemons run: the router with its beliefs, the trust with its
sequential test, the division of a fee. Bytes, keys and sockets are left out.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.verdict import MILLION, limit_of
from node.answering.beliefs import FRESH_S
from node.answering.router import MAX_QUOTED
from node.verifying.trust import Trust
from node.wire.quote import AskQuote

from .measured import PROMPT_TOKENS, TOKENS, Look, works
from .money import BASE, Ledger
from .world import PRICE, ROUND_TRIP_S, Adapter, Client, Node, People, World, populate

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
START = 1_700_000_000.0  # Unix seconds
MOST_WORDS = 3  # of others, for one verdict
TRIES = 4


@dataclass
class Sales:
    """What the nodes of one strategy sold to clients that replay, or to those that do not."""

    answers: int = 0
    earned: int = 0
    worked: float = 0.0  # in honest answers


@dataclass
class Outcome:
    """What became of a world. `sales` are by strategy and by whether the client replays."""

    world: World
    seed: int
    people: People
    ledger: Ledger
    calls: Counter[str] = field(default_factory=Counter)
    replays: Counter[str] = field(default_factory=Counter)
    convictions: Counter[str] = field(default_factory=Counter)
    sales: dict[tuple[str, bool], Sales] = field(default_factory=lambda: defaultdict(Sales))
    unserved: int = 0
    given_up: int = 0
    auditors: Counter[str] = field(default_factory=Counter)
    accusations: int = 0
    accusers_spent: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0


class Market:
    """One world at play. All chance is drawn from `seed`."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self._dice = random.Random(f"economy {seed}")
        people = populate(world, self._dice)
        self.outcome = Outcome(world, seed, people, Ledger(world.values))
        self._honest_part = works()["honest"].part
        self._word = Trust()  # what everybody heard of strangers: the same for all who listen
        self._looks = {one.name: _seen(one.look, world.seen) for one in world.strategies}
        for client in people.clients:
            client.router.weigh = self._weigher(client)
        self._now = START

    def play(self) -> Outcome:
        """Play to the end."""
        began = time.monotonic()
        began_cpu = time.process_time()
        world = self.world
        people = self.outcome.people
        everything = range(world.adapters)
        for number in range(world.answers):
            self._now = START + number / world.answers * world.days * DAY_S
            client = people.clients[self._dice.randrange(world.clients)]
            chosen = self._dice.choices(everything, cum_weights=people.wanted, k=1)[0]
            self._ask(client, chosen)
        self.outcome.ledger.check()
        self.outcome.cpu_s = time.process_time() - began_cpu
        self.outcome.wall_s = time.monotonic() - began
        return self.outcome

    # ── one answer ──

    def _ask(self, client: Client, number: int) -> None:
        adapter = self.outcome.people.adapters[number]
        found = self._candidates(client, number)
        router = client.router
        now = self._now
        peers = [node.address for node in found.values()]
        wanted = AskQuote(
            BASE,
            adapter.digest,
            [],
            prompt_tokens=PROMPT_TOKENS,
            max_tokens=TOKENS,
            prompt_price=10 * PRICE.prompt,
            completion_price=10 * PRICE.completion,
        )
        peers = list(router.rank(peers, found.keys(), now).peers)
        for peer in router.unasked(peers, adapter.digest, now):
            quote = found[peer.peer_id].quote
            router.beliefs.hear(peer.peer_id, adapter.digest, quote, took_s=ROUND_TRIP_S, now_s=now)
            self.outcome.calls["quotes heard"] += 1
        order = router.choose(peers, wanted, now, paid=client.paid).peers
        self.outcome.calls["Router.choose"] += 1
        for peer in order[:TRIES]:
            node = found[peer.peer_id]
            if not self._is_left(client, node):
                self._serve(client, node, adapter)
                return
        self.outcome.unserved += 1

    def _candidates(self, client: Client, number: int) -> dict[str, Node]:
        """Return whom a lookup gives: those that the client is connected to, then others by lot."""
        known = client.known.setdefault(number, {})
        for name, (node, until) in list(known.items()):
            if until < self._now or node.address.peer_id != name:
                del known[name]
        holders = self.outcome.people.adapters[number].holders
        missing = min(MAX_QUOTED, len(holders)) - len(known)
        while missing > 0:
            node = holders[self._dice.randrange(len(holders))]
            name = node.address.peer_id
            if name not in known:
                life_s = self._dice.expovariate(1 / (self.world.life_hours * HOUR_S))
                known[name] = (node, self._now + life_s)
                missing -= 1
        return {name: node for name, (node, _) in known.items()}

    def _is_left(self, client: Client, node: Node) -> bool:
        leaves = node.strategy.leaves
        if not leaves or self._dice.random() >= leaves:
            return False
        client.router.failed(node.address.peer_id, self._now)
        self.outcome.ledger.break_off(node.price)
        self.outcome.given_up += 1
        return True

    def _serve(self, client: Client, node: Node, adapter: Adapter) -> None:
        ledger = self.outcome.ledger
        parts = ledger.sell(
            client.address, node.owner, adapter.digest, adapter.terms, price=node.price
        )
        client.bought[node.operator] = client.bought.get(node.operator, 0) + 1
        sold = self.outcome.sales[node.strategy.name, client.verifies]
        sold.answers += 1
        sold.earned += parts.get(node.owner, 0)
        is_honest = self._is_honest_now(client, node)
        sold.worked += self._honest_part if is_honest else node.work.part
        name = node.address.peer_id
        client.paid.add(name)
        client.router.offered(name, ROUND_TRIP_S, self._now)
        first_s = node.first_s * node.strategy.late + ROUND_TRIP_S
        client.router.beliefs.learn(name, adapter.digest, first_s, self._now + FRESH_S)
        if client.accuses and node.strategy.name == "honest":
            self._accuse(node, adapter, ledger, sum(parts.values()))
        elif client.verifies or client.asks_others:
            self._perhaps_replay(client, node, adapter)

    def _is_honest_now(self, client: Client, node: Node) -> bool:
        """Return whether a patient node computes this answer."""
        return client.bought[node.operator] <= node.strategy.honest_first

    # ── verdicts ──

    def _perhaps_replay(self, client: Client, node: Node, adapter: Adapter) -> None:
        most = self.world.one_in
        if client.verifies:
            most = client.trust.one_in(node.operator, adapter.digest, most)
        is_drawn = self._dice.randrange(most) == 0
        if not is_drawn and not self._is_watched(client, node.operator, adapter.digest):
            return
        is_honest = self._is_honest_now(client, node)
        look = self._looks["honest" if is_honest else node.strategy.name]
        differs = self._dice.random() < look.rate
        score = look.score
        if client.asks_others:
            differs, score = self._ask_others(client, adapter, differs, score)
        self.outcome.replays[node.strategy.name] += 1
        cap = look.limits.thresholds.cap / MILLION
        if differs and score <= limit_of(TOKENS, look.limits.thresholds):
            score = cap  # as consequences.take has it
        for one in (client, *client.believed_by):
            row = one.trust.learn(
                node.operator, adapter.digest, score, look.limits, self._now, is_suspicious=differs
            )
            self.outcome.calls["Trust.learn"] += 1
            if one.trust.weight(node.operator, self._now) < 1.0:
                one.convicted.add(node.operator)
            if row is not None:
                self.outcome.convictions[node.strategy.name] += 1
        if differs:
            self._tell(node, adapter)

    def _is_watched(self, client: Client, operator: bytes, adapter: bytes) -> bool:
        self.outcome.calls["Trust.is_watched"] += 1
        if client.trust.is_watched(operator, adapter, self._now):
            return True
        if client.asks_others:
            return False  # replays cost money there, and a stranger's word does not spend it
        return self._word.is_watched(operator, adapter, self._now)

    def _tell(self, node: Node, adapter: Adapter) -> None:
        self._word.suspect(node.operator, adapter.digest, self._now)
        if node.strategy.renames:
            node.take_name()

    def _ask_others(
        self, client: Client, adapter: Adapter, differs: bool, score: float
    ) -> tuple[bool, float]:
        """Have strangers replay, as gateways did before they asked named auditors alone: one that
        agrees is enough, else two that differ; each is paid a prefill.
        """
        for number in range(MOST_WORDS):
            is_blind = self._dice.random() < self.world.blind
            kind = "blind" if is_blind else "honest"
            owner = (b"blnd" if is_blind else b"audi").ljust(20, b"\0")
            parts = self.outcome.ledger.sell(
                client.address,
                owner,
                adapter.digest,
                adapter.terms,
                price=PRICE,
                tokens=1,
                prompt_tokens=PROMPT_TOKENS + TOKENS,
            )
            self.outcome.auditors[f"{kind}, verdicts"] += 1
            self.outcome.auditors[f"{kind}, earned"] += parts.get(owner, 0)
            if is_blind:
                return False, 0.0
            if not differs or number:
                return differs, score
        raise AssertionError("two honest words are enough")

    def _accuse(self, node: Node, adapter: Adapter, ledger: Ledger, paid: int) -> None:
        """Say in public that an answer differs, which it does not."""
        self.outcome.accusations += 1
        self.outcome.accusers_spent += paid
        self._word.suspect(node.operator, adapter.digest, self._now)

    def _weigher(self, client: Client) -> Callable[[str], float]:
        by_name: dict[str, bytes] = {}

        def weigh(peer_id: str) -> float:
            operator = by_name.get(peer_id)
            if operator is None:
                operator = by_name[peer_id] = bytes.fromhex(peer_id)
            if operator not in client.convicted:
                return 1.0  # what Trust.weight says where there is no conviction
            self.outcome.calls["Trust.weight"] += 1
            return client.trust.weight(operator, self._now)

        return weigh


def play(world: World, seed: int) -> Outcome:
    """Play a world once."""
    return Market(world, seed).play()


def _seen(look: Look, part: float) -> Look:
    """Return what a replay sees of it when it sees only a part."""
    return Look(look.file, look.who, look.rate * part, look.score * part, look.limits)
