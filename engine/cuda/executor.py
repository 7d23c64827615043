"""Runs a step on a device: its tables go there in one copy, its launches follow, and what the host
must know comes back in one copy.

    StepInput ──Staging.fill──▶ pinned buffer ──▶ device ──▶ Launches ──▶ (best, finite) ──▶ pinned
    buffer ──▶ wait

Decides whether a step runs as a graph (graphs.py), padded to its bucket, or launch by launch, and
what becomes of a fault or a hang. Does not know which kernels a step consists of (launches.py), nor
which tensors they work in (space.py). Logits stay on the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ..count import ceil_div
from ..errors import CannotServe, ModelError, OutOfDeviceMemory
from ..executor.draw import Draw, Drawn
from ..executor.step import Ints, Run, StepInput, StepOutput
from ..kv.pages import ZERO_PAGE
from ..lora.bank import Bank
from ..model.program import make_program
from ..model.weights import Weights
from .bank import DeviceBank
from .device import Device, fault_of
from .graphs import (
    BUCKETS,
    MAX_MIXED_ROWS,
    MAX_ROWS,
    MIXED_ROWS,
    MIXED_RUNS,
    RANKS,
    Graphs,
    Key,
    bucket_of,
    log_line,
    rank_of,
)
from .kernels import TRITON, Kernels
from .launches import Launches, Pass
from .memory import check_fits, demand_of, shortage
from .space import PAGE_TOKENS, Results, Staging, StepMemory, work_bytes
from .tables import (
    NO_CELL,
    Room,
    Tables,
    Words,
    count_pages,
    decode_room,
    measure,
    mixed_room,
    queries_per_tile,
    split,
)
from .watchdog import STEP_DEADLINE_S, Watchdog

WARM_ROWS = 64
"""Up to so many rows graphs are captured before the first request; larger buckets when they first
come.
"""
WARM_RANK = RANKS[0]
WARM_PROMPT_ROWS = 64


@dataclass(frozen=True)
class _Laid:
    """A step that a graph will run, written into the host's table."""

    step: StepInput
    key: Key
    room: Room
    tables: Tables[Words]


class CudaExecutor:
    """The Executor of an NVIDIA GPU. Raises ModelError where the model does not fit the memory."""

    wants_torch_threads = False
    runs_beside = True

    def __init__(
        self,
        weights: Weights,
        dtype: torch.dtype,
        context: int,
        device: Device,
        kernels: Kernels = TRITON,
        step_deadline_s: float = STEP_DEADLINE_S,
        log: Callable[[str], None] = log_line,
    ) -> None:
        config = weights.config
        self._config = config
        self._device = device
        self._kernels = kernels
        self.where = device.where
        self.name = f"cuda, {device.name}"
        self._queries = queries_per_tile(config.heads, config.kv_heads)
        self._context_pages = ceil_div(context, PAGE_TOKENS)
        self._graphs = Graphs(device, log)
        self._watchdog = Watchdog(step_deadline_s)
        self._captured_for = 0, 0
        self._staging = Staging(device, self._queries)
        self._prepared: _Laid | None = None
        demand = demand_of(
            config, dtype.itemsize, PAGE_TOKENS, work_bytes(config, dtype, context, MAX_ROWS)
        )
        free_bytes = device.memory().free_bytes
        check_fits(demand, free_bytes, device.name)
        try:
            self._load(weights, dtype, context)
        except Exception as error:
            fault = fault_of(error)
            if isinstance(fault, OutOfDeviceMemory):
                raise ModelError(f"{shortage(demand, free_bytes, device.name)}: {fault}") from error
            if fault is None:
                raise
            raise fault from error

    def _load(self, weights: Weights, dtype: torch.dtype, context: int) -> None:
        self._launches = Launches(
            make_program(self._config),
            weights,
            self._kernels,
            self._device,
            dtype=dtype,
            context=context,
        )
        self._memory = StepMemory(self._config, dtype, self._device)
        # the device's table, at one address for all graphs: as large as the largest of them needs
        largest = self._room(Key(MAX_MIXED_ROWS, 0, MAX_ROWS), MAX_ROWS * self._context_pages)
        self._table = self._memory.empty(largest.words, dtype=torch.int32)
        self._device.release()

    def make_pool(self, num_pages: int, page_tokens: int) -> torch.Tensor:
        """See Executor."""
        assert page_tokens == PAGE_TOKENS, (
            f"pages of {page_tokens} tokens; the executor knows {PAGE_TOKENS}"
        )
        config = self._config
        with self._faults():
            return self._memory.empty(
                config.layers, 2 * config.kv_heads, num_pages, page_tokens * config.head_dim
            )

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """See Executor."""
        return self._launches.embed(tokens)

    def warm_up(self, pool: torch.Tensor, bank: Bank) -> str:
        """See Executor.

        Runs steps of nothing but padding, which compiles the kernels, and captures the common
        graphs. Raises ModelError.
        """
        try:
            return self._warm_up(pool, bank)
        except OutOfDeviceMemory as error:
            raise ModelError(
                f"no memory is left for a step: {error}; choose fewer --kv-tokens"
            ) from error
        except CannotServe:
            raise
        # Triton's many: a card with too little shared memory, an instruction that it lacks
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise ModelError(
                f"the kernels do not run on {self._device.name} ({reason}); --kernels native keeps"
                " to the processor"
            ) from error

    def _warm_up(self, pool: torch.Tensor, bank: Bank) -> str:
        started = time.perf_counter()
        none = np.empty(0, np.int64)
        zeros = np.zeros(WARM_PROMPT_ROWS, np.int64)
        run = Run(0, WARM_PROMPT_ROWS, 0, [ZERO_PAGE] * (WARM_PROMPT_ROWS // PAGE_TOKENS))
        prompt = StepInput(
            zeros, zeros, zeros + NO_CELL, zeros[:1], runs=[run], segments=[], bank=bank
        )
        with self._faults():
            for rank in (0, WARM_RANK):
                self._read_back(self._run_plainly(prompt, pool, None, rank), 1).wait()
                keys = [Key(rows, rank) for rows in BUCKETS if rows <= WARM_ROWS]
                keys += [
                    Key(rows, rank, runs)
                    for runs in MIXED_RUNS
                    if runs <= WARM_ROWS
                    for rows in MIXED_ROWS
                ]
                for key in keys:
                    padding = StepInput(none, none, none, none, runs=[], segments=[], bank=bank)
                    self._read_back(self._run_graph(self._lay(padding, key), pool), 0).wait()
        return (
            f"{len(self._graphs)} graphs captured in {self._graphs.capture_s:.1f} s,"
            f" {time.perf_counter() - started:.1f} s with kernels"
        )

    @torch.inference_mode()
    def run(self, step: StepInput, pool: torch.Tensor, embedded: torch.Tensor | None) -> StepOutput:
        """See Executor."""
        with self._watchdog.over("a step"), self._faults():
            laid = self._take_laid(step, embedded)
            results = (
                self._run_plainly(step, pool, embedded, _rank(step))
                if laid is None
                else self._run_graph(laid, pool)
            )
            return self._read_back(results, len(step.logit_rows))

    def prepare(self, step: StepInput) -> None:
        """See Executor."""
        key = _key(step)
        self._prepared = None if key is None else self._lay(step, key)

    @torch.inference_mode()
    def draw(self, logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
        """See Executor."""
        with self._watchdog.over("a draw"), self._faults():
            return self._kernels.draw(logits, draws)

    def close(self) -> None:
        """End the watchdog's thread."""
        self._watchdog.close()

    # --- a step as a graph ---

    def _take_laid(self, step: StepInput, embedded: torch.Tensor | None) -> _Laid | None:
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
        key = _key(step)
        return None if key is None else self._lay(step, key)

    def _lay(self, step: StepInput, key: Key) -> _Laid:
        room = self._room(key, count_pages(step, PAGE_TOKENS))
        return _Laid(step, key, room, self._staging.fill(step, room))

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

    def _run_graph(self, laid: _Laid, pool: torch.Tensor) -> Results:
        """Run a step that fits its key; all that it reads and writes lies where it always lies."""
        key = laid.key
        bank = _device_bank(laid.step)
        # graphs hold addresses: of another pool or another bank's table none is right any more
        addresses = pool.data_ptr(), bank.entries.data_ptr()
        if self._captured_for != addresses:
            self._graphs.forget()
            self._captured_for = addresses
        self._staging.upload(laid.room, self._table)
        self._graphs.run(key, lambda: partial(self._launches, self._graph_pass(key, pool, bank)))
        memory = self._memory
        return memory.results if key.runs else replace(memory.results, final=memory.space.normed)

    def _graph_pass(self, key: Key, pool: torch.Tensor, bank: DeviceBank) -> Pass:
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

    # --- a step launch by launch ---

    def _run_plainly(
        self, step: StepInput, pool: torch.Tensor, embedded: torch.Tensor | None, rank: int
    ) -> Results:
        """Run a step of any shape; its tables and its space are exactly as large as it is."""
        memory = self._memory
        rows = len(step.tokens)
        room = measure(step, PAGE_TOKENS, self._queries)
        # a table of its own: no graph reads it, and it may be larger than that of the graphs
        table = memory.empty(room.words, dtype=torch.int32)
        self._staging.fill(step, room)
        self._staging.upload(room, table)
        space = memory.space_for(rows)
        results = memory.results_for(len(step.logit_rows))
        scratch = memory.attention_scratch_for(len(step.runs))
        lora = memory.lora_for(rows, rank, _device_bank(step))
        self._launches(
            Pass(
                tables=split(table, room),
                pool=pool,
                space=space,
                results=results.cut(len(step.logit_rows)),
                attention_scratch=scratch,
                lora=lora,
                embedded=embedded,
                singles=any(run.count == 1 for run in step.runs),
            )
        )
        return results

    # --- results and faults ---

    def _read_back(self, results: Results, wanted: int) -> StepOutput:
        """Begin the copy back; the output waits for it, and for nothing that is launched later."""
        host = self._staging.download(results.result)
        over = self._device.mark()

        def wait() -> tuple[Ints, NDArray[np.bool_]]:
            with self._watchdog.over("a step"), self._faults():
                over.wait()
                # a copy, since the next step's results come into the same memory
                best, finite = host.numpy()[:, :wanted].copy()
                return best, finite != 0

        return StepOutput(results.logits[:wanted], results.final[:wanted], wait)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Give errors of the device their names, and memory that no graph needs back to it."""
        try:
            yield
        except Exception as error:
            fault = fault_of(error)
            if fault is None:
                raise
            if isinstance(fault, OutOfDeviceMemory):
                self._memory.shrink()
            raise fault from error


def _key(step: StepInput) -> Key | None:
    """Find the graph that holds a step; None where none does.

    Decoding is told by its shape, every run one row whose logits are wanted, whatever its runs are.
    """
    if len(step.runs) == len(step.tokens) == len(step.logit_rows):
        rows = bucket_of(len(step.tokens))
        return None if rows is None else Key(rows, _rank(step))
    rows = bucket_of(len(step.tokens), MIXED_ROWS)
    runs = bucket_of(max(len(step.runs), len(step.logit_rows)), MIXED_RUNS)
    return None if rows is None or runs is None else Key(rows, _rank(step), runs)


def _rank(step: StepInput) -> int:
    """Give the rank that scratch is laid out for: 0 in a step without adapters."""
    bank = _device_bank(step)
    return rank_of(max([bank.rank(segment.slot) for segment in step.segments], default=0))


def _device_bank(step: StepInput) -> DeviceBank:
    bank = step.bank
    assert isinstance(bank, DeviceBank), "a device's executor reads a device's bank"
    return bank
