"""Turns a schedule into one forward pass: rows sorted by adapter, adapters of equal shape side by side, attention groups of equal shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch

from .kv.pages import ZERO_PAGE
from .lora.apply import LoraGroup
from .lora.bank import Views
from .model.attention import TILE_TOKENS, AttentionGroup
from .model.decoder import ForwardInput
from .scheduler import Chunk


class Bank(Protocol):
    """What a batch needs of the slots' memory."""

    def layout_number(self, slot: int) -> int:
        """Equal for slots whose adapters can be stacked."""

    def stack(self, slots: tuple[int, ...]) -> Views:
        """Weights of several slots side by side."""


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one adapter; `slot` None is the bare base."""

    slot: int | None
    layout: int
    chunks: list[Chunk]

    @property
    def num_rows(self) -> int:
        """Rows of all its chunks."""
        return sum(chunk.count for chunk in self.chunks)


@dataclass(frozen=True)
class Batch:
    """One forward pass. `chunks` in row order; `wanted` as many logit rows per chunk, in the same order."""

    chunks: list[Chunk]
    input: ForwardInput


def build_batch(chunks: list[Chunk], slot_of: Callable[[bytes], int], bank: Bank, page_tokens: int) -> Batch:
    """Lay out one step's rows."""
    segments = _segments(chunks, slot_of, bank)
    ordered = [chunk for segment in segments for chunk in segment.chunks]
    firsts = _first_rows(ordered)
    tokens = [token for c in ordered for token in c.sequence.tokens[c.start : c.start + c.count]]
    positions = [position for c in ordered for position in range(c.start, c.start + c.count)]
    cells = [_cell(c, position, page_tokens) for c in ordered for position in range(c.start, c.start + c.count)]
    logit_rows = [first + row for c, first in zip(ordered, firsts, strict=True) for row in range(c.count - c.wanted, c.count)]
    data = ForwardInput(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        cells=torch.tensor(cells),
        attention=_attention_groups(ordered, firsts, page_tokens),
        lora=_lora_groups(segments, bank),
        logit_rows=torch.tensor(logit_rows, dtype=torch.int64),
    )
    return Batch(ordered, data)


def _segments(chunks: list[Chunk], slot_of: Callable[[bytes], int], bank: Bank) -> list[Segment]:
    by_slot: dict[int | None, list[Chunk]] = {}
    for chunk in sorted(chunks, key=lambda c: (_num_tiles(c), c.count)):
        adapter = chunk.sequence.adapter
        by_slot.setdefault(None if adapter is None else slot_of(adapter), []).append(chunk)
    segments = [Segment(slot, 0 if slot is None else bank.layout_number(slot), members) for slot, members in by_slot.items()]
    return sorted(segments, key=lambda s: (s.slot is not None, s.layout, s.num_rows, s.slot or 0))


def _lora_groups(segments: list[Segment], bank: Bank) -> list[LoraGroup]:
    groups, first = [], 0
    for (slot_less, _, num_rows), members in groupby(segments, key=lambda s: (s.slot is None, s.layout, s.num_rows)):
        slots = tuple(segment.slot for segment in members if segment.slot is not None)
        if slot_less:
            first += num_rows
            continue
        shrink, expand = bank.stack(slots)
        groups.append(LoraGroup(first, len(slots), num_rows, shrink, expand))
        first += len(slots) * num_rows
    return groups


def _first_rows(chunks: list[Chunk]) -> list[int]:
    firsts, row = [], 0
    for chunk in chunks:
        firsts.append(row)
        row += chunk.count
    return firsts


def _cell(chunk: Chunk, position: int, page_tokens: int) -> int:
    return chunk.sequence.pages[position // page_tokens] * page_tokens + position % page_tokens


def _num_tiles(chunk: Chunk) -> int:
    return -(-(chunk.start + chunk.count) // TILE_TOKENS)


def _attention_groups(chunks: list[Chunk], firsts: list[int], page_tokens: int) -> list[AttentionGroup]:
    """Group chunks of equal length and tile count; order inside a group is row order."""
    shapes: dict[tuple[int, int], list[tuple[Chunk, int]]] = {}
    for chunk, first in zip(chunks, firsts, strict=True):
        shapes.setdefault((chunk.count, _num_tiles(chunk)), []).append((chunk, first))
    num_rows = sum(chunk.count for chunk in chunks)
    return [_attention_group(count, tiles, members, num_rows, page_tokens) for (count, tiles), members in shapes.items()]


def _attention_group(count: int, tiles: int, members: list[tuple[Chunk, int]], num_rows: int, page_tokens: int) -> AttentionGroup:
    rows = [row for _, first in members for row in range(first, first + count)]
    per_sequence = tiles * TILE_TOKENS // page_tokens
    pages = [page for c, _ in members for page in _pages(c, per_sequence)]
    starts = torch.tensor([c.start for c, _ in members])
    last_seen = starts[:, None] + torch.arange(count)[None]
    hidden = torch.arange(tiles * TILE_TOKENS)[None, None] > last_seen[:, :, None]
    mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, :, None]
    return AttentionGroup(torch.tensor(rows), len(members), count, tiles, torch.tensor(pages), mask, in_order=len(rows) == num_rows)


def _pages(chunk: Chunk, count: int) -> list[int]:
    pages = chunk.sequence.pages[:count]
    return pages + [ZERO_PAGE] * (count - len(pages))
