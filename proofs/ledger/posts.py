"""Keeps the journal of transactions that post headers: each is written here before anybody sees it.

Talks to no chain; chain/poster.py does.
"""

from __future__ import annotations

from dataclasses import dataclass

from .database import Ledger


@dataclass(frozen=True)
class PostAttempt:
    """A signed transaction that posts the header of this hash, sent or about to be."""

    header: bytes
    nonce: int
    raw: bytes
    hash: bytes
    max_fee_wei: int
    tip_wei: int


class PostJournal:
    """The attempts for each epoch, and which one brought its header onto the chain."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def attempts(self, epoch: int) -> list[PostAttempt]:
        """Return all attempts for this epoch, oldest first: also for headers that were sealed in
        its place before, since any of them may still be mined.
        """
        rows = self._ledger.read(
            "SELECT header, nonce, raw, hash, max_fee_wei, tip_wei FROM post_attempt"
            " WHERE epoch = ? ORDER BY id",
            epoch,
        )
        return [
            PostAttempt(header, nonce, raw, digest, max_fee_wei=int(fee), tip_wei=int(tip))
            for header, nonce, raw, digest, fee, tip in rows
        ]

    def add_attempt(self, epoch: int, attempt: PostAttempt) -> None:
        """Store one more attempt. Raises LedgerConflict when this transaction is there already."""
        statement = (
            "INSERT INTO post_attempt (epoch, header, nonce, raw, hash, max_fee_wei, tip_wei)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        fees_wei = str(attempt.max_fee_wei), str(attempt.tip_wei)  # over SQLite's 63 bits, perhaps
        row = (epoch, attempt.header, attempt.nonce, attempt.raw, attempt.hash, *fees_wei)
        with self._ledger.transaction():
            self._ledger.write(statement, *row)

    def confirm(self, epoch: int, transaction: bytes, block: int) -> None:
        """Record that this transaction brought the header onto the chain.

        The last word counts: a reorganisation may move it.
        """
        with self._ledger.transaction():
            self._ledger.write(
                "INSERT INTO posted VALUES (?, ?, ?) ON CONFLICT (epoch) DO UPDATE SET hash ="
                " excluded.hash, block = excluded.block",
                epoch,
                transaction,
                block,
            )

    def forget_posted(self, first: int) -> None:
        """Forget that the headers from this epoch on are on the chain: a reorganisation took them
        back. Their attempts stay, since any of them may still be mined.
        """
        with self._ledger.transaction():
            self._ledger.write("DELETE FROM posted WHERE epoch >= ?", first)

    def last_posted(self) -> int:
        """Return the last epoch whose header is on the chain; 0 when there is none."""
        return int(self._ledger.read("SELECT coalesce(max(epoch), 0) FROM posted")[0][0])
