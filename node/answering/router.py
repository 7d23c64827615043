"""Decides who should answer: this node's engine, or which peer, and how long one is waited for.
Pure; asks and dials nobody.

Of nodes that quoted, first comes the one with the lowest

    (LEAST_S + when its first token is expected) * (its price / the lowest price)^2

so one that is twice as dear must be four times as quick; where replays of its answers speak against
a node, that is divided by its weight, and by the part that it has of the stake which it needs for
what it announces. Those that stayed silent follow, then those that would refuse, are dearer than
this client pays, or make as many of its answers as they announce, then those that failed lately or
weigh too little. Where stake is required, who has too little is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from p2p.cid import Cid
from p2p.peers import PeerAddress

from ..wire.metering import Price
from ..wire.quote import AskQuote, Quote
from .beliefs import Beliefs

DISTRUSTED = 0.5  # a node that weighs less is asked last
LEAST_BACKED = 0.25  # a node without stake counts as much as one with a quarter of what it needs
BENCH_S = 30.0  # a node that failed us is asked last for this long
MAX_BENCHED = 1024
REMEMBER_S = 15.0  # who provides something is asked of the network again after this long
MAX_REMEMBERED = 1024
UNKNOWN_OFFER_S = 0.25  # how long to wait for the offer of a node that was not asked lately
MIN_PATIENCE_S = 0.1
PATIENCE = 3.0  # times its usual
MAX_PATIENCE_S = 2.0  # also of one that is always late
MEASURED_S = 120.0  # how long a measured latency counts
SAME = 1.5  # latencies within this factor are alike
MAX_MEASURED = 1024
MAX_QUOTED = 8  # candidates that are asked for quotes
LEAST_S = 0.02  # how much sooner than nothing makes no difference
NEW_CHANNEL_S = 0.25  # what it is worth not to open another channel
THIN = 3  # fewer providers are few
OTHERS_FOR_EACH = 2  # so many others hear that an adapter is wanted, for each that is missing


@dataclass(frozen=True)
class There:
    """Peers to try, best first."""

    peers: tuple[PeerAddress, ...]


@dataclass
class Router:
    """Ranks nodes.

    Remembers for a short while which peers provide what and which failed; `now_s` is any clock that
    does not go backwards. `weigh` gives a peer's weight, from 0 to 1; `backed` which part of the
    stake it has that so many answers at once want (None: what it announced before), 1.0 also where
    nobody knows. Who has less is left out if stake is required.
    """

    own_peer_id: str
    has_engine: bool
    weigh: Callable[[str], float] = lambda peer_id: 1.0
    backed: Callable[[str, int | None], float] = lambda peer_id, answers: 1.0
    requires_stake: bool = False
    beliefs: Beliefs = field(default_factory=Beliefs)
    _benched: dict[str, float] = field(default_factory=dict)
    _providers: dict[Cid, tuple[tuple[PeerAddress, ...], float]] = field(default_factory=dict)
    _offers: dict[str, tuple[float, float]] = field(default_factory=dict)  # seconds, and until when

    def serves_here(self, named_node: str | None) -> bool:
        """Return whether this node's own engine should answer: it has one, and no other node was
        named.
        """
        return self.has_engine and named_node in (None, self.own_peer_id)

    def recall(self, cid: Cid, now_s: float) -> tuple[PeerAddress, ...]:
        """Return who was recently found to provide this; empty when that has expired or all of them
        failed since.
        """
        peers, until = self._providers.get(cid, ((), 0.0))
        return (
            peers
            if until > now_s and not all(self._is_benched(peer.peer_id, now_s) for peer in peers)
            else ()
        )

    def remember(self, cid: Cid, peers: Iterable[PeerAddress], now_s: float) -> None:
        """Record who provides this now."""
        if len(self._providers) >= MAX_REMEMBERED:
            self._providers.pop(next(iter(self._providers)))
        self._providers[cid] = (tuple(peers), now_s + REMEMBER_S)

    def rank(
        self, candidates: Iterable[PeerAddress], connected: Collection[str], now_s: float
    ) -> There:
        """Order providers: first those that did not fail recently, then those already connected,
        then those that answer fast, as far as that was measured; otherwise as found.
        """
        unique = {peer.peer_id: peer for peer in candidates if peer.peer_id != self.own_peer_id}
        order = sorted(
            unique.values(),
            key=lambda peer: (
                self._is_benched(peer.peer_id, now_s)
                or self._is_distrusted(peer.peer_id)
                or self._is_left_out(peer.peer_id, None),
                peer.peer_id not in connected,
                self._class_of(peer.peer_id, now_s),
            ),
        )
        return There(tuple(order))

    # --- quotes ---

    def unasked(
        self, candidates: Sequence[PeerAddress], adapter: bytes, now_s: float
    ) -> list[PeerAddress]:
        """List the candidates, of the best, whose quotes are missing or not fresh."""
        return [
            peer
            for peer in candidates[:MAX_QUOTED]
            if not self.beliefs.is_fresh(peer.peer_id, adapter, now_s)
        ]

    def is_settled(self, candidates: Sequence[PeerAddress], adapter: bytes, now_s: float) -> bool:
        """Return whether nobody's quote is worth a wait: one of them answered such a request
        lately.
        """
        return any(
            self.beliefs.is_warm(peer.peer_id, adapter, now_s)
            and not self._is_benched(peer.peer_id, now_s)
            and not self._is_distrusted(peer.peer_id)
            and not self._is_left_out(peer.peer_id, None)
            for peer in candidates
        )

    def choose(
        self,
        candidates: Sequence[PeerAddress],
        wanted: AskQuote,
        now_s: float,
        *,
        paid: Collection[str],
    ) -> There:
        """Order candidates by what they quoted, and keep the order of those that did not. Where
        stake is required, those that have too little are left out.

        `paid`: the peers that can be paid without opening a channel.
        """
        heard = {
            peer.peer_id: self.beliefs.find(peer.peer_id, wanted.adapter, now_s)
            for peer in candidates
        }
        costs = {
            peer_id: cost_of(one.said, wanted)
            for peer_id, one in heard.items()
            if one is not None and isinstance(one.said, Quote)
        }
        least = min(costs.values(), default=0)

        def place(peer: PeerAddress) -> tuple[int, float]:
            one = heard[peer.peer_id]
            weight = self.weigh(peer.peer_id)
            if weight < DISTRUSTED or self._is_benched(peer.peer_id, now_s):
                return (3, 0.0)
            if one is None or one.said is None:
                return (1, 0.0 if one is None else one.took_s)
            if not isinstance(one.said, Quote) or is_too_dear(one.said, wanted):
                return (2, 0.0)
            if self.beliefs.num_under_way(peer.peer_id) >= one.said.answers:
                return (2, 0.0)
            expected_s = self.beliefs.expected_s(peer.peer_id, one, one.said, now_s)
            expected_s += max((self._usual(peer.peer_id, now_s) or 0.0) - one.took_s, 0.0)
            if peer.peer_id not in paid:
                expected_s += NEW_CHANNEL_S
            weight *= max(self.backed(peer.peer_id, one.said.answers), LEAST_BACKED)
            return (0, score(expected_s, costs[peer.peer_id], least) / weight)

        def announced(peer: PeerAddress) -> int | None:
            one = heard[peer.peer_id]
            return one.said.answers if one is not None and isinstance(one.said, Quote) else None

        left = [one for one in candidates if not self._is_left_out(one.peer_id, announced(one))]
        return There(tuple(sorted(left, key=place)))

    def others(
        self, serving: Iterable[PeerAddress], candidates: Collection[PeerAddress], adapter: bytes
    ) -> list[PeerAddress]:
        """List further nodes to ask for quotes where few hold an adapter, so that they hear that it
        is wanted, and one of them may fetch it.

        Every client names the same ones first: those whose peer ids hash, with the adapter, lowest.
        """
        known = {self.own_peer_id, *(peer.peer_id for peer in candidates)}
        strangers = [peer for peer in serving if peer.peer_id not in known]
        strangers.sort(key=lambda peer: sha256(adapter + peer.peer_id.encode()).digest())
        return strangers[: max(THIN - len(candidates), 0) * OTHERS_FOR_EACH]

    def quoted_price(self, peer_id: str, adapter: bytes, now_s: float) -> Price | None:
        """Return the prices by which a peer must stand now."""
        return self.beliefs.price(peer_id, adapter, now_s)

    # --- deeds ---

    def offered(self, peer_id: str, took_s: float, now_s: float) -> None:
        """Record how long a peer took to make an offer."""
        before = self._usual(peer_id, now_s)
        self._note(peer_id, took_s if before is None else (3 * before + took_s) / 4, now_s)

    def late(self, peer_id: str, waited_s: float, now_s: float) -> None:
        """Record that a peer made no offer for so long, and was left for another one."""
        self._note(peer_id, max(self._usual(peer_id, now_s) or 0.0, waited_s), now_s)

    def patience(self, peer_id: str, now_s: float) -> float:
        """Return how long (s) to wait for a peer's offer before another one is asked as well."""
        usual = self._usual(peer_id, now_s)
        if usual is None:
            return UNKNOWN_OFFER_S
        return min(max(MIN_PATIENCE_S, PATIENCE * usual), MAX_PATIENCE_S)

    def failed(self, peer_id: str, now_s: float) -> None:
        """Record that a peer vanished, cheated or refused; it is asked last for a while."""
        if len(self._benched) >= MAX_BENCHED:
            self._benched.pop(next(iter(self._benched)))
        self._benched[peer_id] = now_s + BENCH_S

    def _note(self, peer_id: str, usual_s: float, now_s: float) -> None:
        if len(self._offers) >= MAX_MEASURED:
            self._offers.pop(next(iter(self._offers)))
        self._offers[peer_id] = (usual_s, now_s + MEASURED_S)

    def _usual(self, peer_id: str, now_s: float) -> float | None:
        usual, until = self._offers.get(peer_id, (None, 0.0))
        return usual if until > now_s else None

    def _class_of(self, peer_id: str, now_s: float) -> int:
        """Of how slow nodes a peer is; one that is not known counts as fast, so it is tried."""
        usual = max(self._usual(peer_id, now_s) or 0.0, MIN_PATIENCE_S / PATIENCE)
        return int(math.log(usual * PATIENCE / MIN_PATIENCE_S, SAME))

    def _is_distrusted(self, peer_id: str) -> bool:
        return self.weigh(peer_id) < DISTRUSTED

    def _is_left_out(self, peer_id: str, answers: int | None) -> bool:
        """Return whether stake is required, and a node that announces so many has too little."""
        return self.requires_stake and self.backed(peer_id, answers) < 1.0

    def _is_benched(self, peer_id: str, now_s: float) -> bool:
        return self._benched.get(peer_id, 0.0) > now_s


def score(expected_s: float, cost: int, least_cost: int) -> float:
    """Return how bad a quote is, beside one of `least_cost`."""
    return (LEAST_S + expected_s) * ((cost + 1) / (least_cost + 1)) ** 2


def cost_of(quote: Quote, wanted: AskQuote) -> int:
    """Return what the longest answer that is wanted would cost."""
    price = Price(quote.prompt_price, quote.completion_price)
    return price.cost(wanted.prompt_tokens, wanted.max_tokens)


def is_too_dear(quote: Quote, wanted: AskQuote) -> bool:
    """Return whether a quote is above what the client pays."""
    most = Price(wanted.prompt_price, wanted.completion_price)
    return Price(quote.prompt_price, quote.completion_price).is_above(most)
