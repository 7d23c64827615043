"""Puts tokens behind operators, takes them back, and shows what costs them: the calls of the stake
contract.

A call that the contract refuses raises ContractReverted, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import astuple

from ..evidence import Evidence, TwoReceipts, read_false
from ..hextext import from_hex
from ..stake import Holding, StakeTerms
from .structs import config_values
from .token import Token
from .views import View

if TYPE_CHECKING:
    from .contract import DeployedContract
    from .wallet import TransactionReceipt


class Stake:
    """One stake contract, for one key."""

    def __init__(self, contract: DeployedContract) -> None:
        self._contract = contract

    @property
    def address(self) -> bytes:
        """Where it is."""
        return self._contract.address

    @cached_property
    def terms(self) -> StakeTerms:
        """What was fixed at the deployment."""
        return StakeTerms(*self._contract.read_one("terms"))

    @cached_property
    def settlement(self) -> bytes:
        """Whose channels and whose aggregator are judged."""
        return from_hex(self._contract.read_one("settlement"))

    @cached_property
    def token(self) -> Token:
        """What is staked."""
        address = from_hex(self._contract.read_one("token"))
        return Token(self._contract.beside("LorikeetToken", address))

    def stake_of(self, operator: bytes) -> int:
        """What counts for an operator: all that stands behind it and does not thaw."""
        return int(self._contract.read_one("stakeOf", operator))

    def stakes_of(self, operators: Sequence[bytes]) -> dict[bytes, int]:
        """What counts for each of many operators: hundreds in one request."""
        contract = self._contract
        views = [View(contract.name, self.address, "stakeOf", (one,)) for one in operators]
        found = contract.rpc.read_many(views)
        return {one: int(amount) for one, (amount,) in zip(operators, found, strict=True)}

    def thawing_of(self, operator: bytes) -> int:
        """What was behind an operator, thaws or has thawed, and can still be lost."""
        _, _, thawing, _ = self._contract.read("pools", operator)
        return int(thawing)

    def holding(self, operator: bytes, holder: bytes) -> Holding:
        """What one holder has behind an operator."""
        shares, _, ready_at = self._contract.read("positions", operator, holder)
        amount, thawing = self._contract.read("holdingOf", operator, holder)
        return Holding(int(shares), int(amount), int(thawing), ready_at=int(ready_at))

    # ── holders ──

    def add(self, operator: bytes, amount: int) -> TransactionReceipt:
        """Put so much of ours behind an operator."""
        self.token.allow(self.address, amount)
        return self._contract.send("stake", operator, amount)

    def thaw(self, operator: bytes, shares: int) -> TransactionReceipt:
        """Have so many of our shares thaw; what thaws already waits as long as they do."""
        return self._contract.send("thaw", operator, shares)

    def withdraw(self, operator: bytes) -> TransactionReceipt:
        """Take what has thawed."""
        return self._contract.send("withdraw", operator)

    # ── whoever saw an offence ──

    def show(self, evidence: Evidence) -> TransactionReceipt:
        """Show what costs somebody's stake; the bounty is ours."""
        if isinstance(evidence, TwoReceipts):
            placed = (astuple(evidence.first), astuple(evidence.second))
            config = config_values(evidence.config)
            return self._contract.send("slashReceipts", config, evidence.sequence, *placed)
        return self._contract.send("slashVerdict", *read_false(evidence.attestation))

    def show_conviction(self, term: int) -> TransactionReceipt:
        """Have an aggregator's stake follow its bond, of the term in which the court convicted."""
        return self._contract.send("slashConvicted", term)
