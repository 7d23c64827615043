"""Keeps the aggregator's memory: accepted receipts, sealed epochs, evidence.

Payouts follow from the epochs' batches and are not stored again. Checks no signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..aggregator import SealedEpoch
from ..envelope import VerifiedEnvelope, decode_envelope
from ..epoch import decode_header
from ..promise import Evidence
from .database import Ledger


class AggregatorLedger:
    """The store of proofs.aggregator.Aggregator."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def batches(self) -> Iterable[bytes]:
        """Yield all sealed batches, oldest first."""
        for (epoch,) in self._ledger.read("SELECT epoch FROM epoch ORDER BY epoch"):
            yield self._ledger.read("SELECT batch FROM epoch WHERE epoch = ?", epoch)[0][0]

    def unsealed(self) -> Iterable[bytes]:
        """Return the envelopes that were accepted and not sealed, in the order of acceptance."""
        return [
            envelope
            for (envelope,) in self._ledger.read(
                "SELECT envelope FROM accepted WHERE epoch IS NULL ORDER BY id"
            )
        ]

    def find_receipt(self, channel_id: bytes, sequence: int) -> bytes | None:
        """Return the accepted signed receipt in this place, or None."""
        rows = self._ledger.read(
            "SELECT envelope FROM accepted WHERE channel = ? AND sequence = ?", channel_id, sequence
        )
        return decode_envelope(rows[0][0]).receipt if rows else None

    def accept(self, envelopes: Sequence[VerifiedEnvelope]) -> None:
        """Add accepted envelopes. Raises LedgerConflict when a place is taken."""
        with self._ledger.transaction():
            for envelope in envelopes:
                place = envelope.voucher.channel_id, envelope.receipt.receipt.sequence
                self._ledger.write(
                    "INSERT INTO accepted (channel, sequence, envelope) VALUES (?, ?, ?)",
                    *place,
                    envelope.encoded,
                )

    def keep_evidence(self, channel_id: bytes, sequence: int, evidence: Evidence) -> None:
        """Keep the first evidence for a place."""
        with self._ledger.transaction():
            statement = "INSERT INTO evidence VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
            self._ledger.write(statement, channel_id, sequence, evidence.first, evidence.second)

    def evidence(self) -> list[Evidence]:
        """Return all evidence, by channel and sequence."""
        return [
            Evidence(first, second)
            for first, second in self._ledger.read(
                "SELECT first, second FROM evidence ORDER BY channel, sequence"
            )
        ]

    def seal(self, sealed: SealedEpoch, places: Sequence[tuple[bytes, int]]) -> None:
        """Add an epoch and mark its receipts as sealed. Raises LedgerConflict when the epoch
        exists.
        """
        epoch = sealed.header.epoch
        with self._ledger.transaction():
            self._ledger.write(
                "INSERT INTO epoch VALUES (?, ?, ?)", epoch, sealed.header.encoded, sealed.batch
            )
            for place in places:
                self._ledger.write(
                    "UPDATE accepted SET epoch = ? WHERE channel = ? AND sequence = ?",
                    epoch,
                    *place,
                )

    def find_epoch(self, epoch: int) -> SealedEpoch | None:
        """Return a sealed epoch, to post its header or to publish its batch again; None when
        unknown.
        """
        rows = self._ledger.read("SELECT header, batch FROM epoch WHERE epoch = ?", epoch)
        return SealedEpoch(decode_header(rows[0][0]), rows[0][1]) if rows else None

    def last_epoch(self) -> int:
        """Return the number of the last sealed epoch; 0 before the first."""
        return int(self._ledger.read("SELECT coalesce(max(epoch), 0) FROM epoch")[0][0])
