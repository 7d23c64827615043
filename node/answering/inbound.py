"""The node's side of an infer stream: carries events to the machine that decides
(wire/node_session.py), and does what it says: with the stream, the engine, the adapters and the
till. Knows no order of messages, no HTTP and no text.

    frames ──┐
    engine ──┼──▶ queue ──▶ NodeSession ──▶ deeds
    deeds  ──┘
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar, assert_never

import trio
from trio_typing import TaskStatus

from engine.messages import Sampling
from p2p.cid import Cid
from p2p.errors import P2pError, StreamClosed, sole_error
from p2p.streams import FrameStream
from proofs.attribution.shares import POLICY, SharePolicy, terms_of
from proofs.errors import LedgerError
from proofs.receipt import BARE_BASE, digest_of

from ..api.traces import RECEIPT, Attribute, open_context
from ..attributing.attributor import Attributor
from ..catalogue.catalogue import Catalogue
from ..distributions import Answered
from ..engine_host import EngineHost, EngineRun
from ..errors import NodeError, RefusalCode
from ..money.till import Tab, Till
from ..telemetry import Telemetry
from ..wire import infer as wire
from ..wire import node_session as node
from ..wire.channels import Persist
from ..wire.metering import Deal, Price
from ..wire.node_session import UNPAID_DEADLINE_S, NodeSession, NodeTerms
from ..wire.session import Draw, Drew, Fail, Failed, Malformed, PeerGone, Send, Tick
from .places import Places
from .times import Times, code_of

SEND_DEADLINE_S = 10.0
# the client may stay silent while it is paid up; its connection's end is noticed at once
LISTEN_DEADLINE_S = 3600.0
QUEUED_EVENTS = 16  # what waits beyond that waits in the stream and in the engine's own queue


Deed = (
    node.HoldAdapter
    | node.OpenChannel
    | node.ReadChannel
    | node.TakeTurn
    | node.GiveTurn
    | node.StartEngine
    | node.GrantCredit
    | node.CancelEngine
    | Draw
)
"""What is begun here and not waited for."""
STEPS: Mapping[type[object], str] = {
    node.HoldAdapter: "hold adapter",
    node.OpenChannel: "channel",
    node.ReadChannel: "channel on the chain",
    node.TakeTurn: "turn",
    Draw: "whose text",
}
"""What a visit's trace calls those that take time."""

D = TypeVar("D", bound=Deed)


class Inbound:
    """What a volunteer offers to strangers.

    `till` None answers without payment (there is no chain). `price`: of an answer that begins now;
    `policy`: how its fee is divided. `places`: of those that are made at once. `note_paid` hears
    of each question that was paid, and how much its channel had.
    """

    def __init__(
        self,
        engine: EngineHost,
        catalogue: Catalogue,
        till: Till | None,
        price: Callable[[], Price],
        owner: bytes,
        telemetry: Telemetry,
        attributor: Attributor,
        *,
        places: Places,
        policy: Callable[[], SharePolicy] = lambda: POLICY,
        unpaid_deadline_s: float = UNPAID_DEADLINE_S,
        clock: Callable[[], float] = time.time,
        note_paid: Callable[[wire.Ask, int], None] = lambda ask, deposit: None,
    ) -> None:
        self.note_paid = note_paid
        self.policy = policy
        self.places = places
        self.engine = engine
        self.catalogue = catalogue
        self.till = till
        self.price = price
        self.owner = owner
        self.telemetry = telemetry
        self.attributor = attributor
        self.unpaid_deadline_s = unpaid_deadline_s
        self.clock = clock

    async def serve(self, stream: FrameStream) -> None:
        """Handle one stream to its end; a fault of either side ends only this stream."""
        try:
            await Visit(self, stream).run()
        except NodeError as error:
            self.telemetry.count("requests_refused")
            self.telemetry.log(
                f"inbound: refused {stream.remote[-8:]}: {error}", peer=stream.remote
            )
            await self._refuse(stream, error.code, str(error))
        except wire.WireError as error:
            self.telemetry.reject("message", stream.remote, str(error))
            await self._refuse(stream, "bad_request", str(error))
        except P2pError as error:
            self.telemetry.count("clients_vanished")
            self.telemetry.log(
                f"inbound: {stream.remote[-8:]} went away: {error}", peer=stream.remote
            )
        except (LedgerError, OSError) as error:  # our disk: what is not written down is not served
            self.telemetry.trouble("inbound", f"requests are refused: {error}")
            await self._refuse(
                stream, "internal", "this node's disk takes nothing now; ask another"
            )
        else:
            self.telemetry.clear("inbound")

    def terms(self) -> NodeTerms:
        """What is offered now."""
        return NodeTerms(
            base=self.catalogue.base,
            operator=self.till.operator if self.till else bytes(20),
            owner=self.owner,
            price=self.price(),
            is_paid=self.till is not None,
            engine=self.engine.ready if self.engine.is_up else None,
            unpaid_deadline_s=self.unpaid_deadline_s,
            can_draw=self.can_draw,
            policy=self.policy(),
        )

    def can_draw(self, ask: wire.Ask) -> bool:
        """Return whether what an answer draws on can be computed here; one that cannot be yet is
        made ready for the next.
        """
        if ask.cocktail:
            self.catalogue.cocktails.learn(ask.cocktail)
        if self.attributor.can_draw(ask.adapter):
            return True
        self.attributor.want(ask.adapter)
        return False

    async def hold(self, action: node.HoldAdapter) -> node.AdapterHeld:
        """Have an adapter servable for a stranger. Raises NodeError."""
        catalogue = self.catalogue
        if action.adapter == BARE_BASE:
            return node.AdapterHeld(None, {})
        if action.cocktail:
            cid = catalogue.cocktails.learn(action.cocktail)
            if self.till is not None:
                catalogue.cocktails.keep(cid)
        servable = await catalogue.hold_guest(Cid(action.adapter))
        times = servable.timings_ms
        if "fetch" in times:
            self.engine.load_now.measure_fetch(
                times.get("lookup", 0.0), servable.size_bytes, times["fetch"]
            )
        self.attributor.want(action.adapter)
        return node.AdapterHeld(terms_of(servable.adapter), dict(times))

    async def _refuse(self, stream: FrameStream, code: RefusalCode, message: str) -> None:
        try:
            await stream.send(wire.encode(wire.Refusal(code, message[:1000])), SEND_DEADLINE_S)
        except P2pError as error:
            self.telemetry.log(
                f"inbound: {stream.remote[-8:]} did not hear why: {error}", peer=stream.remote
            )


class Visit:
    """One stream, from Ask to Settled.

    Its state has one owner: the task that runs it; tasks that wait for something only queue events.
    """

    def __init__(self, inbound: Inbound, stream: FrameStream) -> None:
        self._in = inbound
        self._stream = stream
        self._session = NodeSession(
            inbound.terms(), node_seed=secrets.token_bytes(32), clock=inbound.clock
        )
        self._send, self._events = trio.open_memory_channel[node.NodeEvent](QUEUED_EVENTS)
        self._tab: Tab | None = None
        self._has_turn = False
        self._run: EngineRun | None = None
        self._began_at = trio.current_time()
        self._num_prompt = 0
        self._first_output_at: float | None = None
        context = open_context(None, "serve", time.time_ns(), secrets.token_bytes)
        self._times = Times(context)
        self._step_began = time.perf_counter()
        self._deal: Deal | None = None
        self._receipt: bytes | None = None

    async def run(self) -> None:
        """The whole visit; raises NodeError or WireError with what the client should hear, P2pError
        when it is gone.
        """
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                failure = await self._attend(nursery)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # the nursery wraps; a full disk has its name
            raise sole_error(group) from None
        finally:
            self._leave()
            self._note_trace(failure)
        if failure is not None:
            raise failure

    async def _attend(self, nursery: trio.Nursery) -> Exception | None:
        """Feed the machine until it is over; gives why it ended before its time."""
        self._session.start(trio.current_time())
        failure = None
        while not self._session.is_over:
            event: node.NodeEvent = Tick()
            with trio.move_on_at(self._session.deadline):
                event = await self._events.receive()
            failure = await self._handle(event, nursery)
        return failure

    async def _handle(self, event: node.NodeEvent, nursery: trio.Nursery) -> Exception | None:
        """Do what follows from an event, in order."""
        for action in self._receive(event):
            match action:
                case Send():
                    try:
                        await self._say(action.message)
                    except P2pError as error:
                        return await self._handle(PeerGone(str(error)), nursery) or error
                case Fail():
                    return action.error
                case node.GiveUp():
                    return StreamClosed(action.reason)
                case Persist():
                    raise AssertionError("written down already")
                case _:
                    await self._do(action, nursery)
        return None

    def _receive(self, event: node.NodeEvent) -> list[node.NodeAction]:
        """Give what follows from an event; what is to be kept has been kept."""
        actions = self._session.receive(event, trio.current_time())
        if self._in.till is not None:
            persists = [action for action in actions if isinstance(action, Persist)]
            self._in.till.keep(*persists)
            self._find_receipt(persists)
        return [action for action in actions if not isinstance(action, Persist)]

    async def _do(self, action: Deed, nursery: trio.Nursery) -> None:
        """Begin a deed; what takes time becomes a task, whose event tells the end."""
        match action:
            case node.HoldAdapter():
                nursery.start_soon(self._report, self._hold, action)
            case node.OpenChannel():
                nursery.start_soon(self._report, self._open, action)
            case node.ReadChannel():
                nursery.start_soon(self._report, self._read, action)
            case node.TakeTurn():
                nursery.start_soon(self._report, self._take_turn, action)
            case node.GiveTurn():
                self._give_turn()
            case node.StartEngine():
                self._run = await nursery.start(self._generate, action)
            case node.GrantCredit():
                if self._run is not None:
                    self._run.grant(action.credit)
            case node.CancelEngine():
                if self._run is not None:
                    self._run.cancel()
            case Draw():
                nursery.start_soon(self._report, self._draw, action)
            case _:
                assert_never(action)

    # --- events ---

    async def _listen(self) -> None:
        """Queue what the client says, up to its end."""
        event: wire.FromClient | PeerGone | Malformed
        while True:
            try:
                frame = await self._stream.receive(LISTEN_DEADLINE_S)
                event = wire.decode_from_client(frame)
            except P2pError as error:
                event = PeerGone(str(error))
            except wire.WireError as error:
                event = Malformed(error)
            await self._send.send(event)
            if isinstance(event, PeerGone | Malformed):
                return

    async def _generate(
        self, start: node.StartEngine, task_status: TaskStatus[EngineRun | None]
    ) -> None:
        """Queue what the engine says, up to its end."""
        ask = start.deal.ask
        self._deal = start.deal
        self._step_began = time.perf_counter()
        self._num_prompt = len(ask.prompt_ids)
        begun = False
        try:
            async with self._in.engine.generate(
                ask.prompt_ids,
                None if ask.adapter == BARE_BASE else ask.adapter,
                Sampling(start.deal.seed, ask.terms),
                ask.max_tokens,
                start.credit,
                stop_ids=ask.stop_ids,
                logprobs=ask.logprobs,
                num_answered=ask.resumed.num_answered if ask.resumed else 0,
            ) as run:
                begun = True
                task_status.started(run)
                async for event in run:
                    await self._send.send(event)
        except NodeError as error:
            if not begun:
                task_status.started(None)
            await self._send.send(Failed(error))
        finally:
            self._in.places.leave(self)

    async def _report(self, deed: Callable[[D], Awaitable[node.NodeEvent]], action: D) -> None:
        """Queue what a deed came to."""
        event: node.NodeEvent
        try:
            with self._times.step(STEPS[type(action)]):
                event = await deed(action)
        except NodeError as error:
            event = Failed(error)
        await self._send.send(event)

    # --- deeds ---

    async def _hold(self, action: node.HoldAdapter) -> node.AdapterHeld:
        """Have the adapter servable, and a place to answer in; whoever waits is told by beats."""
        held = await self._in.hold(action)
        await self._in.places.take(self)
        return held

    async def _draw(self, action: Draw) -> Drew:
        ask = action.deal.ask
        return Drew(await self._in.attributor.draw(ask.adapter, ask.prompt_ids, action.answer_ids))

    async def _open(self, action: node.OpenChannel) -> node.ChannelOpened:
        assert self._in.till is not None
        assert action.ask.channel is not None
        self._tab = self._in.till.open(self._stream.remote, action.ask.client, action.ask.channel)
        self._tab.visits += 1
        return node.ChannelOpened(self._tab.channel)

    async def _read(self, action: node.ReadChannel) -> node.ChannelRead:
        assert self._in.till is not None
        assert self._tab is not None
        await self._in.till.read(self._tab, action.at)
        return node.ChannelRead()

    async def _take_turn(self, action: node.TakeTurn) -> node.TurnTaken:
        assert self._tab is not None
        await self._tab.turn.acquire()
        self._has_turn = True
        return node.TurnTaken()

    def _give_turn(self) -> None:
        if self._has_turn:
            assert self._tab is not None
            self._has_turn = False
            self._tab.turn.release()

    async def _say(self, message: wire.Message) -> None:
        """Send a message; LedgerError where the channel's disk lags behind what it may speak of."""
        if self._tab is not None and self._in.till is not None:
            self._in.till.keep_late(self._tab)
        now = trio.current_time()
        if isinstance(message, wire.Output) and self._first_output_at is None:
            self._first_output_at = now
            self._note_step("first token")
        if isinstance(message, wire.Done):
            self._note_step("answer")
            self._in.telemetry.answered(self._answered(now))
            self._in.telemetry.count("requests_served")
            self._in.telemetry.count("tokens_served", self._session.num_sent)
        await self._stream.send(wire.encode(message), SEND_DEADLINE_S)

    def _note_step(self, name: str) -> None:
        self._times.note(name, self._step_began)
        self._step_began = time.perf_counter()

    def _find_receipt(self, persists: Sequence[Persist]) -> None:
        """Know this visit's own receipt when it becomes one; another visit's may come with it."""
        for receipt in (one.receipt for one in persists if one.receipt is not None):
            if self._deal is not None and receipt.receipt.seed == self._deal.seed:
                self._receipt = digest_of(receipt.signed.body)
                assert self._tab is not None, "what has a receipt is paid"
                self._in.note_paid(self._deal.ask, self._tab.channel.deposit)

    def _note_trace(self, failure: Exception | None) -> None:
        """Keep the trace of what was served; who was refused before has none."""
        if self._deal is None:
            return
        adapter = self._deal.ask.adapter
        about: dict[str, Attribute] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "lorikeet",
            "gen_ai.response.model": "base" if adapter == BARE_BASE else str(Cid(adapter)),
            "gen_ai.usage.input_tokens": self._num_prompt,
            "gen_ai.usage.output_tokens": self._session.num_sent,
            "lorikeet.peer": self._stream.remote,
        }
        self._note_step("settle")
        paid = {RECEIPT: self._receipt.hex()} if self._receipt else {}
        error = "" if failure is None else code_of(failure)
        spans = self._times.trace("chat", {**about, **paid}, error)
        self._in.telemetry.traces.note(self._times.context.trace, spans, paid.get(RECEIPT))

    def _answered(self, now: float) -> Answered:
        first = self._first_output_at
        return Answered(
            "peer",
            self._num_prompt,
            self._session.num_sent,
            whole_s=now - self._began_at,
            first_token_s=None if first is None else first - self._began_at,
        )

    def _leave(self) -> None:
        """End the machine if something else ended the visit (this daemon stops): what was sent is
        written down.
        """
        try:
            self._receive(PeerGone("this node stops"))
        finally:  # a full disk must not keep the channel's next request waiting
            self._give_turn()
            self._in.places.leave(self)
            if self._tab is not None:
                self._tab.visits -= 1
