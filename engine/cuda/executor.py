"""Runs a step on a device: its tables go there in one copy, its launches follow, and what the host
must know comes back in one copy.

    StepInput ──Staging.fill──▶ pinned buffer ──▶ device ──▶ Launches ──▶ (best, finite) ──▶ pinned
    buffer ──▶ wait

Decides what becomes of a fault or a hang, and how large a step's tables are that no graph holds
(graph_steps.py has those that one does). Does not know which kernels a step consists of
(launches.py), nor which tensors they work in (space.py). Logits stay on the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import Stored
from ..errors import CannotServe, ModelError, OutOfDeviceMemory
from ..executor.draw import Draw, Drawn
from ..executor.step import Ints, Run, StepInput, StepOutput
from ..kv.pages import ZERO_PAGE
from ..lora.bank import Bank
from ..model.program import make_program
from ..model.weights import Weights
from .device import Device, fault_of
from .graph_steps import GraphSteps, bank_of, changes_norms, largest_rank
from .graphs import (
    BUCKETS,
    MAX_ROWS,
    MIXED_ROWS,
    MIXED_RUNS,
    RANKS,
    Graphs,
    Key,
    log_line,
)
from .kernels import TRITON, Kernels
from .launches import Launches, Pass
from .memory import check_fits, demand_of, shortage
from .space import PAGE_TOKENS, Results, Staging, StepMemory, work_bytes
from .tables import NO_CELL, Tables, measure, queries_per_tile, split
from .watchdog import STEP_DEADLINE_S, Watchdog

WARM_ROWS = 64
"""Up to so many rows graphs are captured before the first request; larger buckets when they first
come.
"""
WARM_RANK = RANKS[0]
WARM_PROMPT_ROWS = 64


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
        stored: Stored = Stored.PLAIN,
        log: Callable[[str], None] = log_line,
    ) -> None:
        config = weights.config
        self._config = config
        self._device = device
        self._kernels = kernels
        self.where = device.where
        form = "" if stored is Stored.PLAIN else f", {stored.name.lower()}"
        self.name = f"cuda, {device.name}{form}"
        self._queries = queries_per_tile(config.heads, config.kv_heads)
        self._graphs = Graphs(device, log)
        self._watchdog = Watchdog(step_deadline_s)
        self._staging = Staging(device, self._queries)
        demand = demand_of(
            config,
            dtype.itemsize,
            PAGE_TOKENS,
            work_bytes(config, dtype, context, MAX_ROWS),
            stored=stored,
        )
        free_bytes = device.memory().free_bytes
        check_fits(demand, free_bytes, device.name)
        try:
            self._load(weights, dtype, context, stored)
        except Exception as error:  # a fault of the device has no type, only a text (fault_of)
            fault = fault_of(error)
            if isinstance(fault, OutOfDeviceMemory):
                raise ModelError(f"{shortage(demand, free_bytes, device.name)}: {fault}") from error
            if fault is None:
                raise
            raise fault from error

    def _load(self, weights: Weights, dtype: torch.dtype, context: int, stored: Stored) -> None:
        self._launches = Launches(
            make_program(self._config),
            weights,
            self._kernels,
            self._device,
            dtype=dtype,
            context=context,
            stored=stored,
        )
        self._memory = StepMemory(self._config, dtype, self._device)
        self._graph_steps = GraphSteps(
            self._graphs,
            self._launches,
            self._memory,
            self._staging,
            queries=self._queries,
            context=context,
        )
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
        except Exception as error:  # Triton's many: too little shared memory, a missing instruction
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
                    laid = self._graph_steps.lay(padding, key)
                    self._read_back(self._graph_steps.run(laid, pool), 0).wait()
        return (
            f"{len(self._graphs)} graphs captured in {self._graphs.capture_s:.1f} s,"
            f" {time.perf_counter() - started:.1f} s with kernels"
        )

    @torch.inference_mode()
    def run(self, step: StepInput, pool: torch.Tensor, embedded: torch.Tensor | None) -> StepOutput:
        """See Executor."""
        with self._watchdog.over("a step"), self._faults():
            laid = self._graph_steps.take(step, embedded)
            results = (
                self._run_plainly(step, pool, embedded, largest_rank(step))
                if laid is None
                else self._graph_steps.run(laid, pool)
            )
            return self._read_back(results, len(step.logit_rows))

    def prepare(self, step: StepInput) -> None:
        """See Executor."""
        self._graph_steps.prepare(step)

    @torch.inference_mode()
    def draw(self, logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
        """See Executor."""
        with self._watchdog.over("a draw"), self._faults():
            return self._kernels.draw(logits, draws)

    def close(self) -> None:
        """End the watchdog's thread."""
        self._watchdog.close()

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
        lora = memory.lora_for(rows, rank, bank_of(step))
        tables = split(table, room)
        self._launches(
            Pass(
                tables=tables,
                pool=pool,
                space=space,
                results=results.cut(len(step.logit_rows)),
                attention_scratch=scratch,
                lora=lora,
                embedded=embedded,
                singles=any(run.count == 1 for run in step.runs),
                slots=_slots_of(tables, rows) if changes_norms(step) else None,
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
        except Exception as error:  # a fault of the device has no type, only a text (fault_of)
            fault = fault_of(error)
            if fault is None:
                raise
            if isinstance(fault, OutOfDeviceMemory):
                self._memory.shrink()
            raise fault from error


def _slots_of(tables: Tables[torch.Tensor], rows: int) -> torch.Tensor:
    """Return each row's slot, [rows] int32; tiles cover all rows in order, bare ones too."""
    slots, _, counts = tables.tiles
    # told how many there will be, the device need not be waited for
    each: torch.Tensor = slots.repeat_interleave(counts, output_size=rows)
    return each
