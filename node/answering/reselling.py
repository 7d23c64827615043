"""Sells to strangers over HTTP what a gateway buys of other nodes: one outright payment for an
answer, which this node then pays token by token as any client, so that nodes, creators and
contributors are paid as always.

    price, above what is paid ──▶ transfer ──▶ the network's answer
                                                └─ it fails ──▶ the transfer is given back
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import trio

from proofs.attribution.shares import SharePolicy, fee, parties_of
from proofs.offers import Offer, Served

from ..api.answers import CompletionEvent, CompletionRequest, Ended
from ..api.sales import Payment, Priced, Refund, Sale, SaleTerms, Settled, SignedTransfer, Standing
from ..errors import BadRequest, NodeError
from ..money.selling import Counter
from ..money.transfers import Transfers
from ..wire.metering import Price
from .selling import USUAL_TOKENS
from .service import Service

NOT_HERE = "a gateway keeps no channels with strangers; pay outright (x402's exact)"


class Resale:
    """What a gateway sells (api.sales.Shop). `price` is above what it pays others."""

    def __init__(
        self,
        service: Service,
        counter: Counter,
        transfers: Transfers,
        nursery: trio.Nursery,
        *,
        price: Price,
        policy: Callable[[], SharePolicy],
        most_tokens: int,
    ) -> None:
        self._service = service
        self._counter = counter
        self._transfers = transfers
        self._nursery = nursery
        self._price = price
        self._policy = policy
        self._most_tokens = most_tokens

    async def terms(self) -> SaleTerms:
        """Return whom a stranger pays, and how."""
        terms = await self._counter.terms(self._price, self._policy().least_fee)
        return replace(terms, takes_channels=False)

    async def price(self, request: CompletionRequest) -> Priced:
        """Return what an answer costs. Raises BadRequest for one that is too dear."""
        if request.echo or request.node is not None:
            raise BadRequest("echo and lorikeet.node are not sold here; leave them out")
        weighed = await self._service.weigh(request, USUAL_TOKENS)
        most = min(weighed.max_tokens, self._most_tokens)
        policy = self._policy()
        parties = parties_of(policy, self._transfers.payee, weighed.terms)
        amount = fee(policy, self._price.cost(weighed.prompt_tokens, most), parties)
        if amount > self._counter.shallow:
            raise BadRequest(
                f"this answer costs {amount}; at most {self._counter.shallow} is sold at once: ask"
                " for fewer tokens (max_tokens)"
            )
        price = self._price
        return Priced(weighed.prompt_tokens, most, price.prompt, price.completion, amount)

    @asynccontextmanager
    async def sell(self, payment: Payment | SignedTransfer, priced: Priced) -> AsyncIterator[Sale]:
        """Take a payment for one answer. Raises TransferRefused."""
        if not isinstance(payment, SignedTransfer):
            raise BadRequest(NOT_HERE)
        terms = await self.terms()
        settled = await self._transfers.take(payment, terms.outright(priced.amount))
        sold = Resold(self._service, self._nursery, priced, settled)
        try:
            yield sold
        finally:
            if sold.has_failed:
                await self._transfers.give_back(settled)

    async def refund(self, refund: Refund) -> Standing:
        """Nothing is left over of an outright payment."""
        raise BadRequest(NOT_HERE)

    def sign(self, said: Offer | Served) -> bytes:
        """Sign what x402's clients read of a sale."""
        return self._counter.sign(said)

    def standing(self, channel_id: bytes) -> Standing | None:
        """No channel pays here."""
        return None


class Resold:
    """One answer that was paid outright (api.sales.Sale)."""

    def __init__(
        self, service: Service, nursery: trio.Nursery, priced: Priced, settled: Settled
    ) -> None:
        self._service = service
        self._nursery = nursery
        self._priced = priced
        self._settled = settled
        self.charged: int | None = None
        self.has_failed = False

    def standing(self) -> Settled:
        """Return what was paid."""
        return self._settled

    @asynccontextmanager
    async def complete(
        self, request: CompletionRequest
    ) -> AsyncIterator[AsyncIterator[CompletionEvent]]:
        """Answer; leaving the block early ends the answer, which costs the same."""
        bounded = replace(request, max_tokens=self._priced.max_tokens)
        async with (
            self._service.complete(bounded, self._nursery) as events,
            aclosing(self._watched(events)) as watched,
        ):
            yield watched

    async def _watched(
        self, events: AsyncIterator[CompletionEvent]
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Pass an answer on, whose amount is what its buyer paid."""
        try:
            async for event in events:
                if isinstance(event, Ended):
                    self.charged = self._settled.amount
                    event = replace(event, amount=self._settled.amount)
                yield event
        except NodeError:
            self.has_failed = True
            raise
