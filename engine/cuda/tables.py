"""Builds what a step's kernels read (rows, LoRA tiles, runs and their pages) on the host, with
numpy.

Decides how rows are cut into tiles. Pure; touches no device, and does not know what a kernel
computes.

All of it lies in one int32 buffer, so that a step costs one copy to the device; `split` gives the
same views of the host's and of the device's buffer. What is smaller than its room is padded so that
kernels leave at once:

    tokens, positions   [rows]            padding: 0
    cells               [rows]            where the row's key and value go: page * page_tokens +
                        offset; padding: -1
    tiles               [3, tiles]        slot (-1: bare rows), first row, rows; padding: 0 rows
    runs                [4, runs]         first row, rows, position of the first, where its pages
                        begin; padding: 0 rows
    query_tiles         [2, query_tiles]  run, first row inside the run; padding: run -1
    logit_rows          [wanted]          padding: 0
    pages               [pages]           of all runs, end to end: as many per run as its last row
                        sees
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..count import ceil_div, round_up
from ..executor.step import Run, Segment, StepInput

TILE_ROWS = 16
"""Most rows of a LoRA tile: the least that a tensor core takes."""
PREFILL_ROWS = 128
"""Most (query, head) pairs of a query tile: what one block of attend_prefill holds in registers."""
ALIGN_WORDS = 32
"""Each table begins on a cache line of 128 bytes."""

BARE = -1
NO_RUN = -1
NO_CELL = -1
"""What device tables hold for rows without an adapter, for padding tiles and for padding rows;
kernels know no None.
"""

Words = NDArray[np.int32]
A = TypeVar("A", Words, torch.Tensor)


@dataclass(frozen=True)
class Room:
    """The number of entries that each table holds: a graph bucket's, or exactly a step's."""

    rows: int
    tiles: int
    runs: int
    query_tiles: int
    wanted: int
    pages: int

    @property
    def words(self) -> int:
        """Return the buffer's length in int32."""
        return sum(_aligned(lines * count) for lines, count in self.shapes())

    def holds(self, other: Room) -> bool:
        """Return whether a step that needs `other` fits."""
        return all(
            mine >= theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)
        )

    def shapes(self) -> tuple[tuple[int, int], ...]:
        """List the lines and columns of each of the Tables, in the order in which they lie."""
        rows = (1, self.rows)
        tiles = (3, self.tiles)
        runs = (4, self.runs)
        return (
            rows,
            rows,
            rows,
            tiles,
            runs,
            (2, self.query_tiles),
            (1, self.wanted),
            (1, self.pages),
        )


@dataclass(frozen=True)
class Tables(Generic[A]):
    """Views of one buffer, on the host (numpy) or on the device (torch); the module's docstring has
    the shapes.
    """

    tokens: A
    positions: A
    cells: A
    tiles: A
    runs: A
    query_tiles: A
    logit_rows: A
    pages: A


def decode_room(rows: int, pages: int) -> Room:
    """Return the room of a bucket of `rows` rows, each a run of its own whose logits are wanted;
    `pages` for all of its runs together.
    """
    return Room(rows, rows, rows, 0, wanted=rows, pages=pages)


def mixed_room(rows: int, runs: int, queries: int, pages: int) -> Room:
    """Return the room of a bucket of `rows` rows in at most `runs` runs, one row of each of which
    may want logits.

    A tile ends where a run does, or when full; so does a query tile of a run of several rows. Bare
    rows may lie between two adapters' rows.
    """
    return Room(
        rows,
        2 * runs + 1 + rows // TILE_ROWS,
        runs,
        runs + rows // queries,
        wanted=runs,
        pages=pages,
    )


def measure(step: StepInput, page_tokens: int, queries: int) -> Room:
    """Return exactly the room that `step` needs. `queries`: queries_per_tile."""
    tiles = int(ceil_div(_stretches(step.segments, len(step.tokens))[2], _tile_rows(step)).sum())
    query_tiles = sum(ceil_div(run.count, queries) for run in step.runs if run.count > 1)
    return Room(
        len(step.tokens),
        tiles,
        len(step.runs),
        query_tiles,
        wanted=len(step.logit_rows),
        pages=count_pages(step, page_tokens),
    )


def count_pages(step: StepInput, page_tokens: int) -> int:
    """Count the entries of a step's `pages`."""
    return sum([_num_pages(run, page_tokens) for run in step.runs])


def queries_per_tile(heads: int, kv_heads: int) -> int:
    """Return the most rows of a query tile.

    The query heads that share a key head lie together in a block, their number rounded up to a
    power of two.
    """
    return max(1, PREFILL_ROWS // (1 << (heads // kv_heads - 1).bit_length()))


def split(buffer: A, room: Room) -> Tables[A]:
    """Return views of `buffer [room.words]` int32."""
    views: list[A] = []
    at = 0
    for lines, count in room.shapes():
        view = buffer[at : at + lines * count]
        views.append(view if lines == 1 else view.reshape(lines, count))
        at += _aligned(lines * count)
    return Tables(*views)


class KnownPages:
    """Caches page lists as arrays.

    A sequence's list only grows, so one of the same length is the same. Keeps those of the last
    step.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Sequence[int], Words]] = {}

    def of(self, runs: Sequence[Run], page_tokens: int) -> list[Words]:
        """Return for each run the pages that its last row sees."""
        known: dict[int, tuple[Sequence[int], Words]] = {}
        found = []
        for run in runs:
            pages = run.pages
            entry = self._known.get(id(pages))
            if entry is None or entry[0] is not pages or len(entry[1]) != len(pages):
                entry = pages, np.array(pages, np.int32)
            known[id(pages)] = entry
            needed = _num_pages(run, page_tokens)
            found.append(entry[1] if len(pages) == needed else entry[1][:needed])
        self._known = known
        return found


def fill(
    tables: Tables[Words],
    step: StepInput,
    page_tokens: int,
    queries: int,
    known: KnownPages | None = None,
) -> None:
    """Write a step into tables whose room holds it, padding included."""
    rows = len(step.tokens)
    for table, values, padding in (
        (tables.tokens, step.tokens, 0),
        (tables.positions, step.positions, 0),
        (tables.cells, step.cells, NO_CELL),
        (tables.logit_rows, step.logit_rows, 0),
    ):
        table[: len(values)] = values
        table[len(values) :] = padding
    _fill_tiles(tables.tiles, step.segments, rows, _tile_rows(step))
    _fill_runs(tables, step.runs, (known or KnownPages()).of(step.runs, page_tokens))
    _fill_query_tiles(tables.query_tiles, step.runs, queries)


def _tile_rows(step: StepInput) -> int:
    """Return the most rows of a tile: one where every run is one row, though an adapter's weights
    are then read again for each.

    Those reads come from the cache, while a tile of several rows takes its weights through tensor
    cores piece by piece, and one such tile keeps the whole launch waiting: 64 rows of 46 adapters
    took 3 % longer than 64 rows of 64, and now take 2 % less (measured on an H200).
    """
    return 1 if len(step.runs) == len(step.tokens) else TILE_ROWS


def _fill_tiles(tiles: Words, segments: Sequence[Segment], rows: int, tile_rows: int) -> None:
    slots, firsts, counts = _stretches(segments, rows)
    num = ceil_div(counts, tile_rows)
    which = np.repeat(np.arange(len(num)), num)
    inside = (np.arange(len(which)) - np.repeat(np.cumsum(num) - num, num)) * tile_rows
    at = len(which)
    tiles[0, :at] = slots[which]
    tiles[1, :at] = firsts[which] + inside
    tiles[2, :at] = np.minimum(counts[which] - inside, tile_rows)
    tiles[0, at:] = BARE
    tiles[1:, at:] = 0


def _stretches(segments: Sequence[Segment], rows: int) -> NDArray[np.int64]:
    """Return [3, n] int64: slot, first, count of all rows in order, the segments and the bare rows
    between them.
    """
    given = (
        np.array([(segment.slot, segment.first, segment.count) for segment in segments], np.int64)
        .reshape(-1, 3)
        .T
    )
    stretches = np.full((3, 2 * len(segments) + 1), BARE, np.int64)
    stretches[:, 1::2] = given
    stretches[1, 0::2] = np.concatenate(([0], given[1] + given[2]))
    stretches[2, 0::2] = np.concatenate((given[1], [rows])) - stretches[1, 0::2]
    return stretches[:, stretches[2] > 0]


def _fill_runs(tables: Tables[Words], runs: Sequence[Run], pages: list[Words]) -> None:
    count = len(runs)
    lengths = np.array([len(some) for some in pages], np.int64)
    tables.runs[0, :count] = [run.first for run in runs]
    tables.runs[1, :count] = [run.count for run in runs]
    tables.runs[2, :count] = [run.start for run in runs]
    tables.runs[3, :count] = np.cumsum(lengths) - lengths
    tables.runs[:, count:] = 0
    at = int(lengths.sum())
    if pages:
        np.concatenate(pages, out=tables.pages[:at])
    tables.pages[at:] = 0


def _fill_query_tiles(query_tiles: Words, runs: Sequence[Run], queries: int) -> None:
    at = 0
    for index, run in enumerate(runs):
        if run.count > 1:
            num = ceil_div(run.count, queries)
            query_tiles[0, at : at + num] = index
            query_tiles[1, at : at + num] = np.arange(num) * queries
            at += num
    query_tiles[0, at:] = NO_RUN
    query_tiles[1, at:] = 0


def _num_pages(run: Run, page_tokens: int) -> int:
    return ceil_div(run.start + run.count, page_tokens)


def _aligned(words: int) -> int:
    return round_up(words, ALIGN_WORDS)
