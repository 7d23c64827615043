"""Runs the client's side of an infer stream: feeds events to the machine that decides
(wire/client_session.py), and carries out its actions on the stream and the purse.

Knows no order of messages, no text and no HTTP.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import assert_never

import trio

from p2p.errors import P2pError, PeerTimeout, StreamClosed
from p2p.host import Host
from p2p.peers import PeerAddress
from p2p.streams import FrameStream
from proofs.policies import UNGOVERNED, Policies
from proofs.receipt import digest_of

from ..attributing.answers import OwnAnswers, remember
from ..attributing.attributor import Attributor
from ..errors import (
    NoChannel,
    NodeAtOdds,
    NodeCheated,
    NodeError,
    NodeRefused,
    NodeVanished,
    PaymentError,
    RemoteError,
)
from ..money.addresses import address_of_peer
from ..money.purse import Pocket, Purse
from ..wire import client_session as client
from ..wire import infer as wire
from ..wire import quote as quotes
from ..wire.channels import Persist
from ..wire.client_session import ClientSession, Outcome, Question
from ..wire.metering import Deal, Price
from ..wire.session import Draw, Drew, Fail, Failed, Malformed, PeerGone, Send, Tick

CONNECT_DEADLINE_S = 8.0
SEND_DEADLINE_S = 10.0
STOP_DEADLINE_S = 5.0
QUOTE_DEADLINE_S = 1.0  # once there is a connection

OnKept = Callable[[bytes], None]
"""Hears the digest of a receipt."""
OnCheated = Callable[[str, bytes, NodeCheated], Awaitable[None]]
"""Hears that a peer, asked for an adapter, signed or sent what is not so."""


async def _forgive(peer_id: str, adapter: bytes, error: NodeCheated) -> None:
    """Hold nothing against anybody."""


class Call:
    """A stream to a node that answers one question; made by `Caller.call`.

    Its state has one owner: the task that asks. Actions left over when a wait is cancelled are
    carried out by the next one.
    """

    def __init__(
        self,
        stream: FrameStream,
        session: ClientSession,
        purse: Purse | None,
        pocket: Pocket | None,
        *,
        attributor: Attributor | None,
        answers: OwnAnswers | None,
        on_kept: OnKept,
        on_cheated: Callable[[NodeCheated], Awaitable[None]],
    ) -> None:
        self._on_kept = on_kept
        self._on_cheated = on_cheated
        self._attributor = attributor
        self._answers = answers
        self._stream = stream
        self._session = session
        self._purse = purse
        self._pocket = pocket
        self._todo = deque(session.start(trio.current_time()))

    async def open(self) -> Deal:
        """Ask, and hear the offer; nothing is promised yet.

        Raises NodeRefused, NodeCheated, NodeVanished, PaymentError.
        """
        found = await self._next()
        assert isinstance(found, client.Agree)
        return found.deal

    async def accept(self) -> None:
        """Take the offer: pay for the first tokens, after a deposit if it takes one.

        Raises what `open` does.
        """
        self._feed(client.Accepted())
        found = await self._next()
        assert isinstance(found, client.Begun)

    async def next_tokens(self) -> wire.Output | Outcome:
        """Return the next tokens of the answer, paying ahead as it grows, or how it ended and was
        settled.

        Raises what `open` does.
        """
        found = await self._next()
        assert isinstance(found, client.Emit | client.Finish)
        return found.output if isinstance(found, client.Emit) else found.outcome

    def stop_soon(self) -> None:
        """Ask for an early end; the outcome still comes."""
        self._feed(client.StopWanted())

    async def settle_early(self) -> None:
        """Stop and settle what came, within STOP_DEADLINE_S.

        Never raises a node's fault: whoever calls this is already leaving.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_DEADLINE_S):
            try:
                self.stop_soon()
                while not isinstance(await self.next_tokens(), Outcome):
                    pass
            except (RemoteError, PaymentError):
                return

    async def _next(self) -> client.Agree | client.Begun | client.Emit | client.Finish:
        """Carry out the machine's actions until it has something for the caller."""
        while True:
            while self._todo:
                match action := self._todo[0]:
                    case client.Finish():
                        await self._remember(action.outcome)
                        self._todo.popleft()
                        return action
                    case client.Agree() | client.Begun() | client.Emit():
                        self._todo.popleft()
                        return action
                    case client.Accuse():
                        self._todo.popleft()
                        await self._accuse(action)
                    case Draw():
                        event = await self._draw(action)
                        self._todo.popleft()
                        self._feed(event)
                    case Fail():
                        if isinstance(action.error, NodeCheated):
                            await self._on_cheated(action.error)
                        raise action.error
                    case Send():
                        await self._say(action.message)
                    case client.Deposit():
                        await self._deposit(action)
                    case Persist():
                        raise AssertionError("written down already")
                    case _:
                        assert_never(action)
            self._feed(await self._hear())

    def _feed(self, event: client.ClientEvent) -> None:
        """Give the machine an event; what must be kept is on disk before any other action runs."""
        actions = self._session.receive(event, trio.current_time())
        if self._purse is not None:
            self._purse.keep(*(action for action in actions if isinstance(action, Persist)))
        self._todo += [action for action in actions if not isinstance(action, Persist)]

    async def _hear(self) -> client.ClientEvent:
        patience_s = max(self._session.deadline - trio.current_time(), 0.0)
        try:
            return wire.decode_from_node(await self._stream.receive(patience_s))
        except PeerTimeout:
            return Tick()
        except StreamClosed as error:
            return PeerGone(str(error))
        except wire.WireError as error:
            return Malformed(error)
        except P2pError as error:
            return Malformed(wire.WireError(str(error)))

    async def _say(self, message: wire.Message) -> None:
        """Send the first action's message, and drop it only once it is sent: a frame that was cut
        off has ended the stream. LedgerError where our disk lags behind what it may speak of.
        """
        if self._purse is not None and self._pocket is not None:
            self._purse.keep_late(self._pocket)
        try:
            await self._stream.send(wire.encode(message), SEND_DEADLINE_S)
        except (StreamClosed, PeerTimeout) as error:
            self._feed(PeerGone(str(error)))
        self._todo.popleft()

    async def _deposit(self, deposit: client.Deposit) -> None:
        """Deposit what is missing. A cancelled deposit is not retried: the money may be on its
        way.
        """
        assert self._purse is not None
        assert self._pocket is not None
        self._todo.popleft()
        try:
            await self._purse.deposit(self._pocket, deposit.key, deposit.limit)
        except NodeError as error:
            self._feed(Failed(error))
        else:
            self._feed(client.Deposited())

    async def _draw(self, action: Draw) -> Drew | Failed:
        """Compute what the answer drew on, before its receipt is signed."""
        assert self._attributor is not None, "who cannot compute it does not say that he can"
        ask = action.deal.ask
        try:
            return Drew(await self._attributor.draw(ask.adapter, ask.prompt_ids, action.answer_ids))
        except NodeError as error:
            return Failed(error)

    async def _accuse(self, action: client.Accuse) -> None:
        """Keep what a node signed and should not have."""
        if self._answers is not None:
            kept = remember(
                action.deal,
                action.answer_ids,
                digest_of(action.body),
                action.body,
                action.node_signature,
            )
            await trio.to_thread.run_sync(self._answers.accuse, kept)

    async def _remember(self, outcome: Outcome) -> None:
        """Keep the tokens of an answer that was paid, unless it is private."""
        if self._answers is None or outcome.receipt is None:
            return
        answer = remember(outcome.deal, outcome.token_ids, outcome.receipt)
        await trio.to_thread.run_sync(self._answers.keep, answer)
        self._on_kept(outcome.receipt)


class Caller:
    """Opens calls to nodes.

    `purse` None pays nobody (there is no chain); `most` is the highest price that this client
    accepts. `answers` remembers what was paid for, where that may be, and `on_kept` hears each
    receipt whose answer it has now; `on_cheated` of each node that is caught in a lie. `policies`:
    by which fees may be divided now.
    """

    def __init__(
        self,
        host: Host,
        purse: Purse | None,
        most: Price,
        client: bytes,
        *,
        attributor: Attributor | None = None,
        answers: OwnAnswers | None = None,
        on_kept: OnKept = lambda receipt: None,
        on_cheated: OnCheated = _forgive,
        policies: Callable[[], Policies] = lambda: UNGOVERNED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policies = policies
        self._on_kept = on_kept
        self._on_cheated = on_cheated
        self._attributor = attributor
        self._answers = answers
        self._host = host
        self._purse = purse
        self.most = most
        """The highest price that is paid."""
        self._client = client
        self._clock = clock

    def has_channel(self, peer_id: str) -> bool:
        """Return whether a node can be paid without opening a channel, or need not be paid."""
        return self._purse is None or self._purse.has_channel(peer_id)

    async def quote(
        self, peer: PeerAddress, wanted: quotes.AskQuote
    ) -> tuple[quotes.FromNode, float]:
        """Ask a node what an answer would cost and how soon it would begin; return how long (s) it
        took to say so, too. Raises NodeVanished, NodeCheated.
        """
        await self._connect(peer)
        began = time.perf_counter()
        try:
            with trio.fail_after(QUOTE_DEADLINE_S):
                async with self._host.open_stream(
                    peer.peer_id, quotes.PROTOCOL, QUOTE_DEADLINE_S
                ) as stream:
                    await stream.send(quotes.encode(wanted), QUOTE_DEADLINE_S)
                    frame = await stream.receive(QUOTE_DEADLINE_S, max_bytes=quotes.MAX_QUOTE_BYTES)
            return quotes.decode_answer(frame), time.perf_counter() - began
        except (P2pError, trio.TooSlowError) as error:
            raise NodeVanished(f"node {peer.peer_id} quoted nothing: {error}") from error
        except wire.WireError as error:
            lie = NodeCheated(f"node {peer.peer_id} sent no quote: {error}")
            await self._on_cheated(peer.peer_id, wanted.adapter, lie)
            raise lie from error

    @asynccontextmanager
    async def call(
        self, peer: PeerAddress, question: Question, quoted: Price | None = None
    ) -> AsyncIterator[Call]:
        """Open a stream to this node, with the channel that pays it; `quoted` are the prices by
        which it must stand. Raises NodeVanished, NoChannel.
        """
        await self._connect(peer)
        async with self._lend_pocket(peer.peer_id) as pocket, self._open_stream(peer) as stream:
            session = ClientSession(
                question,
                pocket.channel if pocket else None,
                self.most,
                peer=peer.peer_id,
                operator=address_of_peer(peer.peer_id),
                client=self._client,
                salt=secrets.token_bytes(16),
                clock=self._clock,
                quoted=quoted,
                policies=self._policies(),
            )
            try:
                yield Call(
                    stream,
                    session,
                    self._purse,
                    pocket,
                    attributor=self._attributor,
                    answers=None if question.is_private else self._answers,
                    on_kept=self._on_kept,
                    on_cheated=partial(self._on_cheated, peer.peer_id, question.adapter),
                )
            finally:
                session.leave()

    async def _connect(self, peer: PeerAddress) -> None:
        try:
            await self._host.connect_to(peer, CONNECT_DEADLINE_S)
        except P2pError as error:
            raise NodeVanished(f"node {peer.peer_id} cannot be reached: {error}") from error

    @asynccontextmanager
    async def _lend_pocket(self, peer_id: str) -> AsyncIterator[Pocket | None]:
        """The channel that pays this node; one about which we and the node do not agree is left."""
        if self._purse is None:
            yield None
            return
        pocket = await self._purse.pocket(peer_id)
        pocket.visits += 1
        is_left = False
        try:
            yield pocket
        except NodeRefused as refusal:
            is_left = refusal.code == "no_channel"
            raise
        except (NodeCheated, NodeAtOdds, NoChannel):
            is_left = True
            raise
        finally:
            pocket.visits -= 1
            if is_left:
                self._purse.forget(pocket)

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
