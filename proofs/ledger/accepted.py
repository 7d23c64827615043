"""Keeps the aggregator's memory: accepted receipts, manifests, epochs, checkpoints, evidence.

The state follows from the epochs' batches and is kept only as checkpoints. Checks no signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..aggregator import SealedEpoch, TakenReceipt
from ..batch import decode_batch
from ..envelope import Place, decode_envelope
from ..epoch import decode_header
from ..fair import Pledge
from ..promise import Evidence
from ..recall import Recalled
from ..receipt import decode_receipt, digest_of
from .database import Ledger

MAX_EVIDENCE_PER_CHANNEL = 16  # whoever signs twice could go on for ever
KEPT_CHECKPOINTS = 2  # the newest may stand on epochs that are taken back


class AggregatorLedger:
    """The store of proofs.aggregator.Aggregator."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # ── receipts ──

    def unsealed(self) -> Iterable[tuple[bytes, int]]:
        """Return the envelopes that were accepted and not sealed, with their promises' deadlines,
        in the order of acceptance.
        """
        return [
            (envelope, deadline)
            for envelope, deadline in self._ledger.read(
                "SELECT envelope, deadline FROM accepted WHERE epoch IS NULL ORDER BY id"
            )
        ]

    def find_receipt(self, channel_id: bytes, sequence: int) -> TakenReceipt | None:
        """Return the accepted receipt in this place, or None."""
        rows = self._ledger.read(
            "SELECT envelope, digest, deadline, epoch FROM accepted WHERE channel = ? AND sequence"
            " = ?",
            channel_id,
            sequence,
        )
        if not rows:
            return None
        envelope, digest, deadline, epoch = rows[0]
        if envelope is not None:
            return TakenReceipt(decode_envelope(envelope).receipt, deadline)
        return TakenReceipt(self._find_in_batch(epoch, digest), deadline)

    def accept(self, pledges: Sequence[Pledge], manifests: Mapping[bytes, bytes]) -> None:
        """Add accepted receipts, and the manifests that are new with them, by their digests.

        Raises LedgerConflict when a place is taken.
        """
        with self._ledger.transaction():
            self._keep_manifests(manifests)
            for pledge in pledges:
                envelope = pledge.envelope
                self._ledger.write(
                    "INSERT INTO accepted (channel, sequence, digest, envelope, deadline) VALUES"
                    " (?, ?, ?, ?, ?)",
                    *envelope.place,
                    envelope.receipt.digest,
                    envelope.encoded,
                    pledge.deadline,
                )

    def upgrade(self, pledge: Pledge) -> None:
        """Put an accepted receipt's envelope in the stead of the one that is kept."""
        with self._ledger.transaction():
            self._ledger.write(
                "UPDATE accepted SET envelope = ? WHERE channel = ? AND sequence = ? AND digest ="
                " ? AND epoch IS NULL",
                pledge.envelope.encoded,
                *pledge.envelope.place,
                pledge.envelope.receipt.digest,
            )

    def keep_evidence(self, channel_id: bytes, sequence: int, evidence: Evidence) -> None:
        """Keep the first evidence for a place, and a bounded number for each channel."""
        with self._ledger.transaction():
            statement = (
                "INSERT INTO evidence SELECT ?, ?, ?, ? WHERE (SELECT count(*) FROM evidence WHERE"
                " channel = ?) < ? ON CONFLICT DO NOTHING"
            )
            row = (channel_id, sequence, evidence.first, evidence.second)
            self._ledger.write(statement, *row, channel_id, MAX_EVIDENCE_PER_CHANNEL)

    def evidence(self) -> list[Evidence]:
        """Return all evidence, by channel and sequence."""
        return [
            Evidence(first, second)
            for first, second in self._ledger.read(
                "SELECT first, second FROM evidence ORDER BY channel, sequence"
            )
        ]

    def find_manifest(self, digest: bytes) -> bytes | None:
        """Return the bytes of a manifest, or None."""
        rows = self._ledger.read("SELECT data FROM manifest WHERE digest = ?", digest)
        return bytes(rows[0][0]) if rows else None

    def _keep_manifests(self, manifests: Mapping[bytes, bytes]) -> None:
        for digest, data in manifests.items():
            statement = "INSERT INTO manifest VALUES (?, ?) ON CONFLICT DO NOTHING"
            self._ledger.write(statement, digest, data)

    # ── epochs ──

    def batches(self, after: int) -> Iterable[bytes]:
        """Yield all sealed batches after this epoch, oldest first."""
        query = "SELECT epoch FROM epoch WHERE epoch > ? ORDER BY epoch"
        for (epoch,) in self._ledger.read(query, after):
            yield self._ledger.read("SELECT batch FROM epoch WHERE epoch = ?", epoch)[0][0]

    def seal(
        self, sealed: SealedEpoch, places: Sequence[Place], recalled: Sequence[Recalled]
    ) -> None:
        """Add an epoch and mark its receipts as sealed, those that were recalled with their
        manifests. Raises LedgerConflict when the epoch exists.
        """
        with self._ledger.transaction():
            epoch = self._add_epoch(sealed)
            for place in places:
                self._ledger.write(
                    "UPDATE accepted SET epoch = ? WHERE channel = ? AND sequence = ?",
                    epoch,
                    *place,
                )
            for one in recalled:
                adapter = one.receipt.receipt.adapter
                self._keep_manifests({adapter: one.manifest} if one.manifest else {})
                self._ledger.write(
                    "INSERT INTO accepted (channel, sequence, digest, deadline, epoch) VALUES (?,"
                    " ?, ?, ?, ?)",
                    *(*one.place, one.receipt.digest, one.deadline, epoch),
                )

    def adopt(
        self,
        sealed: SealedEpoch,
        places: Sequence[tuple[Place, bytes]],
        manifests: Mapping[bytes, bytes],
        deadline: int,
    ) -> None:
        """Add an epoch that the chain has, with the manifests that are new in it: mark those of its
        receipts (place, digest of the body) that were accepted, add the others.

        Where another body was accepted for a place, it and what followed it in the channel give
        way.
        """
        with self._ledger.transaction():
            epoch = self._add_epoch(sealed)
            self._keep_manifests(manifests)
            for (channel_id, sequence), digest in places:
                marked = self._ledger.write(
                    "UPDATE accepted SET epoch = ? WHERE channel = ? AND sequence = ? AND digest ="
                    " ?",
                    epoch,
                    channel_id,
                    sequence,
                    digest,
                )
                if marked:
                    continue
                self._ledger.write(
                    "DELETE FROM accepted WHERE channel = ? AND sequence >= ?", channel_id, sequence
                )
                self._ledger.write(
                    "INSERT INTO accepted (channel, sequence, digest, deadline, epoch) VALUES (?,"
                    " ?, ?, ?, ?)",
                    *(channel_id, sequence, digest, deadline, epoch),
                )

    def unseal(self, first: int) -> None:
        """Take back all epochs from this one on; their receipts are accepted and not sealed.

        What was taken back is kept, should the chain take it after all: `find_unsealed_batch`.
        """
        with self._ledger.transaction():
            self._ledger.write(
                "INSERT INTO unsealed_batch SELECT header, batch FROM epoch WHERE epoch"
                " >= ? ON CONFLICT DO NOTHING",
                first,
            )
            self._ledger.write("DELETE FROM epoch WHERE epoch >= ?", first)
            self._ledger.write("DELETE FROM checkpoint WHERE epoch >= ?", first)
            # Those that only a batch brought here have no envelope to be sealed again.
            self._ledger.write("DELETE FROM accepted WHERE epoch >= ? AND envelope IS NULL", first)
            self._ledger.write("UPDATE accepted SET epoch = NULL WHERE epoch >= ?", first)

    def find_unsealed_batch(self, header: bytes) -> bytes | None:
        """Return the batch of an epoch that was taken back, by its header's encoding, or None."""
        rows = self._ledger.read("SELECT batch FROM unsealed_batch WHERE header = ?", header)
        return bytes(rows[0][0]) if rows else None

    def find_epoch(self, epoch: int) -> SealedEpoch | None:
        """Return a sealed epoch, to post its header or to publish its batch again; None when
        unknown.
        """
        rows = self._ledger.read("SELECT header, batch FROM epoch WHERE epoch = ?", epoch)
        return SealedEpoch(decode_header(rows[0][0]), rows[0][1]) if rows else None

    def last_epoch(self) -> int:
        """Return the number of the last sealed epoch; 0 before the first."""
        return int(self._ledger.read("SELECT coalesce(max(epoch), 0) FROM epoch")[0][0])

    # ── checkpoints ──

    def checkpoint(self) -> bytes | None:
        """Return the newest checkpoint, or None."""
        rows = self._ledger.read("SELECT data FROM checkpoint ORDER BY epoch DESC LIMIT 1")
        return bytes(rows[0][0]) if rows else None

    def keep_checkpoint(self, epoch: int, data: bytes) -> None:
        """Keep the checkpoint of the state after this epoch, and the one before it."""
        with self._ledger.transaction():
            self._ledger.write(
                "INSERT INTO checkpoint VALUES (?, ?) ON CONFLICT (epoch) DO UPDATE SET data ="
                " excluded.data",
                epoch,
                data,
            )
            self._ledger.write(
                "DELETE FROM checkpoint WHERE epoch NOT IN (SELECT epoch FROM checkpoint ORDER BY"
                " epoch DESC LIMIT ?)",
                KEPT_CHECKPOINTS,
            )

    def _add_epoch(self, sealed: SealedEpoch) -> int:
        epoch = sealed.header.epoch
        header = sealed.header.encoded
        self._ledger.write("INSERT INTO epoch VALUES (?, ?, ?)", epoch, header, sealed.batch)
        return epoch

    def _find_in_batch(self, epoch: int, digest: bytes) -> bytes:
        """Return a signed receipt that came with a batch."""
        sealed = self.find_epoch(epoch)
        assert sealed is not None, f"the ledger forgot epoch {epoch}"
        for entry in decode_batch(sealed.batch).receipts:
            if digest_of(decode_receipt(entry).body) == digest:
                return entry
        raise AssertionError(f"epoch {epoch} does not hold the receipt that is said to be in it")
