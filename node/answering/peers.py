"""Presents everything that can answer a question (this node's engine, another node) as `Peer` and
`Call`.

service.py tells the story of a request over these two alone; a test gives it peers that live in
memory. Does not decide whom to ask.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from engine import messages as m
from p2p.cid import Cid
from p2p.host import Host
from p2p.peers import PeerAddress
from proofs.receipt import BARE_BASE

from ..api.answers import EndReason
from ..engine_host import EngineHost, EngineRun
from ..errors import NoEngine
from ..wire import client_session as client
from ..wire import infer as wire
from ..wire.client_session import Question
from ..wire.metering import Deal, Price
from ..wire.quote import AskQuote, FromNode
from .remote import Call as InferCall
from .remote import Caller


@dataclass(frozen=True)
class AnswerEnd:
    """How an answer ended. `receipt` is its body's digest, None where nothing was paid."""

    reason: EndReason
    amount: int
    receipt: bytes | None
    neighbours: int
    timings_ms: Mapping[str, float] = field(default_factory=dict)


Tokens = m.Tokens | wire.Output
"""Some tokens of an answer, as our own engine or another node reports them."""


class Call(Protocol):
    """One question to one peer, from agreeing on terms to the receipt."""

    async def open(self) -> Mapping[str, float]:
        """Hear the terms; nothing is promised yet. Returns how long (ms) each part took so far."""

    async def accept(self) -> None:
        """Take the offer: from now on the answer is made, and paid."""

    @property
    def seed(self) -> bytes:
        """Return the sampling seed that was agreed on."""

    async def next_tokens(self) -> Tokens | None:
        """Return the next tokens of the answer, none of them where the peer only says that it is
        at work; None when the answer is complete.
        """

    async def stop(self) -> None:
        """Ask for an early end; what was made until then still comes."""

    async def finish(self) -> AnswerEnd:
        """Settle what the answer cost, once it is complete."""


class Peer(Protocol):
    """A party that can answer. Errors are NodeErrors; a RemoteError says that another peer may
    succeed.
    """

    @property
    def peer_id(self) -> str:
        """Return its peer id."""

    def ask(self, question: Question) -> AbstractAsyncContextManager[Call]:
        """Open a call; leaving the block early ends the answer there, and what came is settled."""


class Peers(Protocol):
    """Every party that can be asked from here."""

    @property
    def connected(self) -> Collection[str]:
        """Return the ids of the peers with an open connection."""

    def here(self) -> Peer:
        """Return this node itself. Raises NoEngine when it runs none."""

    def at(self, address: PeerAddress, quoted: Price | None = None) -> Peer:
        """Return another node; `quoted` are the prices by which it must stand."""

    async def context_tokens(self) -> int:
        """Return how many tokens prompt and answer may have together at this node itself. Raises
        NoEngine, EngineLost.
        """

    async def score(
        self, token_ids: Sequence[int], adapter: bytes, logprobs: int
    ) -> Sequence[m.TokenLogprobs]:
        """Have this node itself compute the log-probabilities of each token but the first, with so
        many likely others beside each. Raises NoEngine, EngineError, AdapterError.
        """

    @property
    def serving(self) -> Sequence[PeerAddress]:
        """Return the connected nodes that answer questions."""

    @property
    def most(self) -> Price:
        """Return the highest price that is paid to another node."""

    def paid(self, addresses: Sequence[PeerAddress]) -> Collection[str]:
        """Return the ids of those that can be paid without opening a channel."""

    async def quote(self, address: PeerAddress, wanted: AskQuote) -> tuple[FromNode, float]:
        """Ask another node for a quote; return how long (s) that took, too. Raises RemoteError."""


class NetworkPeers:
    """The real peers: this node's own engine, and nodes over libp2p."""

    def __init__(
        self, host: Host, engine: EngineHost | None, holder: Holder, caller: Caller
    ) -> None:
        self._host = host
        self._engine = engine
        self._holder = holder
        self._caller = caller

    @property
    def connected(self) -> Collection[str]:
        """Return the ids of the peers with an open connection."""
        return {peer.peer_id for peer in self._host.peers()}

    def here(self) -> Peer:
        """Return this node itself. Raises NoEngine when it runs none."""
        return OwnEngine(self._host.peer_id, self._need_engine(), self._holder)

    async def context_tokens(self) -> int:
        """Return how many tokens prompt and answer may have together at this node itself. Raises
        NoEngine, EngineLost.
        """
        return (await self._need_engine().wait_up()).max_context_tokens

    async def score(
        self, token_ids: Sequence[int], adapter: bytes, logprobs: int
    ) -> Sequence[m.TokenLogprobs]:
        """Have this node itself compute the log-probabilities of each token but the first, with so
        many likely others beside each. Raises NoEngine, EngineError, AdapterError.
        """
        engine = self._need_engine()
        await engine.wait_up()
        if adapter == BARE_BASE:
            return await engine.score(token_ids, None, logprobs)
        await self._holder.hold(Cid(adapter))
        return await engine.score(token_ids, adapter, logprobs)

    def _need_engine(self) -> EngineHost:
        if self._engine is None:
            raise NoEngine("this daemon runs no engine; name another node")
        return self._engine

    def at(self, address: PeerAddress, quoted: Price | None = None) -> Peer:
        """Return another node; `quoted` are the prices by which it must stand."""
        return RemoteNode(address, self._caller, quoted)

    @property
    def serving(self) -> Sequence[PeerAddress]:
        """Return the connected nodes that answer questions."""
        peers = self._host.peers()
        return [PeerAddress(one.peer_id) for one in peers if wire.PROTOCOL in one.protocols]

    @property
    def most(self) -> Price:
        """Return the highest price that is paid to another node."""
        return self._caller.most

    def paid(self, addresses: Sequence[PeerAddress]) -> Collection[str]:
        """Return the ids of those that can be paid without opening a channel."""
        return {one.peer_id for one in addresses if self._caller.has_channel(one.peer_id)}

    async def quote(self, address: PeerAddress, wanted: AskQuote) -> tuple[FromNode, float]:
        """Ask another node for a quote; return how long (s) that took, too. Raises RemoteError."""
        return await self._caller.quote(address, wanted)


# --- this node: nobody pays himself ---


class Holder(Protocol):
    """Makes an adapter servable by this node's engine."""

    async def hold(self, cid: Cid) -> Held:
        """Fetch, check and load an adapter, unless that is done."""


class Held(Protocol):
    """What it took to make an adapter servable."""

    @property
    def timings_ms(self) -> dict[str, float]:
        """Return the time of each part."""


@dataclass(frozen=True)
class OwnEngine:
    """This node's own engine, as a peer."""

    peer_id: str
    engine: EngineHost
    holder: Holder

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[Call]:
        """Start the answer; leaving the block cancels it."""
        await self.engine.wait_up()
        timings: Mapping[str, float] = {}
        resumed = question.resumed
        seed = resumed.seed if resumed else question.client_seed
        if question.adapter != BARE_BASE:
            timings = (await self.holder.hold(Cid(question.adapter))).timings_ms
        async with self.engine.generate(
            question.prompt_ids,
            None if question.adapter == BARE_BASE else question.adapter,
            m.Sampling(seed, question.terms),
            question.max_tokens,
            credit=question.max_tokens,
            stop_ids=question.stop_ids,
            logprobs=question.logprobs,
            num_answered=resumed.num_answered if resumed else 0,
        ) as run:
            yield _EngineCall(run, seed, timings)


class _EngineCall:
    def __init__(self, run: EngineRun, seed: bytes, timings_ms: Mapping[str, float]) -> None:
        self._run = run
        self.seed = seed
        self._timings_ms = timings_ms
        self._finished: m.Finished | None = None

    async def open(self) -> Mapping[str, float]:
        return self._timings_ms

    async def accept(self) -> None:
        """Nobody is paid here, and the engine is at work already."""

    async def next_tokens(self) -> m.Tokens | None:
        event = await anext(self._run)
        if isinstance(event, m.Tokens):
            return event
        self._finished = event
        return None

    async def stop(self) -> None:
        self._run.cancel()

    async def finish(self) -> AnswerEnd:
        ended = self._finished
        assert ended is not None, "an answer is finished before its end"
        return AnswerEnd(ended.reason, 0, None, ended.neighbours, ended.timings_ms)


# --- another node: a receipt for every answer ---


@dataclass(frozen=True)
class RemoteNode:
    """Another node, as a peer."""

    address: PeerAddress
    caller: Caller
    quoted: Price | None = None

    @property
    def peer_id(self) -> str:
        """Return its peer id."""
        return self.address.peer_id

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[Call]:
        """Open a call; cancelling the block stops the answer and settles what came."""
        began = time.perf_counter()
        async with self.caller.call(self.address, question, self.quoted) as infer:
            call = _RemoteCall(infer, connect_ms=(time.perf_counter() - began) * 1000)
            try:
                yield call
            except trio.Cancelled:
                await call.leave()
                raise


class _RemoteCall:
    def __init__(self, infer: InferCall, connect_ms: float) -> None:
        self._infer = infer
        self._connect_ms = connect_ms
        self._deal: Deal | None = None
        self._is_begun = False
        self._outcome: client.Outcome | None = None

    async def open(self) -> Mapping[str, float]:
        self._deal = await self._infer.open()
        return {"connect": self._connect_ms}

    async def accept(self) -> None:
        await self._infer.accept()
        self._is_begun = True

    @property
    def seed(self) -> bytes:
        assert self._deal is not None, "the seed is agreed on first"
        return self._deal.seed

    async def next_tokens(self) -> wire.Output | None:
        found = await self._infer.next_tokens()
        if isinstance(found, wire.Output):
            return found
        self._outcome = found
        return None

    async def stop(self) -> None:
        self._infer.stop_soon()

    async def finish(self) -> AnswerEnd:
        ended = self._outcome
        assert ended is not None, "an answer is finished before its end"
        return AnswerEnd(
            ended.reason, ended.amount, ended.receipt, ended.neighbours, ended.timings_ms
        )

    async def leave(self) -> None:
        """Settle what came although whoever asked is gone."""
        if self._is_begun and self._outcome is None:
            await self._infer.settle_early()
