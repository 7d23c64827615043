"""Remembers what replays said of each node and adapter, and decides how much a node counts. Pure,
but for the file that it is read from and written to.

    weight 1 ──convicted──▶ 0 ──HALF_S──▶ 1/2 ──▶ … 1       the next conviction takes twice as long

A node's weight is the least of its adapters'. A conviction is statistical: it moves nobody's money,
it only lets others be asked first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from engine.verdict import MILLION
from proofs.attestation.sequential import Evidence
from proofs.codec import Address, Digest

from .limits import Limits

HALF_S = 86_400.0
"""After so long a convicted node counts half; after a further conviction, after twice as long."""
MAX_DOUBLINGS = 8
MAX_ROWS = 4_096
MAX_FILE_BYTES = 1 << 20
WATCHED = 2.0
"""Who has so much evidence against it has each of its answers replayed."""


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is known of one node with one adapter; `convicted_at` in Unix seconds, 0.0: never."""

    operator: Address
    adapter: Digest
    evidence: Evidence = Evidence()
    convictions: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    convicted_at: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)] = 0.0

    def weight(self, now: float) -> float:
        """Return how much the node counts, from 0 to 1."""
        if not self.convictions:
            return 1.0
        half_s = HALF_S * math.exp2(min(self.convictions - 1, MAX_DOUBLINGS))
        return 1.0 - math.exp2(-max(now - self.convicted_at, 0.0) / half_s)


@dataclass
class Trust:
    """The rows of one client; the one unused for longest makes room. `now` is in Unix seconds."""

    _rows: dict[tuple[bytes, bytes], Row] = field(default_factory=dict)

    def weight(self, operator: bytes, now: float) -> float:
        """Return how much a node counts, from 0 to 1."""
        return min((row.weight(now) for row in self._rows_of(operator)), default=1.0)

    def is_watched(self, operator: bytes, adapter: bytes) -> bool:
        """Return whether each answer of a node with an adapter is to be replayed. What an answer
        itself says plays no part, so the choice is no bet against the node.
        """
        row = self._rows.get((operator, adapter))
        return row is not None and row.evidence.strength >= WATCHED

    def learn(
        self,
        operator: bytes,
        adapter: bytes,
        score: float,
        limits: Limits,
        now: float,
        *,
        is_suspicious: bool,
    ) -> Row | None:
        """Add one replayed answer; return the row if it convicts the node now, from where on the
        evidence begins anew.
        """
        key = (operator, adapter)
        row = self._rows.pop(key, None) or Row(operator, adapter)
        evidence = row.evidence.after(
            score,
            limits.thresholds.cap / MILLION,
            limits.mean,
            is_suspicious=is_suspicious,
        )
        is_convicted = evidence.convicts()
        row = msgspec.structs.replace(row, evidence=evidence)
        if is_convicted:
            row = Row(
                operator,
                adapter,
                msgspec.structs.replace(evidence, capitals=Evidence().capitals),
                row.convictions + 1,
                convicted_at=now,
            )
        self._rows[key] = row
        if len(self._rows) > MAX_ROWS:
            del self._rows[next(iter(self._rows))]
        return row if is_convicted else None

    def load(self, path: Path) -> None:
        """Read what was known before a restart; nothing where there is no file. Raises OSError,
        ValueError.
        """
        if not path.exists():
            return
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        rows = msgspec.msgpack.decode(path.read_bytes(), type=list[Row])
        self._rows = {(row.operator, row.adapter): row for row in rows[-MAX_ROWS:]}

    def save(self, path: Path) -> None:
        """Write all of it, or nothing. Raises OSError."""
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.msgpack.encode(list(self._rows.values())))
        part.replace(path)

    def _rows_of(self, operator: bytes) -> Iterator[Row]:
        return (row for (whose, _), row in self._rows.items() if whose == operator)
