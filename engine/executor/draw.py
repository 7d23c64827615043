"""Chooses the token that wins a row of logits: Gumbel-max over deterministic noise, so that anyone
can replay the choice (docs/protocols/sampling.md).

    score(id) = logit(id) / temperature + noise(seed, position, id)
        the highest wins, ties go to the lowest id

This is the plain form; draw.hpp holds the fast one, and tests compare the two. Knows no request.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..noise import GUMBEL_LIMIT, NoiseKey, gumbel, noise_words

FIRST_LOOK = 64
EXCLUDED_MARGIN = 1e-6
MAX_MARGIN = 1000.0

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def _no_ids() -> NDArray[np.int32]:
    return np.empty(0, np.int32)


def _no_values() -> Floats:
    return np.empty(0, np.float64)


@dataclass(frozen=True)
class Draw:
    """Everything that decides one row.

    `row` of the step's logits; `position` of the new token; `key` and `nonce` from the seed.

    changed: [n] int32, ascending ids whose logits are `values` [n] float64 instead. allowed: packed
    bits [ceil(vocab / 32)] int32, lowest first, of the ids that may win (None: all, else at least
    one). token: the id whose margin is wanted (None: none).
    """

    row: int
    position: int
    temperature: float
    key: NoiseKey
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    changed: NDArray[np.int32] = field(default_factory=_no_ids)
    values: Floats = field(default_factory=_no_values)
    allowed: NDArray[np.int32] | None = None
    token: int | None = None


@dataclass(frozen=True)
class Drawn:
    """The winner, and by how many logits the asked token missed (0: it won); never negative, at
    most MAX_MARGIN.
    """

    winner: int
    margin: float = 0.0


def draw_one(logits: NDArray[np.float32], draw: Draw) -> Drawn:
    """Return the winner of one row of finite `logits [vocab]`."""
    row = changed_row(logits, draw)
    order = np.argsort(-row, kind="stable")
    if draw.temperature == 0:
        return Drawn(
            int(order[0]),
            0.0 if draw.token is None else min(MAX_MARGIN, float(row[order[0]] - row[draw.token])),
        )
    kept = order[: _count_kept(row[order], draw)]
    best = _scores(row, kept[:FIRST_LOOK], draw).max()
    contenders = np.sort(
        kept[row[kept] / draw.temperature >= best - GUMBEL_LIMIT - 1e-9]
    )  # no noise is larger, so no other id can win
    scores = _scores(row, contenders, draw)
    winner = int(contenders[np.argmax(scores)])
    return Drawn(
        winner,
        (
            0.0
            if draw.token is None
            else _margin(row, kept, float(scores.max()), draw, token=draw.token)
        ),
    )


def changed_row(logits: NDArray[np.float32], draw: Draw) -> Floats:
    """Convert `logits [vocab]` to binary64, changed and forbidden as the draw says; a forbidden id
    has -inf.
    """
    row = logits.astype(np.float64)
    row[draw.changed] = draw.values
    if draw.allowed is not None:
        bits = np.unpackbits(draw.allowed.view(np.uint8), bitorder="little")[: len(row)]
        row[bits == 0] = -np.inf
    return row


def _margin(row: Floats, kept: Ids, best: float, draw: Draw, token: int) -> float:
    if row[token] == -np.inf:
        return MAX_MARGIN
    own = float(_scores(row, np.array([token]), draw)[0])
    lowest = kept[-1]
    is_kept = (-row[token], token) <= (-row[lowest], lowest)
    distance = 0.0 if is_kept else max(EXCLUDED_MARGIN, float(row[lowest] - row[token]))
    return min(MAX_MARGIN, max(0.0, best - own) * draw.temperature + distance)


def _scores(row: Floats, ids: Ids, draw: Draw) -> Floats:
    scores: Floats = row[ids] / draw.temperature + gumbel(noise_words(draw.key, draw.position, ids))
    return scores


def _count_kept(ranked: Floats, draw: Draw) -> int:
    """Count the ids, ranked from the highest logit down, that top-k, top-p and min-p leave; at
    least one.
    """
    count = int((ranked > -np.inf).sum())
    count = min(count, draw.top_k or count)
    if draw.top_p < 1.0:
        sums = np.cumsum(np.exp((ranked[:count] - ranked[0]) / draw.temperature))
        count = min(count, int(np.searchsorted(sums, draw.top_p * sums[-1])) + 1)
    if draw.min_p > 0.0:
        count = min(count, int((ranked >= ranked[0] + draw.temperature * np.log(draw.min_p)).sum()))
    return max(1, count)
