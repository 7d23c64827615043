"""Chooses tokens on the device: the highest logit, and draws exactly as executor/draw.py and
docs/protocols/sampling.md say.

A draw is two launches. The first estimates every id's score in float32 and keeps each block's
highest; the second computes scores in float64 in the few blocks whose estimate comes close enough
to the highest to win, so a card that is slow in float64 does little of it:

    score = logit / temperature + noise
        in float32: off by less than ESTIMATE_SLACK + RELATIVE_SLACK * |score|

A boundary (logit, id) says which ids may win: higher logits may, and equal ones up to that id. Rows
that ask for top-k or top-p are ranked by torch to find theirs. Rows whose logits are changed or
forbidden are first copied in float64. Decides which draws are made together; knows no request.

Sources: noise, Philox-4x32-10 of Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (SC
2011); the Gumbel-max trick, Maddison et al., A* Sampling (arXiv:1411.0030).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from ..count import ceil_div
from ..executor.draw import EXCLUDED_MARGIN, MAX_MARGIN, Draw, Drawn, draw_one

BLOCK_IDS = 4096
"""Ids that one block of best_and_finite looks at."""
DRAW_IDS = 1024
"""Ids that one block of a draw looks at."""
MAX_COPIED_ROWS = 64
"""Rows that are copied or sorted at once: at 128,256 ids and 8 bytes, 66 MB each time."""
FEW_RANKED = 1024
"""Ids of a row that are ranked where top-k or top-p is asked; a boundary further down costs sorting
the whole rows.
"""
ESTIMATE_SLACK = 1e-3
RELATIVE_SLACK = 1e-6
"""Several times the error of float32; the price is a few more blocks that are looked at twice."""
MIN_TEMPERATURE = 1e-20
"""Below it float32 overflows; such draws are made on the host."""

_BELOW_ALL = -(2**63) + 1  # a key below every other, whose lowest bit says finite
_COLUMNS = 10  # of _table


def best_scratch_numbers(wanted: int, vocab: int) -> int:
    """Return how many int64 `scratch` of best_and_finite must hold at least."""
    return wanted * ceil_div(vocab, BLOCK_IDS)


def best_and_finite(
    logits: torch.Tensor, best: torch.Tensor, finite: torch.Tensor, scratch: torch.Tensor
) -> None:
    """Find the lowest id of the highest logit, and whether all logits are finite, for each row of
    `logits [wanted, vocab]` float32.

    best: [wanted] int64; some id where a row is not finite. finite: [wanted] int64, 1 or 0.
    scratch: int64, see best_scratch_numbers.

    Grids [wanted, blocks of BLOCK_IDS], then [wanted]. 64 rows of 128,256: 33 MB, 7.6 µs; measured
    14.7 µs (H200).
    """
    wanted, vocab = logits.shape
    blocks = ceil_div(vocab, BLOCK_IDS)
    assert scratch.numel() >= wanted * blocks, "scratch is too small: see best_scratch_numbers"
    _best_of_block[(wanted, blocks)](
        logits, scratch, logits.stride(0), vocab, block=BLOCK_IDS, num_warps=4, num_stages=1
    )
    _best_of_row[(wanted,)](
        scratch,
        best,
        finite,
        blocks,
        padded=triton.next_power_of_2(blocks),
        below_all=_BELOW_ALL,
        num_warps=1,
        num_stages=1,
    )


@triton.jit
def _best_of_block(logits, keys, stride, vocab, block: tl.constexpr):
    """Find the best of a block, as one integer whose order is the order wanted: keys [wanted,
    blocks] int64.

    The upper half is the logit (its float32 bits, mapped so that integers compare as the floats
    do), then the id counted down, so that the lower one wins a tie, then whether all are finite.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    ids = part * block + tl.arange(0, block)
    x = tl.load(logits + row * stride + ids, ids < vocab, float("-inf"))
    finite = tl.min(((tl.abs(x) < float("inf")) | (ids >= vocab)).to(tl.int32), 0)
    x = tl.where(x == x, tl.where(x == 0.0, 0.0, x), float("-inf"))  # no NaN, no second zero
    highest = tl.max(x, 0)
    best = tl.min(tl.where((x == highest) & (ids < vocab), ids, 0x7FFFFFFF), 0)
    # Negative floats compare the wrong way round as integers, so all their bits but the sign are
    # flipped.
    bits = highest.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    tl.store(
        keys + row * tl.num_programs(1) + part,
        (order.to(tl.int64) << 32) | ((0x7FFFFFFF - best).to(tl.int64) << 1) | finite,
    )


@triton.jit
def _best_of_row(keys, best, finite, blocks, padded: tl.constexpr, below_all: tl.constexpr):
    """Reduce a row's keys to its best id and whether all of it is finite."""
    row = tl.program_id(0)
    part = tl.arange(0, padded)
    some = tl.load(keys + row.to(tl.int64) * blocks + part, part < blocks, below_all)
    highest = tl.max(some, 0)
    tl.store(best + row, 0x7FFFFFFF - ((highest >> 1) & 0x7FFFFFFF))
    tl.store(finite + row, tl.min(some & 1, 0))


def best_and_finite_reference(
    logits: torch.Tensor, best: torch.Tensor, finite: torch.Tensor, scratch: torch.Tensor
) -> None:
    """Compute best_and_finite in plain torch."""
    best.copy_(logits.argmax(-1))
    finite.copy_(logits.isfinite().all(-1))


def draw(logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
    """Choose from finite rows of `logits [wanted, vocab]` float32.

    Waits for the device; not for graphs.

    64 plain rows of 128,256 ids: 33 MB and 0.8 G integer instructions for the noise, some 30 µs;
    copying a row in float64 adds 1.5 MB. What ranking costs (a handful of torch operations over the
    rows that ask) is unmeasured; 64 rows at a temperature alone make a step of 7.5 ms 0.7 ms longer
    (H200), the way to the host and back included.
    """
    groups: dict[str, list[int]] = {"plain": [], "limited": [], "changed": [], "on host": []}
    for index, each in enumerate(draws):
        groups[_group(each)].append(index)
    parts = [groups["plain"]] if groups["plain"] else []
    for group in (groups["changed"], groups["limited"]):
        parts += [group[at : at + MAX_COPIED_ROWS] for at in range(0, len(group), MAX_COPIED_ROWS)]
    results = [_draw_together(logits, [draws[index] for index in part]) for part in parts]
    drawn: dict[int, Drawn] = {
        index: draw_one(logits[draws[index].row].cpu().numpy(), draws[index])
        for index in groups["on host"]
    }
    if results:
        numbers = torch.cat(results).cpu().tolist()
        drawn |= {
            index: Drawn(int(winner), margin)
            for index, (winner, margin) in zip(
                [i for part in parts for i in part], numbers, strict=True
            )
        }
    return [drawn[index] for index in range(len(draws))]


def draw_reference(logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
    """Choose by executor/draw.py, row by row."""
    rows = logits.cpu().numpy()
    return [draw_one(rows[each.row], each) for each in draws]


def _group(each: Draw) -> str:
    """Return which draws this one is made with, by what is done to their rows first."""
    if 0 < each.temperature < MIN_TEMPERATURE:
        return "on host"
    if len(each.changed) or each.allowed is not None:
        return "changed"
    return "limited" if _is_limited(each) else "plain"


def _is_limited(each: Draw) -> bool:
    return each.temperature > 0 and (each.top_k > 0 or each.top_p < 1.0 or each.min_p > 0.0)


class _EstimateArguments(NamedTuple):
    """What _estimate is given when it is launched, in the order of its parameters."""

    logits: torch.Tensor
    table: torch.Tensor
    numbers: torch.Tensor
    tops: torch.Tensor
    lows: torch.Tensor
    stride: int
    vocab: int


class _DecideArguments(NamedTuple):
    """What _decide is given when it is launched, in the order of its parameters."""

    logits: torch.Tensor
    table: torch.Tensor
    numbers: torch.Tensor
    tops: torch.Tensor
    lows: torch.Tensor
    result: torch.Tensor
    stride: int
    vocab: int
    blocks: int


def _draw_together(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """Return winner and margin, [draws, 2] float64 on the device."""
    device = logits.device
    vocab = logits.shape[1]
    count = len(draws)
    table = torch.from_numpy(_table(draws)).to(device)
    rows = table[:, 0]
    if any(len(each.changed) or each.allowed is not None for each in draws):
        logits = _changed_rows(logits[rows], draws)
        table[:, 0] = torch.arange(count, device=device)
    limited = [index for index, each in enumerate(draws) if _is_limited(each)]
    if limited:
        which = torch.tensor(limited, device=device)
        boundary, last = _find_boundaries(
            logits[table[which, 0]], [draws[index] for index in limited]
        )
        table.view(torch.float64)[which, 8] = boundary
        table[which, 7] = last
    blocks = ceil_div(vocab, DRAW_IDS)
    tops = torch.empty(count, blocks, dtype=torch.float32, device=device)
    lows = torch.empty(count, blocks, dtype=torch.float64, device=device)
    result = torch.empty(count, 2, dtype=torch.float64, device=device)
    numbers = table.view(torch.float64)
    _estimate[(count, blocks)](
        *_EstimateArguments(
            logits=logits,
            table=table,
            numbers=numbers,
            tops=tops,
            lows=lows,
            stride=logits.stride(0),
            vocab=vocab,
        ),
        columns=_COLUMNS,
        block=DRAW_IDS,
        num_warps=4,
        num_stages=1,
    )
    _decide[(count,)](
        *_DecideArguments(
            logits=logits,
            table=table,
            numbers=numbers,
            tops=tops,
            lows=lows,
            result=result,
            stride=logits.stride(0),
            vocab=vocab,
            blocks=blocks,
        ),
        columns=_COLUMNS,
        block=DRAW_IDS,
        padded=triton.next_power_of_2(blocks),
        slack=ESTIMATE_SLACK,
        relative=RELATIVE_SLACK,
        excluded=EXCLUDED_MARGIN,
        most=MAX_MARGIN,
        num_warps=4,
        num_stages=1,
    )
    return result


def _table(draws: Sequence[Draw]) -> NDArray[np.int64]:
    """Lay out draws for the kernels, [draws, 10] int64: row, position, key, nonce, the token whose
    margin is asked (-1: none), the boundary's id; as float64: its logit, the temperature.

    The boundary at first lets all ids win that are allowed at all.
    """
    table = np.empty((len(draws), _COLUMNS), np.int64)
    for line, each in zip(table, draws, strict=True):
        line[:8] = (
            each.row,
            each.position,
            *each.key.key,
            *each.key.nonce,
            -1 if each.token is None else each.token,
            -1,
        )
    table.view(np.float64)[:, 8:] = [(-np.inf, each.temperature) for each in draws]
    return table


def _changed_rows(rows: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Return `rows [draws, vocab]` in float64, changed and forbidden as each draw says; a forbidden
    id has -inf.
    """
    device = rows.device
    dense = rows.double()
    counts = [len(each.changed) for each in draws]
    if sum(counts):
        lines = torch.from_numpy(np.repeat(np.arange(len(draws)), counts)).to(device)
        ids = torch.from_numpy(
            np.concatenate([each.changed for each in draws]).astype(np.int64)
        ).to(device)
        dense[lines, ids] = torch.from_numpy(np.concatenate([each.values for each in draws])).to(
            device
        )
    allowed = [(line, each.allowed) for line, each in enumerate(draws) if each.allowed is not None]
    if allowed:
        lines = torch.tensor([line for line, _ in allowed], device=device)
        words = torch.from_numpy(np.stack([bits for _, bits in allowed])).to(device)
        bits = (words[:, :, None] >> torch.arange(32, device=device, dtype=torch.int32)) & 1
        dense[lines] = dense[lines].masked_fill_(
            bits.view(len(allowed), -1)[:, : dense.shape[1]] == 0, float("-inf")
        )
    return dense


def _find_boundaries(
    rows: torch.Tensor, draws: Sequence[Draw]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last kept (logit float64, id), each [draws], of `rows [draws, vocab]`, as
    draw._count_kept counts.

    Looks at the FEW_RANKED highest of each row first; only where a boundary may lie further down
    are all rows sorted.
    """
    device = rows.device
    vocab = rows.shape[1]

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)[:, None]

    highest = rows.amax(1, keepdim=True).double()
    temperature = column([each.temperature for each in draws])
    floor = highest + column(
        [
            each.temperature * float(np.log(each.min_p)) if each.min_p > 0 else -float("inf")
            for each in draws
        ]
    )
    if all(each.top_k == 0 and each.top_p == 1.0 for each in draws):
        return floor[:, 0], torch.full((len(draws),), vocab, device=device)
    top_p = column([each.top_p for each in draws])
    top_k = torch.tensor([[each.top_k or vocab] for each in draws], device=device)
    eligible = torch.minimum((rows > -float("inf")).sum(1, keepdim=True), top_k)
    everything = torch.exp((rows.double() - highest) / temperature).sum(1, keepdim=True)
    for width in dict.fromkeys((min(FEW_RANKED, vocab), vocab)):
        ranked, order = _rank(rows, width)
        weights = torch.where(
            torch.arange(width, device=device) < eligible,
            torch.exp((ranked - highest) / temperature),
            0.0,
        )
        sums = weights.cumsum(1)
        # The weight that top-p takes its share of: what top-k left. If all of that is ranked here,
        # the last sum; else every id's weight, which is exact only where top-k leaves all ids (the
        # test for `break` below lets nothing else pass).
        total = torch.where(eligible <= width, sums[:, -1:], everything)
        by_weight = torch.where(top_p < 1.0, (sums < top_p * total).sum(1, keepdim=True) + 1, vocab)
        count = torch.minimum(
            torch.minimum(eligible, by_weight), (ranked >= floor).sum(1, keepdim=True).clamp_(min=1)
        )
        last = count.clamp_(min=1, max=width) - 1
        boundary = ranked.gather(1, last)
        if width == vocab or bool(
            ((boundary > ranked[:, -1:]) & ((top_k >= vocab) | (eligible <= width))).all()
        ):
            break
    return boundary[:, 0], order.gather(1, last)[:, 0]


def _rank(rows: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `width` highest of each row in float64 and their ids, equal ones by id; among
    those equal to the lowest, any.
    """
    if width == rows.shape[1]:
        ranked, order = rows.sort(dim=1, descending=True, stable=True)
        return ranked.double(), order
    values, ids = rows.topk(width, dim=1)
    ids, by_id = ids.sort(dim=1)
    ranked, by_value = values.gather(1, by_id).sort(dim=1, descending=True, stable=True)
    return ranked.double(), ids.gather(1, by_value)


@triton.jit
def _noise_words(ids, position, k0, k1, n0, n1):
    """Compute the first word of Philox-4x32-10 for the counter (id, position, nonce), all
    uint32.
    """
    m0 = tl.full((), 0xD2511F53, tl.uint32)
    m1 = tl.full((), 0xCD9E8D57, tl.uint32)
    w0 = tl.full((), 0x9E3779B9, tl.uint32)
    w1 = tl.full((), 0xBB67AE85, tl.uint32)
    c0 = ids.to(tl.uint32)
    c1 = position + c0 * 0
    c2 = n0 + c0 * 0
    c3 = n1 + c0 * 0
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, m0)
        low0 = c0 * m0
        high1 = tl.umulhi(c2, m1)
        low1 = c2 * m1
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + w0
        k1 = k1 + w1
    return c0


@triton.jit
def _gumbel(words):
    """Compute -ln(-ln((word + 1/2) / 2^32)) in float64."""
    return -tl.log(-tl.log((words.to(tl.float64) + 0.5) * (1.0 / 4294967296.0)))


@triton.jit
def _gumbel_estimate(words):
    """Compute the same in float32.

    Where u is near 1 it cannot be told from 1 in float32, but its distance from 1 can, and -ln u is
    that distance's series.
    """
    u = (words.to(tl.float32) + 0.5) * (1.0 / 4294967296.0)
    v = ((words ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * (1.0 / 4294967296.0)
    series = v * (1.0 + v * (0.5 + v * (1.0 / 3.0 + v * (0.25 + v * 0.2))))
    return -tl.log(tl.where(v < 0.03125, series, -tl.log(tl.minimum(u, 0.97))))


@triton.jit
def _counter(table, line, columns: tl.constexpr):
    """Load position, key and nonce of a draw, uint32."""
    first = table + line * columns
    position = tl.load(first + 1).to(tl.uint32)
    k0 = tl.load(first + 2).to(tl.uint32)
    k1 = tl.load(first + 3).to(tl.uint32)
    return position, k0, k1, tl.load(first + 4).to(tl.uint32), tl.load(first + 5).to(tl.uint32)


@triton.jit
def _may_win(x, ids, boundary, last):
    """Return which ids are on the winning side of the boundary."""
    return (x > boundary) | ((x == boundary) & (ids <= last))


@triton.jit
def _estimate(
    logits, table, numbers, tops, lows, stride, vocab, columns: tl.constexpr, block: tl.constexpr
):
    """Compute tops, lows [draws, blocks]: each block's highest estimated score and lowest logit,
    over the ids that may win.
    """
    line = tl.program_id(0)
    part = tl.program_id(1)
    ids = part * block + tl.arange(0, block)
    x = tl.load(logits + tl.load(table + line * columns) * stride + ids, ids < vocab, float("-inf"))
    boundary = tl.load(numbers + line * columns + 8)
    last = tl.load(table + line * columns + 7)
    temperature = tl.load(numbers + line * columns + 9)
    position, k0, k1, n0, n1 = _counter(table, line, columns)
    kept = _may_win(x.to(tl.float64), ids, boundary, last) & (ids < vocab)
    inverse = (1.0 / tl.where(temperature == 0.0, 1.0, temperature)).to(tl.float32)
    noise = tl.where(
        temperature == 0.0, 0.0, _gumbel_estimate(_noise_words(ids, position, k0, k1, n0, n1))
    )
    scores = tl.where(kept, x.to(tl.float32) * inverse + noise, float("-inf"))
    place = line * tl.num_programs(1) + part
    tl.store(tops + place, tl.max(scores, 0))
    tl.store(lows + place, tl.min(tl.where(kept, x, float("inf")), 0).to(tl.float64))


@triton.jit
def _decide(
    logits,
    table,
    numbers,
    tops,
    lows,
    result,
    stride,
    vocab,
    blocks,
    columns: tl.constexpr,
    block: tl.constexpr,
    padded: tl.constexpr,
    slack: tl.constexpr,
    relative: tl.constexpr,
    excluded: tl.constexpr,
    most: tl.constexpr,
):
    """Compute result [draws, 2] float64: the winner, and the margin of the token that was asked
    for.
    """
    line = tl.program_id(0)
    row = logits + tl.load(table + line * columns) * stride
    token = tl.load(table + line * columns + 6)
    last = tl.load(table + line * columns + 7)
    boundary = tl.load(numbers + line * columns + 8)
    temperature = tl.load(numbers + line * columns + 9)
    is_cold = temperature == 0.0
    divisor = tl.where(is_cold, 1.0, temperature)
    position, k0, k1, n0, n1 = _counter(table, line, columns)
    part = tl.arange(0, padded)
    highest = tl.max(tl.load(tops + line * blocks + part, part < blocks, float("-inf")), 0)
    # The relative error is that of logit / temperature, which differs from the score by the noise:
    # less than 32 (a uniform of 32 bits gives at most 23).
    enough = highest - slack - relative * (tl.abs(highest) + 32.0)
    best = tl.full((), float("-inf"), tl.float64)
    winner = tl.full((), 0, tl.int32)
    for index in range(blocks):
        if tl.load(tops + line * blocks + index) >= enough:
            ids = index * block + tl.arange(0, block)
            x = tl.load(row + ids, ids < vocab, float("-inf")).to(tl.float64)
            kept = _may_win(x, ids, boundary, last) & (ids < vocab)
            noise = tl.where(is_cold, 0.0, _gumbel(_noise_words(ids, position, k0, k1, n0, n1)))
            scores = tl.where(kept, x / divisor + noise, float("-inf"))
            top = tl.max(scores, 0)
            lowest_id = tl.min(tl.where(scores == top, ids, 0x7FFFFFFF), 0)
            winner = tl.where(top > best, lowest_id, winner)
            best = tl.maximum(top, best)
    margin = tl.full((), 0.0, tl.float64)
    if token >= 0:
        x = tl.load(row + token).to(tl.float64)
        noise = tl.where(is_cold, 0.0, _gumbel(_noise_words(token, position, k0, k1, n0, n1)))
        margin = tl.maximum(best - (x / divisor + noise), 0.0) * divisor
        if (temperature > 0.0) & (_may_win(x, token, boundary, last) == 0):
            lowest = tl.min(tl.load(lows + line * blocks + part, part < blocks, float("inf")), 0)
            margin += tl.maximum(lowest - x, excluded)
        margin = tl.minimum(margin, most)
    tl.store(result + line * 2, winner.to(tl.float64))
    tl.store(result + line * 2 + 1, margin)
