"""Judges a replayed answer by its margins.

Pure: numbers in, a verdict out; knows no text and no node.

An honest answer misses now and then by a little, because another kernel or number format rounds
otherwise. What a token counts rises from nothing, where it misses by half the cap, to the cap: so
honest misses count almost nothing and a wrong token counts whole, however far it misses. The score
of an answer is the mean of that; its limit comes from the mean and variance of honest answers by
Bennett's inequality, so that one number of false alarms holds for answers of every length. A short
answer cannot exceed its limit whatever it holds, and gets no verdict.

    counts 0 | cap / 2 | rises | cap | counts cap
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

MILLION = 1_000_000
MAX_CAP = 100.0
CONFIDENCE = 1e-3
"""That honest answers score on average worse than was calibrated: no more likely than this."""
LEAST_VARIANCE = 1e-4
"""Of the cap's square: a smaller variance counts as this, so that one token of bad luck makes no
answer suspicious, whatever a file says."""

Millionths = Annotated[int, msgspec.Meta(ge=0, le=int(MAX_CAP**2) * MILLION)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=16)]


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What honest tokens count: at most (cap), on average (mean), and its variance, in millionths
    (of a logit, of its square).

    `one_in`: of so many honest answers, at most one is to be called suspicious.
    """

    cap: Annotated[int, msgspec.Meta(ge=1, le=int(MAX_CAP) * MILLION)]
    mean: Millionths
    variance: Millionths
    one_in: Annotated[int, msgspec.Meta(ge=2, le=10**12)]


class Pairing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The thresholds of answers made in one number format and replayed in another, or in the same
    one by other kernels. `worst` names the two kernels and the temperature that count most.
    """

    made: Name
    replayed: Name
    thresholds: Thresholds
    worst: Annotated[str, msgspec.Meta(max_length=64)]


SAME = Thresholds(cap=50_000, mean=4, variance=0, one_in=10_000)
"""Where the same kernels replay an answer in the same format it agrees to the bit, whatever the
adapter. This is what Chernoff's inequality leaves possible after 96,256 tokens of 1,504 answers, in
4 bits, bfloat16 and float32, of which none missed (benchmarks/engine/verdicts.py). Misses below
0.025 logits count nothing, for compilers that order sums otherwise.
"""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What verification.json holds: thresholds of answers `across` formats and kernels, for those
    `kernels` that were measured.
    """

    kernels: Annotated[tuple[Name, ...], msgspec.Meta(max_length=16)]
    across: Annotated[tuple[Pairing, ...], msgspec.Meta(max_length=16)]


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
    score = score_of(margins, thresholds.cap / MILLION)
    if limit >= thresholds.cap / MILLION:
        return Verdict("too short", score, limit)
    return Verdict("suspicious" if score > limit else "honest", score, limit)


def limit_of(count: int, thresholds: Thresholds) -> float:
    """Return the limit that the score of `count` honest tokens exceeds at most once in `one_in`
    times.

    Bennett's inequality, for independent tokens (Boucheron, Lugosi, Massart: Concentration
    Inequalities, theorem 2.9).
    """
    if count == 0:
        return math.inf
    cap = thresholds.cap / MILLION
    variance = max(thresholds.variance / MILLION / cap**2, LEAST_VARIANCE) * count
    excess = variance * (_solve(math.log(thresholds.one_in) / variance) - 1)
    return thresholds.mean / MILLION + cap * excess / count


def _solve(wanted: float) -> float:
    """Return the w above 1 where w ln w - w + 1 is `wanted`, by Newton's steps from above."""
    w = math.e + wanted
    for _ in range(50):
        w -= (w * math.log(w) - w + 1 - wanted) / math.log(w)
    return w


def calibrate(groups: Sequence[Sequence[Sequence[float]]], cap: float, one_in: int) -> Thresholds:
    """Compute thresholds from the margins of honest answers, in groups of those that differ in
    nothing but luck; the worst group counts.

    Each group's mean is bounded from above by Chernoff's inequality; what lies between 0 and the
    cap has no more variance than cap times mean. Raises ValueError for a group without tokens.
    """
    worst = 0.0
    for answers in groups:
        count = sum(map(len, answers))
        if not count:
            raise ValueError("calibration needs tokens of honest answers")
        total = sum(score_of(each, cap) * len(each) for each in answers)
        worst = max(worst, _bound(total / cap / count, count))
    return Thresholds(
        math.ceil(cap * MILLION),
        math.ceil(worst * cap * MILLION),
        math.ceil(worst * cap**2 * MILLION),
        one_in,
    )


def _bound(share: float, count: int) -> float:
    """Return the largest mean in [0, 1] that `count` values of this average fit."""
    low = share = min(share, 1.0)
    high = 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if count * _divergence(share, middle) < -math.log(CONFIDENCE):
            low = middle
        else:
            high = middle
    return high


def _divergence(seen: float, mean: float) -> float:
    """Return the relative entropy of two chances, the second not 0."""
    if mean >= 1.0:
        return math.inf
    parts = ((seen, mean), (1 - seen, 1 - mean))
    return sum(p * math.log(p / q) for p, q in parts if p > 0)


def score_of(margins: Sequence[float], cap: float) -> float:
    """Average what the tokens count; what is no margin (negative, not a number) counts whole."""
    counted = (max(0.0, 2 * margin - cap) if 0.0 <= margin <= cap else cap for margin in margins)
    return sum(counted) / max(1, len(margins))
