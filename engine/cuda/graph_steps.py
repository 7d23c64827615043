"""Runs steps that a graph holds, padded to its bucket.

    take ──▶ lay: the step in the host's table ──▶ the device's table, at its one address ──▶ graph

Decides which graph holds a step and where each of its tables lies. A graph's launches hold the
addresses of everything that they read and write, so all of it lies where it always lies. Knows
neither what the launches do (launches.py) nor whether they were recorded (graphs.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from ..count import ceil_div
from ..executor.step import StepInput
from .bank import DeviceBank
from .graphs import (
    MAX_MIXED_ROWS,
    MAX_ROWS,
    MIXED_ROWS,
    MIXED_RUNS,
    Graphs,
    Key,
    bucket_of,
    rank_of,
)
from .launches import Launches, Pass
from .space import PAGE_TOKENS, Results, Staging, StepMemory
from .tables import Room, Tables, Words, count_pages, decode_room, mixed_room, split


@dataclass(frozen=True)
class Laid:
    """A step that a graph will run, written into the host's table."""

    step: StepInput
    key: Key
    room: Room
    tables: Tables[Words]


class GraphSteps:
    """The steps of one base that graphs run; makes the device's table, which they read."""

    def __init__(
        self,
        graphs: Graphs,
        launches: Launches,
        memory: StepMemory,
        staging: Staging,
        queries: int,
        context: int,
    ) -> None:
        """`queries`: of tables.queries_per_tile; `context` in tokens."""
        self._graphs = graphs
        self._launches = launches
        self._memory = memory
        self._staging = staging
        self._queries = queries
        self._context_pages = ceil_div(context, PAGE_TOKENS)
        self._prepared: Laid | None = None
        self._captured_for = 0, 0
        # the device's table, at one address for all graphs: as large as the largest of them needs
        largest = self._room(Key(MAX_MIXED_ROWS, 0, MAX_ROWS), MAX_ROWS * self._context_pages)
        self._table = memory.empty(largest.words, dtype=torch.int32)

    def prepare(self, step: StepInput) -> None:
        """Write a step that comes next, all but its tokens, if a graph holds it."""
        key = key_of(step)
        self._prepared = None if key is None else self.lay(step, key)

    def take(self, step: StepInput, embedded: torch.Tensor | None) -> Laid | None:
        """Give the step as its graph reads it; None where it runs launch by launch.

        What was prepared is good for this one call. Its tokens are written anew: they were not
        known yet when the rest was written, beside the step that chose them.
        """
        laid = self._prepared
        self._prepared = None
        if embedded is not None:
            return None  # a graph looks the tokens up
        if laid is not None and laid.step is step:
            laid.tables.tokens[: len(step.tokens)] = step.tokens
            return laid
        key = key_of(step)
        return None if key is None else self.lay(step, key)

    def lay(self, step: StepInput, key: Key) -> Laid:
        """Write a step that fits `key` into the host's table."""
        room = self._room(key, count_pages(step, PAGE_TOKENS))
        return Laid(step, key, room, self._staging.fill(step, room))

    def run(self, laid: Laid, pool: torch.Tensor) -> Results:
        """Run the step; the first of its key launch by launch, which is recorded then."""
        key = laid.key
        bank = bank_of(laid.step)
        # graphs hold addresses: of another pool or another bank's table none is right any more
        addresses = pool.data_ptr(), bank.entries.data_ptr()
        if self._captured_for != addresses:
            self._graphs.forget()
            self._captured_for = addresses
        self._staging.upload(laid.room, self._table)
        self._graphs.run(key, lambda: partial(self._launches, self._pass(key, pool, bank)))
        memory = self._memory
        return memory.results if key.runs else replace(memory.results, final=memory.space.normed)

    def _room(self, key: Key, pages: int) -> Room:
        """Lay out the tables of a graph.

        Pages come last, so that fewer leave every other table where it is: only as many words are
        copied as the step has pages, while the graph was captured with the most.
        """
        return (
            mixed_room(key.rows, key.runs, self._queries, pages)
            if key.runs
            else decode_room(key.rows, pages)
        )

    def _pass(self, key: Key, pool: torch.Tensor, bank: DeviceBank) -> Pass:
        memory = self._memory
        room = self._room(key, (key.runs or key.rows) * self._context_pages)
        space = memory.space.cut(key.rows)
        results = (
            memory.results.cut(key.runs)
            if key.runs
            # in decoding every row is wanted: what the last norm wrote is final as it is
            else replace(memory.results.cut(key.rows), final=space.normed)
        )
        lora = memory.lora_for(key.rows, key.rank, bank)
        return Pass(
            tables=split(self._table[: room.words], room),
            pool=pool,
            space=space,
            results=results,
            attention_scratch=memory.attention_scratch,
            lora=lora,
            forks=True,
        )


def key_of(step: StepInput) -> Key | None:
    """Find the graph that holds a step; None where none does, as where an adapter changes norms.

    Decoding is told by its shape, every run one row whose logits are wanted, whatever its runs are.
    """
    if changes_norms(step):
        return None
    if len(step.runs) == len(step.tokens) == len(step.logit_rows):
        rows = bucket_of(len(step.tokens))
        return None if rows is None else Key(rows, largest_rank(step))
    rows = bucket_of(len(step.tokens), MIXED_ROWS)
    runs = bucket_of(max(len(step.runs), len(step.logit_rows)), MIXED_RUNS)
    return None if rows is None or runs is None else Key(rows, largest_rank(step), runs)


def largest_rank(step: StepInput) -> int:
    """Give the rank that scratch is laid out for: 0 in a step without adapters."""
    bank = bank_of(step)
    return rank_of(max([bank.rank(segment.slot) for segment in step.segments], default=0))


def changes_norms(step: StepInput) -> bool:
    """Return whether an adapter of the step changes norms."""
    bank = bank_of(step)
    return any(bank.changes_norms(segment.slot) for segment in step.segments)


def bank_of(step: StepInput) -> DeviceBank:
    """Give the bank of a step on a device."""
    bank = step.bank
    assert isinstance(bank, DeviceBank), "a device's executor reads a device's bank"
    return bank
