"""Remembers what replays said of each node and adapter, and decides how much a node counts. Pure,
but for the file that it is read from and written to.

    weight 1 ──an answer differs──▶ 0 ──HALF_S──▶ 1/2 ──▶ … 1       the next takes twice as long
           ──convicted────────▶ 0 ──HALF_S──▶ 1/2 ──▶ … 1       the next, too
           ──caught in a lie──▶ 0 ──HALF_S──▶ 1/2 ──▶ … 1       the next, too

A node's weight is the least of its adapters'. What replays say against a node is statistical, and
what it was caught at is known here alone: that moves nobody's money, it only lets others be asked
first. Names cost nothing, so nobody has credit: of a node that is new here each answer is replayed,
and the more of them were, the fewer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from engine.verdict import MILLION
from proofs.attestation.sequential import Evidence
from proofs.codec import Address, Digest

from .limits import Limits

HALF_S = 7 * 86_400.0
"""After so long a node counts half that differed or was convicted; after a further time, after
twice as long. An honest one hardly ever is; a cheat sells each client an answer for each time."""
MAX_DOUBLINGS = 5  # 32 weeks
FORGIVING = 100
"""For so many replays one that differs is forgotten: honest nodes have them more seldom."""
LIE_APART_S = 60.0
"""What comes so soon after a lie belongs to it: one fault is met by several requests at once."""
MAX_ROWS = 4_096
MAX_FILE_BYTES = 1 << 20
WATCHED = 2.0
"""Who has so much evidence against it has each of its answers replayed."""
SUSPECTED_S = 86_400.0
"""For so long somebody's word has a node's answers replayed."""
DOUBTED = 0.5
"""What a node weighs meanwhile where the operator named that somebody: it is asked all the same, or
nothing of it could be replayed here.
"""
MAX_SUSPECTED = 1_024


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is known of one node with one adapter; `convicted_at`, `differed_at` of its last answer
    that did, and `lied_at` when it last signed or sent what is not so, in Unix seconds, 0.0: never.
    """

    operator: Address
    adapter: Digest
    evidence: Evidence = Evidence()
    convictions: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    convicted_at: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)] = 0.0
    differed_at: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)] = 0.0
    lies: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    lied_at: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)] = 0.0

    def weight(self, now: float) -> float:
        """Return how much the node counts, from 0 to 1."""
        differing = self.evidence.differing
        strikes = min(max(differing - self.evidence.answers // FORGIVING, 1), differing)
        return min(
            _recovered(now - self.convicted_at, self.convictions),
            _recovered(now - self.differed_at, strikes),
            _recovered(now - self.lied_at, self.lies),
        )

    @property
    def reason(self) -> str:
        """What speaks against the node, for people; nothing where nothing does."""
        reasons = []
        if self.evidence.differing:
            answers = f"{self.evidence.differing} of {self.evidence.answers} replayed answers"
            reasons.append(f"{answers} differ")
        if self.lies:
            reasons.append(f"caught {self.lies} x at what it signed or sent")
        return ", ".join(reasons)


@dataclass
class Trust:
    """The rows of one client; the one unused for longest makes room. `now` is in Unix seconds."""

    _rows: OrderedDict[tuple[bytes, bytes], Row] = field(default_factory=OrderedDict)
    _adapters: dict[bytes, set[bytes]] = field(default_factory=dict, compare=False)  # of each node
    _suspected: OrderedDict[tuple[bytes, bytes], float] = field(
        default_factory=OrderedDict, compare=False
    )
    _doubted: OrderedDict[bytes, tuple[bytes, float]] = field(
        default_factory=OrderedDict, compare=False
    )  # with which adapter, and until when

    def weight(self, operator: bytes, now: float) -> float:
        """Return how much a node counts, from 0 to 1."""
        most = DOUBTED if self._is_doubted(operator, now) else 1.0
        return min([most, *(row.weight(now) for row in self._rows_of(operator))])

    def reason(self, operator: bytes, now: float) -> str:
        """Return what speaks most against a node, for people; nothing where it weighs in full,
        to a hundredth.
        """
        if self._is_doubted(operator, now) and self.weight(operator, now) == DOUBTED:
            return "the word of a named auditor, until an answer is replayed here"
        worst = min(self._rows_of(operator), key=lambda row: row.weight(now), default=None)
        return "" if worst is None or round(worst.weight(now), 2) == 1.0 else worst.reason

    def is_watched(self, operator: bytes, adapter: bytes, now: float) -> bool:
        """Return whether each answer of a node with an adapter is to be replayed. What an answer
        itself says plays no part, so the choice is no bet against the node.
        """
        if self._suspected.get((operator, adapter), 0.0) > now:
            return True
        row = self._rows.get((operator, adapter))
        return row is not None and row.evidence.strength >= WATCHED

    def one_in(self, operator: bytes, adapter: bytes, most: int) -> int:
        """Return one in how many of a node's answers with an adapter is to be replayed: the first
        of each adapter, then every second after one replay of the node, whichever adapter it was
        with, and so on until one in `most`. It loses its weight with all of them at once.
        """
        row = self._rows.get((operator, adapter))
        if row is None or not row.evidence.answers:
            return 1
        return min(1 + sum(each.evidence.answers for each in self._rows_of(operator)), most)

    def suspect(self, operator: bytes, adapter: bytes, now: float) -> None:
        """Watch a node for a while on somebody's word; its weight stays as it is."""
        self._suspected[operator, adapter] = now + SUSPECTED_S
        self._suspected.move_to_end((operator, adapter))
        if len(self._suspected) > MAX_SUSPECTED:
            self._suspected.popitem(last=False)

    def doubt(self, operator: bytes, adapter: bytes, now: float) -> None:
        """Watch a node on the word of somebody named, and count it by half until an answer of its
        with that adapter was replayed here, or the watch is over.
        """
        self.suspect(operator, adapter, now)
        self._doubted[operator] = (adapter, now + SUSPECTED_S)
        self._doubted.move_to_end(operator)
        if len(self._doubted) > MAX_SUSPECTED:
            self._doubted.popitem(last=False)

    def _is_doubted(self, operator: bytes, now: float) -> bool:
        _, until = self._doubted.get(operator, (b"", 0.0))
        return until > now

    def convict(self, operator: bytes, adapter: bytes, made_at: float, now: float) -> Row | None:
        """Convict a node by one answer that proves it alone; return its row. None for an answer
        from before its last conviction, which is paid for.
        """
        row = self._rows.get((operator, adapter)) or Row(operator, adapter)
        if made_at <= row.convicted_at:
            return None
        counted = msgspec.structs.replace(
            row.evidence, answers=row.evidence.answers + 1, differing=row.evidence.differing + 1
        )
        return self._keep(_convicted(msgspec.structs.replace(row, evidence=counted), now))

    def catch(self, operator: bytes, adapter: bytes, now: float) -> Row | None:
        """Count a lie, which a node signed or sent itself when it was asked for an adapter; return
        its row. None where it belongs to the one before.
        """
        row = self._rows.get((operator, adapter)) or Row(operator, adapter)
        if row.lies and now - row.lied_at < LIE_APART_S:
            return None
        return self._keep(msgspec.structs.replace(row, lies=row.lies + 1, lied_at=now))

    def learn(
        self,
        operator: bytes,
        adapter: bytes,
        score: float,
        limits: Limits,
        now: float,
        *,
        is_suspicious: bool,
        is_proof: bool = False,
    ) -> Row | None:
        """Add one replayed answer; return the row if it convicts the node now, with those before it
        or alone (`is_proof`), from where on the evidence begins anew.
        """
        adapter_doubted, _ = self._doubted.get(operator, (b"", 0.0))
        if adapter_doubted == adapter:
            del self._doubted[operator]  # what is seen here decides
        row = self._rows.get((operator, adapter)) or Row(operator, adapter)
        evidence = row.evidence.after(
            score,
            limits.thresholds.cap / MILLION,
            limits.mean,
            is_suspicious=is_suspicious,
        )
        differed_at = now if is_suspicious else row.differed_at
        row = msgspec.structs.replace(row, evidence=evidence, differed_at=differed_at)
        if is_proof or evidence.convicts():
            return self._keep(_convicted(row, now))
        self._keep(row)
        return None

    def _keep(self, row: Row) -> Row:
        self._rows[row.operator, row.adapter] = row
        self._rows.move_to_end((row.operator, row.adapter))
        self._adapters.setdefault(row.operator, set()).add(row.adapter)
        if len(self._rows) > MAX_ROWS:
            (operator, adapter), _ = self._rows.popitem(last=False)
            self._adapters[operator].discard(adapter)
            if not self._adapters[operator]:
                del self._adapters[operator]
        return row

    def load(self, path: Path) -> None:
        """Read what was known before a restart; nothing where there is no file. Raises OSError,
        ValueError.
        """
        if not path.exists():
            return
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        rows = msgspec.msgpack.decode(path.read_bytes(), type=list[Row])
        self._rows.clear()
        self._adapters.clear()
        for row in rows[-MAX_ROWS:]:
            self._keep(row)

    def save(self, path: Path) -> None:
        """Write all of it, or nothing. Raises OSError."""
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.msgpack.encode(list(self._rows.values())))
        part.replace(path)

    def _rows_of(self, operator: bytes) -> Iterator[Row]:
        return (self._rows[operator, adapter] for adapter in self._adapters.get(operator, ()))


def _convicted(row: Row, now: float) -> Row:
    """Return the row once it convicts: from here on the evidence begins anew."""
    return msgspec.structs.replace(
        row,
        evidence=msgspec.structs.replace(row.evidence, capitals=Evidence().capitals),
        convictions=row.convictions + 1,
        convicted_at=now,
    )


def _recovered(age_s: float, times: int) -> float:
    """Return how much a node counts again, so long after the last of so many times that something
    spoke against it.
    """
    if not times:
        return 1.0
    return 1.0 - math.exp2(-max(age_s, 0.0) / (HALF_S * math.exp2(min(times - 1, MAX_DOUBLINGS))))
