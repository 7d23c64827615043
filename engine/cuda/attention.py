"""Attends over a step's runs (tables.py) to paged keys and values: a decode kernel for runs of one
row, a prefill kernel for longer ones.

The pool of one layer is [2 * kv_heads, num_pages, page_tokens * head_dim], keys first; inside a
page [page_tokens, head_dim]. Page tables are ragged: `runs` says where in `pages` a run's pages
begin, so nothing is padded to the longest context. Decides how a context is split; knows no
sequence beyond its pages, and no weight.

Query heads that share a key head lie together as the rows of one product, so keys and values are
read once for all of them. Softmax runs along with the products (a running maximum and sum per
head), everything but the operands in float32. Masked reads give zeros: what an earlier owner left
in a page is never seen.

Counts that change from step to step are not specialised: Triton would compile a kernel anew, in the
middle of serving, for 1 and for multiples of 16.

Sources: online softmax and tiling, Dao, FlashAttention-2 (arXiv:2307.08691); pages, Kwon et al.,
PagedAttention (arXiv:2309.06180); splitting a long context over blocks and merging the pieces, Dao
et al., Flash-Decoding (2023); shared key heads, Ainslie et al., GQA (arXiv:2305.13245).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..count import ceil_div
from ..model.attention import Scoring, attend_plainly
from .tables import queries_per_tile

GROUP_ROWS = 16
"""Fewest rows of a product: what the heads of one group are padded to in decoding."""
MAX_SPLITS = 64
"""Most pieces that a context is cut into."""
MANY_BLOCKS = 4096
"""Enough blocks for 132 multiprocessors to end at nearly the same time."""
EVERYTHING = 1 << 30
"""The window of a token that sees all before it."""
MERGED_AT_ONCE = 16
"""Pieces that one round of the merging kernel takes."""


class Split(NamedTuple):
    """How a context is cut for decoding: into at most `most` pieces, each a multiple of `tokens`
    long.
    """

    most: int
    tokens: int


def choose_split(runs: int, kv_heads: int) -> Split:
    """Choose a split by the number of runs alone, never by a context: a graph's launches are fixed,
    and pieces beyond a context leave at once.

    Powers of two, since kernels are compiled for each: seven at most, however many runs a step of
    prompts and answers happens to have.
    """
    most = min(MAX_SPLITS, 1 << max(0, (MANY_BLOCKS // (runs * kv_heads)).bit_length() - 1))
    return Split(most, 64 if runs * kv_heads <= 16 else 128 if runs * kv_heads <= 128 else 256)


def decode_scratch_numbers(runs: int, heads: int, kv_heads: int, head_dim: int) -> int:
    """Return how many float32 `scratch` of attend_decode must hold at least, for so many runs or
    fewer, whatever their contexts.
    """
    max_pieces = max(runs, min(runs * MAX_SPLITS, MANY_BLOCKS // kv_heads))
    return max_pieces * heads * (head_dim + 2)


class _DecodeArguments(NamedTuple):
    """What _decode is given when it is launched, in the order of its parameters."""

    q: torch.Tensor
    pool: torch.Tensor
    runs: torch.Tensor
    pages: torch.Tensor
    out: torch.Tensor
    mixes: torch.Tensor
    sums: torch.Tensor
    num_runs: int
    q_stride: int
    out_stride: int
    head_stride: int
    scale: float
    cap: float
    window: int


class _MergeArguments(NamedTuple):
    """What _merge is given when it is launched, in the order of its parameters."""

    mixes: torch.Tensor
    sums: torch.Tensor
    runs: torch.Tensor
    out: torch.Tensor
    num_runs: int
    out_stride: int
    window: int


def attend_decode(
    q: torch.Tensor,
    pool_layer: torch.Tensor,
    runs: torch.Tensor,
    pages: torch.Tensor,
    out: torch.Tensor,
    scratch: torch.Tensor,
    page_tokens: int,
    scoring: Scoring | None = None,
    window: int | None = None,
) -> None:
    """For each run of exactly one row, attend its queries to all tokens up to its own (or to the
    last `window` of them), and write its row of `out`. Leave other runs alone.

    scoring None: scaled by head_dim ** -0.5.

    q: [rows, heads * head_dim], the first columns of qkv. pool_layer: see the module. runs: [4,
    num_runs] int32, pages int32: see tables.py. out: [rows, heads * head_dim], q's dtype; rows of
    no run are not written. scratch: float32, see decode_scratch_numbers.

    Grids [num_runs, kv_heads, pieces], then [num_runs, heads]: attention over pieces, then merging
    them in order; the second is left out where a context is in one piece (choose_split). 64 runs of
    1,024 tokens, 8 key heads of 128, bfloat16: 268 MB, 62 µs; merging them another 8 MB, 2 µs.
    Measured on an H200: 71.8 µs and 4.5 µs.
    """
    kv_heads = len(pool_layer) // 2
    head_dim = pool_layer.shape[2] // page_tokens
    num_runs = runs.shape[1]
    heads = q.shape[1] // head_dim
    split = choose_split(num_runs, kv_heads)
    assert scratch.numel() >= decode_scratch_numbers(num_runs, heads, kv_heads, head_dim), (
        "scratch is too small: see decode_scratch_numbers"
    )
    dim_block, tokens, stages = _shape(head_dim, q.dtype)
    group = heads // kv_heads
    sums = scratch[num_runs * heads * split.most * head_dim :]
    scale, cap = _scores(scoring, head_dim)
    _decode[(num_runs, kv_heads, split.most)](
        *_DecodeArguments(
            q=q,
            pool=pool_layer,
            runs=runs,
            pages=pages,
            out=out,
            mixes=scratch,
            sums=sums,
            num_runs=num_runs,
            q_stride=q.stride(0),
            out_stride=out.stride(0),
            head_stride=pool_layer.stride(0),
            scale=scale,
            cap=cap,
            window=window or EVERYTHING,
        ),
        capped=cap != 0,
        group=group,
        group_block=max(GROUP_ROWS, triton.next_power_of_2(group)),
        head_dim=head_dim,
        dim_block=dim_block,
        page_tokens=page_tokens,
        tokens=tokens,
        splits=split.most,
        split_tokens=split.tokens,
        num_warps=4,
        num_stages=stages,
    )
    if split.most > 1:
        _merge[(num_runs, heads)](
            *_MergeArguments(
                mixes=scratch,
                sums=sums,
                runs=runs,
                out=out,
                num_runs=num_runs,
                out_stride=out.stride(0),
                window=window or EVERYTHING,
            ),
            head_dim=head_dim,
            dim_block=dim_block,
            splits=split.most,
            split_tokens=split.tokens,
            some=MERGED_AT_ONCE,
            num_warps=2,
            num_stages=1,
        )


def _shape(head_dim: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Return the head width in registers, the keys taken at once, and the stages under way.

    With these the kernels stay within the 99 KB of shared memory that any card since compute
    capability 8.0 has, at head_dim up to 128.
    """
    dim_block = triton.next_power_of_2(head_dim)
    return (dim_block, 64, 2) if dim_block * dtype.itemsize <= 256 else (dim_block, 32, 1)


def _scores(scoring: Scoring | None, head_dim: int) -> tuple[float, float]:
    """Return the factor that turns products into exponents of two (exp2 is the card's own
    instruction), or into a tanh's arguments where there is a cap, and that cap in such exponents;
    0: there is none.
    """
    scoring = scoring or Scoring(head_dim**-0.5)
    if scoring.cap is None:
        return math.log2(math.e) * scoring.scale, 0.0
    return scoring.scale / scoring.cap, math.log2(math.e) * scoring.cap


@triton.jit
def _cells(pages, token, there, page_tokens: tl.constexpr):
    """Return where these tokens lie in the pool of a head, counted in tokens."""
    page = tl.load(pages + token // page_tokens, there, 0)
    return page.to(tl.int64) * page_tokens + token % page_tokens


@triton.jit
def _attend_block(
    query,
    highest,
    total,
    mixed,
    keys,
    values,
    cell,
    there,
    seen,
    dim,
    scale,
    cap,
    capped: tl.constexpr,
    head_dim: tl.constexpr,
):
    """Take some more tokens into the running softmax; return highest, total and mixed anew.

    query, mixed: [rows, dim]; highest, total: [rows]; seen: [rows, tokens]. `mixed` and `total`
    stand for exponents relative to `highest`, so when that rises they are scaled down by `fade`.
    """
    k = tl.load(
        keys + cell[None, :] * head_dim + dim[:, None],
        there[None, :] & (dim < head_dim)[:, None],
        0.0,
    )
    scores = tl.dot(query, k, input_precision="ieee") * scale
    if capped:
        small = tl.exp(-2.0 * tl.abs(scores))  # tanh |x| is (1 - small) / (1 + small)
        scores = cap * tl.where(scores < 0, -1.0, 1.0) * (1.0 - small) / (1.0 + small)
    scores = tl.where(seen, scores, float("-inf"))
    new = tl.maximum(highest, tl.max(scores, 1))
    finite = tl.where(new == float("-inf"), 0.0, new)  # a row may see nothing of its first tokens
    weights = tl.exp2(scores - finite[:, None])
    fade = tl.exp2(highest - finite)
    v = tl.load(
        values + cell[:, None] * head_dim + dim[None, :],
        there[:, None] & (dim < head_dim)[None, :],
        0.0,
    )
    mixed = tl.dot(weights.to(v.dtype), v, mixed * fade[:, None], input_precision="ieee")
    return new, total * fade + tl.sum(weights, 1), mixed


@triton.jit
def _span(length, splits: tl.constexpr, split_tokens: tl.constexpr):
    """Return how many tokens each piece of a context takes."""
    return tl.cdiv(tl.cdiv(length, split_tokens), splits) * split_tokens


@triton.jit(do_not_specialize=["num_runs", "window"])
def _decode(
    q,
    pool,
    runs,
    pages,
    out,
    mixes,
    sums,
    num_runs,
    q_stride,
    out_stride,
    head_stride,
    scale,
    cap,
    window,
    capped: tl.constexpr,
    group: tl.constexpr,
    group_block: tl.constexpr,
    head_dim: tl.constexpr,
    dim_block: tl.constexpr,
    page_tokens: tl.constexpr,
    tokens: tl.constexpr,
    splits: tl.constexpr,
    split_tokens: tl.constexpr,
):
    """Attend one run's queries of one key head to one piece of its context.

    mixes: [runs, heads, splits, head_dim], the piece's weighted values. sums: [runs, heads, splits,
    2], its highest exponent and its weights' sum. With one piece the result goes to `out` instead.
    """
    run = tl.program_id(0)
    kv_head = tl.program_id(1)
    piece = tl.program_id(2)
    first = tl.load(runs + run)
    count = tl.load(runs + num_runs + run)
    start = tl.load(runs + 2 * num_runs + run)
    at = tl.load(runs + 3 * num_runs + run)
    # Keeps the four reads together: the compiler would move some behind the branch, and each would
    # be waited for in turn.
    tl.debug_barrier()
    length = start + 1
    begin = tl.maximum(length - window, 0)  # what is before is not seen
    span = _span(length - begin, splits, split_tokens)
    begin += piece * span
    # count != 1 is a longer run, which is prefill's, or padding
    if (count != 1) | (begin >= length):
        return
    line = tl.arange(0, group_block)
    dim = tl.arange(0, dim_block)
    head = kv_head * group + line
    inside = (line < group)[:, None] & (dim < head_dim)[None, :]
    query = tl.load(
        q + first.to(tl.int64) * q_stride + head[:, None] * head_dim + dim[None, :], inside, 0.0
    )
    keys = pool + kv_head.to(tl.int64) * head_stride
    values = keys + tl.num_programs(1).to(tl.int64) * head_stride
    highest = tl.full((group_block,), float("-inf"), tl.float32)
    total = tl.zeros((group_block,), tl.float32)
    mixed = tl.zeros((group_block, dim_block), tl.float32)
    for low in range(begin, min(begin + span, length), tokens):
        token = low + tl.arange(0, tokens)
        there = token < length
        cell = _cells(pages + at, token, there, page_tokens)
        highest, total, mixed = _attend_block(
            query,
            highest,
            total,
            mixed,
            keys,
            values,
            cell,
            there,
            there[None, :],
            dim,
            scale,
            cap,
            capped,
            head_dim,
        )
    if splits == 1:
        result = (mixed / total[:, None]).to(out.dtype.element_ty)
        tl.store(
            out + first.to(tl.int64) * out_stride + head[:, None] * head_dim + dim[None, :],
            result,
            inside,
        )
    else:
        place = (run.to(tl.int64) * (tl.num_programs(1) * group) + head) * splits + piece
        tl.store(mixes + place[:, None] * head_dim + dim[None, :], mixed, inside)
        tl.store(sums + place * 2, highest, line < group)
        tl.store(sums + place * 2 + 1, total, line < group)


@triton.jit(do_not_specialize=["num_runs", "window"])
def _merge(
    mixes,
    sums,
    runs,
    out,
    num_runs,
    out_stride,
    window,
    head_dim: tl.constexpr,
    dim_block: tl.constexpr,
    splits: tl.constexpr,
    split_tokens: tl.constexpr,
    some: tl.constexpr,
):
    """Merge the pieces of one head of one run, in order, `some` at once, into `out`."""
    run = tl.program_id(0)
    head = tl.program_id(1)
    first = tl.load(runs + run)
    count = tl.load(runs + num_runs + run)
    start = tl.load(runs + 2 * num_runs + run)
    if count != 1:
        return
    # only pieces that _decode wrote: beyond them scratch holds what an earlier step left
    length = tl.minimum(start + 1, window)
    pieces = tl.cdiv(length, _span(length, splits, split_tokens))
    dim = tl.arange(0, dim_block)
    base = (run.to(tl.int64) * tl.num_programs(1) + head) * splits
    highest = float("-inf")
    total = 0.0
    mixed = tl.zeros((dim_block,), tl.float32)
    for low in range(0, pieces, some):
        piece = low + tl.arange(0, some)
        tops = tl.load(sums + (base + piece) * 2, piece < pieces, float("-inf"))
        weights = tl.load(sums + (base + piece) * 2 + 1, piece < pieces, 0.0)
        inside = (piece < pieces)[:, None] & (dim < head_dim)[None, :]
        mixes_here = tl.load(mixes + (base + piece)[:, None] * head_dim + dim[None, :], inside, 0.0)
        new = tl.maximum(highest, tl.max(tops, 0))
        factors = tl.exp2(tops - new)
        fade = tl.exp2(highest - new)
        total = total * fade + tl.sum(weights * factors, 0)
        mixed = mixed * fade + tl.sum(mixes_here * factors[:, None], 0)
        highest = new
    tl.store(
        out + first.to(tl.int64) * out_stride + head * head_dim + dim,
        (mixed / total).to(out.dtype.element_ty),
        dim < head_dim,
    )


def attend_decode_reference(
    q: torch.Tensor,
    pool_layer: torch.Tensor,
    runs: torch.Tensor,
    pages: torch.Tensor,
    out: torch.Tensor,
    scratch: torch.Tensor,
    page_tokens: int,
    scoring: Scoring | None = None,
    window: int | None = None,
) -> None:
    """Compute attend_decode in plain torch."""
    for first, count, start, at in runs.T.tolist():
        if count == 1:
            _attend_run(
                q[first : first + 1],
                pool_layer,
                pages[at:],
                start,
                out=out[first : first + 1],
                page_tokens=page_tokens,
                scoring=scoring,
                window=window,
            )


class _PrefillArguments(NamedTuple):
    """What _prefill is given when it is launched, in the order of its parameters."""

    q: torch.Tensor
    pool: torch.Tensor
    runs: torch.Tensor
    pages: torch.Tensor
    query_tiles: torch.Tensor
    out: torch.Tensor
    num_runs: int
    num_tiles: int
    q_stride: int
    out_stride: int
    head_stride: int
    scale: float
    cap: float
    window: int


def attend_prefill(
    q: torch.Tensor,
    pool_layer: torch.Tensor,
    runs: torch.Tensor,
    pages: torch.Tensor,
    query_tiles: torch.Tensor,
    out: torch.Tensor,
    page_tokens: int,
    scoring: Scoring | None = None,
    window: int | None = None,
) -> None:
    """For each run of several rows that `query_tiles` cover, attend each row's queries to all
    tokens up to its own (or to the last `window` of them), and write its row of `out`.

    query_tiles: [2, num_tiles] int32, made with tables.queries_per_tile. Everything else is as for
    attend_decode. Grid [num_tiles, kv_heads].

    Bound by products, not by bytes: 8 runs of 2,048 rows at the shapes of Llama-3.1-8B are 0.27
    Tflop a layer against 7.1 in its linears, 0.7 ms at 400 Tflop/s. Not measured by itself: all of
    such a step takes 0.41 s on an H200, the linears' share of it at least 0.29. In float32 it
    spills some 2 KB a thread out of registers: slow, for comparisons only.
    """
    kv_heads = len(pool_layer) // 2
    head_dim = pool_layer.shape[2] // page_tokens
    num_runs = runs.shape[1]
    heads = q.shape[1] // head_dim
    dim_block, tokens, stages = _shape(head_dim, q.dtype)
    group = heads // kv_heads
    scale, cap = _scores(scoring, head_dim)
    if query_tiles.shape[1]:
        _prefill[(query_tiles.shape[1], kv_heads)](
            *_PrefillArguments(
                q=q,
                pool=pool_layer,
                runs=runs,
                pages=pages,
                query_tiles=query_tiles,
                out=out,
                num_runs=num_runs,
                num_tiles=query_tiles.shape[1],
                q_stride=q.stride(0),
                out_stride=out.stride(0),
                head_stride=pool_layer.stride(0),
                scale=scale,
                cap=cap,
                window=window or EVERYTHING,
            ),
            capped=cap != 0,
            group=group,
            group_block=triton.next_power_of_2(group),
            queries=queries_per_tile(heads, kv_heads),
            head_dim=head_dim,
            dim_block=dim_block,
            page_tokens=page_tokens,
            tokens=tokens,
            num_warps=8,
            num_stages=stages,
        )


@triton.jit(do_not_specialize=["num_runs", "num_tiles", "window"])
def _prefill(
    q,
    pool,
    runs,
    pages,
    query_tiles,
    out,
    num_runs,
    num_tiles,
    q_stride,
    out_stride,
    head_stride,
    scale,
    cap,
    window,
    capped: tl.constexpr,
    group: tl.constexpr,
    group_block: tl.constexpr,
    queries: tl.constexpr,
    head_dim: tl.constexpr,
    dim_block: tl.constexpr,
    page_tokens: tl.constexpr,
    tokens: tl.constexpr,
):
    """Attend some rows of one run, all heads of one group: line = row * group_block + head within
    the group.
    """
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    run = tl.load(query_tiles + tile)
    begin = tl.load(query_tiles + num_tiles + tile)
    if run < 0:
        return
    first = tl.load(runs + run)
    count = tl.load(runs + num_runs + run)
    start = tl.load(runs + 2 * num_runs + run)
    at = tl.load(runs + 3 * num_runs + run)
    line = tl.arange(0, queries * group_block)
    dim = tl.arange(0, dim_block)
    row = begin + line // group_block
    head = kv_head * group + line % group_block
    inside = ((row < count) & (line % group_block < group))[:, None] & (dim < head_dim)[None, :]
    query = tl.load(
        q
        + (first + row).to(tl.int64)[:, None] * q_stride
        + head[:, None] * head_dim
        + dim[None, :],
        inside,
        0.0,
    )
    keys = pool + kv_head.to(tl.int64) * head_stride
    values = keys + tl.num_programs(1).to(tl.int64) * head_stride
    highest = tl.full((queries * group_block,), float("-inf"), tl.float32)
    total = tl.zeros((queries * group_block,), tl.float32)
    mixed = tl.zeros((queries * group_block, dim_block), tl.float32)
    end = start + min(begin + queries, count)
    oldest = tl.maximum(start + begin + 1 - window, 0) // tokens * tokens  # of the tile's first row
    for low in range(oldest, end, tokens):
        token = low + tl.arange(0, tokens)
        there = token < end
        cell = _cells(pages + at, token, there, page_tokens)
        last = (start + row)[:, None]  # causal: a row sees up to its own token
        seen = (token[None, :] <= last) & (token[None, :] > last - window)
        highest, total, mixed = _attend_block(
            query,
            highest,
            total,
            mixed,
            keys,
            values,
            cell,
            there,
            seen,
            dim,
            scale,
            cap,
            capped,
            head_dim,
        )
    result = (mixed / total[:, None]).to(out.dtype.element_ty)
    tl.store(
        out
        + (first + row).to(tl.int64)[:, None] * out_stride
        + head[:, None] * head_dim
        + dim[None, :],
        result,
        inside,
    )


def attend_prefill_reference(
    q: torch.Tensor,
    pool_layer: torch.Tensor,
    runs: torch.Tensor,
    pages: torch.Tensor,
    query_tiles: torch.Tensor,
    out: torch.Tensor,
    page_tokens: int,
    scoring: Scoring | None = None,
    window: int | None = None,
) -> None:
    """Compute attend_prefill in plain torch."""
    for index in sorted({index for index in query_tiles[0].tolist() if index >= 0}):
        first, count, start, at = runs[:, index].tolist()
        rows = slice(first, first + count)
        _attend_run(
            q[rows],
            pool_layer,
            pages[at:],
            start,
            out=out[rows],
            page_tokens=page_tokens,
            scoring=scoring,
            window=window,
        )


def _attend_run(
    q: torch.Tensor,
    pool_layer: torch.Tensor,
    pages: torch.Tensor,
    start: int,
    out: torch.Tensor,
    page_tokens: int,
    scoring: Scoring | None,
    window: int | None,
) -> None:
    tokens = start + len(q)
    kv_heads = len(pool_layer) // 2
    seen = (
        pool_layer[:, pages[: ceil_div(tokens, page_tokens)].long()]
        .view(2, kv_heads, -1, pool_layer.shape[2] // page_tokens)[:, :, :tokens]
        .float()
    )
    keys, values = seen.transpose(1, 2)
    query = q.float().view(len(q), -1, keys.shape[-1])
    out.copy_(attend_plainly(query, keys, values, start, scoring=scoring, window=window))
