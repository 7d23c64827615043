"""The node's machine of one infer stream: what it says when, how many tokens it lets be made, what
it signs.

Decides; sends nothing, knows no clock, no disk, no engine and no chain. Events come in, deeds go
out, to be done in order.

    ASK ──Ask──▶ PREPARING ──▶ (turn, Pending … Settle) ──Offer──▶ BEGIN ──Begin──▶ PAYING
                 channel                                                            voucher
    PAYING ──▶ HOLDING ──▶ ANSWERING
               adapter     tokens, Pay, Stop
    ANSWERING ──finished──▶ CLOSING: Draw, turn, (Pending … Settle), Done … Settle, Settled ──▶ OVER

- Nothing is fetched for somebody who has not paid for the prompt and one token.
- The engine may make as many tokens as the vouchers pay for that were checked, never one more.
- A channel's receipts form a chain and `Settle` names none of them, so only one session of a
  channel shows drafts at a time: the one that has the *turn*.
- However a paid answer ends, what was sent is drafted: for the client's next visit, and to be paid
  without its signature if it lets its time pass. Unless a fault of this node's engine broke it:
  then it costs nothing.
- What an answer drew on is computed once it is whole, where the offer said so; drafts of broken
  ones draw on nobody.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import assert_never

from engine import messages as m
from proofs.attribution.credit import NOTHING, Drawn
from proofs.attribution.shares import POLICY, AdapterTerms, SharePolicy
from proofs.cocktail import parse_cocktail
from proofs.errors import ManifestError

from ..errors import (
    BadRequest,
    EngineBusy,
    EngineError,
    EngineFailed,
    NodeError,
    PaymentRequired,
    WrongBase,
)
from . import infer as wire
from .channels import REREAD_S, PayeeChannel, Persist
from .metering import Deal, Price
from .session import Draw, Drew, Fail, Failed, Malformed, PeerGone, Send, Tick

ASK_DEADLINE_S = 10.0
BEGIN_DEADLINE_S = 90.0  # the client deposits meanwhile
SETTLE_DEADLINE_S = 10.0
UNPAID_DEADLINE_S = 10.0  # how long a sequence waits for the next voucher
TOKEN_DEADLINE_S = 120.0
SHORT_DEADLINE_S = 20.0
"""How long a deposit may take to be seen here after the client saw it, and what other requests of
the channel reserved to come free."""
MAX_WAITING_PAYS = 16  # while the chain is asked; an honest client has two or three under way


@dataclass(frozen=True)
class NodeTerms:
    """What this node offers to everybody.

    `engine` None: it is not up now. `owner` is paid; `operator` signs. `policy`: how fees are
    divided by the parameters that are in force.
    """

    base: bytes
    operator: bytes
    owner: bytes
    price: Price
    is_paid: bool
    engine: m.Ready | None
    unpaid_deadline_s: float = UNPAID_DEADLINE_S
    can_draw: Callable[[wire.Ask], bool] = lambda ask: False
    """Whether this node can compute now what an answer to this will have drawn on."""
    policy: SharePolicy = POLICY


# --- events, beside the messages of the client and of the engine, and those of session.py ---


@dataclass(frozen=True)
class AdapterHeld:
    """The adapter is servable; `terms` is what its manifest says about the fee (None: the bare
    base).
    """

    terms: AdapterTerms | None
    timings_ms: dict[str, float]


@dataclass(frozen=True)
class ChannelOpened:
    """The channel that shall pay is known and fit to."""

    channel: PayeeChannel


@dataclass(frozen=True)
class ChannelRead:
    """The channel has been told what the chain says."""


@dataclass(frozen=True)
class TurnTaken:
    """This session alone may show drafts of its channel now."""


NodeEvent = (
    wire.FromClient
    | m.Tokens
    | m.Finished
    | Tick
    | PeerGone
    | Malformed
    | Failed
    | AdapterHeld
    | ChannelOpened
    | ChannelRead
    | TurnTaken
    | Drew
)


# --- deeds, beside those of session.py; the first four are answered by an event above, or Failed


@dataclass(frozen=True)
class HoldAdapter:
    """Make an adapter servable; `cocktail` is what it is mixed of, if it is, and was checked."""

    adapter: bytes
    cocktail: bytes


@dataclass(frozen=True)
class OpenChannel:
    """Find the channel by its terms, and see that it may pay this node for this client."""

    ask: wire.Ask


@dataclass(frozen=True)
class ReadChannel:
    """Ask the chain what the channel holds, at `at` at the earliest, unless somebody does so after
    `at`.
    """

    at: float


@dataclass(frozen=True)
class TakeTurn:
    """Wait until no other session of the channel shows drafts."""


@dataclass(frozen=True)
class GiveTurn:
    """Let the next session show drafts."""


@dataclass(frozen=True)
class StartEngine:
    """Begin to generate, at most `credit` tokens for now."""

    deal: Deal
    credit: int


@dataclass(frozen=True)
class GrantCredit:
    """Raise what may be generated in all."""

    credit: int


@dataclass(frozen=True)
class CancelEngine:
    """End the generation early; it still says that it finished."""


@dataclass(frozen=True)
class GiveUp:
    """The session is over because the client is gone or silent: nobody is there to be told."""

    reason: str


NodeAction = (
    Send
    | Draw
    | Persist
    | HoldAdapter
    | OpenChannel
    | ReadChannel
    | TakeTurn
    | GiveTurn
    | StartEngine
    | GrantCredit
    | CancelEngine
    | GiveUp
    | Fail
)


class _Stage(Enum):
    ASK = auto()
    PREPARING = auto()
    BEGIN = auto()
    PAYING = auto()  # Begin came, its voucher is being looked at
    HOLDING = auto()  # the adapter is on its way
    ANSWERING = auto()
    CLOSING = auto()
    OVER = auto()


class NodeSession:
    """One stream, from Ask to Settled.

    `node_seed` is 32 random bytes; `clock` gives Unix seconds. Call `start` once, then `receive`
    with every event, and with Tick when `deadline` is over.
    """

    def __init__(self, terms: NodeTerms, *, node_seed: bytes, clock: Callable[[], float]) -> None:
        self._terms = terms
        self._node_seed = node_seed
        self._clock = clock
        self._stage = _Stage.ASK
        self._ask: wire.Ask | None = None
        self._offer: wire.Offer | None = None
        self._begun: wire.Begin | None = None
        self._deal: Deal | None = None
        self._timings: dict[str, float] = {}
        self._channel: PayeeChannel | None = None
        self._key = 0
        self._limit = 0
        self._pays: deque[wire.Pay] = deque()
        self._pay_since: float | None = None  # when the first of them was found too small
        self._is_reading = False
        self._shown: bytes | None = None  # the body that waits for Settle
        self._own: bytes | None = None  # the body of this answer's draft
        self._finished: m.Finished | None = None
        self._drawn: Drawn = NOTHING
        self._is_drawing = False
        self._has_turn = False
        self._is_running = False
        self._is_stopping = False
        self._sent: list[int] = []
        self._out: list[NodeAction] = []
        self._until = float("inf")
        self._beat_at = float("inf")

    @property
    def is_over(self) -> bool:
        """Whether nothing follows any more."""
        return self._stage is _Stage.OVER

    @property
    def deadline(self) -> float:
        """When Tick should come, if nothing else does."""
        return min(self._until, self._beat_at)

    @property
    def num_sent(self) -> int:
        """How many tokens were sent."""
        return len(self._sent)

    @property
    def credit(self) -> int:
        """How many tokens are paid."""
        if self._deal is None:
            return 0
        if self._channel is None:
            return self._deal.ask.max_tokens
        return self._deal.credit(self._limit)

    def start(self, now: float) -> None:
        """Begin to wait for Ask."""
        self._until = now + ASK_DEADLINE_S

    def receive(self, event: NodeEvent, now: float) -> list[NodeAction]:
        """Take one event in; gives what to do, in order. After the end nothing is done."""
        if self.is_over:
            return []
        try:
            self._handle(event, now)
        except (NodeError, wire.WireError) as error:
            self._end(Fail(error))
        out = self._out
        self._out = []
        return out

    # --- events ---

    def _handle(self, event: NodeEvent, now: float) -> None:
        match event:
            case wire.Ask():
                self._take_ask(event, now)
            case AdapterHeld():
                self._take_adapter(event, now)
            case ChannelOpened():
                self._take_channel(event.channel, now)
            case ChannelRead():
                self._take_reading(now)
            case TurnTaken():
                self._has_turn = True
                self._show_next(now)
            case wire.Begin():
                self._take_begin(event, now)
            case wire.Pay():
                self._take_pay(event, now)
            case wire.Stop():
                self._take_stop()
            case wire.Settle():
                self._take_settle(event, now)
            case m.Tokens():
                self._take_tokens(event, now)
            case m.Finished():
                self._take_finished(event, now)
            case Drew():
                self._take_drawn(event)
            case Tick():
                if now >= self._until:
                    self._give_up_waiting(now)
                elif now >= self._beat_at:
                    self._beat(now)
            case PeerGone():
                self._end(GiveUp(event.reason))
            case Malformed():
                raise event.error
            case Failed():
                # A voucher that came too late is no matter.
                if self._stage is not _Stage.CLOSING or self._is_drawing:
                    raise event.error
            case _:
                assert_never(event)

    # --- before the first token ---

    def _take_ask(self, ask: wire.Ask, now: float) -> None:
        self._expect(_Stage.ASK, ask)
        self._check_ask(ask)
        self._ask = ask
        self._stage = _Stage.PREPARING
        self._until = float("inf")  # those who hold adapters and read chains have deadlines
        if not self._terms.is_paid:
            self._make_offer(now)
        elif ask.channel is None:
            raise PaymentRequired(
                "this node is paid: open a channel to it (set chain_rpc and the contracts'"
                " addresses)"
            )
        else:
            self._out.append(OpenChannel(ask))

    def _take_channel(self, channel: PayeeChannel, now: float) -> None:
        self._channel = channel
        self._key = channel.new_key()
        if channel.is_stale(now):
            self._read(now)
        else:
            self._check_channel()

    def _take_reading(self, now: float) -> None:
        self._is_reading = False
        if self._stage is _Stage.PREPARING:
            self._check_channel()
        elif self._stage is not _Stage.CLOSING:  # then a voucher that waited comes too late
            self._take_next_pays(now, has_read=True)

    def _check_channel(self) -> None:
        assert self._channel is not None
        self._channel.check_usable()
        self._out.append(TakeTurn())

    def _make_offer(self, now: float) -> None:
        assert self._terms.engine is not None
        self._offer = wire.Offer(
            node_seed=self._node_seed,
            paid=self._channel is not None,
            prompt_price=self._terms.price.prompt,
            completion_price=self._terms.price.completion,
            owner=self._terms.owner,
            dtype=self._terms.engine.dtype.encode(),
            started_at=int(self._clock()),
            attributed=self._will_draw(),
            parameters=self._terms.policy.version,
        )
        self._out.append(Send(self._offer))
        self._stage = _Stage.BEGIN
        self._until = now + BEGIN_DEADLINE_S

    def _will_draw(self) -> bool:
        assert self._ask is not None
        is_wanted = self._ask.attributed and self._channel is not None
        return is_wanted and self._terms.can_draw(self._ask)

    def _take_begin(self, begin: wire.Begin, now: float) -> None:
        self._expect(_Stage.BEGIN, begin)
        assert self._ask is not None
        if hashlib.sha256(begin.client_seed).digest() != self._ask.seed_commitment:
            raise BadRequest("the client's seed is not the one it committed to")
        self._begun = begin
        self._stage = _Stage.PAYING
        self._until = float("inf")
        if self._channel is None:
            self._hold_adapter(now)
        elif begin.payment is None:
            raise PaymentRequired("Begin carries no voucher, but the offer is a paid one")
        else:
            self._pays.append(begin.payment)
            self._take_next_pays(now)

    # --- money ---

    def _take_pay(self, pay: wire.Pay, now: float) -> None:
        if self._stage is _Stage.CLOSING:  # it crossed the end of the answer
            return
        if self._channel is None or not self._is_begun:
            raise wire.WireError("Pay does not belong here")
        if len(self._pays) >= MAX_WAITING_PAYS:
            raise wire.WireError(f"more than {MAX_WAITING_PAYS} vouchers at once")
        self._pays.append(pay)
        self._take_next_pays(now)

    def _take_next_pays(self, now: float, *, has_read: bool = False) -> None:
        """Take the vouchers that wait, in order, as far as the chain need not be asked first."""
        assert self._channel is not None
        while self._pays and not self._is_reading and not self.is_over:
            if self._channel.is_stale(now) and not has_read:
                self._read(now)
                return
            has_read = True
            pay = self._pays[0]
            self._channel.check_usable()
            self._channel.check_voucher(pay)
            if self._channel.is_short(self._key, pay) and self._may_wait(now):
                self._read(self._channel.read_at + REREAD_S)
                return
            self._pays.popleft()
            self._pay_since = None
            self._raise_limit(pay, now)

    def _may_wait(self, now: float) -> bool:
        """Whether what the first voucher lacks may still come."""
        if self._pay_since is None:
            self._pay_since = now
        return now - self._pay_since < SHORT_DEADLINE_S

    def _raise_limit(self, pay: wire.Pay, now: float) -> None:
        assert self._channel is not None
        persist = self._channel.raise_voucher(pay)
        if persist is not None:
            self._out.append(persist)
        self._channel.reserve(self._key, pay.limit)
        before = self.credit
        self._limit = max(self._limit, pay.limit)
        if self._stage is _Stage.PAYING:
            self._check_first_payment()
            self._hold_adapter(now)
        elif self.credit > before and self._stage is _Stage.ANSWERING:
            self._out.append(GrantCredit(self.credit))
            self._await_engine(now)

    def _check_first_payment(self) -> None:
        """Refuse to begin for less than the prompt and one token."""
        assert self._ask is not None
        price = self._terms.price.cost(len(self._ask.prompt_ids), 1)
        self._check_limit(max(price, self._terms.policy.least_fee) if price else 0)

    def _check_limit(self, least: int) -> None:
        if self._limit < least:
            raise PaymentRequired(
                f"a limit of {self._limit} does not pay for the prompt and one token; pay at least"
                f" {least}"
            )

    # --- the answer ---

    def _hold_adapter(self, now: float) -> None:
        assert self._ask is not None
        self._stage = _Stage.HOLDING
        self._out.append(HoldAdapter(self._ask.adapter, self._ask.cocktail))
        self._beat_at = now + wire.BEAT_S

    def _take_adapter(self, held: AdapterHeld, now: float) -> None:
        assert self._ask is not None
        assert self._offer is not None
        assert self._begun is not None
        self._timings |= held.timings_ms
        self._deal = Deal.close(
            self._ask,
            self._offer,
            client_seed=self._begun.client_seed,
            salt=self._begun.salt,
            operator=self._terms.operator,
            channel_id=self._channel.channel_id if self._channel else bytes(32),
            terms=held.terms,
            policy=self._terms.policy,
        )
        if self._channel is not None:
            self._check_limit(self._deal.cost(1))
            accounts = frozenset(address for address, _ in self._deal.parties)
            self._channel.promise_accounts(self._key, accounts)
        self._start_engine(now)

    def _start_engine(self, now: float) -> None:
        assert self._deal is not None
        self._stage = _Stage.ANSWERING
        self._is_running = True
        self._out.append(StartEngine(self._deal, self.credit))
        if self._is_stopping:
            self._out.append(CancelEngine())
        self._await_engine(now)

    def _take_tokens(self, tokens: m.Tokens, now: float) -> None:
        if self._stage is not _Stage.ANSWERING:
            return
        if len(self._sent) + len(tokens.token_ids) > self.credit:
            raise EngineFailed(f"the engine made more than the {self.credit} tokens that are paid")
        logprobs = [wire.TokenLogprobs(each.logprob, each.top) for each in tokens.logprobs]
        self._out.append(Send(wire.Output(tokens.token_ids, logprobs)))
        self._sent += tokens.token_ids
        self._beat_at = now + wire.BEAT_S
        self._await_engine(now)

    def _beat(self, now: float) -> None:
        """Say that this node lives, so that its client need not look for another one."""
        self._out.append(Send(wire.Output([], [])))
        self._beat_at = now + wire.BEAT_S

    def _take_stop(self) -> None:
        if self._stage is _Stage.CLOSING:  # it crossed the end of the answer
            return
        if not self._is_begun:
            raise wire.WireError("Stop does not belong here")
        self._is_stopping = True
        if self._is_running:
            self._out.append(CancelEngine())

    # --- after the last token ---

    def _take_finished(self, finished: m.Finished, now: float) -> None:
        if self._stage is not _Stage.ANSWERING:
            return
        self._is_running = False
        self._finished = finished
        self._stage = _Stage.CLOSING
        self._until = float("inf")
        self._beat_at = float("inf")
        load_ms = self._timings.get("load", 0.0) + finished.load_ms
        self._timings |= finished.timings_ms | {"load": load_ms}
        if self._channel is None:
            self._send_done(b"", None)
            self._stage = _Stage.OVER
        elif self._deal and self._deal.is_attributed and self._deal.cost(len(self._sent)):
            self._is_drawing = True
            self._out.append(Draw(self._deal, tuple(self._sent)))
        else:
            self._out.append(TakeTurn())

    def _take_drawn(self, event: Drew) -> None:
        self._is_drawing = False
        self._drawn = event.drawn
        self._out.append(TakeTurn())

    def _show_next(self, now: float) -> None:
        """Show the oldest draft; when there is none, go on with what this session is about. It has
        the turn.
        """
        assert self._channel is not None
        pending = self._channel.pending
        if pending is not None:
            self._show(pending.body, wire.Pending(pending.body, pending.node_signature), now)
        elif self._stage is _Stage.PREPARING:
            self._give_turn()
            self._make_offer(now)
        else:
            self._show_own(now)

    def _show_own(self, now: float) -> None:
        """Show this answer's own receipt; where everything is free there is none."""
        assert self._channel is not None
        assert self._deal is not None
        if self._deal.cost(len(self._sent)) == 0:
            self._channel.release(self._key)
            self._send_done(b"", None)
            self._give_turn()
            self._stage = _Stage.OVER
            return
        self._draft(self._channel, self._deal, self._drawn)
        draft = self._channel.pending
        assert draft is not None
        self._own = draft.body
        self._send_done(draft.body, draft.node_signature)
        self._shown = draft.body
        self._until = now + SETTLE_DEADLINE_S

    def _show(self, body: bytes, message: wire.Pending, now: float) -> None:
        self._out.append(Send(message))
        self._shown = body
        self._until = now + SETTLE_DEADLINE_S

    def _take_settle(self, settle: wire.Settle, now: float) -> None:
        if self._shown is None:
            raise wire.WireError("Settle does not belong here")
        assert self._channel is not None
        shown = self._shown
        assert self._channel.pending is not None
        assert self._channel.pending.body == shown, "another session showed a draft meanwhile"
        self._out.append(self._channel.settle(settle.signature))
        self._shown = None
        if shown != self._own:
            self._show_next(now)
            return
        self._out.append(Send(wire.Settled()))
        self._give_turn()
        self._stage = _Stage.OVER

    def _send_done(self, body: bytes, node_signature: bytes | None) -> None:
        assert self._finished is not None
        done = wire.Done(
            self._finished.reason,
            self._finished.neighbours,
            self._some_timings(),
            body,
            node_signature=node_signature,
        )
        self._out.append(Send(done))

    # --- deadlines and the end ---

    def _await_engine(self, now: float) -> None:
        is_paid = len(self._sent) < self.credit
        self._until = now + (TOKEN_DEADLINE_S if is_paid else self._terms.unpaid_deadline_s)

    def _give_up_waiting(self, now: float) -> None:
        if self._stage is not _Stage.ANSWERING:
            self._end(GiveUp("the client sent nothing in time"))
        elif len(self._sent) < self.credit:
            raise EngineFailed(f"the engine gave no token for {TOKEN_DEADLINE_S:.0f} s")
        elif self._pays:  # one came, and waits for the chain, which has a deadline
            self._await_engine(now)
        else:
            raise PaymentRequired(
                f"no voucher came within {self._terms.unpaid_deadline_s:.0f} s after"
                f" {len(self._sent)} paid tokens"
            )

    def _end(self, last: Fail | GiveUp) -> None:
        """Write down what was delivered and not settled; the rest of the reservation is free."""
        if self._is_running:
            self._out.append(CancelEngine())
        if self._channel is not None and self._channel.owes(self._key):
            self._draft_rest(self._channel, last)
        if self._has_turn:
            self._give_turn()
        self._out.append(last)
        self._stage = _Stage.OVER

    def _draft_rest(self, channel: PayeeChannel, last: Fail | GiveUp) -> None:
        is_our_fault = isinstance(last, Fail) and isinstance(last.error, EngineError)
        deal = self._deal
        if deal and self._sent and not is_our_fault and deal.cost(len(self._sent)):
            self._draft(channel, deal)
        else:
            channel.release(self._key)

    def _draft(self, channel: PayeeChannel, deal: Deal, drawn: Drawn = NOTHING) -> None:
        now = int(self._clock())
        self._out.append(channel.draft(self._key, deal, self._sent, now, drawn))

    # --- helpers ---

    @property
    def _is_begun(self) -> bool:
        return self._stage in (_Stage.PAYING, _Stage.HOLDING, _Stage.ANSWERING)

    def _check_ask(self, ask: wire.Ask) -> None:
        base = self._terms.base
        ready = self._terms.engine
        if ask.version != wire.VERSION:
            raise BadRequest(
                f"this node speaks version {wire.VERSION} of the infer protocol, not {ask.version}"
            )
        if ask.base != base:
            raise WrongBase(f"this node serves base {base.hex()[:16]}…, not {ask.base.hex()[:16]}…")
        if ready is None:
            raise EngineBusy("the engine is starting; ask again in some seconds")
        if ask.cocktail:
            _check_cocktail(ask)
        if len(ask.prompt_ids) >= ready.max_context_tokens:
            raise BadRequest(
                f"a prompt of {len(ask.prompt_ids)} tokens leaves no room for an answer in a"
                f" context of {ready.max_context_tokens}; shorten it"
            )
        if ask.resumed is not None and ask.resumed.num_answered >= len(ask.prompt_ids):
            raise BadRequest(
                f"the prompt of {len(ask.prompt_ids)} tokens cannot end with"
                f" {ask.resumed.num_answered} of an answer and begin with a question"
            )
        if any(token >= ready.vocab_size for token in ask.prompt_ids):
            raise BadRequest("a prompt token is outside the vocabulary")
        biased = [token for token, _ in ask.terms.logit_bias]
        if any(first >= second for first, second in pairwise(biased)):
            raise BadRequest("the ids of logit_bias do not ascend; name each once, smallest first")

    def _expect(self, stage: _Stage, message: wire.FromClient) -> None:
        if self._stage is not stage:
            raise wire.WireError(f"{type(message).__name__} does not belong here")

    def _read(self, at: float) -> None:
        self._is_reading = True
        self._out.append(ReadChannel(at))

    def _give_turn(self) -> None:
        self._has_turn = False
        self._out.append(GiveTurn())

    def _some_timings(self) -> list[tuple[str, float]]:
        return list(self._timings.items())[: wire.MAX_TIMINGS]


def _check_cocktail(ask: wire.Ask) -> None:
    if hashlib.sha256(ask.cocktail).digest() != ask.adapter:
        raise BadRequest("the cocktail is not the adapter that the question names")
    try:
        cocktail = parse_cocktail(ask.cocktail)
    except ManifestError as error:
        raise BadRequest(f"the cocktail is not valid: {error}") from error
    if cocktail.base != ask.base:
        raise BadRequest("the cocktail's adapters were made for another base than the question's")
