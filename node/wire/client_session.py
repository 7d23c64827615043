"""The client's machine of one infer stream: what it says when, what it pays, what it signs.

Decides; sends nothing, knows no clock, no disk and no chain. Events come in, deeds go out, to be
done in order.

    start ──Ask──▶ ASKED ──Offer: Agree, Accepted: Begin──▶ ANSWERING
                   Pending: Settle                          Output: Pay ahead, Pending: Settle
    ANSWERING ──Done──▶ (DRAWING) ──Settle──▶ SETTLING ──Settled──▶ OVER

- Until its caller accepts an offer, nothing is promised: another node's may be taken instead.
- It pays for the prompt and PAY_TOKENS tokens, and again when half of them came; never more ahead.
- It signs what it would have written itself, and for an answer that broke off what was agreed and
  paid for that answer.
- Whatever is not as the page says ends the session before anything is signed: with NodeCheated
  where no honest node does so, else with NodeAtOdds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import assert_never

from engine.messages import Choosing
from proofs.attribution.credit import NOTHING, Drawn
from proofs.attribution.shares import POLICY, AdapterTerms
from proofs.errors import ReceiptError
from proofs.policies import UNGOVERNED, Policies
from proofs.voucher import ChannelConfig

from ..api.answers import EndReason
from ..errors import (
    NodeAtOdds,
    NodeCheated,
    NodeError,
    NodeRefused,
    NodeVanished,
    OtherParameters,
    PaymentRequired,
)
from . import infer as wire
from .channels import PayerChannel, Persist, Signed
from .infer import PAY_TOKENS
from .metering import Deal, Price
from .session import Draw, Drew, Fail, Failed, Malformed, PeerGone, Send, Tick

OFFER_DEADLINE_S = 30.0  # nothing is fetched before the offer is taken; the chain may be asked
FIRST_TOKEN_DEADLINE_S = 120.0  # the node may have to fetch the adapter first
TOKEN_DEADLINE_S = 60.0
SETTLE_DEADLINE_S = 15.0
MAX_PENDING = 64
MAX_CLOCK_SKEW_S = 600


@dataclass(frozen=True)
class Question:
    """One request in the engine's terms.

    `adapter` is 32 zero bytes for the bare base; `attribution` is what its manifest says about the
    fee. `cocktail`: what `adapter` is made of, where it is one. `resumed`: the last of `prompt_ids`
    are the answer so far. `is_attributed`: what the answer draws on can be recomputed here.
    `is_private`: nothing of it is told or remembered beyond what it takes to pay for it.
    """

    base: bytes
    adapter: bytes
    prompt_ids: tuple[int, ...]
    max_tokens: int
    terms: Choosing
    logprobs: int | None
    stop_ids: tuple[int, ...]
    client_seed: bytes
    attribution: AdapterTerms | None
    cocktail: bytes = b""
    resumed: wire.Resumed | None = None
    is_attributed: bool = False
    is_private: bool = False

    def after(self, seed: bytes, made: Sequence[int]) -> Question:
        """Return the question for the rest of the answer, when these tokens of it are made, with
        this seed.
        """
        num_answered = len(made) + (self.resumed.num_answered if self.resumed else 0)
        return replace(
            self,
            prompt_ids=(*self.prompt_ids, *made),
            max_tokens=self.max_tokens - len(made),
            resumed=wire.Resumed(seed, num_answered),
        )


@dataclass(frozen=True)
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


# --- events, beside the node's messages and those of session.py ---


@dataclass(frozen=True)
class Deposited:
    """More lies in the channel now, or as much as was missing: look again."""


@dataclass(frozen=True)
class StopWanted:
    """Nobody wants more of this answer; what came is settled."""


@dataclass(frozen=True)
class Accepted:
    """The offer is taken: pay, and let the node begin."""


ClientEvent = (
    wire.FromNode | Tick | PeerGone | Malformed | Failed | Deposited | StopWanted | Accepted | Drew
)


# --- deeds, beside those of session.py ---


@dataclass(frozen=True)
class Deposit:
    """Put so much into the channel that request `key` may spend up to `limit`, and more where
    little is free; answer with Deposited or Failed.
    """

    key: int
    limit: int


@dataclass(frozen=True)
class Agree:
    """Both sides know the terms; the answer follows Accepted."""

    deal: Deal


@dataclass(frozen=True)
class Begun:
    """The node is told to begin, and paid for the first tokens."""


@dataclass(frozen=True)
class Emit:
    """The next tokens of the answer, checked."""

    output: wire.Output


@dataclass(frozen=True)
class Accuse:
    """Keep a receipt that the node signed, and that says of whose text the answer drew on what is
    not so: whoever has the adapter's index and these tokens sees that.
    """

    deal: Deal
    answer_ids: tuple[int, ...]
    body: bytes
    node_signature: bytes


@dataclass(frozen=True)
class Finish:
    """The answer is over, and settled if it was paid."""

    outcome: Outcome


ClientAction = Send | Persist | Deposit | Agree | Begun | Emit | Draw | Accuse | Finish | Fail


class _Stage(Enum):
    ASKED = auto()
    ANSWERING = auto()
    DRAWING = auto()  # Done came, what the answer drew on is recomputed
    SETTLING = auto()
    OVER = auto()


class ClientSession:
    """One stream, from Ask to Settled.

    `channel` None pays nothing; `salt` (16 random bytes) blinds the receipt's commitments; `clock`
    gives Unix seconds; `quoted` are the prices by which the node must stand; `policies` those by
    which fees may be divided now. Call `start` once,
    then `receive` with every event, and with Tick when `deadline` is over.
    """

    def __init__(
        self,
        question: Question,
        channel: PayerChannel | None,
        most: Price,
        *,
        peer: str,
        operator: bytes,
        client: bytes,
        salt: bytes,
        clock: Callable[[], float],
        quoted: Price | None = None,
        policies: Policies = UNGOVERNED,
    ) -> None:
        self._policies = policies
        self._question = question
        self._channel = channel
        self._most = most
        self._quoted = quoted
        self._peer = peer
        self._operator = operator
        self._salt = salt
        self._clock = clock
        self._ask = ask_of(question, client, channel.config if channel else None)
        self._stage = _Stage.ASKED
        self._deal: Deal | None = None
        self._key: int | None = None
        self._answer: list[int] = []
        self._paid_tokens = 0
        self._num_pending = 0
        self._is_depositing = False
        self._has_deposited = False
        self._is_stopping = False
        self._ended: tuple[wire.Done, Signed | None] | None = None
        self._out: list[ClientAction] = []
        self.deadline = float("inf")

    @property
    def is_over(self) -> bool:
        """Whether nothing follows any more."""
        return self._stage is _Stage.OVER

    @property
    def num_tokens(self) -> int:
        """How many tokens came."""
        return len(self._answer)

    @property
    def num_paid_ahead(self) -> int:
        """How many tokens are paid that did not come yet."""
        return self._paid_tokens - len(self._answer)

    def start(self, now: float) -> list[ClientAction]:
        """Ask."""
        self.deadline = now + OFFER_DEADLINE_S
        return [Send(self._ask)]

    def receive(self, event: ClientEvent, now: float) -> list[ClientAction]:
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

    def leave(self) -> None:
        """The stream is over, however it ended."""
        self._stage = _Stage.OVER
        if self._channel is not None and self._key is not None:
            self._channel.leave(self._key)

    # --- events ---

    def _handle(self, event: ClientEvent, now: float) -> None:
        match event:
            case wire.Pending():
                self._sign_pending(event, now)
            case wire.Offer():
                self._hear_offer(event)
            case wire.Output():
                self._take_tokens(event, now)
            case wire.Done():
                self._take_done(event, now)
            case wire.Settled():
                self._expect(_Stage.SETTLING, event)
                self._finish()
            case wire.Refusal():
                raise NodeRefused(self._peer, event.code, event.message)
            case Deposited():
                self._is_depositing = False
                self._has_deposited = True
                self._pay(now)
            case Drew():
                self._take_drawn(event, now)
            case Accepted():
                self._take_offer(now)
            case StopWanted():
                self._stop()
            case PeerGone():
                self._lose(event.reason)
            case Tick():
                if now >= self.deadline:
                    self._lose("no message came in time")
            case Malformed():
                raise NodeCheated(f"{self._node} sent no valid message: {event.error}")
            case Failed():
                raise event.error
            case _:
                assert_never(event)

    def _sign_pending(self, pending: wire.Pending, now: float) -> None:
        """A receipt of another answer on the channel must be signed first."""
        if self._channel is None:
            raise NodeCheated(f"{self._node} shows a receipt, but no channel pays it")
        self._num_pending += 1
        if self._num_pending > MAX_PENDING:
            raise NodeAtOdds(f"{self._node} shows more than {MAX_PENDING} unsigned receipts")
        self._expect(_Stage.ASKED if self._deal is None else _Stage.ANSWERING, pending)
        signed = self._channel.cosign_pending(pending.body, pending.node_signature)
        self._keep(signed.persist)
        self._out.append(Send(wire.Settle(signed.signature)))
        self._await_next(now)

    def _hear_offer(self, offer: wire.Offer) -> None:
        self._expect(_Stage.ASKED, offer)
        if self._deal is not None:
            raise NodeCheated(f"{self._node} made a second offer")
        self._check_offer(offer)
        if not offer.paid:
            self._channel = None
        self._deal = Deal.close(
            self._ask,
            offer,
            client_seed=self._question.client_seed,
            salt=self._salt,
            operator=self._operator,
            channel_id=self._channel.channel_id if self._channel else bytes(32),
            terms=self._question.attribution,
            policy=self._policies.of(offer.parameters) if offer.paid else POLICY,
        )
        if self._channel is not None:
            self._keep(self._channel.release_lost())
        self._out.append(Agree(self._deal))

    def _take_offer(self, now: float) -> None:
        assert self._deal is not None, "an offer is taken before it came"
        if self._channel is None:
            self._begin(None, now)
        else:
            self._key = self._channel.begin(self._deal)
            self._pay(now)

    def _begin(self, payment: wire.Pay | None, now: float) -> None:
        assert self._deal is not None
        self._out.append(Send(wire.Begin(self._question.client_seed, self._salt, payment)))
        self._out.append(Begun())
        self._stage = _Stage.ANSWERING
        self._await_next(now)

    def _take_tokens(self, output: wire.Output, now: float) -> None:
        self._expect(_Stage.ANSWERING, output)
        self._check_output(output)
        if not output.token_ids:  # a beat; the deadline for tokens stays
            self._out.append(Emit(output))
            return
        self._answer += output.token_ids
        self._await_next(now)
        if self.num_paid_ahead <= PAY_TOKENS // 2 and self._paid_tokens < self._ask.max_tokens:
            self._pay(now)
        self._out.append(Emit(output))

    def _take_done(self, done: wire.Done, now: float) -> None:
        self._expect(_Stage.ANSWERING, done)
        self._ended = (done, None)
        if self._channel is None or self._cost() == 0:
            self._stage = _Stage.SETTLING
            self._release()
            self._finish()
            return
        assert self._deal is not None
        if self._deal.is_attributed:
            self._stage = _Stage.DRAWING
            self.deadline = float("inf")  # whoever computes it has a deadline
            self._out.append(Draw(self._deal, tuple(self._answer)))
        else:
            self._settle(done, NOTHING, now)

    def _take_drawn(self, event: Drew, now: float) -> None:
        assert self._ended is not None
        done, _ = self._ended
        self._settle(done, event.drawn, now)

    def _settle(self, done: wire.Done, drawn: Drawn, now: float) -> None:
        """Sign the receipt that ends the answer, if it is what this side would have written."""
        self._stage = _Stage.SETTLING
        self.deadline = now + SETTLE_DEADLINE_S
        signed = self._cosign(done, drawn)
        self._ended = (done, signed)
        self._keep(signed.persist)
        self._out.append(Send(wire.Settle(signed.signature)))

    def _stop(self) -> None:
        if self._stage is _Stage.ANSWERING and not self._is_stopping:
            self._is_stopping = True
            self._out.append(Send(wire.Stop()))

    def _lose(self, reason: str) -> None:
        """The node is gone.

        Once its receipt is signed nothing is lost: it has our signature, or shows the receipt
        again.
        """
        if self._stage is _Stage.SETTLING:
            self._finish()
            return
        raise NodeVanished(
            f"node {self._peer} went away after {len(self._answer)} tokens ({reason}); ask again,"
            " another node may answer"
        )

    # --- paying ---

    def _pay(self, now: float) -> None:
        """Pay PAY_TOKENS ahead of what came, after a deposit if it takes one.

        The money goes into the channel once the node has made an offer, not before.
        """
        if self._channel is None or self._is_depositing or self._is_stopping:
            return
        assert self._key is not None
        assert self._deal is not None
        tokens = min(len(self._answer) + PAY_TOKENS, self._ask.max_tokens)
        limit = self._deal.cost(tokens)
        is_low = self._stage is _Stage.ASKED and not self._has_deposited and self._channel.is_low
        if is_low or self._channel.missing(self._key, limit):
            self._is_depositing = True
            self._out.append(Deposit(self._key, limit))
            return
        payment = self._channel.pay(self._key, limit)
        self._paid_tokens = self._deal.credit(limit)  # more, where the least fee pays for more
        self._keep(payment.persist)
        if self._stage is _Stage.ASKED:
            self._begin(payment.pay, now)
        elif self._stage is _Stage.ANSWERING:
            self._out.append(Send(payment.pay))

    # --- checks ---

    def _check_offer(self, offer: wire.Offer) -> None:
        most = self._most
        if offer.attributed and not self._ask.attributed:
            raise NodeCheated(f"{self._node} would say what the answer drew on, which nobody asked")
        if not offer.paid:
            return
        if self._channel is None:
            raise PaymentRequired(
                f"{self._node} is paid, and this daemon has no chain; set chain_rpc and the"
                " contracts' addresses"
            )
        price = Price(offer.prompt_price, offer.completion_price)
        asked = f"{price.prompt}/{price.completion}"
        quoted = self._quoted
        if quoted is not None and price.is_above(quoted):
            raise NodeAtOdds(
                f"{self._node} asks {asked} per token, and had quoted"
                f" {quoted.prompt}/{quoted.completion}"
            )
        if price.is_above(most):
            raise PaymentRequired(
                f"{self._node} asks {asked} per token; the limit is {most.prompt}/{most.completion}"
                " (max_prompt_price …)"
            )
        try:
            self._policies.of(offer.parameters)
        except ReceiptError as error:
            raise OtherParameters(
                f"{self._node} would divide the fee by other parameters than are in force here:"
                f" {error}"
            ) from error
        if abs(offer.started_at - self._clock()) > MAX_CLOCK_SKEW_S + OFFER_DEADLINE_S:
            raise NodeAtOdds(
                f"the clock of {self._node} differs from ours by more than {MAX_CLOCK_SKEW_S} s"
            )

    def _check_output(self, output: wire.Output) -> None:
        num_tokens = len(self._answer) + len(output.token_ids)
        if num_tokens > self._ask.max_tokens:
            raise NodeCheated(
                f"{self._node} sent more than the {self._ask.max_tokens} tokens that were asked for"
            )
        if self._channel is not None and num_tokens > self._paid_tokens:
            raise NodeCheated(
                f"{self._node} sent more than the {self._paid_tokens} tokens that were paid"
            )
        whole = (*self._answer[-1:], *output.token_ids)
        if any(token in self._ask.stop_ids for token in whole[:-1]):
            raise NodeCheated(f"{self._node} sent tokens behind one that ends the answer")
        wanted = len(output.token_ids) if self._ask.logprobs is not None else 0
        if len(output.logprobs) != wanted:
            raise NodeCheated(
                f"{self._node} sent {len(output.logprobs)} log-probabilities with"
                f" {len(output.token_ids)} tokens"
            )

    def _cosign(self, done: wire.Done, drawn: Drawn) -> Signed:
        assert self._channel is not None
        assert self._deal is not None
        assert self._key is not None
        if done.node_signature is None:
            raise NodeCheated(f"{self._node} ended a paid answer without a receipt")
        try:
            return self._channel.cosign(
                self._key,
                self._deal,
                self._answer,
                done.body,
                node_signature=done.node_signature,
                drawn=drawn,
            )
        except NodeCheated:
            if self._deal.is_attributed:
                ids = tuple(self._answer)
                self._out.append(Accuse(self._deal, ids, done.body, done.node_signature))
            raise

    def _expect(self, stage: _Stage, message: wire.FromNode) -> None:
        if self._stage is not stage:
            name = type(message).__name__
            raise NodeCheated(f"{self._node} sent {name} where it does not belong")

    # --- the end ---

    def _finish(self) -> None:
        assert self._deal is not None
        assert self._ended is not None
        done, signed = self._ended
        outcome = Outcome(
            done.reason,
            self._answer,
            signed.receipt.amount if signed else 0,
            signed.digest if signed else None,
            timings_ms=dict(done.timings),
            neighbours=done.neighbours,
            deal=self._deal,
        )
        self._end(Finish(outcome))

    def _release(self) -> None:
        if self._channel is not None and self._key is not None:
            self._keep(self._channel.release(self._key))

    def _end(self, last: Finish | Fail) -> None:
        self._out.append(last)
        self.leave()

    def _cost(self) -> int:
        assert self._deal is not None
        return self._deal.cost(len(self._answer))

    def _keep(self, persist: Persist | None) -> None:
        if persist is not None:
            self._out.append(persist)

    def _await_next(self, now: float) -> None:
        if self._stage is _Stage.ASKED:
            self.deadline = now + OFFER_DEADLINE_S
        else:
            self.deadline = now + (TOKEN_DEADLINE_S if self._answer else FIRST_TOKEN_DEADLINE_S)

    @property
    def _node(self) -> str:
        return f"node {self._peer[-8:]}"


def ask_of(question: Question, client: bytes, channel: ChannelConfig | None) -> wire.Ask:
    """Put a question as the wire has it, for this client, who pays by this channel."""
    return wire.Ask(
        wire.VERSION,
        question.base,
        question.adapter,
        question.cocktail,
        list(question.prompt_ids),
        max_tokens=question.max_tokens,
        terms=question.terms,
        logprobs=question.logprobs,
        stop_ids=list(question.stop_ids),
        seed_commitment=hashlib.sha256(question.client_seed).digest(),
        client=client,
        channel=channel,
        resumed=question.resumed,
        attributed=question.is_attributed,
    )
