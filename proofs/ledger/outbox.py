"""Keeps a daemon's own receipts and how far each has come.

A receipt moves forward and is never deleted; only a chain that takes epochs back takes it back.
Sends nothing and asks no chain.

queued → promised → included → final
         aggregator  in a header   its header can't
         signed for  on the chain  be challenged any more
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from ..codec import encode
from ..errors import UnknownEntry
from ..promise import Promise
from ..receipt import NO_SIGNATURE, SignedReceipt, decode_receipt, digest_of
from .database import Ledger


class OutboxState(IntEnum):
    """The stages of a receipt, in order."""

    QUEUED = 0
    PROMISED = 1
    INCLUDED = 2
    FINAL = 3


@dataclass(frozen=True)
class OutboxEntry:
    """One receipt in the outbox.

    `digest` is the sha-256 of its body; `envelope` is None on the client's side, where there is
    nothing to send.
    """

    digest: bytes
    signed: SignedReceipt
    envelope: bytes | None
    state: OutboxState
    promise: Promise | None
    epoch: int | None


class Outbox:
    """All receipts of this daemon, as node and as client."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, signed: SignedReceipt, envelope: bytes | None) -> bytes:
        """Add a receipt, with both signatures or the node's alone; return its digest.

        Adding it again changes nothing, but for a client's signature that was missing.
        """
        digest = digest_of(signed.body)
        with self._ledger.transaction():
            statement = (
                "INSERT INTO outbox (digest, receipt, envelope, state) VALUES (?, ?, ?, ?) ON"
                " CONFLICT (digest) DO NOTHING"
            )
            is_new = self._ledger.write(
                statement, digest, encode(signed), envelope, OutboxState.QUEUED
            )
            if not is_new and signed.client_signature != NO_SIGNATURE:
                self._upgrade(digest, signed, envelope)
        return digest

    def _upgrade(self, digest: bytes, signed: SignedReceipt, envelope: bytes | None) -> None:
        entry = self.find(digest)
        if entry is not None and entry.signed.client_signature == NO_SIGNATURE:
            self._ledger.write(
                "UPDATE outbox SET receipt = ?, envelope = ? WHERE digest = ?",
                encode(signed),
                envelope,
                digest,
            )

    def keep_promise(self, digest: bytes, promise: Promise) -> bool:
        """Keep the aggregator's promise and move the receipt to promised.

        Returns False when the receipt is that far already. Raises UnknownEntry.
        """
        with self._ledger.transaction():
            statement = (
                "UPDATE outbox SET promise = ?, deadline = ?, state = ? WHERE digest = ? AND state"
                " < ?"
            )
            kept = (encode(promise), promise.deadline, OutboxState.PROMISED)
            moved = self._ledger.write(statement, *kept, digest, OutboxState.PROMISED)
            if not moved and not self._ledger.read("SELECT 1 FROM outbox WHERE digest = ?", digest):
                raise UnknownEntry(f"no receipt {digest.hex()} in the outbox")
        return bool(moved)

    def mark_included(self, digests: Iterable[bytes], epoch: int) -> list[bytes]:
        """Move those of these receipts that are ours to included; return those that moved."""
        with self._ledger.transaction():
            statement = "UPDATE outbox SET state = ?, epoch = ? WHERE digest = ? AND state < ?"
            values = (OutboxState.INCLUDED, epoch)
            return [
                digest
                for digest in digests
                if self._ledger.write(statement, *values, digest, OutboxState.INCLUDED)
            ]

    def mark_final(self, epoch: int) -> list[bytes]:
        """Move everything included up to this epoch to final; return the receipts that moved."""
        with self._ledger.transaction():
            where = "WHERE state = ? AND epoch <= ?"
            rows = self._ledger.read(
                f"SELECT digest FROM outbox {where}", OutboxState.INCLUDED, epoch
            )
            self._ledger.write(
                f"UPDATE outbox SET state = ? {where}",
                OutboxState.FINAL,
                OutboxState.INCLUDED,
                epoch,
            )
        return [digest for (digest,) in rows]

    def take_back(self, first: int) -> int:
        """Take back what was said of the epochs from this one on, because the chain has others now;
        return how many receipts moved.

        They are promised again, or sent again where there is no promise.
        """
        with self._ledger.transaction():
            statement = (
                "UPDATE outbox SET epoch = NULL, state = CASE WHEN promise IS NULL THEN ? ELSE ?"
                " END WHERE epoch >= ?"
            )
            return self._ledger.write(statement, OutboxState.QUEUED, OutboxState.PROMISED, first)

    def promised(self) -> list[OutboxEntry]:
        """Return the receipts whose promise no header has kept yet, as far as this ledger knows;
        the oldest receipts come first.
        """
        where = "WHERE state = ? AND promise IS NOT NULL ORDER BY id"
        return self._entries(where, OutboxState.PROMISED)

    def queue_overdue(self, now: int) -> int:
        """Queue again what a promise that ran out before `now` (Unix seconds) has brought into no
        header: another aggregator may take it. Return how many receipts moved.
        """
        with self._ledger.transaction():
            statement = "UPDATE outbox SET state = ? WHERE state = ? AND deadline < ?"
            return self._ledger.write(statement, OutboxState.QUEUED, OutboxState.PROMISED, now)

    def unpromised(self, limit: int) -> list[OutboxEntry]:
        """Hand out receipts to send, or to send again: those handed out least often first, then the
        oldest.

        So a receipt that nobody takes cannot hold up those behind it.
        """
        with self._ledger.transaction():
            where = "WHERE state < ? AND envelope IS NOT NULL ORDER BY tries, id LIMIT ?"
            entries = self._entries(where, OutboxState.PROMISED, limit)
            for entry in entries:
                self._ledger.write(
                    "UPDATE outbox SET tries = tries + 1 WHERE digest = ?", entry.digest
                )
        return entries

    def unpaid(self, limit: int) -> list[OutboxEntry]:
        """Return receipts that pay us and that no final header has, oldest first."""
        return self._entries(
            "WHERE state < ? AND envelope IS NOT NULL ORDER BY id LIMIT ?", OutboxState.FINAL, limit
        )

    def newest(self, limit: int) -> list[OutboxEntry]:
        """Return the latest receipts, newest first."""
        return self._entries("ORDER BY id DESC LIMIT ?", limit)

    def count(self) -> dict[tuple[bool, OutboxState], int]:
        """Return how many receipts are how far, those that this daemon pays by (True) and those
        that pay it. Reads an index alone.
        """
        rows = self._ledger.read(
            "SELECT envelope IS NULL, state, COUNT(*) FROM outbox GROUP BY envelope IS NULL, state"
        )
        found = {(is_paid, state): 0 for is_paid in (False, True) for state in OutboxState}
        return found | {(bool(paid), OutboxState(state)): num for paid, state, num in rows}

    def find(self, digest: bytes) -> OutboxEntry | None:
        """Return one receipt, or None."""
        return next(iter(self._entries("WHERE digest = ?", digest)), None)

    def _entries(self, where: str, *values: object) -> list[OutboxEntry]:
        rows = self._ledger.read(
            f"SELECT digest, receipt, envelope, state, promise, epoch FROM outbox {where}", *values
        )
        return [
            OutboxEntry(
                digest,
                decode_receipt(receipt),
                envelope,
                OutboxState(state),
                promise=promise and msgspec.msgpack.decode(promise, type=Promise),
                epoch=epoch,
            )
            for digest, receipt, envelope, state, promise, epoch in rows
        ]
