"""Shows the court what convicts an aggregator, demands what nobody can locate, and answers demands:
the calls of the court contract.

A call that the contract refuses raises ContractReverted, and nothing is sent. What there is to
show, proofs/court.py finds out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ..court import (
    AbsentAnswer,
    AccountAnswer,
    Accusation,
    Answer,
    ChannelAnswer,
    EntryAnswer,
    Question,
)
from ..digest import keccak
from ..epoch import ChannelLeaf, Shown
from ..hextext import from_hex
from ..promise import Promise, Reminder
from ..sumtree import Opening
from ..voucher import ChannelConfig
from .abi import encode
from .answered import decode_answer, decode_reminder
from .contract import DeployedContract
from .structs import (
    NO_ACCOUNT,
    NO_CHANNEL,
    NO_PAYOUT,
    AnyShown,
    PostedHeader,
    Terms,
    config_values,
    opening_values,
    posted_values,
    promise_values,
    reminder_values,
    shown_values,
)
from .token import Token

if TYPE_CHECKING:
    from .wallet import TransactionReceipt

NOTHING: dict[str, AnyShown] = {"payout": NO_PAYOUT, "earlier": NO_CHANNEL, "account": NO_ACCOUNT}
"""What stands in a call for a part that an accusation does not need, by its name."""


class DemandState(IntEnum):
    """How far a demand is."""

    OPEN = 1
    HELD = 2  # answered late in the window: time for whoever proves a lie by the answer
    CLOSED = 3


@dataclass(frozen=True)
class Demand:
    """Where a demand stands: until `until`, in Unix seconds, its answer is due where it is open,
    and its header is held where it is held.
    """

    by: bytes
    until: int
    state: DemandState

    @property
    def is_open(self) -> bool:
        """Whether its answer is still due."""
        return self.state == DemandState.OPEN


class Court:
    """One network's court, for one key."""

    def __init__(self, contract: DeployedContract, token: Token, terms: Terms) -> None:
        self._contract = contract
        self._token = token
        self._terms = terms

    @property
    def address(self) -> bytes:
        """Where the court is."""
        return self._contract.address

    def prove(
        self, posted: PostedHeader, before: PostedHeader | None, accusation: Accusation
    ) -> TransactionReceipt:
        """Convict: the header and all after it are taken back, half of the bond is ours.

        `before` is the header before it, None in the first epoch.
        """
        name, values = self.proof_call(posted, before, accusation)
        return self._contract.send(name, *values)

    def proof_call(
        self, posted: PostedHeader, before: PostedHeader | None, accusation: Accusation
    ) -> tuple[str, tuple[object, ...]]:
        """The function and the values that `prove` sends."""
        parts = (
            part
            for each in fields(accusation)
            for part in values_of(each.name, getattr(accusation, each.name))
        )
        name = f"prove{type(accusation).__name__}"
        return name, (posted_values(posted), posted_values(before), *parts)

    # ── demands ──

    def demand(self, posted: PostedHeader, question: Question) -> TransactionReceipt:
        """Demand to see one leaf of a header that can still be challenged; costs the fee."""
        self._token.allow(self._contract.address, self._terms.demand_fee)
        return self._contract.send("demand", posted_values(posted), question_values(question))

    def answer(self, posted: PostedHeader, answer: Answer) -> TransactionReceipt:
        """Show what was demanded, and earn the fee."""
        values: tuple[object, ...]
        match answer:
            case ChannelAnswer(channel, config, signature):
                name = "answerChannel"
                values = (shown_values(channel), config_values(config), signature)
            case AccountAnswer(account, entries):
                name = "answerAccount"
                values = (shown_values(account), opening_values(entries))
            case EntryAnswer(account, entry, channel, payout):
                name = "answerEntry"
                values = (
                    shown_values(account),
                    shown_values(entry),
                    shown_values(channel),
                    shown_values(payout),
                )
            case AbsentAnswer(question, found, opening):
                name = "answerAbsent"
                shown = shown_values(found or NO_ACCOUNT)
                values = (question_values(question), shown, opening_values(opening))
        return self._contract.send(name, posted_values(posted), *values)

    def release(self, posted: PostedHeader, question: Question) -> TransactionReceipt:
        """End the hold of an answer that came late in the window."""
        return self._contract.send("release", posted_values(posted), question_values(question))

    def convict_default(
        self, posted: PostedHeader, before: PostedHeader | None, question: Question
    ) -> TransactionReceipt:
        """Convict because a demand was not answered in time; the reward is the demander's."""
        values = (posted_values(posted), posted_values(before), question_values(question))
        return self._contract.send("convictDefault", *values)

    def refund(self, posted: PostedHeader, question: Question) -> TransactionReceipt:
        """Give the fee of a demand back whose header was taken back."""
        return self._contract.send("refund", posted_values(posted), question_values(question))

    def find_demand(self, posted: PostedHeader, question: Question) -> Demand | None:
        """Where a demand stands; None when this was never demanded."""
        asked = (posted_values(posted), question_values(question))
        demand_id = self._contract.read_one("demandId", *asked)
        by, until, state = self._contract.read("demands", demand_id)
        return Demand(from_hex(by), until, DemandState(state)) if state else None

    def demanded(self, first: int, last: int) -> Iterator[tuple[int, Question]]:
        """What was demanded between two blocks, both included, each of a header of an epoch."""
        for event in self._contract.events("Demanded", {}, first=first, last=last):
            part, index, entry = event["args"]["question"].values()
            yield event["args"]["epoch"], Question(part, index, entry)

    def find_answer(self, posted: PostedHeader, question: Question) -> Answer | None:
        """What was answered to a demand, from the call that brought it; None while it is open."""
        asked = (posted_values(posted), question_values(question))
        wanted = {"id": self._contract.read_one("demandId", *asked)}
        last = self._contract.rpc.block_number()
        for event in self._contract.events("Answered", wanted, first=posted.block, last=last):
            return decode_answer(*self._contract.decode_call(bytes(event["args"]["call"])))
        return None

    # ── promises ──

    def stand(
        self,
        reminder: Reminder,
        posted: PostedHeader | None,
        earlier: Shown[ChannelLeaf] | None,
    ) -> TransactionReceipt:
        """Demand that a promise be kept whose deadline is over; costs the fee.

        `earlier` is the channel's leaf in a posted header, which the promised receipt follows; None
        for a channel's first receipt.
        """
        self._token.allow(self._contract.address, self._terms.demand_fee)
        before = (posted_values(posted), shown_values(earlier or NO_CHANNEL))
        return self._contract.send("stand", reminder_values(reminder), *before)

    def stood(self, first: int, last: int) -> dict[bytes, Reminder]:
        """The promises that somebody demanded between two blocks to be kept, with what is needed
        for that, by the demand's id.
        """
        found: dict[bytes, Reminder] = {}
        for event in self._contract.events("StandDemanded", {}, first=first, last=last):
            call = bytes(event["args"]["call"])
            reminder = decode_reminder(*self._contract.decode_call(call))
            if reminder is not None:
                found[bytes(event["args"]["id"])] = reminder
        return found

    def find_stand(self, promise: Promise, term: int) -> Demand | None:
        """Where the demand of a promise stands that was made in this term of the office."""
        kinds = ("(bytes32,uint64,uint128,bytes32,uint64)", "uint32")
        demand_id = keccak(encode(kinds, (promise_values(promise), term)))
        by, until, state = self._contract.read("demands", demand_id)
        return Demand(from_hex(by), until, DemandState(state)) if state else None

    def is_open(self, demand_id: bytes) -> bool:
        """Whether an answer is still due."""
        _, _, state = self._contract.read("demands", demand_id)
        return int(state) == DemandState.OPEN

    def answer_stand(
        self, promise: Promise, posted: PostedHeader, channel: Shown[ChannelLeaf]
    ) -> TransactionReceipt:
        """Show that the channel has come as far as the promise in a header."""
        values = (promise_values(promise), posted_values(posted), shown_values(channel))
        return self._contract.send("answerStand", *values)

    def convict_broken(
        self, promise: Promise, term: int, posted: PostedHeader | None
    ) -> TransactionReceipt:
        """Convict because a promise, demanded in this term of the office, was not kept, though this
        header was posted after it was due.
        """
        values = (promise_values(promise), term, posted_values(posted))
        return self._contract.send("convictBroken", *values)


def question_values(question: Question) -> tuple[int, int, int]:
    """A question in the contract's order."""
    return (int(question.part), question.index, question.entry)


def values_of(name: str, part: Any) -> tuple[object, ...]:
    """One part of an accusation as the contract's arguments."""
    match part:
        case None:
            return (shown_values(NOTHING[name]),)
        case Shown():
            return (shown_values(part),)
        case Opening():
            return (opening_values(part),)
        case ChannelConfig():
            return (config_values(part),)
    return (part,)
