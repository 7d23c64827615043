"""Sells this node's answers to strangers over HTTP: what one may cost, and the engine as a `Peer`
that is paid by one voucher for the whole answer. Which payment is taken decides money/selling.py.

    price ──▶ payment ──▶ adapter ──▶ engine: as many tokens as are paid ──▶ receipt, charged
                                       ├─ the client leaves ──▶ receipt for what was made
                                       └─ the engine fails ──▶ nothing is charged
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import msgspec
import trio

from engine import messages as m
from proofs.attribution.credit import NOTHING, Drawn
from proofs.attribution.shares import fee, parties_of
from proofs.offers import Offer, Served
from proofs.receipt import BARE_BASE

from ..api.answers import CompletionEvent, CompletionRequest
from ..api.sales import (
    Payment,
    PaymentRefused,
    Priced,
    Refund,
    Sale,
    SaleTerms,
    Settled,
    SignedTransfer,
    Standing,
)
from ..engine_host import EngineRun
from ..errors import BadRequest, EngineBusy, EngineError, EngineFailed, NodeError, PaymentRequired
from ..money.house import House
from ..money.selling import LEAST_TRANSFER, Counter, Paid
from ..money.transfers import Transfers
from ..wire import infer as wire
from ..wire.client_session import Question, ask_of
from ..wire.metering import Deal
from ..wire.node_session import TOKEN_DEADLINE_S, HoldAdapter
from .inbound import Inbound
from .peers import AnswerEnd, Call, Peer
from .service import Service

USUAL_TOKENS = 512  # where a request does not say how many
SETTLE_DEADLINE_S = 30.0


class Stall:
    """What a volunteer sells to strangers (api.sales.Shop)."""

    def __init__(
        self,
        service: Service,
        inbound: Inbound,
        counter: Counter,
        nursery: trio.Nursery,
        *,
        peer_id: str,
        transfers: Transfers,
        house: House,
    ) -> None:
        self._service = service
        self._inbound = inbound
        self._counter = counter
        self._transfers = transfers
        self._house = house
        self._nursery = nursery
        self._peer_id = peer_id

    async def terms(self) -> SaleTerms:
        """Return whom a stranger pays, and how."""
        inbound = self._inbound
        return await self._counter.terms(inbound.price(), inbound.policy().least_fee)

    async def price(self, request: CompletionRequest) -> Priced:
        """Return what an answer may cost. Raises BadRequest for one that is too dear."""
        terms = self._inbound.terms()
        if request.echo or request.node not in (None, self.peer_id):
            raise BadRequest("echo and lorikeet.node are not sold here; leave them out")
        if terms.engine is None:
            raise EngineBusy("the engine is starting; ask again in some seconds")
        weighed = await self._service.weigh(request, USUAL_TOKENS)
        most = min(weighed.max_tokens, terms.engine.max_context_tokens - weighed.prompt_tokens)
        if most < 1:
            raise BadRequest(
                f"a prompt of {weighed.prompt_tokens} tokens leaves no room for an answer in a"
                f" context of {terms.engine.max_context_tokens}; shorten it"
            )
        parties = parties_of(terms.policy, terms.owner, weighed.terms)
        amount = fee(terms.policy, terms.price.cost(weighed.prompt_tokens, most), parties)
        if amount > self._counter.shallow:
            raise BadRequest(
                f"this answer may cost {amount}; at most {self._counter.shallow} is sold at once:"
                " ask for fewer tokens (max_tokens)"
            )
        price = terms.price
        return Priced(weighed.prompt_tokens, most, price.prompt, price.completion, amount)

    @asynccontextmanager
    async def sell(self, payment: Payment | SignedTransfer, priced: Priced) -> AsyncIterator[Sale]:
        """Take a payment for one answer. Raises SaleRefused."""
        if isinstance(payment, SignedTransfer):
            async with self._sell_outright(payment, priced) as sale:
                yield sale
            return
        async with self._counter.take(payment, priced) as paid:
            yield Sold(self, paid, priced)

    @asynccontextmanager
    async def _sell_outright(self, signed: SignedTransfer, priced: Priced) -> AsyncIterator[Sale]:
        """Take the money, and pay the answer with it in a channel of this node's own. What bought
        nothing is given back.
        """
        self._house.check_room()
        settled = await self._transfers.take(signed, max(priced.amount, LEAST_TRANSFER))
        sold: Sold | None = None
        try:
            async with (
                self._house.paying(priced.amount) as payment,
                self._counter.take(payment, priced) as paid,
            ):
                sold = Sold(self, paid, priced, settled)
                yield sold
        except PaymentRefused as error:  # by ourselves: the client has nothing to mend
            raise NodeError(f"{error}; what was paid is given back") from error
        finally:
            if sold is None or not sold.charged:
                await self._transfers.give_back(settled)

    async def refund(self, refund: Refund) -> Standing:
        """Give back what a channel did not cost. Raises PaymentRefused."""
        return await self._counter.refund(refund)

    def sign(self, said: Offer | Served) -> bytes:
        """Sign what x402's clients read of a sale."""
        return self._counter.sign(said)

    def standing(self, channel_id: bytes) -> Standing | None:
        """Return where a channel stands that paid here, None for any other."""
        return self._counter.standing(channel_id)

    # --- what a sale asks ---

    def complete(
        self, request: CompletionRequest, seller: Peer
    ) -> AbstractAsyncContextManager[AsyncIterator[CompletionEvent]]:
        """Answer a request by one seller alone."""
        return self._service.complete(request, self._nursery, seller)

    @property
    def peer_id(self) -> str:
        """Return this node's peer id."""
        return self._peer_id

    @property
    def inbound(self) -> Inbound:
        """Return what this node offers to everybody."""
        return self._inbound


class Sold:
    """One answer that is paid for (api.sales.Sale), and the `Peer` that makes it."""

    def __init__(
        self, stall: Stall, paid: Paid, priced: Priced, settled: Settled | None = None
    ) -> None:
        self._settled = settled
        self._stall = stall
        self._paid = paid
        self._priced = priced
        self._over: trio.Event | None = None
        self.charged: int | None = None
        self.peer_id = stall.peer_id

    def standing(self) -> Standing | Settled:
        """Return where the channel stands now, or what was paid outright."""
        return self._settled or self._paid.standing()

    @asynccontextmanager
    async def complete(
        self, request: CompletionRequest
    ) -> AsyncIterator[AsyncIterator[CompletionEvent]]:
        """Answer; leaving the block early ends the answer, and what was made is charged when the
        block is left.
        """
        bounded = replace(request, max_tokens=self._priced.max_tokens)
        try:
            async with self._stall.complete(bounded, self) as events:
                yield events
        finally:
            if self._over is not None:
                with trio.CancelScope(
                    shield=True, deadline=trio.current_time() + SETTLE_DEADLINE_S
                ):
                    await self._over.wait()

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[Call]:
        """Make the answer; leaving the block early charges what was made. A fault of the engine
        costs nothing.
        """
        if question.resumed is not None:
            raise EngineFailed("the engine was lost in this answer, which cost nothing; ask again")
        self._over = trio.Event()
        try:
            async with self._run(question) as call:
                yield call
        finally:
            self._paid.close()
            self._over.set()

    @asynccontextmanager
    async def _run(self, question: Question) -> AsyncIterator[Call]:
        inbound = self._stall.inbound
        await inbound.engine.wait_up()
        deal, timings_ms = await self._close(question)
        credit = min(deal.credit(self._paid.limit), question.max_tokens)
        async with (
            inbound.places.held(self),
            inbound.engine.generate(
                question.prompt_ids,
                None if question.adapter == BARE_BASE else question.adapter,
                m.Sampling(deal.seed, question.terms),
                credit,
                credit,
                stop_ids=question.stop_ids,
                logprobs=question.logprobs,
            ) as run,
        ):
            call = _SoldCall(run, deal, timings_ms, self)
            try:
                yield call
            except EngineError:
                raise
            except BaseException:  # who leaves is a cancellation: what was made is charged
                with trio.CancelScope(
                    shield=True, deadline=trio.current_time() + SETTLE_DEADLINE_S
                ):
                    await self.settle(deal, call.sent, NOTHING)
                raise

    async def _close(self, question: Question) -> tuple[Deal, Mapping[str, float]]:
        """Fix what the receipt will say, once the adapter is here. Raises PaymentRequired where the
        payment is too small: the adapter was another one when it was priced.
        """
        inbound = self._stall.inbound
        channel = self._paid.tab.channel
        config = channel.row.config
        terms = inbound.terms()
        assert terms.engine is not None, "it is up"
        held = await inbound.hold(HoldAdapter(question.adapter, question.cocktail))
        ask = ask_of(question, config.voucher_signer, config)
        ask = msgspec.structs.replace(ask, attributed=not question.is_private)
        offer = wire.Offer(
            node_seed=secrets.token_bytes(32),
            paid=True,
            prompt_price=self._priced.prompt_price,
            completion_price=self._priced.completion_price,
            owner=terms.owner,
            dtype=terms.engine.dtype.encode(),
            started_at=int(inbound.clock()),
            attributed=ask.attributed and inbound.can_draw(ask),
            parameters=terms.policy.version,
        )
        deal = Deal.close(
            ask,
            offer,
            client_seed=question.client_seed,
            salt=secrets.token_bytes(16),
            operator=terms.operator,
            channel_id=channel.channel_id,
            terms=held.terms,
            policy=terms.policy,
        )
        if deal.cost(1) > self._paid.limit:
            raise PaymentRequired(
                f"{self._paid.limit} does not pay for the prompt and one token; pay at least"
                f" {deal.cost(1)}"
            )
        accounts = frozenset(address for address, _ in deal.parties)
        channel.promise_accounts(self._paid.key, accounts)
        return deal, held.timings_ms

    async def draw(self, deal: Deal, sent: Sequence[int]) -> Drawn:
        """Compute what an answer drew on; nothing where that fails, and contributors are paid by
        standing weights.
        """
        inbound, ask = self._stall.inbound, deal.ask
        try:
            return await inbound.attributor.draw(ask.adapter, ask.prompt_ids, sent)
        except NodeError as error:
            inbound.telemetry.log(f"selling: {error}")
            return NOTHING

    async def settle(
        self, deal: Deal, sent: Sequence[int], drawn: Drawn
    ) -> tuple[int, bytes | None]:
        """Charge what was made; return its price and its receipt's digest."""
        paid, inbound = self._paid, self._stall.inbound
        assert inbound.till is not None, "only where there is a chain is anything sold"
        channel = paid.tab.channel
        amount = deal.cost(len(sent)) if sent else 0
        if not channel.owes(paid.key) or amount == 0:
            channel.release(paid.key)
            self.charged = self.charged or 0
            return 0, None
        async with paid.tab.turn:
            now = int(inbound.clock())
            drafted = channel.draft(paid.key, deal, sent, now, drawn)
            inbound.till.keep(drafted, *channel.settle_alone())
        self.charged = amount
        inbound.telemetry.count("answers_sold")
        inbound.telemetry.count("tokens_sold", len(sent))
        return amount, channel.row.previous


class _SoldCall:
    def __init__(
        self, run: EngineRun, deal: Deal, timings_ms: Mapping[str, float], sold: Sold
    ) -> None:
        self._run = run
        self._deal = deal
        self._timings_ms = timings_ms
        self._sold = sold
        self._finished: m.Finished | None = None
        self.seed = deal.seed
        self.sent: list[int] = []

    async def open(self) -> Mapping[str, float]:
        return self._timings_ms

    async def accept(self) -> None:
        """It is paid, and the engine is at work already."""

    async def next_tokens(self) -> m.Tokens | None:
        with trio.move_on_after(TOKEN_DEADLINE_S):
            event = await anext(self._run)
            if isinstance(event, m.Tokens):
                self.sent += event.token_ids
                return event
            self._finished = event
            return None
        raise EngineFailed(f"the engine gave no token for {TOKEN_DEADLINE_S:.0f} s")

    async def stop(self) -> None:
        self._run.cancel()

    async def finish(self) -> AnswerEnd:
        ended = self._finished
        assert ended is not None, "an answer is finished before its end"
        drawn = NOTHING
        if self._deal.is_attributed and self._deal.cost(len(self.sent)):
            drawn = await self._sold.draw(self._deal, self.sent)
        amount, receipt = await self._sold.settle(self._deal, self.sent, drawn)
        return AnswerEnd(ended.reason, amount, receipt, ended.neighbours, ended.timings_ms)
