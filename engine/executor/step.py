"""Defines what every executor is given and promises. Knows no scheduling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..lora.bank import Bank
from .draw import Draw, Drawn

Ints = NDArray[np.int64]

# Nobody changes a Run or a Segment; they are not frozen because Python makes a frozen one field by
# field, and a step makes one for each of its rows.


@dataclass(slots=True)
class Run:
    """Consecutive rows of one sequence: `count` rows from row `first`, at positions `start` and on,
    whose keys and values lie in `pages`.

    A list of pages only ever grows at its end: an executor may remember what it held.
    """

    first: int
    count: int
    start: int
    pages: Sequence[int]


@dataclass(slots=True)
class Segment:
    """Consecutive rows of one adapter, that in `slot`."""

    slot: int
    first: int
    count: int


@dataclass(frozen=True)
class StepInput:
    """One step's rows, sorted so that each adapter's are together.

    tokens, positions, cells: [rows] int64 (a position is one in the base's tables of angles; a cell
    is where in the pool the row's key and value go: page * page_tokens + offset). logit_rows:
    [wanted] int64, rows whose next-token logits are wanted, in the order they are returned. runs
    cover all rows in order; segments only those that have an adapter, in order.
    """

    tokens: Ints
    positions: Ints
    cells: Ints
    logit_rows: Ints
    runs: list[Run]
    segments: list[Segment]
    bank: Bank


@dataclass(frozen=True)
class StepOutput:
    """The results of a step for the wanted rows, valid until the next step; tensors stay on the
    device.

    logits: [wanted, vocab] float32. final: [wanted, hidden] in the compute dtype, the head's input.
    wait: sleeps until the step is over, and returns `best` and `finite`; raises what went wrong
    meanwhile.
    """

    logits: torch.Tensor
    final: torch.Tensor
    wait: Callable[[], tuple[Ints, NDArray[np.bool_]]]

    @property
    def best(self) -> Ints:
        """Return the lowest id of the highest logit, [wanted] int64."""
        return self._numbers[0]

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Return whether every logit is finite, [wanted] bool."""
        return self._numbers[1]

    def row(self, index: int) -> NDArray[np.float32]:
        """Return the logits [vocab] of one wanted row: a view, or a copy where they lie on a
        device.
        """
        row: NDArray[np.float32] = (
            self._on_host[index] if self.logits.is_cpu else self.logits[index].cpu().numpy()
        )
        return row

    def vector(self, index: int) -> NDArray[np.float32]:
        """Return the head's input [hidden] of one wanted row: a view, or a copy."""
        row: NDArray[np.float32] = self.final[index].float().cpu().numpy()
        return row

    def pick(self, rows: list[int], ids: list[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        """Return the logits of some `ids` of each of `rows`; from a device in one copy for all."""
        if self.logits.is_cpu:
            return [self._on_host[row][some] for row, some in zip(rows, ids, strict=True)]
        lengths = [len(some) for some in ids]
        flat = np.concatenate(
            [
                row * self.logits.shape[1] + some.astype(np.int64)
                for row, some in zip(rows, ids, strict=True)
            ]
        )
        if not len(flat):
            return [np.empty(0, np.float32) for _ in rows]
        chosen: NDArray[np.float32] = (
            self.logits.reshape(-1)[torch.from_numpy(flat).to(self.logits.device)].cpu().numpy()
        )
        return [
            chosen[end - length : end]
            for length, end in zip(lengths, np.cumsum(lengths), strict=True)
        ]

    @cached_property
    def _numbers(self) -> tuple[Ints, NDArray[np.bool_]]:
        return self.wait()

    @cached_property
    def _on_host(self) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.logits.numpy()
        return logits


class Executor(Protocol):
    """Runs steps on one device, `where` its tensors are. `name` says which and how, for people."""

    name: str
    where: torch.device
    wants_torch_threads: bool
    """Whether its steps are torch's own operations.

    If not, torch's idle threads would only spin beside the executor's.
    """
    runs_beside: bool
    """Whether `run` only begins a step, which goes on beside the caller until somebody asks for its
    numbers.
    """

    def make_pool(self, num_pages: int, page_tokens: int) -> torch.Tensor:
        """Allocate keys and values, [layers, 2 * kv_heads, num_pages, page_tokens * head_dim].

        Inside a page the layout is the executor's own.
        """

    def warm_up(self, pool: torch.Tensor, bank: Bank) -> str:
        """Do once what the first steps over `pool` and `bank` would have to wait for.

        Returns what that was, "" if nothing.
        """

    def close(self) -> None:
        """End what runs beside it."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the base's embeddings of `tokens [n]`, [n, hidden] float32."""

    def run(self, step: StepInput, pool: torch.Tensor, embedded: torch.Tensor | None) -> StepOutput:
        """Run one step; write keys and values into `pool`.

        `embedded [rows, hidden]` float32 replaces the look-up where it is given.

        The numbers of the step before must have been asked for.
        """

    def prepare(self, step: StepInput) -> None:
        """Make the next step ready while one is under way.

        Its `tokens` are written before it is run, if it is run at all.
        """

    def draw(self, logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
        """Choose from finite rows of a step's `logits [wanted, vocab]` float32."""


def find_best(logits: torch.Tensor) -> tuple[Ints, NDArray[np.bool_]]:
    """Compute `best` and `finite` of StepOutput for `logits [rows, vocab]` float32."""
    return logits.argmax(-1).cpu().numpy(), (logits * 0.0).sum(-1).isfinite().cpu().numpy()
