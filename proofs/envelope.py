"""Seals and opens what travels to the aggregator: a receipt, the voucher that pays for it, and the
channel both belong to.

Everything in here can be checked by any peer that forwards it, without a chain and without state:

    bytes → open_envelope → VerifiedEnvelope     the receipt holds, and its client vouched for all
                                                 it costs

A receipt that the client did not sign (unilateral) stands in the same envelope: the voucher is its
consent. Does not know whether the channel holds that much, or whether this receipt comes next in
it: that is for aggregator.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec

from .codec import Amount, NotCanonical, Record, Signature, decode, encode
from .digest import Network
from .errors import ReceiptError, VoucherError
from .receipt import (
    MAX_RECEIPT_BYTES,
    SignedReceipt,
    VerifiedReceipt,
    decode_receipt,
    verify_receipt,
)
from .voucher import ChannelConfig, Voucher, channel_id, check_channel, verify_voucher

MAX_ENVELOPE_BYTES = 1 << 10

Place = tuple[bytes, int]
"""Where a receipt stands: its channel and its sequence in it."""


class ReceiptEnvelope(Record, frozen=True):
    """An envelope as it is gossiped. Nothing in it is checked but its form."""

    receipt: Annotated[bytes, msgspec.Meta(max_length=MAX_RECEIPT_BYTES)]
    voucher_amount: Amount
    voucher_signature: Signature
    channel: ChannelConfig


@dataclass(frozen=True)
class VerifiedEnvelope:
    """An envelope in which everything holds and fits together. Only `open_envelope` makes one."""

    receipt: VerifiedReceipt
    voucher: Voucher
    config: ChannelConfig

    @property
    def place(self) -> Place:
        """Return the receipt's place."""
        return self.voucher.channel_id, self.receipt.receipt.sequence

    @property
    def payer(self) -> bytes:
        """Return whose channel pays."""
        return self.config.payer

    @cached_property
    def encoded(self) -> bytes:
        """Return the envelope's bytes."""
        return seal_envelope(self.receipt.signed, self.voucher, self.config)


def seal_envelope(signed: SignedReceipt, voucher: Voucher, config: ChannelConfig) -> bytes:
    """Encode an envelope."""
    return encode(
        ReceiptEnvelope(encode(signed), voucher.max_claimable_amount, voucher.signature, config)
    )


def open_envelope(data: bytes, network: Network) -> VerifiedEnvelope:
    """Check an envelope from bytes nobody vouched for.

    Raises ReceiptError or VoucherError that names the first invariant that does not hold.
    """
    envelope = decode_envelope(data)
    receipt = verify_receipt(decode_receipt(envelope.receipt), network)
    body = receipt.receipt
    config = envelope.channel
    # Cheapest first: comparing costs nothing, recovering the voucher's signer costs a curve
    # operation.
    check_channel(config, body.operator, body.client, network)
    if channel_id(config, network) != body.channel_id:
        raise VoucherError("channel", "the receipt names another channel than the one it came with")
    if envelope.voucher_amount < body.cumulative:
        raise VoucherError(
            "voucher amount",
            f"{envelope.voucher_amount} does not cover the channel's {body.cumulative}",
        )
    voucher = Voucher(body.channel_id, envelope.voucher_amount, envelope.voucher_signature)
    verify_voucher(voucher, config, network)
    return VerifiedEnvelope(receipt, voucher, config)


def decode_envelope(data: bytes) -> ReceiptEnvelope:
    """Decode an envelope and check its form. Raises ReceiptError."""
    try:
        return decode(data, _ENVELOPE, MAX_ENVELOPE_BYTES)
    except NotCanonical as error:
        raise ReceiptError(error.rule, str(error)) from error


_ENVELOPE = msgspec.msgpack.Decoder(ReceiptEnvelope)
