"""The client's side of one infer stream: ask a node, pay it ahead in small steps, check everything
it signs. Knows no text and no HTTP.

Ask → sign what is pending → check the offer → Begin → tokens in, vouchers out
→ Done: write the same receipt, compare, sign → Settled
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from p2p.errors import P2pError, PeerTimeout, StreamClosed
from p2p.host import Host
from p2p.peers import PeerAddress
from p2p.streams import FrameStream

from ..api import EndReason
from ..errors import NodeCheated, NodeRefused, NodeVanished, PaymentRequired, RemoteError
from ..money.addresses import address_of_peer
from ..money.metering import Deal, Price, ShareRow
from ..money.purse import Pocket, Purse
from ..wire import infer as wire
from ..wire.infer import PAY_TOKENS

CONNECT_DEADLINE_S = 8.0
OFFER_DEADLINE_S = 120.0  # the node may have to fetch the adapter first
TOKEN_DEADLINE_S = 60.0
SETTLE_DEADLINE_S = 15.0
SEND_DEADLINE_S = 10.0
STOP_DEADLINE_S = 5.0
MAX_PENDING = 8
MAX_CLOCK_SKEW_S = 600


@dataclass(frozen=True)
class Question:
    """One request in the engine's terms.

    `adapter` is 32 zero bytes for the bare base; `shares(owner)` says who must share the fee.
    """

    base: bytes
    adapter: bytes
    prompt_ids: tuple[int, ...]
    max_tokens: int
    terms: wire.Terms
    logprobs: int | None
    stop_ids: tuple[int, ...]
    client_seed: bytes
    shares: Callable[[bytes], list[ShareRow]]


@dataclass
class Outcome:
    """How an answer ended.

    `receipt` is the digest of its body; `deal` holds the seed, for a replay.
    """

    reason: EndReason
    token_ids: list[int]
    amount: int
    receipt: bytes | None
    timings_ms: dict[str, float]
    neighbours: int
    deal: Deal


@dataclass
class Call:
    """A stream to a node that will answer one question; made by `Caller.ask`.

    Its state has one owner: the task that asks.
    """

    stream: FrameStream
    question: Question
    pocket: Pocket | None
    most: Price
    operator: bytes
    client: bytes
    key: int = 0
    clock: Callable[[], float] = time.time
    answer: list[int] = field(default_factory=list)
    paid_tokens: int = 0
    settled: bool = False

    @property
    def peer(self) -> str:
        """The node that answers."""
        return self.stream.remote

    async def open(self) -> Deal:
        """Ask, and agree on terms; raises NodeRefused, NodeCheated, PaymentRequired."""
        question = self.question
        ask = wire.Ask(
            wire.VERSION,
            question.base,
            question.adapter,
            list(question.prompt_ids),
            question.max_tokens,
            question.terms,
            question.logprobs,
            list(question.stop_ids),
            hashlib.sha256(question.client_seed).digest(),
            self.client,
            self.pocket.terms if self.pocket else None,
        )
        await self._send(ask)
        offer = await self._receive_offer()
        self._check_offer(offer)
        if not offer.paid:
            self.pocket = None
        begin = wire.Begin(
            question.client_seed, secrets.token_bytes(16), await self._payment(offer, 0)
        )
        await self._send(begin)
        return Deal.close(
            ask, offer, begin, self.operator, self.pocket.channel_id if self.pocket else bytes(32)
        )

    async def next_tokens(self, deal: Deal) -> wire.Output | wire.Done:
        """The next tokens of the answer, or its end. Pays ahead as the answer grows."""
        message = await self._receive(TOKEN_DEADLINE_S)
        if isinstance(message, wire.Done):
            return message
        output = self._expect(message, wire.Output)
        self.answer += output.token_ids
        if len(self.answer) > self.question.max_tokens:
            raise NodeCheated(
                f"node {self.peer[-8:]} sent more than the {self.question.max_tokens} tokens that"
                " were asked for"
            )
        if len(output.logprobs) != (
            len(output.token_ids) if self.question.logprobs is not None else 0
        ):
            raise NodeCheated(
                f"node {self.peer[-8:]} sent {len(output.logprobs)} log-probabilities with"
                f" {len(output.token_ids)} tokens"
            )
        await self._pay_ahead(deal)
        return output

    async def finish(self, deal: Deal, done: wire.Done) -> Outcome:
        """Check and sign the receipt, and wait until the node has it."""
        timings = dict(done.timings)
        if self.pocket is None:
            return Outcome(done.reason, self.answer, 0, None, timings, done.neighbours, deal)
        if done.node_signature is None:
            raise NodeCheated(f"node {self.peer[-8:]} ended a paid answer without a receipt")
        digest, amount, signature = self.pocket.cosign(
            self.key, deal, self.answer, done.body, node_signature=done.node_signature
        )
        self.settled = True
        await self._send(wire.Settle(signature))
        with suppress(
            NodeVanished
        ):  # it has our signature or will show the receipt again; ours is kept either way
            self._expect(await self._receive(SETTLE_DEADLINE_S), wire.Settled)
        return Outcome(done.reason, self.answer, amount, digest, timings, done.neighbours, deal)

    async def stop_soon(self) -> None:
        """Ask for an early end; Done still comes."""
        await self._send(wire.Stop())

    async def settle_early(self, deal: Deal) -> None:
        """Stop and settle what came, within STOP_DEADLINE_S; never raises a node's fault: whoever
        calls is already leaving.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_DEADLINE_S):
            try:
                await self._send(wire.Stop())
                while not isinstance(message := await self._receive(STOP_DEADLINE_S), wire.Done):
                    self.answer += self._expect(message, wire.Output).token_ids
                await self.finish(deal, message)
            except RemoteError:
                return

    # --- the offer ---

    async def _receive_offer(self) -> wire.Offer:
        for _ in range(MAX_PENDING):
            message = await self._receive(OFFER_DEADLINE_S)
            if not isinstance(message, wire.Pending):
                return self._expect(message, wire.Offer)
            await self._sign_pending(message)
        raise NodeCheated(f"node {self.peer[-8:]} shows more than {MAX_PENDING} unsigned receipts")

    async def _sign_pending(self, pending: wire.Pending) -> None:
        if self.pocket is None:
            raise NodeCheated(f"node {self.peer[-8:]} shows a receipt, but no channel pays it")
        await self._send(
            wire.Settle(self.pocket.cosign_pending(pending.body, pending.node_signature))
        )

    def _check_offer(self, offer: wire.Offer) -> None:
        most = self.most
        node = self.peer[-8:]
        if not offer.paid:
            return
        if self.pocket is None:
            raise PaymentRequired(
                f"node {node} is paid, and this daemon has no chain; set chain_rpc and the"
                " contracts' addresses"
            )
        if offer.prompt_price > most.prompt or offer.completion_price > most.completion:
            asked = f"{offer.prompt_price}/{offer.completion_price}"
            raise PaymentRequired(
                f"node {node} asks {asked} per token; the limit is {most.prompt}/{most.completion}"
                " (max_prompt_price …)"
            )
        if offer.shares != self.question.shares(offer.owner):
            raise NodeCheated(
                f"node {node} divides the fee otherwise than the adapter's manifest and the"
                " policy say"
            )
        if abs(offer.started_at - self.clock()) > MAX_CLOCK_SKEW_S + OFFER_DEADLINE_S:
            raise NodeCheated(
                f"the clock of node {node} differs from ours by more than {MAX_CLOCK_SKEW_S} s"
            )
        self.pocket.forget_lost()

    # --- paying ---

    async def _pay_ahead(self, deal: Deal) -> None:
        """One voucher for each PAY_TOKENS / 2 tokens that came; never more than PAY_TOKENS
        ahead.
        """
        if (
            self.paid_tokens - len(self.answer) > PAY_TOKENS // 2
            or self.paid_tokens >= self.question.max_tokens
        ):
            return
        payment = await self._payment(deal.offer, len(self.answer))
        if payment is not None:
            await self._send(payment)

    async def _payment(self, offer: wire.Offer, seen: int) -> wire.Pay | None:
        if self.pocket is None:
            return None
        self.paid_tokens = min(seen + PAY_TOKENS, self.question.max_tokens)
        limit = Price(offer.prompt_price, offer.completion_price).cost(
            len(self.question.prompt_ids), self.paid_tokens
        )
        return await self.pocket.pay(self.key, limit)

    # --- the stream ---

    async def _send(self, message: wire.Message) -> None:
        try:
            await self.stream.send(wire.encode(message), SEND_DEADLINE_S)
        except (StreamClosed, PeerTimeout) as error:
            raise self._vanished(error) from error

    async def _receive(self, deadline_s: float) -> wire.FromNode:
        """The node's next message; its Refusal is raised."""
        try:
            message = wire.decode_from_node(await self.stream.receive(deadline_s))
        except (StreamClosed, PeerTimeout) as error:
            raise self._vanished(error) from error
        except (wire.WireError, P2pError) as error:
            raise NodeCheated(f"node {self.peer[-8:]} sent no valid message: {error}") from error
        if isinstance(message, wire.Refusal):
            raise NodeRefused(self.peer, message.code, message.message)
        return message

    def _vanished(self, error: Exception) -> NodeVanished:
        return NodeVanished(
            f"node {self.peer} went away after {len(self.answer)} tokens ({error}); ask again,"
            " another node may answer"
        )

    def _expect(self, message: wire.FromNode, kind: type[wire.M]) -> wire.M:
        try:
            return wire.expect(message, kind)
        except wire.WireError as error:
            raise NodeCheated(f"node {self.peer[-8:]}: {error}") from error


class Caller:
    """Opens calls to nodes.

    `purse` None pays nobody (there is no chain); `most` is the highest price this client accepts.
    """

    def __init__(self, host: Host, purse: Purse | None, most: Price, client: bytes) -> None:
        self._host = host
        self._purse = purse
        self._most = most
        self._client = client

    @asynccontextmanager
    async def call(self, peer: PeerAddress, question: Question) -> AsyncIterator[Call]:
        """A stream to this node, with the channel that pays it; raises NodeVanished, NoChannel."""
        try:
            await self._host.connect_to(peer, CONNECT_DEADLINE_S)
        except P2pError as error:
            raise NodeVanished(f"node {peer.peer_id} cannot be reached: {error}") from error
        pocket = await self._purse.pocket(peer.peer_id) if self._purse else None
        key = pocket.new_key() if pocket else 0
        try:
            async with self._open_stream(peer) as stream:
                call = Call(
                    stream,
                    question,
                    pocket,
                    self._most,
                    address_of_peer(peer.peer_id),
                    self._client,
                    key,
                )
                yield call
        except NodeRefused as refusal:
            if self._purse and pocket and refusal.code == "no_channel":
                pocket.leave(key)
                self._purse.forget(peer.peer_id)
            raise
        finally:
            if pocket is not None:
                pocket.leave(key)

    @asynccontextmanager
    async def _open_stream(self, peer: PeerAddress) -> AsyncIterator[FrameStream]:
        async with AsyncExitStack() as stack:
            try:
                stream = await stack.enter_async_context(
                    self._host.open_stream(peer.peer_id, wire.PROTOCOL, CONNECT_DEADLINE_S)
                )
            except P2pError as error:
                raise NodeVanished(f"node {peer.peer_id} opened no stream: {error}") from error
            yield stream
