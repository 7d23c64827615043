"""Chooses the tokens that win rows of logits, so that anybody with the seed can check the choice.

Lorikeet's docs/protocols/sampling.md in torch, many rows at once and on whatever device the logits
are: change, filter, add noise, take the best. Binary64 throughout. Knows no request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .terms import NoiseKey, Terms

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF
FIRST_LOOK = 64
MANY = 0.3
GUMBEL_LIMIT = -math.log(-math.log1p(-(2.0**-33)))
"""No noise is larger: the value for the largest 32-bit word, about 22.9."""


@dataclass(frozen=True)
class Draw:
    """What decides one row: `position` of the new token in the whole sequence; how often each id
    of the answer occurred in it, and which ids the prompt has (where repetitions cost).
    """

    terms: Terms
    key: NoiseKey
    position: int
    counts: dict[int, int] = field(default_factory=dict)
    asked: frozenset[int] = frozenset()


def choose(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Return the winning id of each row of `logits [rows, vocab]`, as int64."""
    scores = logits.to(torch.float64)
    for row, draw in zip(scores, draws, strict=True):
        _change(row, draw)
    _filter(scores, draws)
    warm = [at for at, draw in enumerate(draws) if draw.terms.temperature > 0]
    if warm:
        rows = torch.tensor(warm, device=scores.device)
        scores[rows] = _with_noise(scores[rows], [draws[at] for at in warm])
    return _lowest_of_the_best(scores)


def _with_noise(scores: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Return the scores of the ids that can win; rows `[draws, vocab]`.

    No noise is larger than GUMBEL_LIMIT, so an id that lies further below the best of a first look
    is not looked at. Where many can win, it costs less to look at all.
    """
    scores = scores / _column([draw.terms.temperature for draw in draws], scores)
    counters = Counters.of(draws, scores.device)
    looked, ids = scores.topk(min(FIRST_LOOK, scores.shape[1]), dim=1)
    best = (looked + gumbel(words(counters, ids))).amax(dim=1, keepdim=True)
    can_win = scores >= best - GUMBEL_LIMIT - 1e-9
    if int(can_win.sum()) > MANY * can_win.numel():
        all_ids = torch.arange(scores.shape[1], device=scores.device).unsqueeze(0)
        return scores + gumbel(words(counters, all_ids))
    rows, contenders = can_win.nonzero(as_tuple=True)
    heard = scores[rows, contenders] + gumbel(words(counters.pick(rows), contenders))
    return torch.full_like(scores, -torch.inf).index_put_((rows, contenders), heard)


def gumbel(drawn: Tensor) -> Tensor:
    """Turn 32-bit words into standard Gumbel noise."""
    return -torch.log(-torch.log((drawn.to(torch.float64) + 0.5) * 2.0**-32))


class Counters(NamedTuple):
    """What of Philox's counter and key is a row's: `[rows, 1]`, or one of each id."""

    position: Tensor
    k0: Tensor
    k1: Tensor
    n0: Tensor
    n1: Tensor

    @classmethod
    def of(cls, draws: Sequence[Draw], device: torch.device) -> Counters:
        """Return those of some draws, a row each."""
        rows = [(draw.position, *draw.key.key, *draw.key.nonce) for draw in draws]
        return cls(*torch.tensor(rows, device=device).T.unsqueeze(-1))

    def pick(self, rows: Tensor) -> Counters:
        """Return those of the rows that are named, one after the other."""
        return Counters(*(each[rows, 0] for each in self))


def words(counters: Counters, ids: Tensor) -> Tensor:
    """Return one 32-bit word for each id, int64: the first of Philox-4x32-10.

    Products of 32-bit words overflow int64 and wrap, which leaves all 64 bits right.
    """
    c0, c1, c2, c3 = ids, counters.position, counters.n0, counters.n1
    for turn in range(10):
        p0 = c0 * MULTIPLIERS[0]
        p1 = c2 * MULTIPLIERS[1]
        c0 = ((p1 >> 32) ^ c1 ^ (counters.k0 + turn * WEYL[0])) & LOW
        c2 = ((p0 >> 32) ^ c3 ^ (counters.k1 + turn * WEYL[1])) & LOW
        c1 = p1 & LOW
        c3 = p0 & LOW
    return c0


def _change(row: Tensor, draw: Draw) -> None:
    """Change the logits of one row `[vocab]`: bias, then penalties, in their order."""
    terms = draw.terms
    biases = dict(terms.logit_bias)
    repeated = draw.asked if terms.repetition_penalty != 1.0 else frozenset()
    counts = draw.counts if terms.counts else {}
    ids = sorted(biases.keys() | repeated | counts.keys())
    if not ids:
        return
    where = torch.tensor(ids, device=row.device)
    count = _numbers([counts.get(each, 0) for each in ids], row)
    seen = (count > 0) | torch.tensor([each in repeated for each in ids], device=row.device)
    values = row[where] + _numbers([biases.get(each, 0.0) for each in ids], row)
    factor = terms.repetition_penalty
    punished = torch.where(values > 0, values / factor, values * factor)
    values = torch.where(seen, punished, values)
    values = values - terms.presence_penalty * (count > 0) - terms.frequency_penalty * count
    row[where] = values


def _filter(scores: Tensor, draws: Sequence[Draw]) -> None:
    """Take away, row by row, the ids that top-k, top-p and min-p leave out."""
    picky = [at for at, draw in enumerate(draws) if draw.terms.filters]
    if not picky:
        return
    rows = torch.tensor(picky, device=scores.device)
    terms = [draws[at].terms for at in picky]
    ranked, order = torch.sort(scores[rows], dim=1, descending=True, stable=True)
    vocab = scores.shape[1]
    ranks = torch.arange(vocab, device=scores.device)
    temperature = _column([each.temperature for each in terms], scores)
    kept = ranks < _column([each.top_k or vocab for each in terms], scores)
    mass = torch.exp((ranked - ranked[:, :1]) / temperature) * kept
    sums = mass.cumsum(dim=1)
    top_p = _column([each.top_p for each in terms], scores)
    enough = (sums < top_p * sums[:, -1:]).sum(dim=1, keepdim=True) + 1
    kept &= (ranks < enough) | (top_p == 1.0)
    min_p = _column([each.min_p for each in terms], scores)
    kept &= ranked >= ranked[:, :1] + temperature * torch.log(min_p)
    kept[:, 0] = True
    scores[rows] = scores[rows].masked_fill_(
        ~torch.zeros_like(kept).scatter_(1, order, kept), -torch.inf
    )


def _lowest_of_the_best(scores: Tensor) -> Tensor:
    """Return each row's highest; of equal ones the lowest id."""
    ids = torch.arange(scores.shape[1], device=scores.device)
    best = scores.amax(dim=1, keepdim=True)
    return torch.where(scores == best, ids, scores.shape[1]).amin(dim=1)


def _numbers(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return _numbers(values, like).unsqueeze(-1)
