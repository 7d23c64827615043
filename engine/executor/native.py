"""Runs a step in one call of the C++ executor: lays weights out for it, hands it the program once
and addresses every step.

    linear   [panels of 32 columns][in / V][32][V], in 4 bits as codes.py says; columns come in
             blocks of 16, each of one part; gate and up blocks alternate so that SwiGLU is folded
             into the product; V numbers share 32 bits (float32 1, bfloat16 2, int8 4)
    pages    keys [head_dim / V][16 tokens][V], values [16 / V][head_dim][V]

The structures here are those of program.hpp and draw.hpp, field by field.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import Stored, cpu_features
from ..count import ceil_div, round_up
from ..lora.bank import Bank, SlotBank
from ..lora.layout import BLOCK_COLUMNS, lane_width
from ..model.config import ModelConfig
from ..model.entries import entry_number, norm_entry
from ..model.experts import Experts
from ..model.layers import quantise_rows
from ..model.parts import parts_of
from ..model.program import FOLDS, Ending, Kind, Operation, Place, make_program
from ..model.read import read_codes, read_pieces
from ..model.weights import Weights
from .codes import PackedCodes, pack_codes
from .draw import Draw, Drawn
from .library import NotNative, open_library, usable_sets
from .pages import HugePages, give_back_memory
from .step import StepInput, StepOutput

PANEL_COLUMNS = 32
PAGE_TOKENS = 16
MAX_HEAD_DIM = 256
INT8_OFFSET = 128
ROWS_AT_ONCE = 1024
"""Of a weight that is quantised: their float32 copies stay small."""
NO_EXPERTS = Experts(0, 0, 0, frozenset(), False)
INT8, CODES = 1, 2
"""Forms of a linear's weights in program.hpp; 0 is in the dtype itself."""

i32 = ctypes.c_int32
i64 = ctypes.c_int64
f64 = ctypes.c_double
pointer = ctypes.c_void_p


class _Operation(ctypes.Structure):
    _fields_ = (
        *(
            (name, i32)
            for name in (
                "kind",
                "layer",
                "source",
                "target",
                "ending",
                "width_in",
                "num_panels",
                "format",
            )
        ),
        ("eps", ctypes.c_float),
        ("has_offsets", i32),
        ("factor", ctypes.c_float),
        ("cap", ctypes.c_float),
        ("window", i32),
        ("entry", i32),
        *((name, pointer) for name in ("weight", "second", "scale", "offset", "blocks")),
    )


class _Shape(ctypes.Structure):
    _fields_ = (
        *(
            (name, i32)
            for name in (
                "dtype",
                "threads",
                "hidden",
                "heads",
                "kv_heads",
                "head_dim",
                "query",
                "key",
                "value",
                "vocab",
                "experts",
                "chosen",
                "is_normalised",
                "is_shared",
            )
        ),
        ("widths", i64 * len(Place)),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *(
            (name, i64)
            for name in (
                "rows",
                "num_segments",
                "num_runs",
                "num_wanted",
                "layer_stride",
                "half_stride",
                "shrunk_words",
            )
        ),
        *(
            (name, pointer)
            for name in (
                "tokens",
                "positions",
                "cells",
                "tables",
                "segments",
                "runs",
                "wanted",
                "pool",
                "embedded",
                "logits",
                "final",
                "best",
                "finite",
            )
        ),
    )


class _Draw(ctypes.Structure):
    _fields_ = (
        *((name, i64) for name in ("row", "position", "num_changed", "token", "top_k")),
        *((name, f64) for name in ("temperature", "top_p", "min_p")),
        *((name, pointer) for name in ("changed", "values", "allowed")),
        ("key", ctypes.c_uint32 * 2),
        ("nonce", ctypes.c_uint32 * 2),
        ("winner", i64),
        ("margin", f64),
    )


@dataclass(frozen=True)
class Columns:
    """The places of a linear's output columns once packed.

    rows: [packed columns] int64, the row of the weight matrix each column comes from; -1 is
    padding. blocks: [packed blocks, 4] int32: part (0 to 6), number inside the part, target column,
    whether it exists.
    """

    rows: torch.Tensor
    blocks: NDArray[np.int32]


@dataclass(frozen=True)
class PackedLinear:
    """A weight with `width_in` inputs as `pack_linear` lays it out, [panels, words, 32, lane]."""

    data: torch.Tensor
    width_in: int


@dataclass(frozen=True)
class PackedInt8:
    """A weight in int8: data as `pack_linear` lays it out, with the scale of each packed column and
    what the processor's unsigned bytes add to it.
    """

    data: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor
    width_in: int

    def lookup(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows `[n]` of the weight, [n, in] float32; it was packed in its own order."""
        words = self.data[rows // PANEL_COLUMNS]
        whole = words[torch.arange(len(rows)), :, rows % PANEL_COLUMNS]
        return whole.reshape(len(rows), -1)[:, : self.width_in] * self.scale[rows][:, None]


@dataclass(frozen=True)
class _Output:
    """The memory of a step's results, and where each of its four parts begins."""

    output: StepOutput
    addresses: tuple[int, int, int, int]


class NativeExecutor:
    """The C++ executor over one model.

    Raises NotNative where it cannot be had or does not fit the model.
    """

    wants_torch_threads = False
    runs_beside = False

    def __init__(
        self,
        weights: Weights,
        dtype: torch.dtype,
        stored: Stored,
        context: int,
        *,
        threads: int,
        only: str | None = None,
    ) -> None:
        config = weights.config
        if config.head_dim % BLOCK_COLUMNS or config.head_dim > MAX_HEAD_DIM:
            raise NotNative(
                f"head_dim {config.head_dim} is not a multiple of {BLOCK_COLUMNS} up to"
                f" {MAX_HEAD_DIM}"
            )
        self._config = config
        self._dtype = dtype
        self._stored = stored
        self.where = torch.device("cpu")
        self._lane = lane_width(dtype)
        self._keep: list[object] = []
        self._pages = HugePages()
        self._logits = torch.empty(0, 0)
        self._final = torch.empty(0, config.hidden, dtype=dtype)
        self._outputs: dict[int, _Output] = {}
        self._table: torch.Tensor | PackedCodes | PackedInt8 = torch.empty(0)
        self._angles = [
            tuple(map(self._kept, rope.tables(context, config.head_dim))) for rope in config.ropes
        ]
        program = make_program(config)
        operations = (_Operation * len(program))(
            *(self._describe(operation, weights) for operation in program)
        )
        give_back_memory()
        self._shape = self._describe_shape(threads)
        self._library, self._handle, name = _create(self._shape, operations, only)
        self.name = " ".join(
            ("native", name, *(() if stored is Stored.PLAIN else (stored.name.lower(),)))
        )

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.lorikeet_destroy(self._handle)

    def make_pool(self, num_pages: int, page_tokens: int) -> torch.Tensor:
        """Allocate keys and values in host memory, not yet written."""
        assert page_tokens == PAGE_TOKENS, (
            f"pages of {page_tokens} tokens; the executor knows {PAGE_TOKENS}"
        )
        return torch.empty(
            self._config.layers,
            2 * self._config.kv_heads,
            num_pages,
            page_tokens * self._config.head_dim,
            dtype=self._dtype,
        )

    def warm_up(self, pool: torch.Tensor, bank: Bank) -> str:
        """Do nothing: the library was built and loaded when this was made."""
        return ""

    def close(self) -> None:
        """Do nothing: the C++ threads end when this is freed."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Look up the base's embeddings of `tokens [n]`, [n, hidden] float32."""
        if isinstance(self._table, torch.Tensor):
            return self._table[tokens].float()
        return self._table.lookup(tokens)

    def run(self, step: StepInput, pool: torch.Tensor, embedded: torch.Tensor | None) -> StepOutput:
        """Run one step in one C++ call. Raises MemoryError when the library cannot allocate."""
        wanted = len(step.logit_rows)
        place = self._place(wanted)
        # Named, not inlined: the C++ side reads addresses, and an array without a name would be
        # freed before the call.
        pages = np.fromiter((page for run in step.runs for page in run.pages), np.int32)
        tables, segments, shrunk_words = _adapter_tables(step)
        arrays = (
            step.tokens,
            step.positions,
            step.cells,
            tables,
            segments,
            _runs_table(step, pages.ctypes.data),
            step.logit_rows,
        )
        described = _Step(
            *(
                len(step.tokens),
                len(step.segments),
                len(step.runs),
                wanted,
                pool.stride(0),
                pool.stride(1),
                shrunk_words,
            ),
            *(array.ctypes.data for array in arrays),
            *(pool.data_ptr(), None if embedded is None else embedded.data_ptr(), *place.addresses),
        )
        if self._library.lorikeet_run(self._handle, ctypes.byref(described)) != 0:
            raise MemoryError(f"no memory for a step of {len(step.tokens)} rows")
        return place.output

    def prepare(self, step: StepInput) -> None:
        """Do nothing: a step here ends before the next is known."""

    def _place(self, wanted: int) -> _Output:
        """Return the place of a step's results for `wanted` rows.

        One place serves all steps, with one view of it for each number of rows.
        """
        if wanted > len(self._final):
            # The views point into memory that is about to be replaced.
            self._outputs.clear()
            self._logits = torch.empty(wanted, self._shape.widths[Place.LOGITS])
            self._final = torch.empty(wanted, self._config.hidden, dtype=self._dtype)
        place = self._outputs.get(wanted)
        if place is None:
            logits = self._logits[:wanted, : self._config.vocab_size]
            final = self._final[:wanted]
            best = np.empty(wanted, np.int64)
            finite = np.empty(wanted, np.bool_)
            addresses = logits.data_ptr(), final.data_ptr(), best.ctypes.data, finite.ctypes.data
            place = self._outputs[wanted] = _Output(
                StepOutput(logits, final, lambda: (best, finite)), addresses
            )
        return place

    def draw(self, logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
        """Choose from rows of `logits [wanted, vocab]` float32 in one C++ call. Raises
        MemoryError.
        """
        described = (_Draw * len(draws))(*(_describe_draw(draw) for draw in draws))
        if (
            self._library.lorikeet_draw(
                self._handle, described, len(draws), logits.data_ptr(), logits.stride(0)
            )
            != 0
        ):
            raise MemoryError(f"no memory to choose {len(draws)} tokens")
        return [Drawn(each.winner, each.margin) for each in described]

    # --- laying out, once ---

    def _describe_shape(self, threads: int) -> _Shape:
        config = self._config
        experts = config.experts or NO_EXPERTS
        query, key = (
            round_up(count * config.head_dim, BLOCK_COLUMNS)
            for count in (config.heads, config.kv_heads)
        )
        widths = {
            **dict.fromkeys(
                (Place.HIDDEN, Place.NORMED, Place.PICKED, Place.FINAL, Place.DELTA), config.hidden
            ),
            **dict.fromkeys(
                (Place.DEALT, Place.MADE), config.hidden if config.experts is not None else 0
            ),
            Place.FOLDED: experts.width,
            Place.SHARED: experts.shared,
            Place.SCORES: round_up(experts.count, BLOCK_COLUMNS) + bool(experts.shared),
            Place.QKV: query + 2 * key,
            Place.MIXED: config.heads * config.head_dim,
            Place.GATED: config.intermediate,
            Place.LOGITS: config.vocab_size,
        }
        # Rows begin at multiples of 64 numbers, so that a vector load never runs into the next row.
        padded = (i64 * len(Place))(*(round_up(widths[place], 64) for place in Place))
        return _Shape(
            dtype=self._dtype.itemsize == 2,
            threads=threads,
            hidden=config.hidden,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            query=0,
            key=query,
            value=query + key,
            vocab=config.vocab_size,
            experts=experts.count,
            chosen=experts.chosen,
            is_normalised=experts.normalised,
            is_shared=experts.shared > 0,
            widths=padded,
        )

    def _describe(self, operation: Operation, weights: Weights) -> _Operation:
        layer = -1 if operation.layer is None else operation.layer
        described = _Operation(
            operation.kind, layer, operation.source, operation.target, operation.ending
        )
        described.eps = self._config.norm_eps
        described.entry = -1
        match operation.kind:
            case Kind.LINEAR | Kind.EXPERTS:
                self._describe_linear(operation, weights, described)
            case Kind.EMBED:
                self._describe_table(operation, weights, described)
                described.factor = self._config.embedding_scale
            case Kind.ROTATE:
                described.weight, described.second = self._angles[operation.rope]
            case Kind.ATTEND:
                described.factor = self._config.score_scale
                described.cap = self._config.score_cap or 0.0
                described.window = operation.window or 0
                for name in operation.weights:
                    described.second = self._kept(weights.read(name).float())
            case Kind.NORM | Kind.NORM_HEADS:
                described.width_in = self._config.hidden
                norms = [
                    self._kept(weights.read(f"{name}.weight").float()) for name in operation.weights
                ]
                described.weight = norms[0]
                described.second = norms[-1]
                if operation.norm is not None:
                    described.entry = norm_entry(self._config, operation.layer, operation.norm)
        return described

    def _describe_table(
        self, operation: Operation, weights: Weights, described: _Operation
    ) -> None:
        """The embedding. In 4 bits it lies as the head does, and is the same where it is tied."""
        described.width_in = self._config.hidden
        if self._stored is Stored.Q4:
            self._table = self._pack(operation, _columns(self._config, operation), weights)
            self._point_to(self._table, described)
        else:
            (name,) = operation.weights
            self._table = weights.read(f"{name}.weight").to(self._dtype).contiguous()
            described.weight = self._table.data_ptr()

    def _describe_linear(
        self, operation: Operation, weights: Weights, described: _Operation
    ) -> None:
        columns = _columns(self._config, operation)
        described.num_panels = len(columns.rows) // PANEL_COLUMNS
        described.blocks = self._kept(columns.blocks)
        if operation.layer is not None and operation.site is not None:
            first = entry_number(self._config, operation.layer, operation.site)
            described.entry = first - int(columns.blocks[0, 0])
        if self._stored is Stored.PLAIN or operation.target is Place.SCORES:
            # what chooses experts is as exact as what it chooses by
            packed = pack_linear(
                (piece.to(self._dtype) for piece in read_pieces(operation, weights)),
                columns,
                self._lane,
                16 if self._lane == 2 else 1,
                pages=self._pages,
            )
            described.width_in = packed.width_in
            described.weight = self._kept(packed.data)
        else:
            shared = operation.target is Place.LOGITS and self._config.tied_head
            narrow = (
                self._table
                if shared and not isinstance(self._table, torch.Tensor)
                else self._pack(operation, columns, weights)
            )
            described.width_in = narrow.width_in
            self._point_to(narrow, described)
        if operation.ending is Ending.CLAMPED and self._config.clamp is not None:
            described.factor, described.cap = self._config.clamp
        if operation.biased:
            bias = torch.cat([weights.read(f"{name}.bias") for name in operation.weights])
            described.second = self._kept(_by_column(bias.to(self._dtype).float(), columns))

    def _pack(
        self, operation: Operation, columns: Columns, weights: Weights
    ) -> PackedCodes | PackedInt8:
        """Lay weights out in 4 bits where all of them lie so, else in int8."""
        codes = read_codes(operation, weights) if self._stored is Stored.Q4 else None
        if codes is not None:
            return pack_codes(codes, columns.rows, self._pages)
        return pack_int8(read_pieces(operation, weights), columns, self._pages)

    def _point_to(self, packed: PackedCodes | PackedInt8, described: _Operation) -> None:
        if isinstance(packed, PackedCodes):
            described.format = CODES
            described.has_offsets = packed.has_offsets
            described.weight = self._kept(packed.data)
        else:
            described.format = INT8
            described.weight = self._kept(packed.data)
            described.scale = self._kept(packed.scale)
            described.offset = self._kept(packed.offset)

    def _kept(self, data: torch.Tensor | NDArray[np.int32]) -> int:
        """Keep `data` as long as this executor lives, and return its address."""
        if isinstance(data, torch.Tensor):
            data = data.contiguous()
        self._keep.append(data)
        return data.data_ptr() if isinstance(data, torch.Tensor) else data.ctypes.data


def _create(
    shape: _Shape, operations: ctypes.Array[_Operation], only: str | None
) -> tuple[ctypes.CDLL, int, str]:
    """Open the best instruction set that works here, or `only` that one. Raises NotNative."""
    reason = NotNative(f"this processor has none of {only or 'amx, avx512, avx2'}")
    for chosen in usable_sets(cpu_features()):
        if only not in (None, chosen.name):
            continue
        library = open_library(chosen)
        handle = library.lorikeet_create(ctypes.byref(shape), operations, len(operations))
        # The processor may have tile registers that the kernel does not grant; then the next best
        # does.
        if handle:
            return library, handle, chosen.name
        reason = NotNative(f"the kernel does not grant {chosen.name} to this process")
    raise reason


def _describe_draw(draw: Draw) -> _Draw:
    """Describe a draw for C++. The caller keeps `draw`, and so its arrays, until the call
    is over.
    """
    return _Draw(
        *(
            draw.row,
            draw.position,
            len(draw.changed),
            -1 if draw.token is None else draw.token,
            draw.top_k,
        ),
        *(draw.temperature, draw.top_p, draw.min_p),
        *(
            draw.changed.ctypes.data,
            draw.values.ctypes.data,
            None if draw.allowed is None else draw.allowed.ctypes.data,
        ),
        *(draw.key.key, draw.key.nonce),
    )


def _columns(config: ModelConfig, operation: Operation) -> Columns:
    """Place an operation's outputs; in EXPERTS those of one expert after the other, each alike."""
    if operation.widths or operation.site is None:
        widths = list(operation.widths or (config.vocab_size,))
        first = 0
    else:
        parts = parts_of(config)
        first = next(index for index, part in enumerate(parts) if part.kind == operation.site)
        widths = [part.width_out for part in parts if part.kind == operation.site]
    one = _columns_of(widths, first, operation.ending in FOLDS)
    if operation.kind is not Kind.EXPERTS:
        return one
    assert config.experts is not None, "only a base with experts has such an operation"
    count = config.experts.count
    before = sum(widths) * torch.arange(count)[:, None]
    return Columns(
        torch.where(one.rows < 0, one.rows, one.rows + before).flatten(),
        np.tile(one.blocks, (count, 1)),
    )


def _columns_of(widths: list[int], first: int, alternate: bool) -> Columns:
    """Place the outputs of parts of those `widths`, the first of which has the number `first`."""
    blocks = list(_blocks(widths, alternate))
    rows = torch.full((len(blocks) * BLOCK_COLUMNS,), -1)
    table = np.zeros((len(blocks), 4), np.int32)
    starts = np.cumsum([0, *widths])
    targets = np.cumsum([0, *(round_up(width, BLOCK_COLUMNS) for width in widths)])
    for place, block in enumerate(blocks):
        if block is None:
            table[place, 0] = table[place - 1, 0]
            continue
        part, index = block
        count = min(BLOCK_COLUMNS, widths[part] - index * BLOCK_COLUMNS)
        begin = int(starts[part]) + index * BLOCK_COLUMNS
        rows[place * BLOCK_COLUMNS : place * BLOCK_COLUMNS + count] = torch.arange(
            begin, begin + count
        )
        target = index * BLOCK_COLUMNS if alternate else int(targets[part]) + index * BLOCK_COLUMNS
        table[place] = first + part, index, target, 1
    return Columns(rows, table)


def _blocks(widths: list[int], alternate: bool) -> Iterator[tuple[int, int] | None]:
    """Yield (part, block of that part) in packed order, in pairs; None fills the last panel."""
    counts = [ceil_div(width, BLOCK_COLUMNS) for width in widths]
    if alternate:
        yield from ((part, index) for index in range(counts[0]) for part in range(2))
        return
    yield from ((part, index) for part, count in enumerate(counts) for index in range(count))
    if sum(counts) % 2:
        yield None


def pack_int8(weights: Iterable[torch.Tensor], columns: Columns, pages: HugePages) -> PackedInt8:
    """Quantise `weights`, each [out, in], whose rows follow one another, row by row; pack them."""
    scales: list[torch.Tensor] = []
    sums: list[torch.Tensor] = []

    def quantised() -> Iterator[torch.Tensor]:
        for weight in weights:
            whole = torch.empty(weight.shape, dtype=torch.int8)
            for first in range(0, len(weight), ROWS_AT_ONCE):
                here = slice(first, first + ROWS_AT_ONCE)
                whole[here], scale = quantise_rows(weight[here].float())
                scales.append(scale.squeeze(1))
            # The processor multiplies unsigned by signed bytes, so each number of x is raised by
            # 128, and this is what that adds to a column.
            sums.append(whole.sum(1, dtype=torch.int32) * INT8_OFFSET)
            yield whole

    packed = pack_linear(quantised(), columns, 4, 16, pages=pages)
    scale, offset = (_by_column(torch.cat(each), columns).contiguous() for each in (scales, sums))
    return PackedInt8(packed.data, scale, offset, packed.width_in)


def pack_linear(
    weights: Iterable[torch.Tensor], columns: Columns, lane: int, steps: int, pages: HugePages
) -> PackedLinear:
    """Pack `weights`, each [out, in], whose rows follow one another and of which no panel has rows
    of two; padding is zero.

    words = in / lane, rounded up to `steps`.
    """
    panels = columns.rows.view(-1, PANEL_COLUMNS)
    last = panels.amax(1).tolist()  # row of each panel
    packed: PackedLinear | None = None
    panel = before = 0
    for weight in weights:
        if packed is None:
            width = round_up(weight.shape[1], lane * steps)
            shape = len(panels), width // lane, PANEL_COLUMNS, lane
            packed = PackedLinear(pages.zeros(*shape, dtype=weight.dtype), weight.shape[1])
            words = packed.data.view(torch.int32).squeeze(-1)  # a lane is moved as its one word
            gathered = weight.new_zeros(PANEL_COLUMNS, width)
        while panel < len(panels) and last[panel] < before + len(weight):
            there = panels[panel] >= 0
            gathered.zero_()
            gathered[there, : weight.shape[1]] = weight[panels[panel][there] - before]
            words[panel] = gathered.view(torch.int32).T
            panel += 1
        before += len(weight)
    assert packed is not None, "a linear has weights"
    return packed


def _by_column(values: torch.Tensor, columns: Columns) -> torch.Tensor:
    """Return `values [out]` in packed order, 0 where a column is padding."""
    return torch.where(
        columns.rows >= 0, values[columns.rows.clamp(min=0)], torch.zeros((), dtype=values.dtype)
    )


def _runs_table(step: StepInput, address: int) -> NDArray[np.int64]:
    """Describe each run in four numbers: the address of its pages, first row, count, position.

    The pages of all runs lie one after the other from `address` on.
    """
    table: list[int] = []
    for run in step.runs:
        table += (address, run.first, run.count, run.start)
        address += 4 * len(run.pages)
    return np.array(table, np.int64)


def _adapter_tables(step: StepInput) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return each row's address of its adapter's table (0: none), each segment as (address, first
    row, count), and the most words of a shrunk row.
    """
    tables = [0] * len(step.tokens)
    segments = list[int]()
    words = 0
    bank = step.bank
    assert isinstance(bank, SlotBank)
    for segment in step.segments:
        table = bank.table(segment.slot)
        tables[segment.first : segment.first + segment.count] = [table.address] * segment.count
        segments += (table.address, segment.first, segment.count)
        words = max(words, table.shrunk_words)
    return np.array(tables, np.int64), np.array(segments, np.int64), words
