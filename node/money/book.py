"""What a daemon remembers about its channels, on both sides of the counter: one row a channel in
SQLite. Decides nothing about money.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from proofs.voucher import ChannelConfig

from .metering import Position

FIRST = Position(1, bytes(32), 0)


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """A receipt that only the node has signed yet."""

    body: bytes
    node_signature: bytes
    amount: int


class ChannelRow(msgspec.Struct, frozen=True, array_like=True):
    """One channel.

    `sequence`, `previous`, `cumulative` are those of the last receipt with both signatures;
    `drafts` come after it.
    """

    channel_id: bytes
    operator: bytes
    config: ChannelConfig
    sequence: int = 0
    previous: bytes = bytes(32)
    cumulative: int = 0
    voucher: int = 0
    voucher_signature: bytes = b""
    drafts: tuple[Draft, ...] = ()

    @property
    def position(self) -> Position:
        """Where the next receipt stands, ignoring drafts."""
        return Position(self.sequence + 1, self.previous, self.cumulative)


class ChannelBook:
    """The rows, in one file. Every write is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS channel (id BLOB PRIMARY KEY, operator BLOB NOT NULL, body"
            " BLOB NOT NULL)"
        )

    def find(self, channel_id: bytes) -> ChannelRow | None:
        """One channel."""
        return next(self._rows("WHERE id = ?", channel_id), None)

    def find_by_operator(self, operator: bytes) -> ChannelRow | None:
        """The newest channel that pays this operator."""
        return next(self._rows("WHERE operator = ? ORDER BY rowid DESC", operator), None)

    def all(self) -> list[ChannelRow]:
        """Every channel."""
        return list(self._rows(""))

    def save(self, row: ChannelRow) -> None:
        """Write a channel down."""
        statement = (
            "INSERT INTO channel VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body ="
            " excluded.body"
        )
        self._db.execute(statement, (row.channel_id, row.operator, msgspec.msgpack.encode(row)))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _rows(self, where: str, *values: bytes) -> Iterator[ChannelRow]:
        for (body,) in self._db.execute(f"SELECT body FROM channel {where}", values):
            yield msgspec.msgpack.decode(body, type=ChannelRow)
