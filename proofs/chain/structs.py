"""What crosses between us and a chain, as values: fees, and the contracts' structs in the
contracts' order. Knows no node and no key.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Literal

from ..digest import keccak
from ..epoch import AccountLeaf, ChannelLeaf, EntryLeaf, EpochHeader, PayoutLeaf, Shown
from ..promise import Promise, Reminder
from ..receipt import decode_body
from ..sumtree import Opening, Proof
from ..voucher import ChannelConfig, Voucher

if TYPE_CHECKING:
    from web3.types import EventData

FeeToken = Literal["dollars", "lori"]
"""In what a development chain's fees are paid: pretend dollars, or the network's own token."""
CONFIRM_DEADLINE_S = 60.0  # for a transaction to come into a block

AnyShown = Shown[ChannelLeaf] | Shown[AccountLeaf] | Shown[EntryLeaf] | Shown[PayoutLeaf]
NONE = bytes(32)
# What stands in a call where there is no leaf to show.
NO_PROOF = Proof(0, 0, ())
NO_CHANNEL = Shown(ChannelLeaf(NONE, 0, 0, NONE, body=NONE, evidence=NONE), NO_PROOF)
NO_ACCOUNT = Shown(AccountLeaf(bytes(20), 0, NONE), NO_PROOF)
NO_PAYOUT = Shown(PayoutLeaf(bytes(20), 0), NO_PROOF)


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
    """A header as the chain has it, and the transaction that brought it.

    `posted_at`: in Unix seconds of the chain; the contract wants it wherever it wants the header.
    """

    header: EpochHeader
    transaction: bytes
    block: int
    posted_at: int

    @property
    def word(self) -> bytes:
        """What the contract keeps of it."""
        return keccak(self.header.hash + self.posted_at.to_bytes(8, "big"))


@dataclass(frozen=True)
class Anchor:
    """On which branch of the chain, and until when (Unix seconds), a header may be posted: the one
    that has this block, which is one of the last 256.
    """

    number: int
    hash: bytes
    not_after: int


ANYWHERE = Anchor((1 << 64) - 1, NONE, (1 << 64) - 1)
"""Binds a header to no branch and no time."""


@dataclass(frozen=True)
class SettlementState:
    """The end of the header chain, and what was paid out so far: under headers, and by exits."""

    epoch: int
    header_hash: bytes
    posted_at: int
    num_receipts: int
    payout_total: int
    total_paid: int
    total_exited: int


@dataclass(frozen=True)
class Terms:
    """What is fixed when a settlement contract is deployed: times in seconds, amounts in the fee
    token's smallest unit.
    """

    window: int
    answer_time: int
    silence: int
    timelock: int
    bond: int
    demand_fee: int


@dataclass(frozen=True)
class Board:
    """Who decides what; a `quorum` of the witnesses must have signed each header."""

    owner: bytes
    aggregator: bytes
    witnesses: tuple[bytes, ...] = ()
    quorum: int = 0


@dataclass(frozen=True)
class Office:
    """The aggregator's office as the chain has it. `aggregator` is None while it is vacant."""

    aggregator: bytes | None
    bond: int
    term: int
    silent_from: int


@dataclass(frozen=True)
class ForcedReceipt:
    """A receipt that was put on chain because it was ignored: the channel leaves after
    `deadline`.
    """

    channel_id: bytes
    sequence: int
    deadline: int


@dataclass(frozen=True)
class ChannelExit:
    """Where exits settled a channel to."""

    payouts: bytes
    sequence: int
    left_at: int


@dataclass(frozen=True)
class PendingExit:
    """An exit that waits for `due_at`. `absent_from`: the epoch whose header is said to have no
    leaf of the channel; 0 where the leaf was shown.
    """

    payouts: bytes
    cumulative: int
    sequence: int
    due_at: int
    is_cosigned: bool
    absent_from: int = 0


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
    return astuple(header)


def board_values(board: Board) -> tuple[object, ...]:
    """A board in the contract's order."""
    return (board.owner, board.aggregator, list(board.witnesses), board.quorum)


def receipt_values(leaf: ChannelLeaf) -> tuple[object, ...]:
    """What is signed of a channel's last receipt, in the contract's order."""
    return (leaf.channel_id, leaf.sequence, leaf.cumulative, leaf.payouts, leaf.body)


def posted_values(posted: PostedHeader | None) -> tuple[object, ...]:
    """A posted header in the contract's order; None is the one before the first."""
    if posted is None:
        return ((0, NONE, NONE, 0, NONE, NONE, 0, NONE), 0)
    return (header_values(posted.header), posted.posted_at)


def proof_values(proof: Proof) -> tuple[object, ...]:
    """A proof in the contract's order."""
    return (proof.index, proof.size, [(other.sum, other.hash) for other in proof.siblings])


def shown_values(shown: AnyShown) -> tuple[object, ...]:
    """A leaf and its proof in the contract's order."""
    return (astuple(shown.leaf), proof_values(shown.proof))


def opening_values(opening: Opening) -> tuple[object, ...]:
    """What a commitment commits to, in the contract's order."""
    return (opening.size, opening.sum, opening.root)


def promise_values(promise: Promise) -> tuple[object, ...]:
    """A promise in the contract's order, without its signature."""
    place = (promise.channel_id, promise.sequence, promise.cumulative)
    return (*place, promise.body, promise.deadline)


def reminder_values(reminder: Reminder) -> tuple[object, ...]:
    """A promise with what is needed to keep it, in the contract's order."""
    return (
        promise_values(reminder.promise),
        reminder.promise.signature,
        config_values(reminder.config),
        decode_body(reminder.signed.body).payouts,
        reminder.signed.body,
        reminder.signed.node_signature,
        reminder.manifest,
    )


def read_posted(event: EventData) -> PostedHeader:
    """The header in a Posted event."""
    return PostedHeader(
        EpochHeader(*event["args"]["header"].values()),
        bytes(event["transactionHash"]),
        event["blockNumber"],
        event["args"]["postedAt"],
    )
