"""Disputes whose weights are registered right: the calls of the contract of disputes.

A call that the contract refuses raises ContractReverted, and nothing is sent. Who decides is the
timelock, by a proposal of one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING

from ..hextext import from_hex
from .token import Token

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
    def rules(self) -> DisputeRules:
        """What was fixed at the deployment."""
        return DisputeRules(*self._contract.read_one("rules"))

    def count(self) -> int:
        """How many disputes there were; their numbers begin with 1."""
        return int(self._contract.read_one("count"))

    def read(self, number: int) -> Dispute:
        """One dispute."""
        registration, challenger, until, state, respondent = self._contract.read("disputes", number)
        return Dispute(
            int(registration),
            from_hex(challenger),
            int(until),
            state=DisputeState(int(state)),
            respondent=from_hex(respondent),
        )

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
        address = from_hex(self._contract.read_one("token"))
        Token(self._contract.beside("LorikeetToken", address)).allow(self.address, self.rules.bond)
