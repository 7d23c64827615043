"""The header of an epoch: what the aggregator posts, and its hash. Twin of `Header` in chain/contracts/Settlement.sol."""

from __future__ import annotations

from dataclasses import dataclass

from .digest import keccak, word

NO_HEADER = bytes(32)  # what the first header names as previous


@dataclass(frozen=True)
class EpochHeader:
    """All that an epoch commits to. Totals are cumulative: they count every epoch so far."""

    epoch: int  # from 1
    previous: bytes  # hash of the header before, 32 zero bytes in the first
    receipts_root: bytes  # of the RFC 9162 log of all receipts (merkle.py)
    num_receipts: int  # size of that log
    payout_root: bytes  # hash of the payout tree's root (sumtree.py)
    payout_total: int  # its sum
    batch_digest: bytes  # sha-256 of the published batch, and so its CID

    @property
    def hash(self) -> bytes:
        """keccak256 of the ABI encoding: seven words in the order above."""
        fields = (self.epoch, self.previous, self.receipts_root, self.num_receipts, self.payout_root, self.payout_total, self.batch_digest)
        return keccak(b"".join([word(field) for field in fields]))
