"""Judges a replayed answer by its margins.

Pure: numbers in, a verdict out; knows no text and no node.

An honest answer misses now and then by a little, because another kernel or number format rounds
otherwise. The score of an answer is the mean of its margins, each cut off at a cap; its limit comes
from the mean and variance of honest margins by Bernstein's inequality, so that one number of false
alarms holds for answers of every length. A short answer cannot exceed its limit whatever it holds,
and gets no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Literal

import msgspec

MILLION = 1_000_000
MAX_CAP = 100.0
CONFIDENCE = 1e-3
"""That honest margins are on average worse than was calibrated: no more likely than this."""

Millionths = Annotated[int, msgspec.Meta(ge=0, le=int(MAX_CAP**2) * MILLION)]


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The honest margins of one adapter: their cap, mean and variance, in millionths (of a logit,
    of its square).

    `one_in`: of so many honest answers, at most one is to be called suspicious.
    """

    cap: Annotated[int, msgspec.Meta(ge=1, le=int(MAX_CAP) * MILLION)]
    mean: Millionths
    variance: Millionths
    one_in: Annotated[int, msgspec.Meta(ge=2, le=10**12)]


@dataclass(frozen=True)
class Verdict:
    """The outcome for one answer; `score` and `limit` in logits.

    "too short": no answer of this length could exceed its limit.
    """

    outcome: Literal["honest", "suspicious", "too short"]
    score: float
    limit: float


def judge(margins: Sequence[float], thresholds: Thresholds) -> Verdict:
    """Judge whether an answer with these margins (of `Replayed`, one a token) fits what was
    calibrated.
    """
    limit = limit_of(len(margins), thresholds)
    score = _mean(margins, thresholds.cap / MILLION)
    if limit >= thresholds.cap / MILLION:
        return Verdict("too short", score, limit)
    return Verdict("suspicious" if score > limit else "honest", score, limit)


def limit_of(count: int, thresholds: Thresholds) -> float:
    """Return the limit that the mean of `count` honest margins exceeds at most once in `one_in`
    times.

    Bernstein's inequality, for independent tokens.
    """
    if count == 0:
        return math.inf
    cap = thresholds.cap / MILLION
    variance = thresholds.variance / MILLION
    rarity = math.log(thresholds.one_in)
    linear = cap * rarity / 3
    return (
        thresholds.mean / MILLION
        + (linear + math.sqrt(linear**2 + 2 * count * variance * rarity)) / count
    )


def calibrate(honest: Sequence[Sequence[float]], cap: float, one_in: int) -> Thresholds:
    """Compute thresholds from the margins of honest answers.

    Mean and variance are upper bounds (Maurer and Pontil 2009, theorems 4 and 10).
    """
    clipped = [min(margin, cap) for margin in chain.from_iterable(honest)]
    count = len(clipped)
    if count < 2:
        raise ValueError("calibration needs at least two tokens of honest answers")
    mean = sum(clipped) / count
    variance = sum((each - mean) ** 2 for each in clipped) / (count - 1)
    rarity = math.log(2 / CONFIDENCE)
    mean += math.sqrt(2 * variance * rarity / count) + 7 * cap * rarity / (3 * (count - 1))
    spread = math.sqrt(variance) + cap * math.sqrt(2 * rarity / (count - 1))
    return Thresholds(
        math.ceil(cap * MILLION), math.ceil(mean * MILLION), math.ceil(spread**2 * MILLION), one_in
    )


def _mean(margins: Sequence[float], cap: float) -> float:
    """Average the margins; what is not a margin (negative, not a number) counts as the largest."""
    return sum(margin if 0.0 <= margin <= cap else cap for margin in margins) / max(1, len(margins))
