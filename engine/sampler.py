"""Which token follows: Gumbel-max over deterministic noise, so that anyone can replay the choice (docs/protocols/sampling.md).

    score(id) = logit(id) / temperature + noise(seed, position, id)      the highest wins, ties go to the lowest id

Noise is only computed for ids that can still win: none exceeds GUMBEL_LIMIT, so an id further than that below the best score found
so far is out. This is a bound, not a truncation; `tests/engine/test_sampling.py` compares it with the full sum.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import BadRequest
from .messages import Sampling
from .noise import GUMBEL_LIMIT, SEED_BYTES, derive_key, gumbel, noise_words

FIRST_LOOK = 64
MAX_TEMPERATURE = 100.0
EXCLUDED_MARGIN = 1e-6

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def check_sampling(sampling: Sampling) -> None:
    """Raise BadRequest naming the first field that makes no sense."""
    if len(sampling.seed) != SEED_BYTES:
        raise BadRequest(f"seed has {len(sampling.seed)} bytes; it must have {SEED_BYTES}")
    if not 0.0 <= sampling.temperature <= MAX_TEMPERATURE:
        raise BadRequest(f"temperature is {sampling.temperature}; it must be from 0 to {MAX_TEMPERATURE}")
    if sampling.top_k < 0:
        raise BadRequest(f"top_k is {sampling.top_k}; it must be 0 (off) or more")
    if not 0.0 < sampling.top_p <= 1.0:
        raise BadRequest(f"top_p is {sampling.top_p}; it must be above 0 and at most 1 (off)")


def choose_tokens(logits: torch.Tensor, rows: list[int], best: list[int], samplings: list[Sampling], positions: list[int]) -> list[int]:
    """One token id for each of `rows` of `logits` [n, vocab] float32, whose highest ids are `best`; `positions`: the new tokens' places."""
    chosen = zip(rows, best, samplings, positions, strict=True)
    return [top if s.temperature == 0 else choose_token(logits[row].numpy(), s, position) for row, top, s, position in chosen]


def choose_token(logits: NDArray[np.float32], sampling: Sampling, position: int) -> int:
    """The winner of one row of finite logits, at a temperature above 0."""
    ids = _allowed(logits, sampling)
    if ids is None:
        ids = _contenders(logits, sampling, position)
    return int(ids[np.argmax(_scores(logits, ids, sampling, position))])


def miss_margin(logits: NDArray[np.float32], token: int, sampling: Sampling, position: int) -> float:
    """By how many logits `token` missed the win (0 = it won); infinite logits aside, always finite and never negative.

    An id that top-k or top-p excludes misses by the noise's gap plus its distance to the last allowed logit.
    """
    if sampling.temperature == 0:
        return float(logits.max()) - float(logits[token])
    ids = _allowed(logits, sampling)
    if ids is None:
        ids = _contenders(logits, sampling, position)
    best = float(_scores(logits, ids, sampling, position).max())
    own = float(_scores(logits, np.array([token]), sampling, position)[0])
    excluded = _is_restricted(sampling) and token not in ids
    distance = max(EXCLUDED_MARGIN, float(logits[ids].min()) - float(logits[token])) if excluded else 0.0
    return max(0.0, best - own) * sampling.temperature + distance


def _is_restricted(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0


def _scores(logits: NDArray[np.float32], ids: Ids, sampling: Sampling, position: int) -> Floats:
    noise = gumbel(noise_words(derive_key(sampling.seed), position, ids))
    scores: Floats = logits[ids].astype(np.float64) / sampling.temperature + noise
    return scores


def _contenders(logits: NDArray[np.float32], sampling: Sampling, position: int) -> Ids:
    """Ids, ascending, that can still win once the best of the FIRST_LOOK highest logits is known."""
    first = np.argpartition(logits, -min(FIRST_LOOK, len(logits)))[-FIRST_LOOK:]
    best = float(_scores(logits, first, sampling, position).max())
    threshold = (best - GUMBEL_LIMIT) * sampling.temperature
    slack = 1e-6 * max(1.0, abs(threshold))
    return np.flatnonzero(logits >= np.float32(threshold - slack))


def _allowed(logits: NDArray[np.float32], sampling: Sampling) -> Ids | None:
    """Ids that top-k, then top-p leave, ascending; None when neither restricts."""
    if not _is_restricted(sampling):
        return None
    ranked = _ranked(logits, sampling.top_k or len(logits), sampling)
    return np.sort(ranked)


def _ranked(logits: NDArray[np.float32], top_k: int, sampling: Sampling) -> Ids:
    """The kept ids from the highest logit down, ties by lowest id. Looks at few first, at more only when top-p needs them."""
    scaled = logits.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    look = min(top_k, len(logits)) if sampling.top_p >= 1.0 else min(top_k, 256, len(logits))
    while True:
        kept = _highest(logits, look)
        cumulative = np.cumsum(weights[kept])
        total = weights.sum() if top_k >= len(logits) else weights[_highest(logits, top_k)].sum()
        enough = cumulative >= sampling.top_p * total
        if sampling.top_p >= 1.0:
            return kept
        if enough.any() or look == min(top_k, len(logits)):
            return kept[: int(enough.argmax()) + 1] if enough.any() else kept
        look = min(look * 8, top_k, len(logits))


def _highest(logits: NDArray[np.float32], count: int) -> Ids:
    """The `count` ids of highest logit, ordered by (logit descending, id ascending)."""
    if count >= len(logits):
        candidates = np.arange(len(logits))
    else:
        boundary = np.partition(logits, -count)[-count]
        candidates = np.flatnonzero(logits >= boundary)
    order = np.argsort(-logits[candidates], kind="stable")
    ordered: Ids = candidates[order][:count]
    return ordered
