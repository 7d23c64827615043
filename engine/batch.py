"""Turns a schedule into one step's rows: sorted by adapter, adapters of equal layout and length
side by side.

Decides no schedule and runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .executor.step import Run, Segment, StepInput
from .lora.bank import Bank
from .schedule import Chunk


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    `chunks` in row order; `wanted` as many logit rows per chunk, in the same order.
    """

    chunks: list[Chunk]
    input: StepInput


def build_batch(
    chunks: list[Chunk], slot_of: Callable[[bytes], int], bank: Bank, page_tokens: int
) -> Batch:
    """Lay out one step's rows."""
    members = _by_slot(chunks, slot_of, bank)
    ordered = [chunk for _, group in members for chunk in group]
    tokens: list[int] = []
    positions: list[int] = []
    cells: list[int] = []
    logit_rows: list[int] = []
    runs: list[Run] = []
    for chunk in ordered:
        first = len(tokens)
        start = chunk.start
        count = chunk.count
        sequence = chunk.sequence
        pages = sequence.pages
        runs.append(Run(first, count, start, pages))
        if count == 1:  # a step of many sequences is mostly these
            tokens.append(sequence.tokens[start])
            positions.append(sequence.angle_offset + start)
            cells.append(pages[start // page_tokens] * page_tokens + start % page_tokens)
            if chunk.wanted:
                logit_rows.append(first)
            continue
        end = start + count
        tokens += _ids(chunk)
        positions += range(sequence.angle_offset + start, sequence.angle_offset + end)
        cells += [
            pages[position // page_tokens] * page_tokens + position % page_tokens
            for position in range(start, end)
        ]
        logit_rows += range(first + count - chunk.wanted, first + count)
    rows = (
        np.array(tokens, np.int64),
        np.array(positions, np.int64),
        np.array(cells, np.int64),
        np.array(logit_rows, np.int64),
    )
    return Batch(ordered, StepInput(*rows, runs, _segments(members), bank))


def follow(batch: Batch, chunks: list[Chunk], page_tokens: int) -> Batch:
    """Lay out the rows of `chunks`, each the token after the one row of its sequence in `batch`.

    The order stays; the token ids are still to be written.
    """
    before = batch.input
    runs = [Run(run.first, 1, run.start + 1, run.pages) for run in before.runs]
    cells = [
        run.pages[run.start // page_tokens] * page_tokens + run.start % page_tokens for run in runs
    ]
    rows = (
        np.zeros_like(before.tokens),
        before.positions + 1,
        np.array(cells, np.int64),
        before.logit_rows,
    )
    return Batch(chunks, StepInput(*rows, runs, before.segments, before.bank))


Members = list[tuple[int | None, list[Chunk]]]
"""Slot (None: the bare base) → its chunks."""


def _by_slot(chunks: list[Chunk], slot_of: Callable[[bytes], int], bank: Bank) -> Members:
    by_slot: dict[int | None, list[Chunk]] = {}
    for chunk in chunks:
        adapter = chunk.sequence.adapter
        by_slot.setdefault(None if adapter is None else slot_of(adapter), []).append(chunk)

    def order(member: tuple[int | None, list[Chunk]]) -> tuple[bool, int, int, int]:
        slot, group = member
        return (
            slot is not None,
            0 if slot is None else bank.layout_number(slot),
            _num_rows(group),
            slot or 0,
        )

    # Equal layouts with equally many rows sit side by side, so that one product can take several
    # adapters; the slot breaks ties, so that the same adapters meet again and their stack is found.
    return sorted(by_slot.items(), key=order)


def _segments(members: Members) -> list[Segment]:
    segments = []
    first = 0
    for slot, group in members:
        count = _num_rows(group)
        if slot is not None:
            segments.append(Segment(slot, first, count))
        first += count
    return segments


def _num_rows(group: list[Chunk]) -> int:
    return group[0].count if len(group) == 1 else sum([chunk.count for chunk in group])


def _ids(chunk: Chunk) -> list[int]:
    """Return the chunk's token ids; a draft's are not the sequence's yet."""
    known = chunk.sequence.tokens[chunk.start : chunk.start + chunk.count]
    return [*known, *chunk.draft]
