"""The GPU's kernels against their plain torch references: on a GPU where there is one, in Triton's
interpreter otherwise (conftest.py).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.cuda import attention, elementwise, lora, matvec, sampling, tables
from engine.cuda.elementwise import HeadGains, HeadNorms
from engine.executor.draw import MAX_MARGIN, Draw, draw_one
from engine.executor.step import Run, Segment, StepInput
from engine.lora.bank import SlotBank, address_table
from engine.lora.layout import PackedAdapter, PartWeights, pack
from engine.messages import Choosing, Sampling
from engine.model.attention import Scoring
from engine.model.families import GELU_TANH, SILU
from engine.model.parts import PARTS, parts_of
from engine.sampler import Chooser
from tests.engine.test_sampling import DRAWS, LOGITS, SEED, VECTORS, make_draw

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""The most by which numbers of about one may differ; twice a rounding in the short types, for what
is rounded in between.
"""
DTYPES = (
    [torch.float32, torch.float16, torch.bfloat16] if HAS_GPU else [torch.float32, torch.float16]
)  # the interpreter has no true bfloat16
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
REPEATS = HAS_GPU
"""Whether everything is run twice for the same bits; the slow interpreter does so for the smaller
cases.
"""
PAGE_TOKENS = 16
EPS = 1e-5


def rows(many: int, few: int) -> int:
    """How many rows a weight has: the slow interpreter does every other block as it does the first,
    so it gets just enough to have several, and one that is not full.
    """
    return many if HAS_GPU else few


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normal numbers in host memory."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def there(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Copies on the device."""
    return [tensor.to(DEVICE, copy=True) for tensor in tensors]


def assert_near(
    given: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None = None
) -> None:
    tolerance = TOLERANCES[dtype or given.dtype]
    torch.testing.assert_close(
        given.cpu().float(), expected.float(), atol=tolerance, rtol=tolerance
    )


# --- norms, rotation, SwiGLU ---


@EACH_DTYPE
@pytest.mark.parametrize("width", [16, 138, 576])
def test_norms_agree_and_add_into_the_stream(dtype: torch.dtype, width: int) -> None:
    hidden = random(5, width)
    weight = 1 + random(width)
    delta = random(5, width + 7, dtype=dtype)[:, :width]
    expected = torch.empty(5, width, dtype=dtype)
    out = torch.empty(5, width, dtype=dtype, device=DEVICE)
    stream, weight_there, delta_there = there(hidden, weight, delta)
    elementwise.rms_norm(stream, weight_there, EPS, out)
    elementwise.rms_norm_reference(hidden, weight, EPS, expected)
    assert_near(out, expected)
    elementwise.add_rms_norm(stream, delta_there, weight_there, EPS, out=out)
    elementwise.add_rms_norm_reference(hidden, delta, weight, EPS, out=expected)
    assert_near(out, expected)
    assert torch.equal(stream.cpu(), hidden)


@EACH_DTYPE
@pytest.mark.parametrize(
    ("head_dim", "heads", "kv_heads"), [(16, 4, 2), (48, 9, 3), (64, 5, 1), (128, 2, 2)]
)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
def test_queries_turn_in_place_and_keys_go_to_their_cells(
    dtype: torch.dtype, head_dim: int, heads: int, kv_heads: int, normed: bool, rotated: bool
) -> None:
    qkv = random(5, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    angles = 3 * random(40, head_dim // 2)
    pool = torch.full((2 * kv_heads, 3, PAGE_TOKENS * head_dim), 7.0, dtype=dtype)
    positions = torch.tensor([3, 4, 39, 0, 0], dtype=torch.int32)
    cells = torch.tensor([19, 20, 47, 16, -1], dtype=torch.int32)
    query_norm = 1 + random(head_dim)
    key_norm = 1 + random(head_dim, seed=1)
    cos, sin = (angles.cos(), angles.sin()) if rotated else (None, None)
    given = there(qkv, pool, positions, cells, query_norm, key_norm, angles.cos(), angles.sin())
    norms = (
        (HeadNorms(query_norm, key_norm, EPS), HeadNorms(given[4], given[5], EPS))
        if normed
        else (None, None)
    )
    before = qkv.clone()
    elementwise.rotate_and_store_reference(
        qkv,
        cos,
        sin,
        positions,
        cells=cells,
        pool_layer=pool,
        heads=heads,
        kv_heads=kv_heads,
        norms=norms[0],
    )
    turned = (given[6], given[7]) if rotated else (None, None)
    elementwise.rotate_and_store(
        given[0], *turned, given[2], given[3], given[1], heads, kv_heads, norms[1]
    )
    assert_near(given[0], qkv)
    assert_near(given[1], pool)
    assert torch.equal(given[0].cpu()[:, heads * head_dim :], before[:, heads * head_dim :])
    assert (given[1].cpu().view(2 * kv_heads, -1, head_dim) == 7).all(2).sum() == 2 * kv_heads * (
        3 * PAGE_TOKENS - 4
    )


@EACH_DTYPE
@pytest.mark.parametrize("head_dim", [16, 48])
def test_a_row_s_adapter_multiplies_what_the_norms_of_its_heads_give(
    dtype: torch.dtype, head_dim: int
) -> None:
    """One changes both norms, one that of the keys alone; rows between them have none."""
    heads, kv_heads, entry = 5, 2, 3
    gains = [1 + random(head_dim, seed=seed) for seed in range(3)]
    gains_there = there(*gains)
    tables = torch.zeros(2, 3, 6, 5, dtype=torch.int64)
    for table, known in zip(tables, (gains, gains_there), strict=True):
        for number, (slot, part) in enumerate(((0, entry), (0, entry + 1), (2, entry + 1))):
            table[slot, part, 3] = known[number].data_ptr()
    slots = torch.tensor([0, -1, 2, 0, 1], dtype=torch.int32)
    qkv = random(5, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    pool = torch.zeros(2 * kv_heads, 3, PAGE_TOKENS * head_dim, dtype=dtype)
    positions = torch.tensor([3, 4, 39, 0, 1], dtype=torch.int32)
    cells = torch.tensor([19, 20, 47, 16, 2], dtype=torch.int32)
    norms = HeadNorms(1 + random(head_dim), 1 + random(head_dim, seed=9), EPS)
    angles = random(40, head_dim // 2)
    plain = qkv.clone()
    results = []
    for run, tensors, table, where in (
        (elementwise.rotate_and_store_reference, (qkv, pool), tables[0], "cpu"),
        (elementwise.rotate_and_store, there(qkv, pool), tables[1], DEVICE),
    ):
        run(
            tensors[0],
            angles.cos().to(where),
            angles.sin().to(where),
            positions.to(where),
            cells=cells.to(where),
            pool_layer=tensors[1],
            heads=heads,
            kv_heads=kv_heads,
            norms=HeadNorms(norms.query.to(where), norms.key.to(where), EPS),
            gains=HeadGains(slots.to(where), table.to(where), entry),
        )
        results.append(tensors)
    assert_near(results[1][0], results[0][0])
    assert_near(results[1][1], results[0][1])
    bare = there(plain, torch.zeros_like(pool))
    elementwise.rotate_and_store(
        bare[0],
        *there(angles.cos(), angles.sin(), positions, cells),
        bare[1],
        heads,
        kv_heads,
        HeadNorms(*there(norms.query, norms.key), EPS),
    )
    changed = (results[1][0] != bare[0])[:, : heads * head_dim].any(1)
    assert changed.tolist() == [True, False, False, True, False], "queries"
    keys = [
        tensor[:kv_heads].reshape(kv_heads, -1, head_dim) for tensor in (results[1][1], bare[1])
    ]
    cells_there = cells.long().to(DEVICE)
    changed = (keys[0] != keys[1])[:, cells_there].any(2).all(0)
    assert changed.tolist() == [True, False, True, True, False], "keys"


@EACH_DTYPE
@pytest.mark.parametrize("activation", [SILU, GELU_TANH])
@pytest.mark.parametrize("width", [12, 1500])
def test_gate_and_up_are_folded_even_where_the_exponential_overflows(
    dtype: torch.dtype, width: int, activation: str
) -> None:
    gate_up = random(3, 2 * width, dtype=dtype)
    gate_up[0, :3] = torch.tensor([-200.0, 200.0, 0.0])
    out = torch.empty(3, width, dtype=dtype, device=DEVICE)
    expected = torch.empty(3, width, dtype=dtype)
    elementwise.fold(*there(gate_up), out, activation)
    elementwise.fold_reference(gate_up, expected, activation)
    assert_near(out, expected)


# --- linears of one row ---


@EACH_DTYPE
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("width_in", "width_out"),
    [
        (16, 2),
        (72, rows(75, 11)),
        (577, rows(33, 7)),
        (576, rows(1536, 8)),
        (4096, rows(64, 6)),
        (14336, 5),
    ],
)
def test_a_row_times_a_weight_agrees_and_has_the_same_bits_again(
    dtype: torch.dtype, width_in: int, width_out: int, biased: bool
) -> None:
    """The row lies where 16 bytes at once may not be read, as well as where they may; nothing
    beyond out's columns is written.
    """
    weight = random(width_out, width_in, dtype=dtype) / width_in**0.5
    bias = random(width_out, dtype=dtype) if biased else None
    weight_there = weight.to(DEVICE)
    bias_there = None if bias is None else bias.to(DEVICE)
    for first in (0, 1):
        rows = random(3, width_in + 1, dtype=dtype)[first:]
        x = rows[:1, :width_in]
        x_there = rows.to(DEVICE)[:1, :width_in]
        for kind in (dtype, torch.float32):
            expected = torch.empty(1, width_out, dtype=kind)
            given, again = torch.full(
                (2, 1, width_out + 3), float("nan"), dtype=kind, device=DEVICE
            )
            matvec.matvec_reference(x, weight, bias, expected)
            for out in (given, again):
                matvec.matvec(x_there, weight_there, bias_there, out[:, :width_out])
            assert_near(given[:, :width_out], expected)
            assert torch.equal(given[:, :width_out], again[:, :width_out])
            assert given[:, width_out:].isnan().all()


@EACH_DTYPE
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("activation", [SILU, GELU_TANH])
@pytest.mark.parametrize(
    ("width_in", "width"),
    [
        (16, 1),
        (72, rows(75, 11)),
        (577, rows(33, 7)),
        (576, rows(1536, 8)),
        (4096, rows(32, 6)),
    ],
)
def test_a_row_through_gate_and_up_agrees_even_where_the_exponential_overflows(
    dtype: torch.dtype, width_in: int, width: int, activation: str, biased: bool
) -> None:
    x = random(1, width_in, dtype=dtype)
    weight = random(2 * width, width_in, dtype=dtype) / width_in**0.5
    bias = random(2 * width, dtype=dtype) if biased else None
    if bias is not None:
        bias[:3] = torch.tensor([-200.0, 200.0, 0.0])[: 2 * width]
        bias[width : width + 3] = 3.0
    expected = torch.empty(1, width, dtype=dtype)
    given, again = torch.full((2, 1, width), float("nan"), dtype=dtype, device=DEVICE)
    matvec.matvec_fold_reference(x, weight, bias, expected, activation)
    for out in (given, again):
        bias_there = None if bias is None else bias.to(DEVICE)
        matvec.matvec_fold(*there(x, weight), bias_there, out, activation)
    assert_near(given, expected)
    assert torch.equal(given, again)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=st.integers(1, 40_000))
def test_a_block_has_no_more_warps_than_its_rows_have_pieces_for(columns: int) -> None:
    warps = matvec.choose_warps(columns)
    assert warps in (1, 2, 4)
    assert warps == 1 or warps * matvec.WARP_COLUMNS < columns, "a single piece"


# --- adapters ---

SMALLER = (
    {}
    if HAS_GPU
    else {"SPLIT_COLUMNS": 128, "STEP_COLUMNS": 64, "EXPAND_COLUMNS": 64, "FEW_COLUMNS": 32}
)
"""The interpreter is slow, so pieces are smaller there."""
SHAPE: Any = SimpleNamespace(
    hidden=72,
    heads=3,
    head_dim=48,
    kv_heads=1,
    intermediate=1100 if HAS_GPU else 150,
    layers=2,
    post_norms=False,
    qk_norm=False,
    experts=None,
)
"""Wide enough for two pieces of x (down) and three blocks of columns or more (gate, up); no width
but q's is a multiple of a block.
"""
SITES_OF_SHAPE = [
    (first, [part.width_out for part in parts], parts[0].width_in)
    for kind in range(4)
    for parts in [[part for part in parts_of(SHAPE) if part.kind == kind]]
    for first in [next(i for i, part in enumerate(parts_of(SHAPE)) if part.kind == kind)]
]
"""(first part, widths, width in) of each kind of site."""
MAX_RANK = 140


@dataclass(frozen=True)
class Bank:
    """Adapters in host memory and on the device, with the tables of both."""

    keep: list[torch.Tensor]
    host: torch.Tensor
    device: torch.Tensor


def make_adapter(rank: int, dtype: torch.dtype, affine: bool, seed: int) -> PackedAdapter:
    """Ranks differ between parts (`rank` and more); one of the seven is not adapted."""
    parts = {}
    for number, part in enumerate(parts_of(SHAPE)):
        if number != 1:
            own = rank + number if rank > 1 else rank
            a = random(own, part.width_in, seed=seed) / part.width_in**0.5
            b = random(part.width_out, own, seed=seed + 1) / own**0.5
            gain, shift = (
                (1 + random(part.width_out) / 4, random(part.width_out, seed=1))
                if affine
                else (None, None)
            )
            parts[1, part.name] = PartWeights(a, b, gain, shift)
    return pack(SHAPE, parts, dtype)


def make_bank(ranks: Sequence[int], dtype: torch.dtype) -> Bank:
    """One adapter a rank; every other one has gains and shifts."""
    adapters = [
        make_adapter(rank, dtype, number % 2 == 1, number) for number, rank in enumerate(ranks)
    ]
    blobs = [adapter.blob.to(DEVICE) for adapter in adapters]
    host = np.stack([address_table(adapter).entries for adapter in adapters])
    device = host.copy()
    for table, adapter, blob in zip(device, adapters, blobs, strict=True):
        table[:, 1:] += np.where(table[:, 1:] > 0, blob.data_ptr() - adapter.blob.data_ptr(), 0)
    return Bank(
        [*blobs, *(adapter.blob for adapter in adapters)],
        torch.from_numpy(host),
        torch.from_numpy(device).to(DEVICE),
    )


def make_tiles(segments: list[Segment], rows: int, num_tiles: int) -> torch.Tensor:
    tiles = np.empty((3, num_tiles), np.int32)
    tables._fill_tiles(tiles, segments, rows, tables.TILE_ROWS)
    return torch.from_numpy(tiles)


@pytest.fixture(autouse=True)
def _smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALLER.items():
        monkeypatch.setattr(lora, name, value)


def check_site(
    site: int, bank: Bank, segments: list[Segment], rows: int, dtype: torch.dtype, biased: bool
) -> None:
    """The kernel agrees with its reference, twice with the same bits, and leaves bare rows without
    a bias alone.
    """
    first, widths, width_in = SITES_OF_SHAPE[site]
    x = random(rows, width_in, dtype=dtype)
    out = random(rows, sum(widths) + 5, dtype=dtype)[:, : sum(widths)]
    bias = random(sum(widths), dtype=dtype) if biased else None
    tiles = make_tiles(segments, rows, rows + 3)
    scratch = torch.empty(
        lora.scratch_numbers(rows, MAX_RANK, width_in, len(widths)), device=DEVICE
    )
    x_there, tiles_there = there(x, tiles)
    given, again = there(out, out)
    for target in (given, again) if REPEATS or rows < 8 else (given,):
        bias_there = None if bias is None else bias.to(DEVICE)
        scratch.fill_(float("nan"))
        lora.shrink_site(
            x_there,
            tiles_there,
            bank.device,
            PARTS + first,
            num_parts=len(widths),
            scratch=scratch,
            max_rank=MAX_RANK,
        )
        lora.expand_site(
            target,
            tiles_there,
            bank.device,
            PARTS + first,
            width_in=width_in,
            widths=widths,
            bias=bias_there,
            scratch=scratch,
            max_rank=MAX_RANK,
        )
    expected = out.clone()
    partial_sums = torch.full(scratch.shape, float("nan"))
    lora.shrink_site_reference(
        x,
        tiles,
        bank.host,
        PARTS + first,
        num_parts=len(widths),
        scratch=partial_sums,
        max_rank=MAX_RANK,
    )
    lora.expand_site_reference(
        expected,
        tiles,
        bank.host,
        PARTS + first,
        width_in=width_in,
        widths=widths,
        bias=bias,
        scratch=partial_sums,
        max_rank=MAX_RANK,
    )
    assert torch.equal(scratch.cpu().isnan(), partial_sums.isnan())
    assert_near(scratch.nan_to_num(), partial_sums.nan_to_num(), torch.float32)
    assert_near(given, expected)
    assert torch.equal(given, again) or not (REPEATS or rows < 8)
    if not biased:
        bare = torch.ones(rows, dtype=torch.bool)
        for segment in segments:
            bare[segment.first : segment.first + segment.count] = False
        assert torch.equal(given.cpu()[bare], out[bare])


WORKLOADS = {
    "distinct": [Segment(slot, slot + 1, 1) for slot in range(5)],
    "identical": [Segment(2, 0, 19)],
    "mixed": [Segment(0, 2, 1), Segment(1, 3, 2), Segment(3, 5, 1), Segment(4, 8, 17)],
    "bare": [],
}
RANKS = (1, 3, 16, 129, 8)


@pytest.mark.parametrize("site", range(4))
@pytest.mark.parametrize(
    ("workload", "dtype"),
    [*((name, torch.float32) for name in WORKLOADS), *(("mixed", dtype) for dtype in DTYPES[1:])],
    ids=str,
)
def test_rows_get_what_their_adapters_add(site: int, workload: str, dtype: torch.dtype) -> None:
    segments = WORKLOADS[workload]
    rows = max((segment.first + segment.count for segment in segments), default=2) + 1
    check_site(site, make_bank(RANKS, dtype), segments, rows, dtype=dtype, biased=site % 2 == 0)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    ranks=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    gap=st.integers(0, 2),
    biased=st.booleans(),
)
def test_any_ranks_and_any_segments(
    ranks: list[int], counts: list[int], gap: int, biased: bool
) -> None:
    segments = []
    at = 0
    for number, count in enumerate(counts):
        segments.append(Segment(number % len(ranks), at + gap, count))
        at += gap + count
    check_site(
        1, make_bank(ranks, torch.float32), segments, at + gap, dtype=torch.float32, biased=biased
    )


def test_a_row_alone_in_its_tile_does_not_depend_on_the_others() -> None:
    """Its pieces of x and its columns are always the same."""
    first, widths, width_in = SITES_OF_SHAPE[0]
    bank = make_bank(RANKS, torch.float32)
    x = random(4, width_in)
    out = random(4, sum(widths))
    results = []
    for segments, rows in (([Segment(3, 0, 1)], 1), ([Segment(3, 0, 1), Segment(1, 1, 3)], 4)):
        scratch = torch.empty(
            lora.scratch_numbers(rows, MAX_RANK, width_in, len(widths)), device=DEVICE
        )
        x_there, given, tiles = there(x[:rows], out[:rows], make_tiles(segments, rows, rows))
        lora.shrink_site(
            x_there,
            tiles,
            bank.device,
            PARTS + first,
            num_parts=len(widths),
            scratch=scratch,
            max_rank=MAX_RANK,
        )
        lora.expand_site(
            given,
            tiles,
            bank.device,
            PARTS + first,
            width_in=width_in,
            widths=widths,
            bias=None,
            scratch=scratch,
            max_rank=MAX_RANK,
        )
        results.append(given[0])
    assert torch.equal(*results)


def test_scratch_that_is_too_small_is_refused() -> None:
    width_in = SITES_OF_SHAPE[0][2]
    x = random(2, width_in)
    scratch = torch.empty(lora.scratch_numbers(2, 8, width_in, 3) - 1)
    with pytest.raises(AssertionError, match="scratch_numbers"):
        lora.shrink_site(
            x,
            make_tiles([], 2, 2),
            torch.zeros(1, 14, 5, dtype=torch.int64),
            PARTS,
            num_parts=3,
            scratch=scratch,
            max_rank=8,
        )


# --- attention ---


@dataclass(frozen=True)
class Context:
    """Runs over one pool, its unused cells not a number, with the tables on the device."""

    runs: list[Run]
    pool: torch.Tensor
    tables: tables.Tables[torch.Tensor]


def make_context(
    heads: int,
    kv_heads: int,
    head_dim: int,
    shapes: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    padding: int = 2,
) -> Context:
    """Runs of (rows, position of the first); each shares its first pages with the one before, as
    after a common prompt.
    """
    runs = []
    first = 0
    fresh = 1
    before = list[int]()
    for count, start in shapes:
        needed = -(-(start + count) // PAGE_TOKENS)
        shared = before[: start // PAGE_TOKENS]
        pages = shared + list(range(fresh, fresh + needed - len(shared)))
        fresh += needed - len(shared)
        before = pages
        runs.append(Run(first, count, start, [*pages, 0]))
        first += count
    pool = torch.full((2 * kv_heads, fresh, PAGE_TOKENS * head_dim), float("nan"), dtype=dtype)
    for run in runs:
        for position in range(run.start + run.count):
            cell = run.pages[position // PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS
            pool.view(2 * kv_heads, -1, head_dim)[:, cell] = random(
                2 * kv_heads, head_dim, dtype=dtype, seed=cell
            )
    queries = tables.queries_per_tile(heads, kv_heads)
    step = StepInput(*[np.zeros(first, np.int64)] * 3, np.zeros(0, np.int64), runs, [], SlotBank())
    room = tables.measure(step, PAGE_TOKENS, queries)
    room = tables.Room(
        room.rows,
        room.tiles,
        room.runs + padding,
        room.query_tiles + padding,
        wanted=0,
        pages=room.pages,
    )
    host = np.empty(room.words, np.int32)
    tables.fill(tables.split(host, room), step, PAGE_TOKENS, queries)
    return Context(runs, pool, tables.split(torch.from_numpy(host).to(DEVICE), room))


def attend(
    context: Context, q: torch.Tensor, heads: int, head_dim: int, **layer: Any
) -> torch.Tensor:
    """Both kernels over the same output, which starts as sevens."""
    kv_heads = len(context.pool) // 2
    shown = context.tables
    out = torch.full((len(q), heads * head_dim), 7.0, dtype=q.dtype, device=DEVICE)
    numbers = attention.decode_scratch_numbers(shown.runs.shape[1], heads, kv_heads, head_dim)
    scratch = torch.full((numbers,), float("nan"), device=DEVICE)
    q_there, pool_there = there(q, context.pool)
    attention.attend_decode(
        q_there,
        pool_there,
        shown.runs,
        shown.pages,
        out=out,
        scratch=scratch,
        page_tokens=PAGE_TOKENS,
        **layer,
    )
    attention.attend_prefill(
        q_there,
        pool_there,
        shown.runs,
        shown.pages,
        query_tiles=shown.query_tiles,
        out=out,
        page_tokens=PAGE_TOKENS,
        **layer,
    )
    return out.cpu()


def attend_plainly(
    context: Context, q: torch.Tensor, heads: int, head_dim: int, **layer: Any
) -> torch.Tensor:
    out = torch.empty(len(q), heads * head_dim, dtype=q.dtype)
    shown = context.tables
    runs = shown.runs.cpu()
    pages = shown.pages.cpu()
    tiles = shown.query_tiles.cpu()
    attention.attend_decode_reference(
        q,
        context.pool,
        runs,
        pages,
        out=out,
        scratch=torch.empty(0),
        page_tokens=PAGE_TOKENS,
        **layer,
    )
    attention.attend_prefill_reference(
        q,
        context.pool,
        runs,
        pages,
        query_tiles=tiles,
        out=out,
        page_tokens=PAGE_TOKENS,
        **layer,
    )
    return out


@EACH_DTYPE
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(8, 2, 64), (7, 1, 16), (6, 2, 48), (2, 2, 128)]
)
def test_every_row_sees_its_own_context(
    dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        attention, "MAX_SPLITS", 2
    )  # the interpreter takes a millisecond for each block that leaves at once
    context = make_context(
        heads,
        kv_heads,
        head_dim,
        [(1, 0), (1, 15), (1, 16), (5, 0), (33, 17), (1, 40), (2, 30)],
        dtype=dtype,
    )
    q = random(44, (heads + 2 * kv_heads) * head_dim, dtype=dtype)[:, : heads * head_dim]
    given = attend(context, q, heads, head_dim)
    assert_near(given, attend_plainly(context, q, heads, head_dim))
    if REPEATS or head_dim == 16:
        assert torch.equal(given, attend(context, q, heads, head_dim))


@pytest.mark.parametrize("window", [1, 20, 70, 200])
@pytest.mark.parametrize("cap", [None, 0.7])
def test_a_token_sees_its_window_and_scores_stay_within_their_cap(
    window: int, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows begin inside a page, inside a piece and, for some rows of a tile only, behind its
    first tokens; what lies before them in a page that another wrote is not read as a number.
    """
    monkeypatch.setattr(attention, "MAX_SPLITS", 2)
    context = make_context(
        4, 2, 16, [(1, 0), (1, 150), (90, 60), (1, 300), (2, 127)], dtype=torch.float32
    )
    q = random(95, 64)
    layer = {"scoring": Scoring(0.4, cap), "window": window}
    assert_near(attend(context, q, 4, 16, **layer), attend_plainly(context, q, 4, 16, **layer))


def test_the_widest_heads_see_their_context_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only in short numbers: see Accelerator.why_not."""
    monkeypatch.setattr(attention, "MAX_SPLITS", 2)
    context = make_context(2, 1, 256, [(1, 40), (5, 30)], dtype=torch.float16)
    q = random(6, 2 * 256, dtype=torch.float16)
    assert_near(attend(context, q, 2, 256), attend_plainly(context, q, 2, 256))


@given(runs=st.integers(1, 600), kv_heads=st.integers(1, 32))
def test_a_context_is_cut_in_few_ways_and_scratch_holds_the_pieces_of_any_fewer_runs(
    runs: int, kv_heads: int
) -> None:
    """Kernels are compiled for each way; an executor makes scratch for its largest step."""
    numbers = attention.decode_scratch_numbers(runs, kv_heads, kv_heads, 16)
    assert all(
        attention.choose_split(fewer, kv_heads).most * fewer * kv_heads * 18 <= numbers
        for fewer in range(1, runs + 1)
    )
    assert len({attention.choose_split(fewer, kv_heads) for fewer in range(1, runs + 1)}) <= 8


@pytest.mark.parametrize("most", [1, 3, 64])
def test_long_contexts_are_cut_and_merged_in_order(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 pieces of 64 tokens, seven of them a block's, or one block for all; the merging goes round
    twice.
    """
    monkeypatch.setattr(attention, "MAX_SPLITS", most)
    context = make_context(4, 2, 16, [(1, 1270), (1, 64), (1, 63)], dtype=torch.float32, padding=0)
    q = random(3, 64)
    given = attend(context, q, 4, 16)
    assert_near(given, attend_plainly(context, q, 4, 16))
    if REPEATS or most == 3:
        assert torch.equal(given, attend(context, q, 4, 16))


def test_a_decoded_row_is_what_prefill_gives_and_padding_runs_write_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "MAX_SPLITS", 2)
    heads = 4
    head_dim = 16
    prefill = make_context(heads, 2, head_dim, [(37, 0)], dtype=torch.float32)
    decode = make_context(heads, 2, head_dim, [(1, 36)], dtype=torch.float32)
    q = random(37, heads * head_dim)
    whole = attend(prefill, q, heads, head_dim)
    last = attend(decode, torch.cat((q[36:], q[:2])), heads, head_dim)
    assert_near(last[:1], whole[36:])
    assert (last[1:] == 7).all()


# --- sampling ---


def draw_there(logits: np.ndarray, *draws: Draw) -> list[Any]:
    return sampling.draw(torch.from_numpy(logits).to(DEVICE), list(draws))


@pytest.mark.parametrize("vocab", [1, 300, 9000])
def test_the_best_logit_has_the_lowest_id_and_what_is_not_finite_is_told(vocab: int) -> None:
    logits = random(6, vocab)
    logits[1] = 0.0
    logits[2] = -3.5
    logits[3] = -0.0
    logits[3, vocab // 2 :] = 0.0  # both zeros are one
    logits[4, vocab // 2] = float("nan")
    logits[5, -1] = float("-inf")
    best, finite = torch.zeros(2, 6, dtype=torch.int64, device=DEVICE)
    scratch = torch.zeros(sampling.best_scratch_numbers(6, vocab), dtype=torch.int64, device=DEVICE)
    sampling.best_and_finite(*there(logits), best, finite, scratch)
    assert best[:4].tolist() == logits[:4].argmax(-1).tolist()
    assert finite.tolist() == [1, 1, 1, 1, 0, 0]
    assert 0 <= int(best.min()) <= int(best.max()) < vocab


def test_the_choices_match_their_golden_vectors() -> None:
    draws = []
    for vector in VECTORS["choices"]:
        fields = {
            name: value
            for name, value in vector.items()
            if name not in ("position", "token", "prompt", "answer", "allowed")
        }
        fields["logit_bias"] = [tuple(each) for each in vector.get("logit_bias", [])]
        chooser = Chooser(Sampling(SEED, Choosing(**fields)), vector.get("prompt", []))
        for token in vector.get("answer", []):
            chooser.accept(token)
        draws.append(chooser.draw(LOGITS[chooser.changed_ids], 0, vector["position"]))
    assert [drawn.winner for drawn in draw_there(LOGITS[None], *draws)] == [
        vector["token"] for vector in VECTORS["choices"]
    ]


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    few=st.sampled_from([2, 20, 1024]),
    seed=st.binary(min_size=32, max_size=32),
    vocab=st.sampled_from([1, 7, 300, 3000]),
    spread=st.sampled_from([0.0, 0.5, 3.0, 40.0]),
    draws=st.lists(DRAWS, min_size=1, max_size=5),
)
def test_winners_and_margins_are_the_plain_form_s(
    few: int, seed: bytes, vocab: int, spread: float, draws: list[dict[str, Any]]
) -> None:
    rng = np.random.default_rng(seed[0])
    logits = np.round(rng.normal(0, spread, (len(draws), vocab)), 1).astype(np.float32)
    made = [
        make_draw(rng, row, vocab, seed, token=int(rng.integers(vocab)), **fields)
        for row, fields in enumerate(draws)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "FEW_RANKED", few)
        given = draw_there(logits, *made)
        expected = [draw_one(logits[draw.row], draw) for draw in made]
    assert [drawn.winner for drawn in given] == [drawn.winner for drawn in expected]
    assert [drawn.margin for drawn in given] == pytest.approx(
        [drawn.margin for drawn in expected], abs=1e-9
    )


def test_the_winner_s_own_margin_is_zero_and_a_forbidden_token_s_the_largest() -> None:
    rng = np.random.default_rng(5)
    plain = make_draw(rng, 0, 300, SEED, changes=3, share=0.5, position=9, temperature=0.7)
    logits = rng.normal(0, 3, (1, 300)).astype(np.float32)
    [winner] = draw_there(logits, plain)
    assert plain.allowed is not None
    bits = np.unpackbits(plain.allowed.view(np.uint8), bitorder="little")[:300]
    asked = [
        Draw(**{**vars(plain), "token": token})
        for token in (winner.winner, int(np.flatnonzero(bits == 0)[0]))
    ]
    assert [drawn.margin for drawn in draw_there(logits, *asked)] == [0.0, MAX_MARGIN]


def test_temperatures_below_what_float32_holds_and_more_rows_than_are_copied_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "MAX_COPIED_ROWS", 2)
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 3, (7, 300)).astype(np.float32)
    fields = [
        {"temperature": 1e-30},
        {"temperature": 0.0},
        *[{"temperature": 1.0, "top_p": 0.5}] * 3,
        {"temperature": 1e-8},
        {"temperature": 100.0},
    ]
    draws = [
        make_draw(
            rng, row, 300, SEED, changes=2 if row == 3 else 0, share=1.0, position=row + 1, **each
        )
        for row, each in enumerate(fields)
    ]
    assert draw_there(logits, *draws) == [draw_one(logits[draw.row], draw) for draw in draws]


# --- tables ---


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 100)), min_size=1, max_size=6),
    slots=st.lists(st.integers(0, 3), max_size=6),
    queries=st.sampled_from([1, 16, 128]),
    spare=st.integers(0, 5),
)
def test_tables_say_what_the_step_says(
    shapes: list[tuple[int, int]], slots: list[int], queries: int, spare: int
) -> None:
    runs = []
    segments = []
    first = 0
    for number, (count, start) in enumerate(shapes):
        runs.append(Run(first, count, start, list(range(100 * number, 100 * number + 20))))
        if number < len(slots):
            segments.append(Segment(slots[number], first, count))
        first += count
    rows = np.arange(first, dtype=np.int64)
    step = StepInput(
        rows, rows + 1, rows + 2, rows[::7], runs=runs, segments=segments, bank=SlotBank()
    )
    exact = tables.measure(step, PAGE_TOKENS, queries)
    room = tables.Room(*(size + spare for size in astuple(exact)))
    assert room.holds(exact)
    assert exact.holds(room) == (spare == 0)
    assert tables.mixed_room(first, max(len(runs), exact.wanted), queries, exact.pages).holds(
        exact
    ), "a graph's tables are too small"
    buffer = np.full(room.words, 99, np.int32)
    shown = tables.split(buffer, room)
    tables.fill(shown, step, PAGE_TOKENS, queries)
    assert shown.tokens.tolist() == [*rows.tolist(), *[0] * spare]
    assert shown.cells.tolist() == [*(rows + 2).tolist(), *[-1] * spare]
    slot_of = {
        row: segment.slot
        for segment in segments
        for row in range(segment.first, segment.first + segment.count)
    }
    covered = [
        (row, slot) for slot, at, count in shown.tiles.T.tolist() for row in range(at, at + count)
    ]
    assert covered == [(row, slot_of.get(row, tables.BARE)) for row in rows.tolist()]
    assert shown.tiles[2].max() <= (1 if all(run.count == 1 for run in runs) else tables.TILE_ROWS)
    for run, (at, count, start, page) in zip(runs, shown.runs.T.tolist(), strict=False):
        assert (at, count, start) == (run.first, run.count, run.start)
        needed = -(-(start + count) // PAGE_TOKENS)
        assert shown.pages[page : page + needed].tolist() == list(run.pages[:needed])
    assert shown.runs[1, len(runs) :].tolist() == [0] * spare
    queried = [
        (run, row)
        for run, at in shown.query_tiles.T.tolist()
        if run >= 0
        for row in range(at, min(at + queries, runs[run].count))
    ]
    assert queried == [
        (number, row)
        for number, run in enumerate(runs)
        if run.count > 1
        for row in range(run.count)
    ]
    on_device = tables.split(torch.from_numpy(buffer), room)
    assert all(
        np.array_equal(mine, theirs.numpy())
        for mine, theirs in zip(vars(shown).values(), vars(on_device).values(), strict=True)
    )


# --- what the interpreter forgives ---


KERNEL_MODULES = (attention, elementwise, lora, matvec, sampling)
MAX_WITHOUT_RECORD = 5


def kernels() -> dict[str, Any]:
    """What is launched, by name."""
    return {
        name: value
        for module in KERNEL_MODULES
        for name, value in vars(module).items()
        if hasattr(value, "arg_names") and name not in HELPERS
    }


def records() -> dict[str, type[Any]]:
    """The arguments that a kernel is given by their places, by its name: _NormArguments, _norm."""
    return {
        re.sub("([A-Z])", r"_\1", name[1:].removesuffix("Arguments")).lower(): value
        for module in KERNEL_MODULES
        for name, value in vars(module).items()
        if name.endswith("Arguments")
    }


@pytest.mark.parametrize("name", records())
def test_a_launch_gives_its_arguments_in_the_order_in_which_the_kernel_takes_them(
    name: str,
) -> None:
    fields = list(records()[name]._fields)
    assert kernels()[name].arg_names[: len(fields)] == fields


def test_whatever_kernel_takes_many_arguments_by_their_places_has_a_record() -> None:
    by_place = {
        name: [
            each
            for each in kernel.arg_names
            if "constexpr" not in str(kernel.fn.__annotations__.get(each))
        ]
        for name, kernel in kernels().items()
    }
    many = {name for name, given in by_place.items() if len(given) > MAX_WITHOUT_RECORD}
    assert many == set(records())


@pytest.mark.slow  # a compiler's minute for each; only a change of kernels changes the outcome
@pytest.mark.parametrize("capability", ["80", "90"])
def test_every_kernel_compiles_for_volunteers_cards_without_spilling(capability: str) -> None:
    """For compute capability 8.0, the narrower one, and 9.0, in bfloat16, at the shapes of an 8B
    model, without a GPU.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-m", "tests.engine.gpu.compile_kernels", capability],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    compiled = {each["name"].split(": ")[1] for each in told["compiled"]}
    entries = {name.rsplit(".", 1)[1] for name in told["kernels"]}
    assert compiled <= entries
    assert entries - compiled <= HELPERS
    for each in told["compiled"]:
        assert each["spilled_bytes"] <= MOST_SPILLED_BYTES.get(each["shape"], FEW_BYTES), each
        assert each["shared_bytes"] <= LEAST_SHARED_BYTES, each


HELPERS = {
    "_shrink_one",
    "_shrink_many",
    "_expand_one",
    "_expand_many",
    "_affine",
    "_gain",
    "_load_expand",
    "_number",
    "_cells",
    "_attend_block",
    "_span",
    "activate",
    "_load_piece",
    "_load_groups",
    "_add_groups",
    "_widen",
    "_fold",
    "_noise_words",
    "_gumbel",
    "_gumbel_estimate",
    "_counter",
    "_may_win",
}
"""What kernels call and nobody launches."""
FEW_BYTES = 64
"""Per thread: a handful of numbers that the prefill kernel parks on cards before 9.0."""
MOST_SPILLED_BYTES = {"head_dim 256": 400, "head_dim 128 float32": 4000}
"""Where speed matters less than that it runs at all."""
LEAST_SHARED_BYTES = 99 * 1024
"""What a block may have on any card since 8.0."""
