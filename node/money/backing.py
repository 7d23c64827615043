"""What stands behind other nodes, as the stake contract says, and whether that is as much as they
announce: read for those who are asked about, kept, and read again as the chain grows.

    asked about ──▶ known? ──no──▶ read, for a moment ──▶ kept ──▶ read again as the chain grows
                      └─yes─▶ at once    └─ the chain is silent: it counts as enough meanwhile

No answer waits for the chain longer than LEARN_DEADLINE_S, and while that is silent none does. What
follows from too little, the router decides.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from proofs.chain.errors import ChainError
from proofs.hextext import to_hex
from proofs.stake import StakeTerms

from ..telemetry import Telemetry
from ..threads import in_thread
from .heads import Heads

LEARN_DEADLINE_S = 0.5  # an answer waits so long for what nobody asked about before
READ_DEADLINE_S = 30.0
SILENT_S = 30.0  # a chain that did not answer in time is asked by no answer for so long
ASKED_S = 600.0  # who was asked about within this is read again; so long an announcement counts
MAX_KNOWN = 1024
MAX_TOLD = 20
TROUBLE = "others' stake"


class Stakes(Protocol):
    """Where stake is read: implemented by proofs.chain.stake.Stake. Blocks."""

    def stakes_of(self, operators: Sequence[bytes]) -> dict[bytes, int]:
        """What counts for each of many operators. ChainError."""


@dataclass(frozen=True)
class Backed:
    """What stands behind an operator, when it was asked about last, how many answers at once it
    announced last, and when.
    """

    stake: int
    asked_at: float
    answers: int = 1
    announced_at: float = -math.inf


class Backing:
    """The stake of the nodes that one client might ask; `terms` are those in force."""

    def __init__(
        self,
        stakes: Stakes,
        heads: Heads,
        telemetry: Telemetry,
        terms: Callable[[], StakeTerms],
        *,
        is_required: bool,
    ) -> None:
        self._stakes = stakes
        self._heads = heads
        self._telemetry = telemetry
        self._terms = terms
        self._known: OrderedDict[bytes, Backed] = OrderedDict()
        self._wanted: dict[bytes, None] = {}  # asked about, and not known yet
        self._reading = trio.Lock()
        self._silent_until = -math.inf
        self.is_required = is_required

    def part(self, operator: bytes, answers: int | None) -> float:
        """Return which part of the stake, from 0 to 1, an operator has that so many answers at once
        want, which it announces now; None: as many as it announced lately, else one. 1.0 also where
        nobody knows what it has.
        """
        found = self._known.get(operator)
        if found is None:
            return 1.0
        now = trio.current_time()
        if answers is not None:
            found = replace(found, answers=answers, announced_at=now)
        elif found.announced_at < now - ASKED_S:
            found = replace(found, answers=1)
        self._keep(operator, replace(found, asked_at=now))
        return min(found.stake / self._terms().needed(found.answers), 1.0)

    async def learn(self, operators: Sequence[bytes]) -> None:
        """Have it known what stands behind them, as far as the chain says it within a moment."""
        if all(one in self._known for one in operators):
            return
        with trio.move_on_after(LEARN_DEADLINE_S):
            async with self._reading:
                unknown = [one for one in operators if one not in self._known]
                self._want(unknown)
                if unknown and trio.current_time() >= self._silent_until:
                    self._silent_until = trio.current_time() + SILENT_S
                    if await self._read(unknown):
                        self._silent_until = -math.inf

    async def run(self, interval_s: float) -> None:
        """Read again as the chain grows, until cancelled."""
        turns = self._heads.turns(interval_s, lambda: bool(self._wanted))
        while True:
            await turns.next()
            since = trio.current_time() - ASKED_S
            recent = [one for one, at in self._known.items() if at.asked_at >= since]
            if await self._read([*self._wanted, *recent]):
                turns.looked()

    def _want(self, operators: Sequence[bytes]) -> None:
        self._wanted |= dict.fromkeys(operators[: MAX_KNOWN - len(self._wanted)])

    async def _read(self, operators: Sequence[bytes]) -> bool:
        """Read what counts for these; whether the chain said it."""
        if not operators:
            return True
        try:
            found = await in_thread(
                self._stakes.stakes_of, operators[:MAX_KNOWN], deadline_s=READ_DEADLINE_S
            )
        except (ChainError, trio.TooSlowError) as error:
            self._telemetry.trouble(
                TROUBLE, f"it cannot be read, so what was read last counts: {error}"
            )
            return False
        self._telemetry.clear(TROUBLE)
        for operator, stake in found.items():
            before = self._known.get(operator) or Backed(stake, trio.current_time())
            self._keep(operator, replace(before, stake=stake))
            self._wanted.pop(operator, None)
        return True

    def _keep(self, operator: bytes, backed: Backed) -> None:
        """Keep it as the newest; what was asked about longest ago makes room."""
        self._known[operator] = backed
        self._known.move_to_end(operator)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def describe(self) -> dict[str, object]:
        """Return who has less behind him than he announced when he was asked about last, as plain
        values, the newest first.
        """
        terms = self._terms()
        short = [
            {
                "node": to_hex(operator),
                "counted": str(one.stake),
                "needed": str(terms.needed(one.answers)),
                "answers": one.answers,
            }
            for operator, one in reversed(self._known.items())
            if one.stake < terms.needed(one.answers)
        ]
        return {"required": self.is_required, "short": short[:MAX_TOLD]}
