"""Reads receipts that were promised and forgotten, as somebody shows them on the chain who holds
their promise: everything that an epoch needs of them.

The contract took them only where each follows what a posted header has of its channel. Believes
nothing of it all the same. Knows no queue.
"""

from __future__ import annotations

from dataclasses import dataclass

from .attribution.shares import AdapterTerms, terms_of
from .cocktail import parse_adapter
from .digest import Network
from .envelope import Place
from .errors import ReceiptError, VoucherError
from .promise import Reminder
from .receipt import BARE_BASE, VerifiedReceipt, digest_of, verify_receipt
from .voucher import ChannelConfig, channel_id, check_channel


@dataclass(frozen=True)
class Recalled:
    """A receipt that must be in the next header. It came without a voucher: it is claimed."""

    receipt: VerifiedReceipt
    config: ChannelConfig
    terms: AdapterTerms | None
    manifest: bytes
    deadline: int

    @property
    def place(self) -> Place:
        """Return the receipt's place."""
        return self.receipt.receipt.channel_id, self.receipt.receipt.sequence


def read_reminder(reminder: Reminder, network: Network) -> Recalled:
    """Check a reminder from bytes nobody vouched for.

    Raises ReceiptError, VoucherError or ManifestError.
    """
    receipt = verify_receipt(reminder.signed, network)
    body = receipt.receipt
    check_channel(reminder.config, body.operator, body.client, network)
    if channel_id(reminder.config, network) != body.channel_id:
        raise VoucherError("channel", "the receipt names another channel than the one it came with")
    if receipt.digest != reminder.promise.body:
        raise ReceiptError("body", "another receipt than the promised one")
    terms = None
    if body.adapter != BARE_BASE:
        if digest_of(reminder.manifest) != body.adapter:
            raise ReceiptError("adapter", "the manifest that came with it is another adapter's")
        terms = terms_of(parse_adapter(reminder.manifest))
    return Recalled(receipt, reminder.config, terms, reminder.manifest, reminder.promise.deadline)
