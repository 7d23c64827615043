"""What a daemon remembers about its channels, on both sides of the counter: one row a channel in
the ledger's file, and with it the receipts that become some. Decides nothing about money.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import msgspec

from proofs.ledger import Ledger
from proofs.receipt import VerifiedReceipt

from ..wire.channels import ChannelRow, Persist

OnReceipt = Callable[[VerifiedReceipt, ChannelRow], None]


class ChannelBook:
    """The rows. A write is on the disk when it returns, or when the transaction around it ends."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def transaction(self) -> AbstractContextManager[None]:
        """Join what is written inside, here and in other views of the ledger, into one write."""
        return self._ledger.transaction()

    def find(self, channel_id: bytes) -> ChannelRow | None:
        """Find one channel."""
        return next(self._rows("WHERE id = ?", channel_id), None)

    def of_operator(self, operator: bytes) -> list[ChannelRow]:
        """List the channels that pay this operator, oldest first."""
        return list(self._rows("WHERE operator = ? ORDER BY rowid", operator))

    def all(self) -> list[ChannelRow]:
        """List every channel, oldest first."""
        return list(self._rows("ORDER BY rowid"))

    def save(self, row: ChannelRow) -> None:
        """Write a channel down."""
        statement = (
            "INSERT INTO channel (id, operator, body) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body"
        )
        body = msgspec.msgpack.encode(row)
        with self._ledger.transaction():
            self._ledger.write(statement, row.channel_id, row.operator, body)

    def _rows(self, where: str, *values: bytes) -> Iterator[ChannelRow]:
        for (body,) in self._ledger.read(f"SELECT body FROM channel {where}", *values):
            yield msgspec.msgpack.decode(body, type=ChannelRow)


class Keeper:
    """Writes channels down, each together with the receipts that have just become some.

    A channel's own memory has gone on when the disk refuses: what it refused is written with the
    next that is kept of the channel, or by `keep_late`, and no receipt is left out. Whoever speaks
    out of that memory calls `keep_late` first: another request may have left it ahead of the disk.
    """

    def __init__(self, book: ChannelBook, on_receipt: OnReceipt) -> None:
        self._book = book
        self._on_receipt = on_receipt
        self._late: dict[bytes, tuple[ChannelRow, list[VerifiedReceipt]]] = {}

    def keep(self, *persists: Persist) -> None:
        """Write one channel down, as it went on step by step; on the disk when this returns.
        LedgerError.
        """
        if not persists:
            return
        row = persists[-1].row
        receipts = self._late.setdefault(row.channel_id, (row, []))[1]
        receipts += [one.receipt for one in persists if one.receipt is not None]
        self._late[row.channel_id] = (row, receipts)
        with self._book.transaction():
            self._book.save(row)
            for receipt in receipts:
                self._on_receipt(receipt, row)
        del self._late[row.channel_id]

    def keep_late(self, channel_id: bytes | None = None) -> None:
        """Write down what the disk refused, of one channel or of all. LedgerError where it still
        does.
        """
        for row, _ in list(self._late.values()):
            if channel_id in (None, row.channel_id):
                self.keep(Persist(row))

    def is_late(self, channel_id: bytes) -> bool:
        """Return whether a channel's newest state is not on the disk."""
        return channel_id in self._late
