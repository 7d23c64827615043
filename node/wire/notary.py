"""Signs and checks what a channel's two sides promise one another. Decides nothing about amounts.

The machines of this package touch keys only here, so that a test may give them a notary whose
signatures cost nothing.
"""

from __future__ import annotations

from proofs.digest import Network
from proofs.offers import Offer, Served
from proofs.receipt import (
    Receipt,
    SignedReceipt,
    VerifiedReceipt,
    check_signature,
    check_terms,
    decode_body,
    receipt_digest,
    sign_receipt,
    verify_receipt,
)
from proofs.signing import Signer
from proofs.voucher import ChannelConfig, Voucher, sign_voucher, verify_voucher


class Notary:
    """One key on one network."""

    def __init__(self, signer: Signer, network: Network) -> None:
        self._signer = signer
        self.address = signer.address
        self.network = network

    def sign_receipt(self, receipt: Receipt) -> bytes:
        """Sign as node or as client."""
        return sign_receipt(self._signer, receipt, self.network)

    def sign_voucher(self, channel_id: bytes, amount: int) -> bytes:
        """Promise that up to `amount` of the channel may be claimed in all."""
        return sign_voucher(self._signer, channel_id, amount, self.network).signature

    def sign_sale(self, said: Offer | Served) -> bytes:
        """Sign what x402's clients read of a sale."""
        return self._signer.sign_digest(said.digest)

    def check_voucher(self, voucher: Voucher, config: ChannelConfig) -> None:
        """Raise VoucherError unless the channel's voucher signer made this voucher for it."""
        verify_voucher(voucher, config, self.network)

    def read_draft(self, body: bytes, node_signature: bytes, operator: bytes) -> Receipt:
        """Read a receipt that only the node has signed; ReceiptError when it is not true in itself
        or `operator` did not sign it.
        """
        receipt = decode_body(body)
        check_terms(receipt, self.network)
        digest = receipt_digest(receipt, self.network)
        check_signature("node signature", digest, node_signature, operator)
        return receipt

    def verify_receipt(self, signed: SignedReceipt) -> VerifiedReceipt:
        """Check everything that a receipt proves, with both signatures or the node's alone;
        ReceiptError.
        """
        return verify_receipt(signed, self.network)
