"""Owns the memory of steps on a device: which tensors a step computes in, and how large they are.

Decides only sizes and when a tensor is made anew. Knows neither what is computed in them nor when:
launches.py writes them, executor.py asks for them.

    fixed    made once, for the largest graph; a graph's launches hold these addresses, so none of
             them is ever made anew
    wider    for steps that no graph holds; grows to the largest that came, and is given back when
             memory runs out
    staging  pinned memory of the host, by which a step's tables go there and its results come back
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from ..count import ceil_div, round_up
from ..executor.step import StepInput
from ..lora.layout import PAGE_BYTES
from ..model.config import ModelConfig
from ..model.parts import Part, parts_of
from .attention import decode_scratch_numbers
from .bank import DeviceBank
from .device import Device
from .graphs import MAX_MIXED_ROWS, MAX_ROWS, RANKS
from .lora import scratch_numbers
from .sampling import best_scratch_numbers
from .tables import KnownPages, Room, Tables, Words, fill, split

PAGE_TOKENS = 16
"""Tokens of a page of keys and values, the only number that a device's executor takes."""


@dataclass(frozen=True)
class Space:
    """The tensors between operations, one row for each token of a step.

    Named as the places of model/program.py, and `delta`, what is still to be added to hidden:
    a linear that ends in an addition writes it there, and the next norm adds it on its way.

    hidden is float32; the others have the base's dtype. gate_up [rows, 2 * intermediate] holds both
    halves of what SwiGLU folds into gated [rows, intermediate].
    """

    hidden: torch.Tensor
    delta: torch.Tensor
    normed: torch.Tensor
    qkv: torch.Tensor
    mixed: torch.Tensor
    gate_up: torch.Tensor
    gated: torch.Tensor

    def cut(self, rows: int) -> Space:
        """Give views of the first `rows` rows, at the same addresses."""
        return Space(*(getattr(self, each.name)[:rows] for each in fields(self)))


@dataclass(frozen=True)
class Results:
    """What a step gives for the rows whose logits are wanted.

    final: [wanted, hidden]. logits: [wanted, vocab] float32. result: [2, wanted] int64, the best id
    and whether all logits are finite (1 or 0). scratch: int64, see sampling.best_scratch_numbers.
    """

    final: torch.Tensor
    logits: torch.Tensor
    result: torch.Tensor
    scratch: torch.Tensor

    def cut(self, wanted: int) -> Results:
        """Give views of the first `wanted` rows; the scratch stays whole, no row has its own."""
        return Results(
            self.final[:wanted], self.logits[:wanted], self.result[:, :wanted], self.scratch
        )


@dataclass(frozen=True)
class LoraSpace:
    """What the launches of a step with adapters read beside its tiles.

    No adapter of the step has a larger rank than `rank`, by which `scratch` (float32) is laid out.
    entries: see DeviceBank.
    """

    rank: int
    entries: torch.Tensor
    scratch: torch.Tensor


class StepMemory:
    """The tensors of steps on one device. Raises what torch raises where memory runs out."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: Device) -> None:
        self._config = config
        self._dtype = dtype
        self._device = device
        self._lora_scratches: dict[int, torch.Tensor] = {}
        self.space = self._make_space(MAX_MIXED_ROWS)
        self.results = self._make_results(MAX_ROWS)
        self.attention_scratch = self._make_attention_scratch(MAX_ROWS)
        self._wide_space = self.space
        self._wide_results = self.results

    def space_for(self, rows: int) -> Space:
        """Give a space of exactly `rows` rows, for a step that runs launch by launch."""
        if rows > len(self._wide_space.hidden):
            self._wide_space = self.space  # the old one goes before the new one comes
            self._wide_space = self._make_space(round_up(rows, MAX_ROWS))
        return self._wide_space.cut(rows)

    def results_for(self, wanted: int) -> Results:
        """Give results of at least `wanted` rows, for a step that runs launch by launch."""
        if wanted > len(self._wide_results.logits):
            self._wide_results = self.results  # as in space_for
            self._wide_results = self._make_results(round_up(wanted, MAX_ROWS))
        return self._wide_results

    def attention_scratch_for(self, runs: int) -> torch.Tensor:
        """Give the scratch of attend_decode; more runs than a graph has get one for this step."""
        return self.attention_scratch if runs <= MAX_ROWS else self._make_attention_scratch(runs)

    def lora_for(self, rows: int, rank: int, bank: DeviceBank) -> LoraSpace | None:
        """Give what adapters of at most `rank` work in; None for rank 0, a step without adapters.

        One scratch is kept for each rank that graphs are captured for, since they hold its address;
        a step that is wider than every graph gets one of its own.
        """
        if rank == 0:
            return None
        if rows > MAX_MIXED_ROWS:
            return LoraSpace(rank, bank.entries, self._make_lora_scratch(rows, rank))
        if rank not in self._lora_scratches:
            self._lora_scratches[rank] = self._make_lora_scratch(MAX_MIXED_ROWS, rank)
        return LoraSpace(rank, bank.entries, self._lora_scratches[rank])

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Make a tensor on the device, unwritten, in the base's dtype where none is given."""
        return torch.empty(shape, dtype=dtype or self._dtype, device=self._device.where)

    def shrink(self) -> None:
        """Give back what only wide steps needed, and what torch keeps in reserve."""
        self._wide_space = self.space
        self._wide_results = self.results
        self._device.release()

    def _make_space(self, rows: int) -> Space:
        return Space(
            *(
                self.empty(rows, width, dtype=dtype)
                for width, dtype in _space_columns(self._config, self._dtype)
            )
        )

    def _make_results(self, wanted: int) -> Results:
        vocab = self._config.vocab_size
        return Results(
            final=self.empty(wanted, self._config.hidden),
            logits=self.empty(wanted, vocab, dtype=torch.float32),
            result=self.empty(2, wanted, dtype=torch.int64),
            scratch=self.empty(best_scratch_numbers(wanted, vocab), dtype=torch.int64),
        )

    def _make_attention_scratch(self, runs: int) -> torch.Tensor:
        config = self._config
        return self.empty(
            decode_scratch_numbers(runs, config.heads, config.kv_heads, config.head_dim),
            dtype=torch.float32,
        )

    def _make_lora_scratch(self, rows: int, rank: int) -> torch.Tensor:
        return self.empty(_lora_scratch_numbers(self._config, rows, rank), dtype=torch.float32)


class Staging:
    """The host's ends of a step's two copies, in pinned memory.

    Only from pinned memory does a copy go to the device without the host waiting for it, so that
    it can go on to launch. Both ends grow, by making them anew, when a step needs more.
    """

    def __init__(self, device: Device, queries: int) -> None:
        """`queries`: of tables.queries_per_tile."""
        self._device = device
        self._queries = queries
        # two, used in turn: the next step is written while the copy of this one may still read
        self._table = device.pinned(PAGE_BYTES).view(torch.int32)
        self._next_table = device.pinned(PAGE_BYTES).view(torch.int32)
        self._result = device.pinned(PAGE_BYTES).view(torch.int64)
        self._known_pages = KnownPages()

    def fill(self, step: StepInput, room: Room) -> Tables[Words]:
        """Write a step into the table that the device is not reading."""
        self._table, self._next_table = self._next_table, self._table
        if room.words > len(self._table):
            self._table = self._device.pinned(2 * 4 * room.words).view(torch.int32)
        tables = split(self._table.numpy()[: room.words], room)
        fill(tables, step, PAGE_TOKENS, self._queries, self._known_pages)
        return tables

    def upload(self, room: Room, table: torch.Tensor) -> None:
        """Begin to copy what was filled last into `table` of the device, in one piece.

        It goes on the stream of computing: after the launches that read the step before, and before
        those that read this one.
        """
        table[: room.words].copy_(self._table[: room.words], non_blocking=True)

    def download(self, result: torch.Tensor) -> torch.Tensor:
        """Begin to copy a step's `result [2, n]` int64; gives the host's copy of it.

        The whole of it, padding too, since a part of each line would be two copies.
        """
        numbers = result.numel()
        if numbers > len(self._result):
            self._result = self._device.pinned(8 * numbers).view(torch.int64)
        host = self._result[:numbers].view(2, -1)
        host.copy_(result, non_blocking=True)
        return host


def work_bytes(config: ModelConfig, dtype: torch.dtype, context: int, step_rows: int) -> int:
    """Count the bytes that steps of up to `step_rows` rows take beside the base.

    That is the graphs' own space, and a wider one where steps may be wider.
    """
    per_row = sum(width * each.itemsize for width, each in _space_columns(config, dtype))
    per_wanted = config.vocab_size * 4 + config.hidden * dtype.itemsize
    wanted, rows = (
        fixed + (step_rows if step_rows > fixed else 0) for fixed in (MAX_ROWS, MAX_MIXED_ROWS)
    )
    scratch = 4 * decode_scratch_numbers(MAX_ROWS, config.heads, config.kv_heads, config.head_dim)
    scratch += 4 * _lora_scratch_numbers(config, rows, RANKS[2])
    tables = 4 * MAX_ROWS * ceil_div(context, PAGE_TOKENS)
    tables += sum(4 * context * config.head_dim * rope.num_tables for rope in config.ropes)
    return rows * per_row + wanted * per_wanted + scratch + tables


def _space_columns(config: ModelConfig, dtype: torch.dtype) -> tuple[tuple[int, torch.dtype], ...]:
    """Give width and dtype of each tensor of a Space, in the order of its fields."""
    query = config.heads * config.head_dim
    key = config.kv_heads * config.head_dim
    widths = (
        config.hidden,
        config.hidden,
        query + 2 * key,
        query,
        2 * config.intermediate,
        config.intermediate,
    )
    return (config.hidden, torch.float32), *((width, dtype) for width in widths)


def _lora_scratch_numbers(config: ModelConfig, rows: int, rank: int) -> int:
    """Count the float32 that the site with the most needs; all sites use them one after another."""
    sites: dict[int, list[Part]] = {}
    for part in parts_of(config):
        sites.setdefault(part.kind, []).append(part)
    return max(
        scratch_numbers(rows, rank, parts[0].width_in, len(parts)) for parts in sites.values()
    )
