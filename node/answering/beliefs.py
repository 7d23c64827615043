"""Keeps what nodes quoted lately, and how far each may be believed: whose deeds were worse than its
quotes is expected to be slower than it says.

Pure, and bounded. Orders nobody (router.py does) and asks nobody.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from ..wire.metering import Price
from ..wire.quote import FromNode, Quote

FRESH_S = 2.0  # a quote is asked for again after this long
OLD_S = 30.0  # after this long it says nothing any more
WARM_S = 30.0  # who answered within this is asked without waiting for quotes
MAX_HEARD = 4096
SLACK_S = 0.05  # so much later than promised is no lie
MAX_DOUBT = 64.0
FORGIVEN_S = 300.0  # half of a doubt is gone after this long
MAX_DOUBTED = 1024
BUSY_S = 0.02  # what each request that shares a node costs another one

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class Heard:
    """What a node said, None where it stayed silent; how long its answers take; when it came.

    `answered_at`: when it last answered a request for this adapter, if it did.
    """

    said: FromNode | None
    took_s: float
    at: float
    answered_at: float = -math.inf


@dataclass(frozen=True)
class _Doubt:
    log: float
    at: float


@dataclass
class Beliefs:
    """What is believed of nodes; `adapter` is always a digest, zero bytes for the bare base."""

    _heard: OrderedDict[tuple[str, bytes], Heard] = field(default_factory=OrderedDict)
    _doubts: OrderedDict[str, _Doubt] = field(default_factory=OrderedDict)
    _begun: dict[str, list[float]] = field(default_factory=dict)  # our requests under way, by peer

    # --- what comes in ---

    def hear(
        self, peer_id: str, adapter: bytes, said: FromNode | None, took_s: float, now_s: float
    ) -> None:
        """Note a node's answer, or its silence."""
        before = self._heard.get((peer_id, adapter))
        answered_at = before.answered_at if before else -math.inf
        if before is not None and now_s - before.at < OLD_S and took_s < before.took_s:
            took_s = (3 * before.took_s + took_s) / 4  # one quick answer does not make it quick
        heard = Heard(said, took_s, now_s, answered_at)
        _put(self._heard, (peer_id, adapter), heard, MAX_HEARD)

    @contextmanager
    def under_way(self, peer_id: str, now_s: float) -> Iterator[None]:
        """Note that a request of ours is under way there, until the block ends."""
        begun = self._begun.setdefault(peer_id, [])
        begun.append(now_s)
        try:
            yield
        finally:
            begun.remove(now_s)
            if not begun:
                self._begun.pop(peer_id, None)

    def num_under_way(self, peer_id: str) -> int:
        """Return how many requests of ours are under way there."""
        return len(self._begun.get(peer_id, ()))

    def learn(self, peer_id: str, adapter: bytes, first_s: float, now_s: float) -> None:
        """Compare what a node promised with how long its first token took once it was paid."""
        heard = self._heard.get((peer_id, adapter))
        if heard is None:
            return
        if isinstance(heard.said, Quote):
            promised_s = heard.said.first_token_ms / 1000 + heard.took_s
            ratio = (first_s + SLACK_S) / (promised_s + SLACK_S)
            self._doubt(peer_id, math.log(min(max(ratio, 1.0), MAX_DOUBT)), now_s)
        warm = Heard(heard.said, heard.took_s, heard.at, answered_at=now_s)
        _put(self._heard, (peer_id, adapter), warm, MAX_HEARD)

    def _doubt(self, peer_id: str, log: float, now_s: float) -> None:
        """A lie counts half at once; what was kept counts a quarter."""
        before = self._log_doubt(peer_id, now_s)
        after = (before + log) / 2 if log > before else (3 * before + log) / 4
        _put(self._doubts, peer_id, _Doubt(after, now_s), MAX_DOUBTED)

    # --- what follows ---

    def doubt(self, peer_id: str, now_s: float) -> float:
        """Return by how much a node's deeds are expected to be worse than its quotes, 1 to
        MAX_DOUBT.
        """
        return math.exp(self._log_doubt(peer_id, now_s))

    def find(self, peer_id: str, adapter: bytes, now_s: float) -> Heard | None:
        """Return what a node said last, if that is not too old to say anything."""
        heard = self._heard.get((peer_id, adapter))
        return heard if heard is not None and now_s - heard.at < OLD_S else None

    def has_quote(self, peer_id: str, adapter: bytes, now_s: float) -> bool:
        """Return whether a node said that it would answer."""
        heard = self.find(peer_id, adapter, now_s)
        return heard is not None and isinstance(heard.said, Quote)

    def is_fresh(self, peer_id: str, adapter: bytes, now_s: float) -> bool:
        """Return whether a node need not be asked again yet."""
        heard = self.find(peer_id, adapter, now_s)
        return heard is not None and now_s - heard.at < FRESH_S

    def is_warm(self, peer_id: str, adapter: bytes, now_s: float) -> bool:
        """Return whether a node answered a request for this adapter lately."""
        heard = self._heard.get((peer_id, adapter))
        return (
            heard is not None
            and self.has_quote(peer_id, adapter, now_s)
            and now_s - heard.answered_at < WARM_S
        )

    def expected_s(self, peer_id: str, heard: Heard, quote: Quote, now_s: float) -> float:
        """Return how long (s) after its payment a first token is believed to take there."""
        promised_s = quote.first_token_ms / 1000 + heard.took_s
        believed_s = (promised_s + SLACK_S) * self.doubt(peer_id, now_s) - SLACK_S
        ours = sum(began >= heard.at for began in self._begun.get(peer_id, ()))
        return believed_s + BUSY_S * (quote.running + quote.waiting + ours)

    def price(self, peer_id: str, adapter: bytes, now_s: float) -> Price | None:
        """Return the prices that a node must still stand by, if there are any."""
        heard = self.find(peer_id, adapter, now_s)
        if heard is None or not isinstance(heard.said, Quote):
            return None
        if now_s - heard.at > heard.said.stands_ms / 1000:
            return None
        return Price(heard.said.prompt_price, heard.said.completion_price)

    def _log_doubt(self, peer_id: str, now_s: float) -> float:
        doubt = self._doubts.get(peer_id)
        if doubt is None:
            return 0.0
        kept: float = 0.5 ** ((now_s - doubt.at) / FORGIVEN_S)
        return doubt.log * kept


def _put(known: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Keep a value as the newest; the oldest makes room. Finding the oldest of a plain dict passes
    all that was deleted before it: 15 us at 4,096 keys, where this takes 4.
    """
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
