"""Writes the published batch of an epoch (the aggregator) and recomputes it (anybody).

Normative text: docs/protocols/settlement.md.

    state before + batch bytes → recompute
    → state after, and with it the one header that may be posted

Whoever recomputes checks every signature, every channel's chain, every share and every total again,
and believes nobody. Does not know whether its channels' vouchers were claimed: that the
chain tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated

import msgspec

from .attribution.shares import split
from .channel import ChannelTip
from .codec import Address, Amount, Digest, NotCanonical, Record, decode, encode
from .digest import Network
from .epoch import NO_HEADER, EpochHeader
from .errors import BatchError, ProofError
from .merkle import Frontier, leaf_hash
from .receipt import MAX_RECEIPT_BYTES, VerifiedReceipt, decode_receipt, verify_receipt
from .sumtree import PayoutTree
from .voucher import ChannelConfig, channel_id

VERSION = 1
MAX_BATCH_BYTES = 1 << 20
MAX_BATCH_RECEIPTS = 1_000
MAX_BATCH_PAYOUTS = 1 << 15

SignedBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_RECEIPT_BYTES)]


class ReceiptBatch(Record, frozen=True):
    """The batch as it is published.

    Receipts are sorted by (channel, sequence), opened channels by id, payouts by account.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    chain_id: Amount
    settlement: Address
    token: Address
    channels: Address
    epoch: Amount
    previous: Digest
    opened: Annotated[list[ChannelConfig], msgspec.Meta(max_length=MAX_BATCH_RECEIPTS)]
    receipts: Annotated[
        list[SignedBytes], msgspec.Meta(min_length=1, max_length=MAX_BATCH_RECEIPTS)
    ]
    payouts: Annotated[list[tuple[Address, Amount]], msgspec.Meta(max_length=MAX_BATCH_PAYOUTS)]


@dataclass(frozen=True)
class EpochState:
    """Everything that follows from all epochs so far. `header` is None before the first."""

    network: Network
    header: EpochHeader | None = None
    log: Frontier = field(default_factory=Frontier)
    payouts: Mapping[bytes, int] = field(default_factory=dict)  # account → awarded in all
    channels: Mapping[bytes, ChannelTip] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Return the last epoch's number; 0 before the first."""
        return self.header.epoch if self.header else 0

    @property
    def header_hash(self) -> bytes:
        """Return the hash that the next header names as previous."""
        return self.header.hash if self.header else NO_HEADER

    @cached_property
    def payout_tree(self) -> PayoutTree:
        """Return the tree whose root the header commits to; proves payouts."""
        return PayoutTree(self.payouts)


def recompute(data: bytes, previous: EpochState) -> EpochState:
    """Check a batch from bytes nobody vouched for and return the state after it.

    The batch is right when the header of the result is the one on the chain. Raises BatchError that
    names what does not hold.
    """
    batch = decode_batch(data)
    _check_place(batch, previous)
    receipts = _verify_receipts(batch.receipts, previous.network)
    channels = _follow(
        receipts,
        {**previous.channels, **_open_channels(batch, receipts, previous)},
        previous.network,
    )
    payouts, changed = add_payouts(previous.payouts, receipts)
    if batch.payouts != changed:
        raise BatchError("payouts", "the batch awards something else than its receipts say")
    log = previous.log.append(leaf_hash(receipt.encoded) for receipt in receipts)
    after = replace(previous, log=log, payouts=payouts, channels=channels)
    return replace(after, header=_header(after, previous, data))


def compose(
    receipts: Sequence[VerifiedReceipt],
    configs: Mapping[bytes, ChannelConfig],
    previous: EpochState,
) -> bytes:
    """Write the one batch of these receipts.

    Takes its channels' configs from `configs` by channel id.
    """
    receipts = sorted(receipts, key=_place)
    channels = sorted(
        {receipt.receipt.channel_id for receipt in receipts} - previous.channels.keys()
    )
    network = previous.network
    batch = ReceiptBatch(
        version=VERSION,
        chain_id=network.chain_id,
        settlement=network.settlement,
        token=network.token,
        channels=network.channels,
        epoch=previous.epoch + 1,
        previous=previous.header_hash,
        opened=[configs[channel] for channel in channels],
        receipts=[receipt.encoded for receipt in receipts],
        payouts=add_payouts(previous.payouts, receipts)[1],
    )
    return encode(batch)


def decode_batch(data: bytes) -> ReceiptBatch:
    """Decode a batch and check its form. Raises BatchError."""
    try:
        return decode(data, _BATCH, MAX_BATCH_BYTES)
    except NotCanonical as error:
        raise BatchError(error.rule, str(error)) from error


def add_payouts(
    payouts: Mapping[bytes, int], receipts: Iterable[VerifiedReceipt]
) -> tuple[dict[bytes, int], list[tuple[bytes, int]]]:
    """Award these receipts; return all accounts' new totals, and those that changed, sorted by
    account.
    """
    after = dict(payouts)
    changed = set[bytes]()
    for verified in receipts:
        shares = verified.receipt.shares
        for share, part in zip(shares, split(verified.receipt.amount, shares), strict=True):
            if part:
                after[share.address] = after.get(share.address, 0) + part
                changed.add(share.address)
    return after, [(account, after[account]) for account in sorted(changed)]


def _check_place(batch: ReceiptBatch, previous: EpochState) -> None:
    network = previous.network
    if batch.version != VERSION:
        raise BatchError(
            "version", f"{batch.version} is unknown; this node reads version {VERSION}"
        )
    if (batch.chain_id, batch.settlement, batch.token, batch.channels) != (
        network.chain_id,
        network.settlement,
        network.token,
        network.channels,
    ):
        raise BatchError(
            "network",
            f"the batch is for chain {batch.chain_id} and settlement {batch.settlement.hex()}",
        )
    if batch.epoch != previous.epoch + 1:
        raise BatchError("epoch", f"{batch.epoch}; the next is {previous.epoch + 1}")
    if batch.previous != previous.header_hash:
        raise BatchError("previous", "the batch continues another chain of headers")


def _verify_receipts(encoded: Sequence[bytes], network: Network) -> list[VerifiedReceipt]:
    receipts = []
    for index, data in enumerate(encoded):
        try:
            receipts.append(verify_receipt(decode_receipt(data), network))
        except ProofError as error:
            raise BatchError(f"receipt {index}", str(error)) from error
    places = [_place(receipt) for receipt in receipts]
    # Sorted and unique in one comparison; one order means one batch for one set of receipts.
    if places != sorted(set(places)):
        raise BatchError("order", "receipts must be sorted by channel and sequence, each once")
    return receipts


def _open_channels(
    batch: ReceiptBatch, receipts: Sequence[VerifiedReceipt], previous: EpochState
) -> dict[bytes, ChannelTip]:
    """Return the channels that begin here: exactly those of the receipts that were not known
    before.
    """
    opened = {channel_id(config, previous.network): ChannelTip(config) for config in batch.opened}
    needed = {receipt.receipt.channel_id for receipt in receipts} - previous.channels.keys()
    if list(opened) != sorted(needed) or len(opened) != len(batch.opened):
        raise BatchError(
            "opened",
            "the opened channels are not, in order, those that have their first receipt here",
        )
    return opened


def _follow(
    receipts: Sequence[VerifiedReceipt], channels: dict[bytes, ChannelTip], network: Network
) -> dict[bytes, ChannelTip]:
    for index, receipt in enumerate(receipts):
        channel = receipt.receipt.channel_id
        try:
            channels[channel] = channels[channel].follow(receipt, network)
        except ProofError as error:
            raise BatchError(f"receipt {index}", str(error)) from error
    return channels


def _header(after: EpochState, previous: EpochState, data: bytes) -> EpochHeader:
    root = after.payout_tree.root
    return EpochHeader(
        epoch=previous.epoch + 1,
        previous=previous.header_hash,
        receipts_root=after.log.root,
        num_receipts=after.log.size,
        channels_root=bytes(32),
        payout_root=root.hash,
        payout_total=root.sum,
        batch_digest=hashlib.sha256(data).digest(),
    )


def _place(verified: VerifiedReceipt) -> tuple[bytes, int]:
    return verified.receipt.channel_id, verified.receipt.sequence


_BATCH = msgspec.msgpack.Decoder(ReceiptBatch)
