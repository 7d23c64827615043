"""What crosses between us and a chain, as values: fees, and the contracts' structs in the
contracts' order. Knows no node and no key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..epoch import EpochHeader
from ..sumtree import PayoutProof
from ..voucher import ChannelConfig, Voucher

if TYPE_CHECKING:
    from web3.types import EventData

CONFIRM_DEADLINE_S = 60.0  # for a transaction to come into a block


@dataclass(frozen=True)
class Fees:
    """What a transaction offers for each unit of gas: at most, and of that to whoever makes the
    block.
    """

    max_fee_wei: int
    tip_wei: int

    def bumped(self, percent: int) -> Fees:
        """Higher by so much, rounded up: what a replacement must offer."""
        return Fees(
            -(-self.max_fee_wei * (100 + percent) // 100), -(-self.tip_wei * (100 + percent) // 100)
        )


@dataclass(frozen=True)
class VoucherClaim:
    """A voucher, and how much of it is taken: `total_claimed`, cumulative like the voucher's own
    amount.
    """

    config: ChannelConfig
    voucher: Voucher
    total_claimed: int


@dataclass(frozen=True)
class DepositAuthorization:
    """A payer's ERC-3009 signature for one deposit into one channel.

    Whoever has it may relay it, once.
    """

    amount: int
    valid_after: int
    valid_before: int
    salt: int
    signature: bytes


@dataclass(frozen=True)
class ChannelState:
    """What the chain knows about a channel.

    `withdraw_requested_at` is 0 when no withdrawal is under way.
    """

    balance: int
    total_claimed: int
    withdraw_amount: int
    withdraw_requested_at: int
    refund_nonce: int

    @property
    def unclaimed(self) -> int:
        """What vouchers may still take."""
        return self.balance - self.total_claimed


@dataclass(frozen=True)
class PostedHeader:
    """A header as the chain has it, and the transaction that brought it."""

    header: EpochHeader
    transaction: bytes
    block: int


@dataclass(frozen=True)
class SettlementState:
    """The end of the header chain, and what was paid out so far."""

    epoch: int
    header_hash: bytes
    num_receipts: int
    payout_total: int
    total_paid: int


def config_values(config: ChannelConfig) -> tuple[object, ...]:
    """A config in the contract's order."""
    parties = (config.payer, config.payer_authorizer, config.receiver, config.receiver_authorizer)
    return (*parties, config.token, config.withdraw_delay, config.salt)


def claim_values(claim: VoucherClaim) -> tuple[object, ...]:
    """A claim in the contract's order."""
    return (
        (config_values(claim.config), claim.voucher.max_claimable_amount),
        claim.voucher.signature,
        claim.total_claimed,
    )


def header_values(header: EpochHeader) -> tuple[object, ...]:
    """A header in the contract's order."""
    totals = (header.payout_root, header.payout_total, header.batch_digest)
    return (header.epoch, header.previous, header.receipts_root, header.num_receipts, *totals)


def proof_values(proof: PayoutProof) -> tuple[object, ...]:
    """A payout proof in the contract's order: account, amount, siblings."""
    return (
        proof.account,
        proof.amount,
        [(other.sum, other.hash, other.is_left) for other in proof.siblings],
    )


def read_posted(event: EventData) -> PostedHeader:
    """The header in a Posted event."""
    return PostedHeader(
        EpochHeader(*event["args"]["header"].values()),
        bytes(event["transactionHash"]),
        event["blockNumber"],
    )
