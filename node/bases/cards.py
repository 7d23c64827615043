"""Tells and asks for cards of a base's digest, by `/lorikeet/lookup/1` (docs/protocols/lookup.md).

Whoever wants a base asks several that compute on it, and takes the card whose index most of them
have: the same files have the same index, whoever signed. Does not know what the wanted base is for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import trio

from p2p.cid import DIGEST_BYTES, Cid
from p2p.errors import InvalidLookup, P2pError
from p2p.host import Host
from p2p.lookup.kinds import Known
from p2p.lookup.messages import (
    MAX_AGE_S,
    MAX_ANSWER_BYTES,
    PROTOCOL,
    Found,
    Lookup,
    decode_answer,
    encode,
)
from p2p.peers import PeerAddress
from proofs.basecard import BaseCard, parse_card
from proofs.errors import BaseCardError

KIND = "base-card"
MAX_ASKED = 5
PROVIDERS_DEADLINE_S = 3.0
ASK_DEADLINE_S = 2.5
OwnCard = Callable[[bytes], tuple[bytes, ...] | None]
"""Gives what this node has: no card or one, None where the base is not its own."""


class CardKind:
    """Answers look-ups for a base's card; the key is the base's digest."""

    def __init__(self, own: OwnCard, cards: Cards) -> None:
        self._own = own
        self._cards = cards

    def recall(self, key: bytes, max_age_s: float) -> Known | None:
        """Return this node's own card."""
        if len(key) != DIGEST_BYTES:
            raise InvalidLookup(f"a base's digest has {DIGEST_BYTES} bytes")
        own = self._own(key)
        return None if own is None else Known(own, 0.0)

    async def search(self, key: bytes) -> Sequence[bytes]:
        """Ask nodes that compute on it."""
        return (await self._cards.find(key))[:1]


class Cards:
    """Asks the network for cards."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def find(self, base: bytes) -> list[bytes]:
        """Return cards of a base, first those whose index most have. Empty where nobody has one.

        Raises P2pError.
        """
        providers = await self._host.dht.find_providers(
            Cid(base), limit=MAX_ASKED, deadline_s=PROVIDERS_DEADLINE_S
        )
        told: list[tuple[bytes, BaseCard]] = []

        async def ask(provider: PeerAddress) -> None:
            try:
                data = await self._ask(provider, base)
                card = parse_card(data)
            except (P2pError, BaseCardError):
                return
            if card.base == base:
                told.append((data, card))

        with trio.move_on_after(ASK_DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for provider in providers:
                    nursery.start_soon(ask, provider)
        return by_consent(told)

    async def _ask(self, provider: PeerAddress, base: bytes) -> bytes:
        await self._host.connect_to(provider, ASK_DEADLINE_S)
        async with self._host.open_stream(provider.peer_id, PROTOCOL, ASK_DEADLINE_S) as stream:
            await stream.send(encode(Lookup(KIND, base, MAX_AGE_S)), ASK_DEADLINE_S)
            answer = decode_answer(await stream.receive(ASK_DEADLINE_S, max_bytes=MAX_ANSWER_BYTES))
        if not isinstance(answer, Found) or not answer.found:
            raise InvalidLookup(f"{provider.peer_id} has no card")
        return answer.found[0]


def by_consent(told: Sequence[tuple[bytes, BaseCard]]) -> list[bytes]:
    """Order cards: one of the index that most have comes first, of those the oldest."""
    votes = Counter(index_of(card) for _, card in told)
    ranked = sorted(told, key=lambda one: (-votes[index_of(one[1])], one[1].created_at, one[0]))
    return list(dict.fromkeys(data for data, _ in ranked))


def index_of(card: BaseCard) -> tuple[tuple[bytes, int], ...]:
    """Return what names a card's index: the same for the same files."""
    return tuple(card.index.blocks)
