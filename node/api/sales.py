"""Declares what a node sells to strangers over HTTP: immutable, made of plain values. Decides
nothing.

Amounts are in the fee token's smallest unit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from proofs.chain.structs import DepositAuthorization
from proofs.chain.token import Transfer
from proofs.offers import Offer, Served
from proofs.voucher import ChannelConfig, Voucher

from ..errors import PaymentRequired
from .answers import CompletionEvent, CompletionRequest

Refusal = Literal[
    "channel_id_mismatch",
    "receiver_mismatch",
    "receiver_authorizer_mismatch",
    "token_mismatch",
    "withdraw_delay_mismatch",
    "voucher_signature",
    "cumulative_amount_mismatch",
    "cumulative_exceeds_balance",
    "channel_busy",
    "channel_not_found",
    "deposit_below_min_deposit",
    "deposit_transaction_failed",
    "refund_no_balance",
    "refund_transaction_failed",
]
"""Why a payment is not taken, in x402's words, behind `invalid_batch_settlement_evm_`."""
TransferRefusal = Literal[
    "payload_recipient_mismatch",
    "payload_authorization_value_mismatch",
    "payload_authorization_valid_before",
    "transaction_simulation_failed",
    "busy",
]
"""The same of an outright payment, behind `invalid_exact_evm_`."""


@dataclass(frozen=True)
class SaleTerms:
    """Whom a stranger pays, and how.

    `receiver` is the settlement contract; `operator` claims, signs receipts and may refund.
    `token_name` and `token_version` are of the domain in which a deposit is signed. `least_fee`: of
    an answer, for each who shares it. A deposit below `min_deposit` is not relayed, an answer that
    may cost more than `max_amount` is not sold.

    Who pays outright pays `payee`, and `least_transfer` at least. `takes_channels`: vouchers are
    taken, too.
    """

    chain_id: int
    receiver: bytes
    operator: bytes
    token: bytes
    token_name: str
    token_version: str
    withdraw_delay_s: int
    prompt_price: int
    completion_price: int
    least_fee: int
    min_deposit: int
    max_amount: int
    payee: bytes
    least_transfer: int
    takes_channels: bool = True

    def outright(self, amount: int) -> int:
        """Return what an answer costs outright that may cost this much."""
        return max(amount, self.least_transfer)


@dataclass(frozen=True)
class Priced:
    """What one answer may cost at most: so many tokens, at these prices, and the least fee."""

    prompt_tokens: int
    max_tokens: int
    prompt_price: int
    completion_price: int
    amount: int


@dataclass(frozen=True)
class Payment:
    """A voucher for what a channel cost before and this answer at most; `deposit` comes first."""

    config: ChannelConfig
    voucher: Voucher
    deposit: DepositAuthorization | None = None


@dataclass(frozen=True)
class SignedTransfer:
    """A transfer of just what an answer costs outright, as its payer signed it (ERC-3009)."""

    transfer: Transfer
    signature: bytes


@dataclass(frozen=True)
class Settled:
    """An outright payment that came, in this transaction."""

    payer: bytes
    amount: int
    transaction: str


@dataclass(frozen=True)
class Refund:
    """A voucher for exactly what the channel has cost, with which its payer wants the rest back, or
    `amount` of it.
    """

    config: ChannelConfig
    voucher: Voucher
    amount: int | None


@dataclass(frozen=True)
class Standing:
    """Where a channel stands: what the chain says of it, and what was `charged` in it in all.

    `signed` and `signature`: the highest voucher. `transaction`, of `moved`, is the last deposit or
    refund that was sent for its payer; empty where there was none.
    """

    channel_id: bytes
    payer: bytes
    balance: int
    total_claimed: int
    withdraw_requested_at: int
    refund_nonce: int
    charged: int
    signed: int
    signature: bytes
    transaction: str = ""
    moved: int = 0


class SaleRefused(PaymentRequired):
    """A payment is not taken, for a `reason` in x402's words. `standing` is told to whoever signed
    for a channel, so that it can sign anew.
    """

    def __init__(self, reason: str, message: str, standing: Standing | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.standing = standing


class PaymentRefused(SaleRefused):
    """The same of a voucher, or of what came with it."""

    def __init__(self, reason: Refusal, message: str, standing: Standing | None = None) -> None:
        super().__init__(f"invalid_batch_settlement_evm_{reason}", message, standing)


class TransferRefused(SaleRefused):
    """The same of an outright payment; nothing has moved."""

    def __init__(self, reason: TransferRefusal, message: str) -> None:
        super().__init__(f"invalid_exact_evm_{reason}", message)


class Sale(Protocol):
    """One answer that is paid for."""

    @property
    def charged(self) -> int | None:
        """Return what the answer cost, None before its end."""

    def standing(self) -> Standing | Settled:
        """Return where the channel stands now, or what was paid outright."""

    def complete(
        self, request: CompletionRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[CompletionEvent]]:
        """Answer; leaving the block early ends the answer, and what was made is charged."""


class Bank(Protocol):
    """What a node does on the chain for strangers, whose gas it pays. Coroutines raise NodeErrors,
    PaymentRefused among them.
    """

    async def relay(self, config: ChannelConfig, deposit: DepositAuthorization) -> str:
        """Put a signed deposit into a channel of this network; return the transaction."""

    async def balance(self, channel: bytes) -> int:
        """Return what was put into a channel and not paid back, as the newest block says."""

    async def refund(self, refund: Refund) -> Standing:
        """Give back what a channel that pays this node did not cost."""


class Shop(Protocol):
    """What a node sells. Coroutines raise NodeErrors."""

    async def terms(self) -> SaleTerms:
        """Return whom a stranger pays, and how."""

    async def price(self, request: CompletionRequest) -> Priced:
        """Return what an answer may cost; nothing is computed for it."""

    def sell(
        self, payment: Payment | SignedTransfer, priced: Priced
    ) -> AbstractAsyncContextManager[Sale]:
        """Take a payment for one answer. Raises SaleRefused."""

    async def refund(self, refund: Refund) -> Standing:
        """Give back what a channel did not cost. Raises PaymentRefused."""

    def sign(self, said: Offer | Served) -> bytes:
        """Sign what x402's clients read of a sale, with the operator's key."""

    def standing(self, channel_id: bytes) -> Standing | None:
        """Return where a channel stands that paid here, None for any other."""
