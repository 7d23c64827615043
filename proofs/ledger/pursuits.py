"""Remembers what this daemon has begun on the chain and must come back to: demands, forced
receipts, exits.

The chain says how each of them stands; only this file knows that they are ours, and what they were
begun with. Decides nothing and asks no chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ..errors import UnknownEntry
from .database import Ledger


class PursuitKind(IntEnum):
    """What was begun."""

    DEMAND = 0  # a leaf that a header must show, or its aggregator is convicted
    STAND = 1  # a promise that a header must keep
    FORCED = 2  # a receipt that the next headers must take
    EXIT = 3  # a channel that is being settled without the aggregator


@dataclass(frozen=True)
class Pursuit:
    """One of them.

    `key` tells it from others of its kind: an exit's is its channel. `body` is what is needed to go
    on; `due` is when to come back, in Unix seconds of the chain.
    """

    kind: PursuitKind
    key: bytes
    body: bytes
    due: int


class Pursuits:
    """All that is not ended yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def begin(self, pursuit: Pursuit) -> bool:
        """Remember one more, before its transaction is sent; false when it is here already."""
        with self._ledger.transaction():
            statement = "INSERT INTO pursuit VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
            row = (pursuit.kind, pursuit.key, pursuit.body, pursuit.due)
            return bool(self._ledger.write(statement, *row))

    def put_off(self, pursuit: Pursuit, due: int) -> None:
        """Come back to it at another time. Raises UnknownEntry."""
        with self._ledger.transaction():
            statement = "UPDATE pursuit SET due = ? WHERE kind = ? AND key = ?"
            if not self._ledger.write(statement, due, pursuit.kind, pursuit.key):
                raise UnknownEntry(f"no such pursuit: {pursuit.kind.name} {pursuit.key.hex()}")

    def end(self, pursuit: Pursuit) -> None:
        """Forget it: it is done, or somebody else did it."""
        with self._ledger.transaction():
            statement = "DELETE FROM pursuit WHERE kind = ? AND key = ?"
            self._ledger.write(statement, pursuit.kind, pursuit.key)

    def due(self, now: int) -> list[Pursuit]:
        """Return those to come back to now, the longest due first."""
        rows = self._ledger.read(
            "SELECT kind, key, body, due FROM pursuit WHERE due <= ? ORDER BY due, kind, key", now
        )
        return [Pursuit(PursuitKind(kind), key, body, due) for kind, key, body, due in rows]

    def find(self, kind: PursuitKind, key: bytes) -> Pursuit | None:
        """Return one of them, or None."""
        rows = self._ledger.read(
            "SELECT body, due FROM pursuit WHERE kind = ? AND key = ?", kind, key
        )
        return Pursuit(kind, key, rows[0][0], rows[0][1]) if rows else None
