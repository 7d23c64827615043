"""The structs that cross into the contracts, in the contracts' order. Knows no node and no key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from eth_abi import decode  # type: ignore[attr-defined]
from eth_utils.crypto import keccak

from .compiled import load_contract


class ChannelConfig(Protocol):
    """What a channel is; proofs.voucher has the class. Addresses are 20 bytes."""

    @property
    def payer(self) -> bytes: ...
    @property
    def payer_authorizer(self) -> bytes: ...
    @property
    def receiver(self) -> bytes: ...
    @property
    def receiver_authorizer(self) -> bytes: ...
    @property
    def token(self) -> bytes: ...
    @property
    def withdraw_delay(self) -> int: ...
    @property
    def salt(self) -> bytes: ...


class EpochHeader(Protocol):
    """One epoch as it is posted; proofs.epoch has the class."""

    @property
    def epoch(self) -> int: ...
    @property
    def previous(self) -> bytes: ...
    @property
    def receipts_root(self) -> bytes: ...
    @property
    def num_receipts(self) -> int: ...
    @property
    def payout_root(self) -> bytes: ...
    @property
    def payout_total(self) -> int: ...
    @property
    def batch(self) -> bytes: ...


@dataclass(frozen=True)
class VoucherClaim:
    """A voucher, and how much of it is taken: `total_claimed`, cumulative like the voucher's own amount."""

    config: ChannelConfig
    max_claimable_amount: int
    signature: bytes
    total_claimed: int


@dataclass(frozen=True)
class DepositAuthorization:
    """A payer's ERC-3009 signature for one deposit into one channel. Whoever has it may relay it, once."""

    amount: int
    valid_after: int
    valid_before: int
    salt: int
    signature: bytes


@dataclass(frozen=True)
class ChannelState:
    """What the chain knows about a channel. `withdraw_requested_at` is 0 when no withdrawal is under way."""

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

    epoch: int
    previous: bytes
    receipts_root: bytes
    num_receipts: int
    payout_root: bytes
    payout_total: int
    batch: bytes
    hash: bytes
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


Sibling = tuple[int, bytes, bool]  # sum, hash, whether it stands on the left; from the leaf up


def config_values(config: ChannelConfig) -> tuple[object, ...]:
    """A config in the contract's order."""
    parties = (config.payer, config.payer_authorizer, config.receiver, config.receiver_authorizer)
    return (*parties, config.token, config.withdraw_delay, config.salt)


def claim_values(claim: VoucherClaim) -> tuple[object, ...]:
    """A claim in the contract's order."""
    return ((config_values(claim.config), claim.max_claimable_amount), claim.signature, claim.total_claimed)


def header_values(header: EpochHeader) -> tuple[object, ...]:
    """A header in the contract's order."""
    totals = (header.payout_root, header.payout_total, header.batch)
    return (header.epoch, header.previous, header.receipts_root, header.num_receipts, *totals)


def read_posted(log: dict[str, Any]) -> PostedHeader:
    """The header in a Posted event."""
    signature = load_contract("Settlement").find("event", "Posted")
    ((epoch, previous, receipts_root, num_receipts, payout_root, payout_total, batch),) = decode(signature.inputs[2:], unhex(log["data"]))
    return PostedHeader(
        epoch=epoch,
        previous=previous,
        receipts_root=receipts_root,
        num_receipts=num_receipts,
        payout_root=payout_root,
        payout_total=payout_total,
        batch=batch,
        hash=unhex(log["topics"][2]),
        transaction=unhex(log["transactionHash"]),
        block=int(log["blockNumber"], 16),
    )


def header_hash(header: EpochHeader) -> bytes:
    """The header's hash as the contract computes it: keccak of its seven words."""
    return bytes(keccak(load_contract("Settlement").encode("headerHash", header_values(header))[4:]))


def unhex(text: str) -> bytes:
    """Bytes from 0x text."""
    return bytes.fromhex(text[2:])
