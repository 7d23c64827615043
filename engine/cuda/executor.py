"""Runs a step on a device: its tables go there in one copy, its launches follow, and what the host
must know comes back in one copy.

    StepInput ──tables.fill──▶ pinned buffer ──▶ device ──▶ launches of all operations ──▶ (best,
    finite) ──▶ pinned buffer ──▶ wait

The launches are those of model/program.py, with what belongs together fused: an addition to hidden
with the norm that follows, head norms with rotation and storing; for one row, gate and up with
SwiGLU. A step of few rows is padded to a bucket and runs as a graph (graphs.py); any other runs
launch by launch. Adapters are found through the bank's table of addresses, so a step with adapters
is the same launches whichever they are. Logits stay on the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import EngineError, ModelError, OutOfDeviceMemory
from ..executor.draw import Draw, Drawn
from ..executor.step import Ints, Run, StepInput, StepOutput
from ..kv.pages import ZERO_PAGE
from ..lora.bank import Bank
from ..lora.layout import PAGE_BYTES
from ..model.config import ModelConfig
from ..model.parts import PARTS, Part, parts_of
from ..model.program import DOWN, GATE_UP, OUT, QKV, Ending, Kind, Operation, Place, make_program
from ..model.weights import Weights
from .attention import decode_scratch_numbers
from .bank import DeviceBank
from .device import Device, fault_of
from .elementwise import HeadNorms
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
from .lora import scratch_numbers
from .memory import check_fits, demand_of, shortage
from .sampling import best_scratch_numbers
from .tables import (
    NO_CELL,
    KnownPages,
    Room,
    Tables,
    Words,
    count_pages,
    decode_room,
    fill,
    measure,
    mixed_room,
    queries_per_tile,
    split,
)
from .watchdog import STEP_DEADLINE_S, Watchdog

PAGE_TOKENS = 16
MAX_HEAD_DIM = 256
MAX_HEAD_DIM_FLOAT32 = 128
"""Wider heads need more shared memory than a card has; those of float32 earlier."""
WARM_ROWS = 64
"""Up to so many rows graphs are captured before the first request; larger buckets when they first
come.
"""
WARM_RANK = RANKS[0]
WARM_PROMPT_ROWS = 64


@dataclass(frozen=True)
class _Space:
    """The tensors between operations, one row each: places as in model/program.py, and `delta`,
    what is still to be added to hidden.

    hidden is float32; gate_up holds both halves of what SwiGLU folds into gated.
    """

    hidden: torch.Tensor
    delta: torch.Tensor
    normed: torch.Tensor
    qkv: torch.Tensor
    mixed: torch.Tensor
    gate_up: torch.Tensor
    gated: torch.Tensor

    def cut(self, rows: int) -> _Space:
        """The first rows of all."""
        return _Space(*(getattr(self, each.name)[:rows] for each in fields(self)))


@dataclass(frozen=True)
class _Ending:
    """What a step gives for its wanted rows: final [wanted, hidden], logits [wanted, vocab]
    float32, result [2, wanted] int64 (best, finite).
    """

    final: torch.Tensor
    logits: torch.Tensor
    result: torch.Tensor
    scratch: torch.Tensor

    def cut(self, wanted: int) -> _Ending:
        """The first rows of all."""
        return _Ending(
            self.final[:wanted], self.logits[:wanted], self.result[:, :wanted], self.scratch
        )


@dataclass(frozen=True)
class _Lora:
    """What the launches of a step with adapters read beside its tiles; no adapter has a larger
    rank.
    """

    rank: int
    entries: torch.Tensor
    scratch: torch.Tensor


@dataclass(frozen=True)
class _Pass:
    """One step on the device.

    `embedded` replaces the look-up where it is given; `lora` is None in a step without adapters.

    singles: whether some run is one row, for the kernel of decoding. forks: whether adapters'
    shrinking goes beside the base's products: free in a graph, where launches are prepared; launch
    by launch the host's two waits for each linear would cost more than they save.
    """

    tables: Tables[torch.Tensor]
    pool: torch.Tensor
    space: _Space
    end: _Ending
    attention_scratch: torch.Tensor
    lora: _Lora | None
    embedded: torch.Tensor | None = None
    singles: bool = True
    forks: bool = False


@dataclass(frozen=True)
class _Laid:
    """A step that a graph will run, written into the host table."""

    step: StepInput
    key: Key
    room: Room
    tables: Tables[Words]


Launch = Callable[[_Pass], None]
_Half = Callable[[_Pass, _Lora], None]


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
        self._dtype = dtype
        self._device = device
        self._kernels = kernels
        self.where = device.where
        self.name = f"cuda, {device.name}"
        self._parts, self._queries = (
            parts_of(config),
            queries_per_tile(config.heads, config.kv_heads),
        )
        self._context_pages = -(-context // PAGE_TOKENS)
        self._graphs = Graphs(device, log)
        self._watchdog = Watchdog(step_deadline_s)
        self._captured_for = 0, 0
        self._host_table, self._next_host_table = (
            device.pinned(PAGE_BYTES).view(torch.int32) for _ in range(2)
        )
        self._prepared: _Laid | None = None
        self._host_result: torch.Tensor = device.pinned(PAGE_BYTES).view(torch.int64)
        self._known_pages = KnownPages()
        self._scratches: dict[int, torch.Tensor] = {}
        demand = demand_of(
            config, dtype.itemsize, PAGE_TOKENS, work_bytes(config, dtype, context, MAX_ROWS)
        )
        free_bytes = device.memory().free_bytes
        check_fits(demand, free_bytes, device.name)
        try:
            self._prepare(weights, context)
        except Exception as error:
            fault = fault_of(error)
            if isinstance(fault, OutOfDeviceMemory):
                raise ModelError(f"{shortage(demand, free_bytes, device.name)}: {fault}") from error
            if fault is None:
                raise
            raise fault from error

    def make_pool(self, num_pages: int, page_tokens: int) -> torch.Tensor:
        """See Executor."""
        assert page_tokens == PAGE_TOKENS, (
            f"pages of {page_tokens} tokens; the executor knows {PAGE_TOKENS}"
        )
        config = self._config
        with self._faults():
            return self._empty(
                config.layers, 2 * config.kv_heads, num_pages, page_tokens * config.head_dim
            )

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """See Executor."""
        return self._embedding[tokens].float()

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
        except EngineError:
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
                self._read(self._run_plainly(prompt, pool, None, rank), 1).wait()
                keys = [Key(rows, rank) for rows in BUCKETS if rows <= WARM_ROWS]
                keys += [
                    Key(rows, rank, runs)
                    for runs in MIXED_RUNS
                    if runs <= WARM_ROWS
                    for rows in MIXED_ROWS
                ]
                for key in keys:
                    padding = StepInput(none, none, none, none, runs=[], segments=[], bank=bank)
                    self._read(self._run_graph(self._lay(padding, key), pool), 0).wait()
        return (
            f"{len(self._graphs)} graphs captured in {self._graphs.capture_s:.1f} s,"
            f" {time.perf_counter() - started:.1f} s with kernels"
        )

    @torch.inference_mode()
    def run(self, step: StepInput, pool: torch.Tensor, embedded: torch.Tensor | None) -> StepOutput:
        """See Executor."""
        with self._watchdog.over("a step"), self._faults():
            laid = self._prepared
            self._prepared = None
            if laid is not None and laid.step is step and embedded is None:
                laid.tables.tokens[: len(step.tokens)] = step.tokens
            elif embedded is None and (key := _key(step)) is not None:
                laid = self._lay(step, key)
            else:
                return self._read(
                    self._run_plainly(step, pool, embedded, _rank(step)), len(step.logit_rows)
                )
            return self._read(self._run_graph(laid, pool), len(step.logit_rows))

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

    # --- a step ---

    def _lay(self, step: StepInput, key: Key) -> _Laid:
        room = self._room(key, count_pages(step, PAGE_TOKENS))
        return _Laid(step, key, room, self._fill(step, room))

    def _room(self, key: Key, pages: int) -> Room:
        """Of a graph's tables.

        Pages come last, so that fewer leave every other table where it is.
        """
        return (
            mixed_room(key.rows, key.runs, self._queries, pages)
            if key.runs
            else decode_room(key.rows, pages)
        )

    def _run_graph(self, laid: _Laid, pool: torch.Tensor) -> _Ending:
        """A step that fits the key; all that it reads and writes lies where it always lies."""
        key = laid.key
        bank = _device_bank(laid.step)
        if self._captured_for != (pool.data_ptr(), bank.entries.data_ptr()):
            self._graphs.forget()
            self._captured_for = pool.data_ptr(), bank.entries.data_ptr()
        self._upload(laid.room, self._table)
        self._graphs.run(key, lambda: partial(self._launch, self._graph_pass(key, pool, bank)))
        return self._end if key.runs else replace(self._end, final=self._space.normed)

    def _graph_pass(self, key: Key, pool: torch.Tensor, bank: DeviceBank) -> _Pass:
        room = self._room(key, (key.runs or key.rows) * self._context_pages)
        space = self._space.cut(key.rows)
        end = (
            self._end.cut(key.runs)
            if key.runs
            else replace(self._end.cut(key.rows), final=space.normed)
        )
        lora = self._lora(key.rows, key.rank, bank)
        return _Pass(
            split(self._table[: room.words], room),
            pool,
            space,
            end,
            self._attention_scratch,
            lora,
            forks=True,
        )

    def _run_plainly(
        self, step: StepInput, pool: torch.Tensor, embedded: torch.Tensor | None, rank: int
    ) -> _Ending:
        """A step of any shape, launch by launch."""
        rows = len(step.tokens)
        wanted = len(step.logit_rows)
        room = measure(step, PAGE_TOKENS, self._queries)
        table = self._empty(room.words, dtype=torch.int32)
        self._fill(step, room)
        self._upload(room, table)
        space = self._plain_space(rows)
        end = self._plain_ending(wanted)
        runs = len(step.runs)
        scratch = (
            self._attention_scratch if runs <= MAX_ROWS else self._make_attention_scratch(runs)
        )
        lora = self._lora(rows, rank, _device_bank(step))
        singles = any(run.count == 1 for run in step.runs)
        self._launch(
            _Pass(
                split(table, room), pool, space, end.cut(wanted), scratch, lora, embedded, singles
            )
        )
        return end

    def _upload(self, room: Room, table: torch.Tensor) -> None:
        table[: room.words].copy_(self._host_table[: room.words], non_blocking=True)

    def _fill(self, step: StepInput, room: Room) -> Tables[Words]:
        """Write the step into the host table that the device is not reading."""
        self._host_table, self._next_host_table = self._next_host_table, self._host_table
        if room.words > len(self._host_table):
            self._host_table = self._device.pinned(2 * 4 * room.words).view(torch.int32)
        tables = split(self._host_table.numpy()[: room.words], room)
        fill(tables, step, PAGE_TOKENS, self._queries, self._known_pages)
        return tables

    def _launch(self, step: _Pass) -> None:
        for launch in self._launches:
            launch(step)

    def _read(self, end: _Ending, wanted: int) -> StepOutput:
        numbers = end.result.numel()  # whole, since a part of each line would be two copies
        if numbers > len(self._host_result):
            self._host_result = self._device.pinned(8 * numbers).view(torch.int64)
        host = self._host_result[:numbers].view(2, -1)
        host.copy_(end.result, non_blocking=True)
        over = self._device.mark()

        def wait() -> tuple[Ints, NDArray[np.bool_]]:
            with self._watchdog.over("a step"), self._faults():
                over.wait()
                best, finite = host.numpy()[:, :wanted].copy()
                return best, finite != 0

        return StepOutput(end.logits[:wanted], end.final[:wanted], wait)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Give errors of the device their names, and what only a cache holds back to it."""
        try:
            yield
        except Exception as error:
            fault = fault_of(error)
            if fault is None:
                raise
            if isinstance(fault, OutOfDeviceMemory):
                self._wide = self._space
                self._long = self._end
                self._device.release()
            raise fault from error

    # --- memory ---

    def _prepare(self, weights: Weights, context: int) -> None:
        self._embedding = self._read_weights(weights, ("model.embed_tokens",))
        angles = (
            torch.arange(context).float()[:, None] * self._config.inverse_frequencies()[None, :]
        )
        self._cos = angles.cos().to(self.where)
        self._sin = angles.sin().to(self.where)
        self._launches = list(self._fuse(make_program(self._config), weights))
        self._space, self._end = self._make_space(MAX_MIXED_ROWS), self._make_ending(MAX_ROWS)
        self._wide = self._space
        self._long = self._end
        self._attention_scratch = self._make_attention_scratch(MAX_ROWS)
        largest = self._room(Key(MAX_MIXED_ROWS, 0, MAX_ROWS), MAX_ROWS * self._context_pages)
        self._table = self._empty(largest.words, dtype=torch.int32)
        self._device.release()

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype or self._dtype, device=self.where)

    def _make_space(self, rows: int) -> _Space:
        return _Space(
            *(
                self._empty(rows, width, dtype=dtype)
                for width, dtype in space_columns(self._config, self._dtype)
            )
        )

    def _make_ending(self, wanted: int) -> _Ending:
        vocab = self._config.vocab_size
        return _Ending(
            self._empty(wanted, self._config.hidden),
            self._empty(wanted, vocab, dtype=torch.float32),
            self._empty(2, wanted, dtype=torch.int64),
            self._empty(best_scratch_numbers(wanted, vocab), dtype=torch.int64),
        )

    def _make_attention_scratch(self, runs: int) -> torch.Tensor:
        config = self._config
        return self._empty(
            decode_scratch_numbers(runs, config.heads, config.kv_heads, config.head_dim),
            dtype=torch.float32,
        )

    def _plain_space(self, rows: int) -> _Space:
        if rows > len(self._wide.hidden):
            self._wide = self._space  # so that the old one is gone before the new one comes
            self._wide = self._make_space(-(-rows // MAX_ROWS) * MAX_ROWS)
        return self._wide.cut(rows)

    def _plain_ending(self, wanted: int) -> _Ending:
        if wanted > len(self._long.logits):
            self._long = self._end
            self._long = self._make_ending(-(-wanted // MAX_ROWS) * MAX_ROWS)
        return self._long

    def _lora(self, rows: int, rank: int, bank: DeviceBank) -> _Lora | None:
        if rank == 0:
            return None
        if rows > MAX_MIXED_ROWS:
            return _Lora(rank, bank.entries, self._make_lora_scratch(rows, rank))
        if rank not in self._scratches:
            self._scratches[rank] = self._make_lora_scratch(MAX_MIXED_ROWS, rank)
        return _Lora(rank, bank.entries, self._scratches[rank])

    def _make_lora_scratch(self, rows: int, rank: int) -> torch.Tensor:
        return self._empty(lora_scratch_numbers(self._config, rows, rank), dtype=torch.float32)

    # --- the launches of the program ---

    def _read_weights(
        self,
        weights: Weights,
        names: tuple[str, ...],
        ending: str = "weight",
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Tensors on the device, one under the other."""
        parts = [
            weights.read(f"{name}.{ending}").to(self.where).to(dtype or self._dtype)
            for name in names
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _fuse(self, program: list[Operation], weights: Weights) -> Iterator[Launch]:
        """The program's operations as launches; three kinds wait for the operation that they are
        fused with.
        """
        added = False
        rotated = False
        norms: HeadNorms | None = None
        for operation in program:
            match operation.kind:
                case Kind.EMBED:
                    yield self._embed
                case Kind.NORM:
                    yield self._norm(operation, weights, added)
                case Kind.LINEAR:
                    yield self._linear(operation, weights)
                    added = added or operation.ending is Ending.ADD
                case Kind.NORM_HEADS:
                    query, key = (
                        self._read_weights(weights, (name,), dtype=torch.float32)
                        for name in operation.weights
                    )
                    norms = HeadNorms(query, key, self._config.norm_eps)
                case Kind.ROTATE:
                    rotated = True
                case Kind.STORE:
                    yield self._store(operation, norms, rotated)
                    norms = None
                    rotated = False
                case Kind.ATTEND:
                    yield self._attend(operation)
                case Kind.PICK:
                    pass  # after the norm that follows it, which adds to hidden first

    def _embed(self, step: _Pass) -> None:
        space = step.space
        if step.embedded is not None:
            space.hidden.copy_(step.embedded)
        else:
            torch.index_select(self._embedding, 0, step.tables.tokens, out=space.normed)
            space.hidden.copy_(space.normed)

    def _norm(self, operation: Operation, weights: Weights, added: bool) -> Launch:
        weight = self._read_weights(weights, operation.weights, dtype=torch.float32)
        eps = self._config.norm_eps
        picks = operation.target is Place.FINAL

        def launch(step: _Pass) -> None:
            space = step.space
            if added:
                self._kernels.add_rms_norm(space.hidden, space.delta, weight, eps, out=space.normed)
            else:
                self._kernels.rms_norm(space.hidden, weight, eps, space.normed)
            if picks and step.end.final is not space.normed:
                torch.index_select(space.normed, 0, step.tables.logit_rows, out=step.end.final)

        return launch

    def _linear(self, operation: Operation, weights: Weights) -> Launch:
        if operation.site is None:
            return self._head(operation, weights)
        weight = self._read_weights(weights, operation.weights)
        transposed = weight.t()
        bias = self._read_weights(weights, operation.weights, "bias") if operation.biased else None
        shrink, expand = self._adapters(operation.site, operation.layer or 0, bias)
        into, out_of = SOURCES[operation.site]
        folds = operation.ending is Ending.SWIGLU

        def multiply(x: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None) -> None:
            if len(x) == 1:
                self._kernels.matvec(x, weight, bias, out)
            elif bias is None:
                torch.mm(x, transposed, out=out)
            else:
                torch.addmm(bias, x, transposed, out=out)

        def launch(step: _Pass) -> None:
            x = getattr(step.space, into)
            out = getattr(step.space, out_of)
            lora = step.lora
            if folds and len(x) == 1 and lora is None:
                self._kernels.matvec_swiglu(x, weight, bias, step.space.gated)
                return
            if lora is None:
                multiply(x, out, bias)
            elif step.forks:
                with self._device.beside(partial(shrink, step, lora)):
                    multiply(x, out, None)
                expand(step, lora)
            else:
                shrink(step, lora)
                multiply(x, out, None)
                expand(step, lora)
            if folds:
                self._kernels.swiglu(out, step.space.gated)

        return launch

    def _adapters(self, site: int, layer: int, bias: torch.Tensor | None) -> tuple[_Half, _Half]:
        """What adapters add to a linear, its bias among it: an adapter's gain comes before it.

        The first half needs x alone, the second all.
        """
        members = [index for index, part in enumerate(self._parts) if part.kind == site]
        first = layer * PARTS + members[0]
        widths = [self._parts[index].width_out for index in members]
        width_in = self._parts[members[0]].width_in
        into, out_of = SOURCES[site]

        def shrink(step: _Pass, lora: _Lora) -> None:
            x = getattr(step.space, into)
            self._kernels.shrink_site(
                x,
                step.tables.tiles,
                lora.entries,
                first,
                num_parts=len(widths),
                scratch=lora.scratch,
                max_rank=lora.rank,
            )

        def expand(step: _Pass, lora: _Lora) -> None:
            out = getattr(step.space, out_of)
            self._kernels.expand_site(
                out,
                step.tables.tiles,
                lora.entries,
                first,
                width_in=width_in,
                widths=widths,
                bias=bias,
                scratch=lora.scratch,
                max_rank=lora.rank,
            )

        return shrink, expand

    def _head(self, operation: Operation, weights: Weights) -> Launch:
        tied = operation.weights == ("model.embed_tokens",)
        weight = self._embedding if tied else self._read_weights(weights, operation.weights)

        def launch(step: _Pass) -> None:
            end = step.end
            if not len(end.logits):
                return
            if len(end.logits) == 1:
                self._kernels.matvec(end.final, weight, None, end.logits)
            else:
                self._device.product(end.final, weight, end.logits)
            self._kernels.best_and_finite(end.logits, end.result[0], end.result[1], end.scratch)

        return launch

    def _store(self, operation: Operation, norms: HeadNorms | None, rotated: bool) -> Launch:
        layer = operation.layer or 0
        config = self._config
        cos, sin = (self._cos, self._sin) if rotated else (None, None)

        def launch(step: _Pass) -> None:
            tables = step.tables
            self._kernels.rotate_and_store(
                step.space.qkv,
                cos,
                sin,
                tables.positions,
                cells=tables.cells,
                pool_layer=step.pool[layer],
                heads=config.heads,
                kv_heads=config.kv_heads,
                norms=norms,
            )

        return launch

    def _attend(self, operation: Operation) -> Launch:
        layer = operation.layer or 0
        width = self._config.heads * self._config.head_dim

        def launch(step: _Pass) -> None:
            tables = step.tables
            pool = step.pool[layer]
            query = step.space.qkv[:, :width]
            mixed = step.space.mixed
            if step.singles:
                self._kernels.attend_decode(
                    query,
                    pool,
                    tables.runs,
                    tables.pages,
                    out=mixed,
                    scratch=step.attention_scratch,
                    page_tokens=PAGE_TOKENS,
                )
            if tables.query_tiles.shape[1]:
                self._kernels.attend_prefill(
                    query,
                    pool,
                    tables.runs,
                    tables.pages,
                    query_tiles=tables.query_tiles,
                    out=mixed,
                    page_tokens=PAGE_TOKENS,
                )

        return launch


SOURCES = {
    QKV: ("normed", "qkv"),
    OUT: ("mixed", "delta"),
    GATE_UP: ("normed", "gate_up"),
    DOWN: ("gated", "delta"),
}
"""Which of a space's tensors a linear reads and writes, by its site."""


def space_columns(config: ModelConfig, dtype: torch.dtype) -> tuple[tuple[int, torch.dtype], ...]:
    """Width and dtype of each tensor of a _Space, in order."""
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


def lora_scratch_numbers(config: ModelConfig, rows: int, rank: int) -> int:
    """What the largest site needs."""
    sites: dict[int, list[Part]] = {}
    for part in parts_of(config):
        sites.setdefault(part.kind, []).append(part)
    return max(
        scratch_numbers(rows, rank, parts[0].width_in, len(parts)) for parts in sites.values()
    )


def work_bytes(config: ModelConfig, dtype: torch.dtype, context: int, step_rows: int) -> int:
    """What steps of up to `step_rows` rows take beside the base: the graphs' own space, and a wider
    one where steps may be wider.
    """
    per_row = sum(width * each.itemsize for width, each in space_columns(config, dtype))
    per_wanted = config.vocab_size * 4 + config.hidden * dtype.itemsize
    wanted, rows = (
        fixed + (step_rows if step_rows > fixed else 0) for fixed in (MAX_ROWS, MAX_MIXED_ROWS)
    )
    scratch = 4 * decode_scratch_numbers(MAX_ROWS, config.heads, config.kv_heads, config.head_dim)
    scratch += 4 * lora_scratch_numbers(config, rows, RANKS[2])
    tables = 4 * MAX_ROWS * -(-context // PAGE_TOKENS) + 4 * context * config.head_dim
    return rows * per_row + wanted * per_wanted + scratch + tables


def _key(step: StepInput) -> Key | None:
    """The graph of a step; None where no graph holds so much."""
    if len(step.runs) == len(step.tokens) == len(step.logit_rows):
        rows = bucket_of(len(step.tokens))
        return None if rows is None else Key(rows, _rank(step))
    rows = bucket_of(len(step.tokens), MIXED_ROWS)
    runs = bucket_of(max(len(step.runs), len(step.logit_rows)), MIXED_RUNS)
    return None if rows is None or runs is None else Key(rows, _rank(step), runs)


def _rank(step: StepInput) -> int:
    """What scratch is laid out for: 0 in a step without adapters."""
    bank = _device_bank(step)
    return rank_of(max([bank.rank(segment.slot) for segment in step.segments], default=0))


def _device_bank(step: StepInput) -> DeviceBank:
    bank = step.bank
    assert isinstance(bank, DeviceBank), "a device's executor reads a device's bank"
    return bank
