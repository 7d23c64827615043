"""What a daemon remembers about its channels, on both sides of the counter: one row a channel in
the ledger's file. Decides nothing about money.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import msgspec

from proofs.ledger import Ledger

from ..wire.channels import ChannelRow


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
