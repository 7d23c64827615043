"""Writes the published batch of an epoch (the aggregator) and recomputes it (anybody).

Normative text: docs/protocols/settlement.md.

    state before + batch bytes + manifests
        → recompute   the Transition to the one header that may be posted
        → follow      the one to what an aggregator would have posted that checks nothing

Whoever recomputes checks every signature, every channel's chain, every share and every total again,
and believes nobody. Does not know whether its channels' vouchers were claimed: that the chain
tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from .attribution.shares import AdapterTerms, award, shares_for, terms_of
from .channel import ChannelTip
from .cocktail import parse_adapter
from .codec import Address, Amount, Digest, NotCanonical, Record, decode, encode
from .digest import Network
from .draft import Draft
from .errors import BatchError, ProofError
from .policies import UNGOVERNED, Policies
from .receipt import (
    BARE_BASE,
    MAX_RECEIPT_BYTES,
    VerifiedReceipt,
    check_drawn,
    decode_body,
    decode_receipt,
    derive_shares,
    digest_of,
    verify_receipt,
)
from .state import EpochState, Transition
from .voucher import ChannelConfig, channel_id

VERSION = 2
MAX_BATCH_BYTES = 1 << 20
MAX_BATCH_RECEIPTS = 1_000
MAX_BATCH_ADAPTERS = 32  # so whoever recomputes fetches at most 2 MiB of new manifests

SignedBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_RECEIPT_BYTES)]


class ReceiptBatch(Record, frozen=True):
    """The batch as it is published.

    Receipts are sorted by (channel, sequence), opened channels by id. `adapters` are the digests of
    the manifests that no batch before named, sorted.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    chain_id: Amount
    settlement: Address
    token: Address
    channels: Address
    epoch: Amount
    previous: Digest
    opened: Annotated[list[ChannelConfig], msgspec.Meta(max_length=MAX_BATCH_RECEIPTS)]
    adapters: Annotated[list[Digest], msgspec.Meta(max_length=MAX_BATCH_ADAPTERS)]
    receipts: Annotated[
        list[SignedBytes], msgspec.Meta(min_length=1, max_length=MAX_BATCH_RECEIPTS)
    ]


@dataclass(frozen=True)
class Followed:
    """Where a batch leads that breaks rules, and each of its faults."""

    transition: Transition
    faults: tuple[BatchError, ...]


def compose(
    receipts: Iterable[VerifiedReceipt],
    configs: Mapping[bytes, ChannelConfig],
    state: EpochState,
) -> bytes:
    """Write the one batch of these receipts.

    Takes its channels' configs from `configs` by channel id.
    """
    receipts = sorted(receipts, key=_place)
    channels = sorted({receipt.receipt.channel_id for receipt in receipts})
    adapters = {receipt.receipt.adapter for receipt in receipts} - state.adapters.keys()
    network = state.network
    batch = ReceiptBatch(
        version=VERSION,
        chain_id=network.chain_id,
        settlement=network.settlement,
        token=network.token,
        channels=network.channels,
        epoch=state.epoch + 1,
        previous=state.header_hash,
        opened=[configs[channel] for channel in channels if state.find_channel(channel) is None],
        adapters=sorted(adapters - {BARE_BASE}),
        receipts=[receipt.encoded for receipt in receipts],
    )
    return encode(batch)


def moved_by(data: bytes) -> dict[bytes, int]:
    """Return the channels that a batch of our own moves, each with what it costs afterwards."""
    receipts = (decode_body(decode_receipt(one).body) for one in decode_batch(data).receipts)
    return {receipt.channel_id: receipt.cumulative for receipt in receipts}


def recompute(
    data: bytes,
    state: EpochState,
    manifests: Mapping[bytes, bytes],
    policies: Policies = UNGOVERNED,
) -> Transition:
    """Check a batch from bytes nobody vouched for, and plan what it makes of the state.

    `manifests` holds the bytes of each manifest that is new here, by its digest; `policies` are
    those that receipts of this epoch may name. The batch is right when the header of the result is
    the one on the chain. Raises BatchError that names what does not hold.
    """
    batch = decode_batch(data)
    _check_place(batch, state)
    receipts = _verify_receipts(batch.receipts, state.network)
    configs = _open_channels(batch, receipts, state)
    draft = Draft(state)
    draft.learn(_read_adapters(batch, receipts, state, manifests))
    tips: dict[bytes, ChannelTip] = {}
    for index, verified in enumerate(receipts):
        receipt = verified.receipt
        channel = receipt.channel_id
        terms = draft.terms(receipt.adapter)
        try:
            tip = tips.get(channel) or state.find_tip(channel) or ChannelTip(configs[channel])
            tip = tips[channel] = tip.follow(verified, state.network, terms, policies)
        except ProofError as error:
            raise BatchError(f"receipt {index}", str(error)) from error
        shares = derive_shares(receipt, terms, policies.of(receipt.parameters))
        awards = award(receipt.amount, shares)
        draft.take(verified.signed, receipt, tip.config, awards, payouts=tip.payouts)
    return draft.finish(hashlib.sha256(data).digest())


def follow(
    data: bytes,
    state: EpochState,
    manifests: Mapping[bytes, bytes],
    policies: Policies = UNGOVERNED,
) -> Followed:
    """Plan what an aggregator made of a batch that checked nothing, and list what it should have.

    Takes every receipt that can be read and whose channel, manifest and version of the parameters
    are known; the others are faults alone. Raises BatchError when the batch itself cannot be read.
    """
    batch = decode_batch(data)
    faults: list[BatchError] = []
    try:
        recompute(data, state, manifests, policies)
    except BatchError as error:
        faults.append(error)
    walk = _Walk(batch, state, policies)
    for digest in batch.adapters:
        try:
            walk.draft.learn({digest: _read_adapter(digest, manifests)})
        except BatchError as error:
            faults.append(error)
    for index, entry in enumerate(batch.receipts):
        try:
            walk.take(entry)
        except ProofError as error:
            faults.append(BatchError(f"receipt {index}", str(error)))
    distinct = {str(fault): fault for fault in faults}
    return Followed(walk.draft.finish(hashlib.sha256(data).digest()), tuple(distinct.values()))


def decode_batch(data: bytes) -> ReceiptBatch:
    """Decode a batch and check its form. Raises BatchError."""
    try:
        return decode(data, _BATCH, MAX_BATCH_BYTES)
    except NotCanonical as error:
        raise BatchError(error.rule, str(error)) from error


class _Walk:
    """Takes a batch's receipts without asking whether they hold."""

    def __init__(self, batch: ReceiptBatch, state: EpochState, policies: Policies) -> None:
        self.draft = Draft(state)
        self._policies = policies
        self._state = state
        self._configs = {channel_id(config, state.network): config for config in batch.opened}
        self._tips: dict[bytes, ChannelTip] = {}

    def take(self, entry: bytes) -> None:
        """Take one receipt, then raise what is wrong with it.

        Where it cannot be taken at all, it raises first.
        """
        signed = decode_receipt(entry)
        receipt = decode_body(signed.body)
        tip = self._tip(receipt.channel_id)
        terms = self.draft.terms(receipt.adapter)
        if terms is None and receipt.adapter != BARE_BASE:
            raise BatchError("adapters", f"the manifest {receipt.adapter.hex()} is not known")
        check_drawn(receipt, terms)
        policy = self._policies.every.of(receipt.parameters)
        shares = shares_for(policy, receipt.owner, terms, receipt.drawn)
        payouts = tip.payouts.award(shares, receipt.amount)
        awards = award(receipt.amount, shares)
        self.draft.take(signed, receipt, tip.config, awards, payouts=payouts)
        self._tips[receipt.channel_id] = ChannelTip(
            tip.config,
            receipt.sequence,
            digest_of(signed.body),
            receipt.cumulative,
            payouts=payouts,
        )
        verified = verify_receipt(signed, self._state.network)
        tip.follow(verified, self._state.network, terms, self._policies)

    def _tip(self, channel: bytes) -> ChannelTip:
        found = self._tips.get(channel) or self._state.find_tip(channel)
        if found is not None:
            return found
        if channel not in self._configs:
            raise BatchError("opened", f"channel {channel.hex()} is not known")
        return ChannelTip(self._configs[channel])


def _check_place(batch: ReceiptBatch, state: EpochState) -> None:
    network = state.network
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
    if batch.epoch != state.epoch + 1:
        raise BatchError("epoch", f"{batch.epoch}; the next is {state.epoch + 1}")
    if batch.previous != state.header_hash:
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
    batch: ReceiptBatch, receipts: Sequence[VerifiedReceipt], state: EpochState
) -> dict[bytes, ChannelConfig]:
    """Return the configs of the channels that begin here: exactly those of the receipts that were
    not known before.
    """
    opened = {channel_id(config, state.network): config for config in batch.opened}
    needed = {receipt.receipt.channel_id for receipt in receipts}
    new = sorted(channel for channel in needed if state.find_channel(channel) is None)
    if list(opened) != new or len(opened) != len(batch.opened):
        raise BatchError(
            "opened",
            "the opened channels are not, in order, those that have their first receipt here",
        )
    return opened


def _read_adapters(
    batch: ReceiptBatch,
    receipts: Sequence[VerifiedReceipt],
    state: EpochState,
    manifests: Mapping[bytes, bytes],
) -> dict[bytes, AdapterTerms]:
    """Return the terms of the adapters that are new here: exactly those of the receipts that were
    not known before.
    """
    needed = {receipt.receipt.adapter for receipt in receipts}
    if batch.adapters != sorted(needed - state.adapters.keys() - {BARE_BASE}):
        raise BatchError(
            "adapters", "the adapters are not, in order, those that are first served here"
        )
    return {digest: _read_adapter(digest, manifests) for digest in batch.adapters}


def _read_adapter(digest: bytes, manifests: Mapping[bytes, bytes]) -> AdapterTerms:
    data = manifests.get(digest)
    if data is None:
        raise BatchError("manifest", f"{digest.hex()} is missing; find it as a block by its digest")
    if hashlib.sha256(data).digest() != digest:
        raise BatchError("manifest", f"these bytes do not hash to {digest.hex()}")
    try:
        return terms_of(parse_adapter(data))
    except ProofError as error:
        raise BatchError("manifest", f"{digest.hex()}: {error}") from error


def _place(verified: VerifiedReceipt) -> tuple[bytes, int]:
    return verified.receipt.channel_id, verified.receipt.sequence


_BATCH = msgspec.msgpack.Decoder(ReceiptBatch)
