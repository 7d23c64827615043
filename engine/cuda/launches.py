"""Translates the program of a model (model/program.py) into the launches of a step on a device.

Decides which operations share a launch. Knows nothing of graphs, buckets, memory or faults: a
launch reads and writes the tensors of the Pass that it is given, and everything else it needs was
fixed when it was made. Nor does it know how a linear's weights lie there (linears.py).

    ADD … NORM                    the sum is made by the norm that follows: one pass over hidden
    NORM_HEADS, ROTATE, STORE     one launch over queries, keys and values
    NORM of delta, ADD            made in place; the next norm adds it, as what a linear left there
    gate and up, folded           one launch for a single row; else a product and then the folding

Adapters are found through a table of addresses, so a step with adapters has the same launches
whichever they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from ..config import Stored
from ..model.attention import Scoring
from ..model.entries import entry_number, norm_entry
from ..model.parts import parts_of
from ..model.program import DOWN, FOLDS, GATE_UP, OUT, QKV, Ending, Kind, Operation, Place
from ..model.weights import Weights
from .device import Device
from .elementwise import HeadGains, HeadNorms
from .kernels import Kernels
from .linears import Linears, Multiply
from .space import PAGE_TOKENS, LoraSpace, Results, Space
from .tables import Tables

SOURCES = {
    QKV: ("normed", "qkv"),
    OUT: ("mixed", "delta"),
    GATE_UP: ("normed", "gate_up"),
    DOWN: ("gated", "delta"),
}
"""Which tensors of a Space a linear reads and writes, by its site."""


@dataclass(frozen=True)
class Pass:
    """One step on the device, as all its launches see it.

    pool: [layers, 2 * kv_heads, num_pages, page_tokens * head_dim]. lora: None in a step without
    adapters. embedded: [rows, hidden] float32, replaces the look-up where it is given.

    singles: whether some run is one row, for the kernel of decoding. A graph always launches it:
    its runs are only known when it runs, and the kernel leaves at once where it finds none.

    slots: [rows] int32, each row's slot (-1: none), where an adapter of the step changes norms;
    else None. No graph holds such a step: they are rare, and every other step with adapters would
    pay for launches that find nothing to do.

    forks: whether adapters' shrinking goes beside the base's products. That is free in a graph,
    where launches are prepared; launch by launch, the host's two waits for each linear would cost
    more than they save.
    """

    tables: Tables[torch.Tensor]
    pool: torch.Tensor
    space: Space
    results: Results
    attention_scratch: torch.Tensor
    lora: LoraSpace | None
    embedded: torch.Tensor | None = None
    singles: bool = True
    slots: torch.Tensor | None = None
    forks: bool = False


Launch = Callable[[Pass], None]
_AdapterLaunch = Callable[[Pass, LoraSpace], None]


@dataclass
class _Waiting:
    """What operations that are no launch of their own have left for the one that does their work.

    adds: delta is to be added to hidden; so it stays once something is there to be added, since
    every norm of hidden but the first follows such. rope, which of the base's turns heads (None:
    none does), and norms, whose adapters' entry is that of the queries', are for the next STORE.
    """

    adds: bool = False
    rope: int | None = None
    norms: HeadNorms | None = None
    entry: int = 0


class Launches:
    """The launches of one base, in order; calling it launches a whole step.

    Reads the weights onto the device, in the order of the program, when it is made. Raises what
    torch raises where they do not fit.
    """

    def __init__(
        self,
        program: list[Operation],
        weights: Weights,
        kernels: Kernels,
        device: Device,
        dtype: torch.dtype,
        context: int,
        stored: Stored = Stored.PLAIN,
    ) -> None:
        self._config = weights.config
        self._kernels = kernels
        self._device = device
        self._parts = parts_of(weights.config)
        self._linears = Linears(weights, kernels, device, dtype, stored)
        self._read = self._linears.read_plainly
        self._table = self._linears.read_table("model.embed_tokens")
        self._scoring = Scoring(self._config.score_scale, self._config.score_cap)
        self._angles = [
            tuple(each.to(device.where) for each in rope.tables(context, self._config.head_dim))
            for rope in self._config.ropes
        ]
        self._launches = list(self._translate(program))

    def __call__(self, step: Pass) -> None:
        """Launch everything, on the stream of computing; waits for nothing."""
        for launch in self._launches:
            launch(step)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Look up `tokens [rows]`: [rows, hidden] float32."""
        return self._table.embed(tokens)

    # --- one translation for each kind of operation; None: a later launch does its work ---

    def _translate(self, program: list[Operation]) -> Iterator[Launch]:
        translations: dict[Kind, Callable[[Operation, _Waiting], Launch | None]] = {
            Kind.EMBED: self._embed,
            Kind.NORM: self._norm,
            Kind.LINEAR: self._linear,
            Kind.NORM_HEADS: self._norm_heads,
            Kind.ROTATE: self._rotate,
            Kind.STORE: self._store,
            Kind.ATTEND: self._attend,
            Kind.PICK: self._pick,
        }
        waiting = _Waiting()
        for operation in program:
            launch = translations[operation.kind](operation, waiting)
            if launch is not None:
                yield launch

    def _embed(self, operation: Operation, waiting: _Waiting) -> Launch:
        scale = self._config.embedding_scale

        def launch(step: Pass) -> None:
            space = step.space
            if step.embedded is not None:
                space.hidden.copy_(step.embedded)
            else:
                self._table.embed_into(step.tables.tokens, space.hidden, space.normed)
            if scale != 1.0:
                space.hidden.mul_(scale)

        return launch

    def _norm(self, operation: Operation, waiting: _Waiting) -> Launch:
        weight = self._read(operation.weights, dtype=torch.float32)
        eps = self._config.norm_eps
        picks = operation.target is Place.FINAL
        in_place = operation.ending is Ending.ADD
        adds = waiting.adds and not in_place
        waiting.adds = waiting.adds or in_place
        scale = self._norm_gain(operation)

        def launch(step: Pass) -> None:
            space = step.space
            if in_place:
                self._kernels.rms_norm(space.delta, weight, eps, space.delta)
            elif adds:
                self._kernels.add_rms_norm(space.hidden, space.delta, weight, eps, out=space.normed)
            else:
                self._kernels.rms_norm(space.hidden, weight, eps, space.normed)
            if step.slots is not None and step.lora is not None:
                scale(step, step.lora, space.delta if in_place else space.normed)
            # in decoding all rows are wanted, and final is normed itself
            if picks and step.results.final is not space.normed:
                torch.index_select(space.normed, 0, step.tables.logit_rows, out=step.results.final)

        return launch

    def _norm_gain(self, operation: Operation) -> Callable[[Pass, LoraSpace, torch.Tensor], None]:
        """Give the launch by which adapters multiply what a norm has made: a part without a
        pair.
        """
        config = self._config
        entry = self._norm_entry(operation)

        def launch(step: Pass, lora: LoraSpace, normed: torch.Tensor) -> None:
            self._kernels.expand_site(
                normed,
                step.tables.tiles,
                lora.entries,
                entry,
                width_in=config.hidden,
                widths=[config.hidden],
                bias=None,
                scratch=lora.scratch,
                max_rank=lora.rank,
            )

        return launch

    def _norm_entry(self, operation: Operation) -> int:
        """Return which of an adapter's entries is that of the operation's norm."""
        assert operation.norm is not None
        return norm_entry(self._config, operation.layer, operation.norm)

    def _norm_heads(self, operation: Operation, waiting: _Waiting) -> None:
        query, key = (self._read((name,), dtype=torch.float32) for name in operation.weights)
        waiting.norms = HeadNorms(query, key, self._config.norm_eps)
        waiting.entry = self._norm_entry(operation)

    def _rotate(self, operation: Operation, waiting: _Waiting) -> None:
        waiting.rope = operation.rope

    def _store(self, operation: Operation, waiting: _Waiting) -> Launch:
        layer = operation.layer or 0
        config = self._config
        norms = waiting.norms
        entry = waiting.entry
        cos, sin = (None, None) if waiting.rope is None else self._angles[waiting.rope]
        waiting.norms = None
        waiting.rope = None

        def launch(step: Pass) -> None:
            tables = step.tables
            gains = None
            if norms is not None and step.slots is not None and step.lora is not None:
                gains = HeadGains(step.slots, step.lora.entries, entry)
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
                gains=gains,
            )

        return launch

    def _attend(self, operation: Operation, waiting: _Waiting) -> Launch:
        layer = operation.layer or 0
        width = self._config.heads * self._config.head_dim
        window = operation.window

        def launch(step: Pass) -> None:
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
                    scoring=self._scoring,
                    window=window,
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
                    scoring=self._scoring,
                    window=window,
                )

        return launch

    def _pick(self, operation: Operation, waiting: _Waiting) -> None:
        """Do nothing: the next norm adds to hidden first, and picks rows after that."""

    # --- linears ---

    def _linear(self, operation: Operation, waiting: _Waiting) -> Launch:
        if operation.site is None:
            return self._head(operation)
        linear = self._linears.read(operation.weights)
        bias = self._read(operation.weights, "bias") if operation.biased else None
        into, out_of = SOURCES[operation.site]
        folds = operation.ending in FOLDS
        activation = self._config.activation
        multiply_adapted = self._multiply_adapted(operation, linear.multiply, bias)
        waiting.adds = waiting.adds or operation.ending is Ending.ADD

        def launch(step: Pass) -> None:
            x = getattr(step.space, into)
            out = getattr(step.space, out_of)
            if step.lora is not None:
                multiply_adapted(step, step.lora)
            elif folds and len(x) == 1 and linear.fold is not None:
                linear.fold(x, step.space.gated, bias)
                return
            else:
                linear.multiply(x, out, bias)
            if folds:
                self._kernels.fold(out, step.space.gated, activation)

        return launch

    def _multiply_adapted(
        self,
        operation: Operation,
        multiply: Multiply,
        bias: torch.Tensor | None,
    ) -> _AdapterLaunch:
        """Give the launches of a linear with adapters: shrinking, the base's product, expanding.

        Shrinking needs x alone, so it may go beside the product; expanding needs both. The bias is
        added by expanding, because an adapter's gain multiplies the product without it.
        """
        assert operation.site is not None
        shrink, expand = self._adapters(operation.site, operation.layer or 0, bias)
        into, out_of = SOURCES[operation.site]

        def launch(step: Pass, lora: LoraSpace) -> None:
            x = getattr(step.space, into)
            out = getattr(step.space, out_of)
            if step.forks:
                with self._device.beside(partial(shrink, step, lora)):
                    multiply(x, out, None)
            else:
                shrink(step, lora)
                multiply(x, out, None)
            expand(step, lora)

        return launch

    def _adapters(
        self, site: int, layer: int, bias: torch.Tensor | None
    ) -> tuple[_AdapterLaunch, _AdapterLaunch]:
        members = [index for index, part in enumerate(self._parts) if part.kind == site]
        first = entry_number(self._config, layer, site)
        widths = [self._parts[index].width_out for index in members]
        width_in = self._parts[members[0]].width_in
        into, out_of = SOURCES[site]

        def shrink(step: Pass, lora: LoraSpace) -> None:
            self._kernels.shrink_site(
                getattr(step.space, into),
                step.tables.tiles,
                lora.entries,
                first,
                num_parts=len(widths),
                scratch=lora.scratch,
                max_rank=lora.rank,
            )

        def expand(step: Pass, lora: LoraSpace) -> None:
            self._kernels.expand_site(
                getattr(step.space, out_of),
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

    def _head(self, operation: Operation) -> Launch:
        tied = operation.weights == ("model.embed_tokens",)
        linear = (
            self._linears.tied(operation.weights[0], self._table)
            if tied
            else self._linears.read(operation.weights)
        )

        def launch(step: Pass) -> None:
            results = step.results
            if not len(results.logits):
                return  # a step of prompts of which none ends
            linear.logits(results.final, results.logits)
            self._kernels.best_and_finite(
                results.logits, results.result[0], results.result[1], results.scratch
            )

        return launch
