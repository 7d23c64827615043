"""Standing weights and λ from measured effects, and how good the payable rule then is.

A contributor's standing weight is his mean effect, not below 0, times the part of his tokens that
count (index.py). λ is whatever eighth makes the blend follow the effects best. What is printed
about it is measured on answers that neither the weights nor λ were fitted on: ten folds, five
times. Knows integers as they are paid; no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proofs.attribution.blend import WHOLE_BPS, blend, divide
from proofs.origin import WHOLE_EIGHTHS

from .measures import Estimate, Floats, estimate, folds, lds_each, r_each

MIN_ANSWERS = 40  # fewer say nothing about λ
NUM_FOLDS = 10
REPEATS = 5
MIN_HALVES = 4  # fewer give no rank correlation worth the name
UNITS_OF_WEIGHT = 1 << 40

Bits = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """What was measured: effects [answers, contributors] in nats, the ladder's bits of the same
    shape, who stayed in each half [halves, contributors] and its losses [halves, answers], and each
    contributor's owned part of his tokens.
    """

    effects: Floats
    bits: Bits
    stayed: npt.NDArray[np.bool_]
    half_losses: Floats
    owned: Floats
    none_bits: int
    seed: int

    @property
    def has_halves(self) -> bool:
        """Whether there are halves enough for LDS."""
        return len(self.stayed) >= MIN_HALVES


@dataclass(frozen=True)
class Fitted:
    """What a manifest says: weights and λ fitted on all answers, quality on unseen ones.

    `parts` are those of the first of the five rounds of folds, in basis points.
    """

    standing_bps: tuple[int, ...]
    lambda_eighths: int
    lambda_of_folds: tuple[int, ...]
    r: Estimate
    lds: Estimate | None
    r_each: Floats
    lds_each: Floats | None
    parts: Floats


def standing_weights(effects: Floats, owned: Floats) -> tuple[int, ...]:
    """Return standing weights in basis points that sum to 10,000: mean effects clipped at 0, times
    the owned part. Where nobody's effect is above 0, the owned parts alone.
    """
    weights = np.maximum(effects.mean(axis=0), 0.0) * owned
    if not weights.sum() > 0:
        weights = owned if owned.sum() > 0 else np.ones(len(owned))
    scaled = [int(x) for x in np.rint(weights / weights.sum() * UNITS_OF_WEIGHT)]
    return tuple(divide(WHOLE_BPS, scaled))


def blended(bits: Bits, standing: Sequence[int], eighths: int, none_bits: int) -> Floats:
    """Return every answer's parts in basis points, as they are paid."""
    rows = [blend(row.tolist(), standing, eighths, none_bits) for row in bits]
    return np.array(rows, dtype=np.float64)


def fit_lambda(evidence: Evidence, answers: npt.NDArray[np.int64], standing: Sequence[int]) -> int:
    """Return the λ, in eighths, whose blend follows those answers best: the mean of r and LDS; the
    smaller of equal ones.
    """

    def quality(eighths: int) -> float:
        parts = blended(evidence.bits[answers], standing, eighths, evidence.none_bits)
        found = float(r_each(parts, evidence.effects[answers]).mean())
        if evidence.has_halves:
            losses = evidence.half_losses[:, answers]
            found = (found + float(lds_each(parts, evidence.stayed, losses).mean())) / 2
        return found

    return max(range(WHOLE_EIGHTHS + 1), key=lambda eighths: (quality(eighths), -eighths))


def fit(evidence: Evidence) -> Fitted:
    """Fit weights and λ on all answers, and measure the blend on answers left out of the fit."""
    everything = np.arange(len(evidence.effects))
    standing = standing_weights(evidence.effects, evidence.owned)
    chosen = fit_lambda(evidence, everything, standing)
    rounds = [unseen(evidence, evidence.seed + repeat) for repeat in range(REPEATS)]
    r = np.mean([r_each(parts, evidence.effects) for parts, _ in rounds], axis=0)
    lds = None
    if evidence.has_halves:
        each = [lds_each(parts, evidence.stayed, evidence.half_losses) for parts, _ in rounds]
        lds = np.mean(each, axis=0)
    return Fitted(
        standing_bps=standing,
        lambda_eighths=chosen,
        lambda_of_folds=tuple(eighths for _, of_folds in rounds for eighths in of_folds),
        r=estimate(r, evidence.seed),
        lds=None if lds is None else estimate(lds, evidence.seed),
        r_each=r,
        lds_each=lds,
        parts=rounds[0][0],
    )


def unseen(evidence: Evidence, seed: int) -> tuple[Floats, list[int]]:
    """Return each answer's parts by weights and λ of the other folds, and the λs."""
    num_answers = len(evidence.effects)
    parts = np.zeros(evidence.effects.shape)
    chosen = []
    for held_out in folds(num_answers, NUM_FOLDS, seed):
        others = np.setdiff1d(np.arange(num_answers), held_out)
        standing = standing_weights(evidence.effects[others], evidence.owned)
        eighths = fit_lambda(evidence, others, standing)
        parts[held_out] = blended(evidence.bits[held_out], standing, eighths, evidence.none_bits)
        chosen.append(eighths)
    return parts, chosen
