"""Says where a channel's receipts stand, and which one may come next.

The state half of a receipt's invariants; reads no chain and checks no signature.
"""

from __future__ import annotations

from dataclasses import dataclass

from .attribution.shares import AdapterTerms
from .digest import Network
from .errors import ReceiptError
from .payouts import NO_PAYOUTS, ChannelPayouts
from .policies import UNGOVERNED, Policies
from .receipt import FIRST_PREVIOUS, VerifiedReceipt, check_fee, derive_shares
from .voucher import ChannelConfig, check_channel


@dataclass(frozen=True)
class ChannelTip:
    """The end of a channel's chain of receipts.

    receipt 1 ← receipt 2 ← … ← receipt `sequence`, whose body hashes to `previous`; together they
    cost `cumulative`, of which each account's part stands in `payouts`.
    """

    config: ChannelConfig
    sequence: int = 0
    previous: bytes = FIRST_PREVIOUS
    cumulative: int = 0
    payouts: ChannelPayouts = NO_PAYOUTS

    def follow(
        self,
        verified: VerifiedReceipt,
        network: Network,
        terms: AdapterTerms | None,
        policies: Policies = UNGOVERNED,
    ) -> ChannelTip:
        """Return the tip after this receipt, whose adapter has these terms (None: the bare base).

        Raises ReceiptError or VoucherError when it is not the next one of this channel, or divides
        its fee in another way than the terms, and the parameters that it may name, do.
        """
        receipt = verified.receipt
        check_channel(self.config, receipt.operator, receipt.client, network)
        if receipt.sequence != self.sequence + 1:
            raise ReceiptError(
                "sequence", f"{receipt.sequence}; the channel's next is {self.sequence + 1}"
            )
        if receipt.previous != self.previous:
            raise ReceiptError(
                "previous",
                f"receipt {receipt.sequence} does not follow the channel's receipt {self.sequence}",
            )
        policy = policies.of(receipt.parameters)
        shares = derive_shares(receipt, terms, policy)
        check_fee(receipt, terms, policy)
        if receipt.cumulative != self.cumulative + receipt.amount:
            raise ReceiptError(
                "cumulative",
                f"{receipt.cumulative}; the channel stands at {self.cumulative} and this costs"
                f" {receipt.amount}",
            )
        payouts = self.payouts.award(shares, receipt.amount)
        if receipt.payouts != payouts.commitment:
            raise ReceiptError(
                "payouts", "the receipt divides its fee in another way than the manifest does"
            )
        return ChannelTip(
            self.config, receipt.sequence, verified.digest, receipt.cumulative, payouts=payouts
        )
