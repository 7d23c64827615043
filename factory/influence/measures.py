"""How well a division of an answer follows what training without each contributor showed.

r is the correlation over contributors, answer by answer; LDS (linear datamodelling score, Park et
al. 2023) is the rank correlation over random halves between what those who stayed were given and
what the answer's loss became. An answer about which a rule says the same of everybody scores 0.
Pure: arrays in, numbers out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2_000
LOW = 2.5
HIGH = 97.5


@dataclass(frozen=True)
class Estimate:
    """A mean over answers, and between which bounds 95 % of resampled ones lie."""

    mean: float
    low: float
    high: float
    answers: int


def correlation(one: Floats, other: Floats) -> float:
    """Return Pearson's r of two rows; 0 where either is the same everywhere."""
    one = one - one.mean()
    other = other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale > 1e-12 else 0.0


def ranks(values: Floats) -> Floats:
    """Return each value's rank from 0 up; equal ones share the mean of theirs."""
    ordered = np.sort(values)
    first = np.searchsorted(ordered, values, side="left")
    after = np.searchsorted(ordered, values, side="right")
    return (first + after - 1) / 2


def r_each(parts: Floats, effects: Floats) -> Floats:
    """Return r of each answer: parts and effects [answers, contributors] → [answers]."""
    return np.array([correlation(a, b) for a, b in zip(parts, effects, strict=True)])


def lds_each(parts: Floats, stayed: npt.NDArray[np.bool_], losses: Floats) -> Floats:
    """Return LDS of each answer: parts [answers, contributors], who stayed [halves, contributors],
    losses [halves, answers] → [answers].
    """
    foretold = parts @ stayed.T.astype(np.float64)
    return np.array(
        [correlation(ranks(a), ranks(-b)) for a, b in zip(foretold, losses.T, strict=True)]
    )


def estimate(each: Floats, seed: int) -> Estimate:
    """Return the mean over answers with its 95 % bootstrap interval."""
    return bootstrap(len(each), lambda chosen: float(each[chosen].mean()), seed)


def estimate_pooled(parts: Floats, effects: Floats, seed: int) -> Estimate:
    """Return r over all answers and contributors together; answers are resampled whole."""
    return bootstrap(
        len(parts),
        lambda chosen: correlation(parts[chosen].ravel(), effects[chosen].ravel()),
        seed,
    )


def bootstrap(
    num_answers: int, figure: Callable[[npt.NDArray[np.int64]], float], seed: int
) -> Estimate:
    """Return a figure of all answers, and its interval over answers drawn with replacement."""
    draw = np.random.Generator(np.random.PCG64(seed))
    found = [figure(draw.integers(0, num_answers, num_answers)) for _ in range(RESAMPLES)]
    low, high = np.percentile(found, [LOW, HIGH])
    return Estimate(figure(np.arange(num_answers)), float(low), float(high), num_answers)


def folds(num_answers: int, num_folds: int, seed: int) -> Sequence[npt.NDArray[np.int64]]:
    """Divide the answers at random into folds whose sizes differ by at most one."""
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(num_answers)
    return np.array_split(shuffled, min(num_folds, num_answers))
