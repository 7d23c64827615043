"""Finds whom to ask on the network: the node that a request names, or providers of its adapter, or
of its base, in the order of their quotes.

Looks up and gathers; what decides is in router.py. Does not know what is asked of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from p2p.cid import Cid
from p2p.peers import PeerAddress
from proofs.receipt import BARE_BASE

from ..errors import NoProvider
from ..telemetry import Telemetry
from ..wire.quote import AskQuote
from .peers import Peer, Peers
from .quotes import Quotes
from .router import Router


class Finder(Protocol):
    """Who provides what: implemented by catalogue.catalogue.Catalogue."""

    async def providers(self, cid: Cid) -> Sequence[PeerAddress]:
        """Find the peers that provide it."""


Learn = Callable[[Sequence[str]], Awaitable[None]]
"""Has it known what stands behind peers, as far as it can be had within a moment."""


async def learn_nothing(peer_ids: Sequence[str]) -> None:
    """There is no stake contract."""


class Chooser:
    """Lists peers, best first."""

    def __init__(
        self,
        finder: Finder,
        router: Router,
        peers: Peers,
        telemetry: Telemetry,
        learn_stake: Learn = learn_nothing,
    ) -> None:
        self._learn_stake = learn_stake
        self._finder = finder
        self._router = router
        self._peers = peers
        self._quotes = Quotes(router, peers, telemetry)

    def lacks_providers(self, node: str | None, cid: Cid) -> bool:
        """Return whether a request, for which `node` must answer unless it is None, needs the
        providers of an adapter to be looked up.
        """
        if node is not None or self._router.serves_here(node):
            return False
        return not self._router.recall(cid, trio.current_time())

    async def find_named(self, node: str, wanted: AskQuote) -> Peer:
        """Return the node with that peer id, with its addresses as far as they can be found."""
        if node in self._peers.connected:
            return self._peers.at(PeerAddress(node))
        providers = await self._look_up(Cid(wanted.base))
        if wanted.adapter != BARE_BASE:
            providers = (*await self._find_holders(wanted), *providers)
        found = (peer for peer in providers if peer.peer_id == node)
        return self._peers.at(next(found, PeerAddress(node)))

    async def find_providers(self, wanted: AskQuote) -> Sequence[PeerAddress]:
        """List providers of the adapter, else those of the base, which can fetch the adapter, else
        whoever is connected and answers questions: on a busy machine a look-up may find nobody.
        """
        providers: Sequence[PeerAddress] = ()
        if wanted.adapter != BARE_BASE:
            providers = await self._find_holders(wanted)
        providers = providers or await self._look_up(Cid(wanted.base)) or self._peers.serving
        await self._learn_stake([one.peer_id for one in providers])
        return self._router.rank(providers, self._peers.connected, trio.current_time()).peers

    async def choose(
        self, providers: Sequence[PeerAddress], wanted: AskQuote, nursery: trio.Nursery
    ) -> list[Peer]:
        """Order providers by what they quote. Where they are few, others hear of it in `nursery`
        and may fetch the adapter. Raises NoProvider where none has the stake that is required.
        """
        others: list[PeerAddress] = []
        if wanted.adapter != BARE_BASE:
            others = self._router.others(self._peers.serving, providers, wanted.adapter)
            self._quotes.tell(others, wanted, nursery)
        if len(providers) > 1 or self._router.requires_stake:
            await self._quotes.gather(providers, wanted, nursery)
        elif others:  # so that they can be compared next time
            self._quotes.tell(providers, wanted, nursery)
        now = trio.current_time()
        beliefs = self._router.beliefs
        able = [one for one in others if beliefs.has_quote(one.peer_id, wanted.adapter, now)]
        await self._learn_stake([one.peer_id for one in able])
        are_heard = all(beliefs.find(one.peer_id, wanted.adapter, now) for one in providers)
        compared = [*providers, *able] if are_heard else providers
        rest = [one for one in able if one not in compared]
        order: list[PeerAddress] = []
        for some in (compared, rest):
            paid = self._peers.paid(some)
            order += self._router.choose(some, wanted, now, paid=paid).peers
        if providers and not order:
            raise NoProvider(
                f"{len(providers)} nodes could answer, and none of them has as much stake behind it"
                " as it announces, which require_stake asks for; name a node, or turn that off"
            )
        return [
            self._peers.at(one, self._router.quoted_price(one.peer_id, wanted.adapter, now))
            for one in order
        ]

    async def _find_holders(self, wanted: AskQuote) -> Sequence[PeerAddress]:
        """Find who has the adapter; of a cocktail, who has all that it mixes, else any of it."""
        if not wanted.parents:
            return await self._look_up(Cid(wanted.adapter))
        found: dict[str, list[PeerAddress]] = {}
        async with trio.open_nursery() as nursery:
            for digest in wanted.parents:
                nursery.start_soon(self._add_holders, Cid(digest), found)
        having_all = [each[0] for each in found.values() if len(each) == len(wanted.parents)]
        return having_all or [each[0] for each in found.values()]

    async def _add_holders(self, cid: Cid, found: dict[str, list[PeerAddress]]) -> None:
        for one in await self._look_up(cid):
            found.setdefault(one.peer_id, []).append(one)

    async def _look_up(self, cid: Cid) -> Sequence[PeerAddress]:
        known = self._router.recall(cid, trio.current_time())
        if known:
            return known
        found = await self._finder.providers(cid)
        self._router.remember(cid, found, trio.current_time())
        return tuple(found)
