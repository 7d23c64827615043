"""Disputes whose weights are registered right: the calls of the contract of disputes.

A call that the contract refuses raises ContractReverted, and nothing is sent. Who decides is the
timelock, by a proposal of one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..hextext import from_hex
from .errors import OddAnswer
from .token import Token
from .views import View

if TYPE_CHECKING:
    from .contract import DeployedContract
    from .wallet import TransactionReceipt


class DisputeState(IntEnum):
    """Where a dispute stands. The numbers are the contract's."""

    NONE = 0
    OPEN = 1
    ANSWERED = 2
    CLOSED = 3


@dataclass(frozen=True)
class DisputeRules:
    """What was fixed at deployment: the bond of each side in the token's smallest unit, what of the
    loser's is burned in basis points, and times in seconds.
    """

    bond: int
    burn_bps: int
    answer_time: int
    judge_time: int


@dataclass(frozen=True)
class Dispute:
    """One dispute; `until` in Unix seconds of the chain: when the time to answer, or to decide, is
    over. `respondent` is zeros while nobody answered.
    """

    registration: int
    challenger: bytes
    until: int
    state: DisputeState
    respondent: bytes

    @property
    def is_open(self) -> bool:
        """Whether it waits for an answer, or to be closed without one."""
        return self.state == DisputeState.OPEN

    @property
    def is_answered(self) -> bool:
        """Whether it waits for a decision, or to lapse without one."""
        return self.state == DisputeState.ANSWERED


@dataclass(frozen=True)
class Opening:
    """That a dispute was opened, about the registration under a digest of weights."""

    number: int
    registration: int
    digest: bytes


class Disputes:
    """The disputes of one registry, for one key."""

    def __init__(self, contract: DeployedContract) -> None:
        self._contract = contract

    @property
    def address(self) -> bytes:
        """Where they are."""
        return self._contract.address

    @cached_property
    def registry(self) -> bytes:
        """Whose registrations are disputed."""
        return from_hex(self._contract.read_one("registry"))

    @cached_property
    def timelock(self) -> bytes:
        """Who decides."""
        return from_hex(self._contract.read_one("timelock"))

    @cached_property
    def rules(self) -> DisputeRules:
        """What was fixed at the deployment."""
        return DisputeRules(*self._contract.read_one("rules"))

    @cached_property
    def token(self) -> Token:
        """What bonds are of."""
        address = from_hex(self._contract.read_one("token"))
        return Token(self._contract.beside("LorikeetToken", address))

    def count(self) -> int:
        """How many disputes there were; their numbers begin with 1."""
        return int(self._contract.read_one("count"))

    def read(self, number: int) -> Dispute:
        """One dispute."""
        return _dispute(*self._contract.read("disputes", number))

    def read_many(self, numbers: Sequence[int]) -> dict[int, Dispute]:
        """Disputes by their numbers: hundreds in one request."""
        views = [View(self._contract.name, self.address, "disputes", (one,)) for one in numbers]
        found = self._contract.rpc.read_many(views)
        return {one: _dispute(*values) for one, values in zip(numbers, found, strict=True)}

    def about(self, registration: int) -> dict[int, Dispute]:
        """What is not decided yet about a registration, by number."""
        everything = self.read_many(range(1, self.count() + 1))
        return {
            number: one
            for number, one in everything.items()
            if one.registration == registration and (one.is_open or one.is_answered)
        }

    def opened(self, first: int, last: int) -> Iterator[Opening]:
        """What was opened between two blocks, both included, oldest first."""
        for event in self._contract.events("Opened", {}, first=first, last=last):
            told = event["args"]
            yield Opening(int(told["number"]), int(told["registration"]), bytes(told["digest"]))

    def number_of(self, sent: TransactionReceipt) -> int:
        """The number of the dispute that a transaction of ours opened. OddAnswer."""
        wanted = {"challenger": self._contract.wallet.address}
        for event in self._contract.events("Opened", wanted, first=sent.block, last=sent.block):
            if bytes(event["transactionHash"]) == sent.hash:
                return int(event["args"]["number"])
        raise OddAnswer(f"block {sent.block} says nothing of the dispute that was opened in it")

    def open(self, digest: bytes) -> TransactionReceipt:
        """Say that what is registered under a digest of weights is ours; costs the bond."""
        self._allow_bond()
        return self._contract.send("open", digest)

    def answer(self, number: int) -> TransactionReceipt:
        """Stand up for the registration as it is, by the same bond."""
        self._allow_bond()
        return self._contract.send("answer", number)

    def close(self, number: int) -> TransactionReceipt:
        """Close a dispute that nobody answered in time. Anybody may."""
        return self._contract.send("close", number)

    def lapse(self, number: int) -> TransactionReceipt:
        """Give both bonds back where nobody decided in time. Anybody may."""
        return self._contract.send("lapse", number)

    def encode_decision(self, number: int, is_upheld: bool) -> bytes:
        """The one call that a proposal to decide a dispute makes."""
        return self._contract.encode("decide", number, is_upheld)

    def _allow_bond(self) -> None:
        self.token.allow(self.address, self.rules.bond)


def _dispute(registration: int, challenger: str, until: int, *rest: Any) -> Dispute:
    """A dispute as the contract's call gives it."""
    state, respondent = rest
    return Dispute(
        int(registration),
        from_hex(challenger),
        int(until),
        state=DisputeState(int(state)),
        respondent=from_hex(respondent),
    )
