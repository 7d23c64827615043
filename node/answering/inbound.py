"""The node's side of the infer protocol: a stranger asks, this node's engine answers as far as it
is paid. Knows no HTTP and no text.

Ask → hold the adapter → settle what is pending → Offer → Begin
→ tokens as credit allows → Done with the receipt → Settle → Settled
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

import trio

from engine import messages as m
from p2p.cid import Cid
from p2p.errors import P2pError
from p2p.streams import FrameStream

from ..catalogue.catalogue import Catalogue
from ..engine_host import EngineHost, EngineRun
from ..errors import (
    BadRequest,
    EngineBusy,
    EngineError,
    NodeError,
    PaymentRequired,
    WrongBase,
    code_of,
)
from ..money.metering import BASE_ADAPTER, Deal, Price, ShareRow
from ..money.till import Tab, Till
from ..telemetry import Telemetry
from ..wire import infer as wire
from .sampling import sampling_of

ASK_DEADLINE_S = 10.0
BEGIN_DEADLINE_S = 20.0
SETTLE_DEADLINE_S = 10.0
SEND_DEADLINE_S = 10.0
UNPAID_DEADLINE_S = 10.0  # how long a sequence waits for the next voucher
TOKEN_DEADLINE_S = 120.0
# the client may stay silent while it is paid up; its connection's end is noticed at once
LISTEN_DEADLINE_S = 3600.0


class Inbound:
    """What a volunteer offers to strangers.

    `till` None answers without payment (there is no chain).
    """

    def __init__(
        self,
        engine: EngineHost,
        catalogue: Catalogue,
        till: Till | None,
        price: Price,
        owner: bytes,
        telemetry: Telemetry,
        *,
        unpaid_deadline_s: float = UNPAID_DEADLINE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.catalogue = catalogue
        self.till = till
        self.price = price
        self.owner = owner
        self.telemetry = telemetry
        self.unpaid_deadline_s = unpaid_deadline_s
        self.clock = clock

    async def serve(self, stream: FrameStream) -> None:
        """Handle one stream to its end; a fault of either side ends only this stream."""
        try:
            await Visit(self, stream).run()
        except NodeError as error:
            self.telemetry.count("requests_refused")
            self.telemetry.log(f"inbound: refused {stream.remote[-8:]}: {error}")
            await self._refuse(stream, code_of(error), str(error))
        except wire.WireError as error:
            self.telemetry.reject("message", stream.remote, str(error))
            await self._refuse(stream, "bad_request", str(error))
        except P2pError as error:
            self.telemetry.count("clients_vanished")
            self.telemetry.log(f"inbound: {stream.remote[-8:]} went away: {error}")

    async def _refuse(self, stream: FrameStream, code: str, message: str) -> None:
        try:
            await stream.send(wire.encode(wire.Refusal(code, message[:1000])), SEND_DEADLINE_S)
        except P2pError as error:
            self.telemetry.log(f"inbound: {stream.remote[-8:]} did not hear why: {error}")


class Visit:
    """One stream, from Ask to Settled.

    Its state has one owner: this object, inside the stream's handler.
    """

    def __init__(self, inbound: Inbound, stream: FrameStream) -> None:
        self._in = inbound
        self._stream = stream
        self._engine = inbound.engine
        self._price = inbound.price
        self._tab: Tab | None = None
        self._key = 0
        self._limit = 0
        self._sent: list[int] = []
        self._timings: dict[str, float] = {}
        self._failure: Exception | None = None

    async def run(self) -> None:
        """The whole visit; raises NodeError or WireError with what the client should hear, P2pError
        when it is gone.
        """
        ask = wire.expect(await self._receive(ASK_DEADLINE_S), wire.Ask)
        self._check(ask)
        shares = await self._hold(ask)
        await self._open_tab(ask)
        offer = self._offer(shares)
        await self._send(offer)
        begin = wire.expect(await self._receive(BEGIN_DEADLINE_S), wire.Begin)
        deal = self._deal(ask, offer, begin)
        try:
            await self._take_first(deal)
            finished = await self._generate(deal)
            await self._finish(deal, finished)
        except EngineError:
            self._sent.clear()  # what broke on our side costs nothing
            raise
        finally:
            await self._leave(deal)

    # --- before the first token ---

    def _check(self, ask: wire.Ask) -> None:
        ready = self._engine.ready
        base = self._in.catalogue.base
        if ask.version != wire.VERSION:
            raise BadRequest(
                f"this node speaks version {wire.VERSION} of the infer protocol, not {ask.version}"
            )
        if ask.base != base:
            raise WrongBase(f"this node serves base {base.hex()[:16]}…, not {ask.base.hex()[:16]}…")
        if ready is None or not self._engine.is_up:
            raise EngineBusy("the engine is starting; ask again in some seconds")
        if len(ask.prompt_ids) + ask.max_tokens > ready.max_context_tokens:
            raise BadRequest(
                f"prompt and answer of {len(ask.prompt_ids)} + {ask.max_tokens} tokens exceed the"
                f" context of {ready.max_context_tokens}"
            )
        if any(token >= ready.vocab_size for token in ask.prompt_ids):
            raise BadRequest("a prompt token is outside the vocabulary")

    async def _hold(self, ask: wire.Ask) -> list[ShareRow]:
        """Make the adapter servable; gives who shares the fee for it."""
        if ask.adapter == BASE_ADAPTER:
            return self._in.catalogue.shares(self._in.owner, None)
        pulled = await self._in.catalogue.hold(Cid(ask.adapter))
        self._timings |= pulled.timings_ms
        return self._in.catalogue.shares(self._in.owner, pulled.manifest)

    async def _open_tab(self, ask: wire.Ask) -> None:
        """Open the channel that pays, and have its last receipt signed first."""
        if self._in.till is None:
            return
        if ask.channel is None:
            raise PaymentRequired(
                "this node is paid: open a channel to it (set chain_rpc and the contracts'"
                " addresses)"
            )
        self._tab = await self._in.till.open(self._stream.remote, ask.client, ask.channel)
        self._key = self._tab.new_key()
        async with self._tab.lock:
            await self._settle_pending(self._tab)

    def _offer(self, shares: list[ShareRow]) -> wire.Offer:
        assert self._engine.ready is not None
        return wire.Offer(
            node_seed=secrets.token_bytes(32),
            paid=self._tab is not None,
            prompt_price=self._price.prompt,
            completion_price=self._price.completion,
            owner=self._in.owner,
            shares=shares,
            dtype=self._engine.ready.dtype.encode(),
            started_at=int(self._in.clock()),
            timings=self._some_timings(),
        )

    def _deal(self, ask: wire.Ask, offer: wire.Offer, begin: wire.Begin) -> Deal:
        if hashlib.sha256(begin.client_seed).digest() != ask.seed_commitment:
            raise BadRequest("the client's seed is not the one it committed to")
        operator = self._in.till.operator if self._in.till else bytes(20)
        return Deal.close(
            ask, offer, begin, operator, self._tab.channel_id if self._tab else bytes(32)
        )

    # --- the answer ---

    async def _take_first(self, deal: Deal) -> None:
        """The first payment covers the prompt and at least one token."""
        if self._tab is None:
            self._limit = deal.price.cost(deal.prompt_tokens, deal.ask.max_tokens)
            return
        if deal.begin.payment is None:
            raise PaymentRequired("Begin carries no voucher, but the offer is a paid one")
        await self._take(self._tab, deal.begin.payment)
        if self._credit(deal) < 1:
            least = deal.price.cost(deal.prompt_tokens, 1)
            raise PaymentRequired(
                f"a limit of {self._limit} does not pay for the prompt and one token; pay at least"
                f" {least}"
            )

    async def _take(self, tab: Tab, pay: wire.Pay) -> None:
        await tab.take(self._key, pay)
        self._limit = max(self._limit, pay.limit)

    def _credit(self, deal: Deal) -> int:
        return deal.price.credit(self._limit, deal.prompt_tokens, deal.ask.max_tokens)

    async def _generate(self, deal: Deal) -> m.Finished:
        """Run the engine and listen to the client at the same time, until either ends the
        answer.
        """
        ask = deal.ask
        adapter = None if ask.adapter == BASE_ADAPTER else ask.adapter
        sampling = sampling_of(ask.terms, deal.seed)
        finished: list[m.Finished] = []
        started = self._engine.generate(
            ask.prompt_ids,
            adapter,
            sampling,
            ask.max_tokens,
            self._credit(deal),
            ask.stop_ids,
            ask.logprobs,
        )
        async with started as run, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, deal, run, nursery.cancel_scope)
            nursery.start_soon(self._pump, deal, run, finished, nursery.cancel_scope)
        if not finished:
            raise self._failure or AssertionError("an answer ended for no reason")
        return finished[0]

    async def _pump(
        self, deal: Deal, run: EngineRun, finished: list[m.Finished], scope: trio.CancelScope
    ) -> None:
        """Send the engine's tokens on as they come."""
        try:
            while not finished:
                event = await self._next_event(deal, run)
                if isinstance(event, m.Finished):
                    finished.append(event)
                else:
                    logprobs = [
                        wire.TokenLogprobs(each.logprob, each.top) for each in event.logprobs
                    ]
                    await self._send(wire.Output(event.token_ids, logprobs))
                    self._sent += event.token_ids
        except (NodeError, P2pError) as error:
            self._failure = error
        scope.cancel()

    async def _next_event(self, deal: Deal, run: EngineRun) -> m.Tokens | m.Finished:
        """The engine's next message; an unpaid sequence waits only so long for the next voucher."""
        while True:
            is_paid = len(self._sent) < self._credit(deal)
            with trio.move_on_after(TOKEN_DEADLINE_S if is_paid else self._in.unpaid_deadline_s):
                return await anext(run)
            if is_paid:
                raise EngineError(f"the engine gave no token for {TOKEN_DEADLINE_S:.0f} s")
            if len(self._sent) >= self._credit(deal):
                raise PaymentRequired(
                    f"no voucher came within {self._in.unpaid_deadline_s:.0f} s after"
                    f" {len(self._sent)} paid tokens"
                )

    async def _listen(self, deal: Deal, run: EngineRun, scope: trio.CancelScope) -> None:
        """Take vouchers and the wish to stop; a client that went away ends the answer."""
        try:
            while True:
                message = await self._receive(LISTEN_DEADLINE_S)
                if isinstance(message, wire.Stop):
                    run.cancel()
                elif isinstance(message, wire.Pay) and self._tab is not None:
                    await self._take(self._tab, message)
                    run.grant(self._credit(deal))
                else:
                    raise wire.WireError(f"{type(message).__name__} does not belong here")
        except (NodeError, P2pError, wire.WireError) as error:
            self._failure = error
            scope.cancel()

    # --- after the last token ---

    async def _finish(self, deal: Deal, finished: m.Finished) -> None:
        """Show the receipt, have it signed, and say that it is safe."""
        self._timings |= {
            "queue": finished.queue_ms,
            "prefill": finished.prefill_ms,
            "decode": finished.decode_ms,
        }
        self._timings["load"] = self._timings.get("load", 0.0) + finished.load_ms
        self._in.telemetry.count("requests_served")
        self._in.telemetry.count("tokens_served", len(self._sent))
        tab = self._tab
        if tab is None:
            await self._send(
                wire.Done(
                    finished.reason,
                    finished.neighbours,
                    self._some_timings(),
                    b"",
                    node_signature=None,
                )
            )
            return
        async with tab.lock:
            await self._settle_pending(tab)
            draft = tab.draft(self._key, deal, self._sent)
            await self._send(
                wire.Done(
                    finished.reason,
                    finished.neighbours,
                    self._some_timings(),
                    draft.body,
                    node_signature=draft.node_signature,
                )
            )
            await self._receive_settle(tab)
            await self._send(wire.Settled())

    async def _settle_pending(self, tab: Tab) -> None:
        """The channel's receipts form a chain, so the last one is signed before the next is
        drafted. The caller holds the tab's lock.
        """
        while tab.pending is not None:
            await self._send(wire.Pending(tab.pending.body, tab.pending.node_signature))
            await self._receive_settle(tab)

    async def _receive_settle(self, tab: Tab) -> None:
        while not isinstance(message := await self._receive(SETTLE_DEADLINE_S), wire.Settle):
            if not isinstance(message, wire.Pay | wire.Stop):  # these may have crossed our Done
                raise wire.WireError(f"expected Settle, got {type(message).__name__}")
        tab.settle(message.signature)

    async def _leave(self, deal: Deal) -> None:
        """What was delivered but not settled is written down for the client's next visit; the rest
        of the reservation is free again.
        """
        if self._tab is None:
            return
        with trio.CancelScope(shield=True):
            if self._tab.owes(self._key) and self._sent:
                async with self._tab.lock:
                    self._tab.draft(self._key, deal, self._sent)
            else:
                self._tab.release(self._key)

    # --- the stream ---

    async def _receive(self, deadline_s: float) -> wire.FromClient:
        return wire.decode_from_client(await self._stream.receive(deadline_s))

    async def _send(self, message: wire.Message) -> None:
        await self._stream.send(wire.encode(message), SEND_DEADLINE_S)

    def _some_timings(self) -> list[tuple[str, float]]:
        return list(self._timings.items())[: wire.MAX_TIMINGS]
