"""Adds up replays of one node's answers with one adapter until they say that it does not compute
what it is paid for. Pure.

An answer's statistic x is its score over its cap, from 0 to 1, and honest ones have a mean of at
most m, as calibrated. For each stake λ the capital

    C ← max(C, 1) · (1 + λ (x - m))

is a bet against honesty that an honest node cannot win on average; whether tokens of one answer
depend on each other does not matter, nor what the answers before were. The evidence is the mean of
the capitals over STAKES. What is won by honest answers is lost again, but never more than all: so
a node that turns bad after a thousand good answers is found out as soon as a new one (an e-detector
of the CUSUM kind: Shin, Ramdas, Rinaldo 2022).

Promise: among N answers of an honest node the evidence reaches `one_in` with probability at most
N / one_in, whenever somebody looks, however long the answers (Doob's inequality).
"""

from __future__ import annotations

from typing import Annotated, Self

import msgspec

STAKES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Parts of what may be staked at most, 1/m: small ones find small faults, large ones large."""
LEAST_MEAN = 1e-4
"""A smaller m counts as this, so that one token of bad luck does not convict anybody."""
ONE_IN = 1_000_000
"""False alarms: at most a thousandth among a thousand answers of an honest node."""
MAX_CAPITAL = 1e12  # more says nothing, and what is finite can be kept

Capital = Annotated[float, msgspec.Meta(ge=0.0, le=MAX_CAPITAL)]


class Evidence(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is known after `answers` replays, `differing` of which were suspicious alone."""

    capitals: Annotated[
        tuple[Capital, ...], msgspec.Meta(min_length=len(STAKES), max_length=len(STAKES))
    ] = (1.0,) * len(STAKES)
    answers: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] = 0
    differing: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] = 0

    @property
    def strength(self) -> float:
        """Return the evidence against the node: how many times what honest play wins on average."""
        return sum(self.capitals) / len(self.capitals)

    def convicts(self, one_in: int = ONE_IN) -> bool:
        """Return whether an honest node would look like that once in so many answers, at most."""
        return self.strength >= one_in

    def after(self, score: float, cap: float, mean: float, *, is_suspicious: bool) -> Self:
        """Return the evidence with one more answer, whose margins (each cut off at `cap`) are on
        average `score`; honest ones' at most `mean`, which is below `cap`.
        """
        assert 0.0 <= mean < cap, (mean, cap)
        most = max(mean / cap, LEAST_MEAN)
        x = min(max(score / cap, 0.0), 1.0)
        capitals = tuple(
            min(max(capital, 1.0) * (1.0 + stake / most * (x - most)), MAX_CAPITAL)
            for capital, stake in zip(self.capitals, STAKES, strict=True)
        )
        return type(self)(capitals, self.answers + 1, self.differing + is_suspicious)
