"""Defines the header of an epoch, which the aggregator posts, and its hash.

Twin of `Header` in contracts/src/types/Header.sol. Knows no batch and posts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .digest import keccak, word

NO_HEADER = bytes(32)  # what the first header names as previous


@dataclass(frozen=True)
class EpochHeader:
    """The commitments of an epoch. Totals are cumulative: they count every epoch so far."""

    epoch: int  # from 1
    previous: bytes  # hash of the header before, 32 zero bytes in the first
    receipts_root: bytes  # of the RFC 9162 log of all receipts (merkle.py)
    num_receipts: int  # size of that log
    payout_root: bytes  # hash of the payout tree's root (sumtree.py)
    payout_total: int  # its sum
    batch_digest: bytes  # sha-256 of the published batch, and so its CID

    @property
    def encoded(self) -> bytes:
        """Return the ABI encoding: seven words in the order above."""
        return b"".join(word(getattr(self, name)) for name in _FIELDS)

    @property
    def hash(self) -> bytes:
        """Return keccak256 of the ABI encoding: the contract stores it, and the next header names
        it.
        """
        return keccak(self.encoded)


def decode_header(encoded: bytes) -> EpochHeader:
    """Decode a header from its own encoding."""
    assert len(encoded) == 32 * len(_FIELDS), "a header has seven words"
    words = [encoded[start : start + 32] for start in range(0, len(encoded), 32)]
    epoch, num_receipts, payout_total = (int.from_bytes(words[place], "big") for place in (0, 3, 5))
    return EpochHeader(
        epoch,
        words[1],
        words[2],
        num_receipts,
        payout_root=words[4],
        payout_total=payout_total,
        batch_digest=words[6],
    )


_FIELDS = tuple(field.name for field in fields(EpochHeader))
