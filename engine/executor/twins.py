"""Runs a step's program operation by operation in torch.

The reference for the native executor, and the executor where there is no compiler.

Pages lie as [page_tokens, head_dim] here. Every operation keeps the promise of model/layers.py: a
row's bits depend on that row alone. Schedules nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import torch

from ..config import Stored
from ..lora.apply import LoraGroup, apply_gain, apply_lora, apply_to_expert
from ..lora.bank import Bank, SlotBank
from ..model.attention import AttentionGroup, Scoring, attend, group_runs
from ..model.entries import norm_site, site_number
from ..model.experts import Experts
from ..model.layers import (
    ROW_FLOOR,
    Linear,
    choose_linear_kernel,
    fold,
    make_linear,
    make_q4_linear,
    pad_rows,
    quantise_rows,
    rms_norm,
    rope_table,
    rotate,
)
from ..model.program import FOLDS, Ending, Kind, Operation, Place, make_program
from ..model.read import read_codes, read_pieces, read_whole
from ..model.routing import Routes, choose, deal, gather
from ..model.weights import Weights
from .draw import Draw, Drawn, draw_one
from .step import Segment, StepInput, StepOutput, find_best


class TorchExecutor:
    """The torch twins of all operations.

    `stored`: the form of the linears inside the layers and of the head.
    """

    wants_torch_threads = True
    runs_beside = False

    def __init__(self, weights: Weights, dtype: torch.dtype, stored: Stored, context: int) -> None:
        self._config = weights.config
        self._dtype = dtype
        self.where = torch.device("cpu")
        self._stored = stored
        kernel = "int8" if stored is not Stored.PLAIN else choose_linear_kernel(dtype)
        self.name = f"torch {'q4' if stored is Stored.Q4 else kernel}"
        self._program = make_program(weights.config)
        self._tensors: dict[str, torch.Tensor] = {}
        self._lookup: Callable[[torch.Tensor], torch.Tensor]
        self._linears: dict[int, Linear] = {}
        self._experts: dict[int, list[Linear]] = {}
        self._biases: dict[int, torch.Tensor] = {}
        self._scoring = Scoring(self._config.score_scale, self._config.score_cap)
        self._scorings: dict[int, Scoring] = {}
        for number, operation in enumerate(self._program):
            self._load(number, operation, weights, kernel)
        self._angles = [
            rope_table(*rope.tables(context, self._config.head_dim), dtype)
            for rope in self._config.ropes
        ]

    def make_pool(self, num_pages: int, page_tokens: int) -> torch.Tensor:
        """Allocate keys and values in host memory, not yet written."""
        return torch.empty(
            self._config.layers,
            2 * self._config.kv_heads,
            num_pages,
            page_tokens * self._config.head_dim,
            dtype=self._dtype,
        )

    def warm_up(self, pool: torch.Tensor, bank: Bank) -> str:
        """Do nothing: torch builds nothing on the first step."""
        return ""

    def close(self) -> None:
        """Do nothing: there are no threads of its own."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Look up the base's embeddings of `tokens [n]`, [n, hidden] float32."""
        return self._lookup(tokens)

    def draw(self, logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
        """Choose from rows of `logits [wanted, vocab]` float32, one after the other."""
        rows = logits.numpy()
        return [draw_one(rows[draw.row], draw) for draw in draws]

    @torch.inference_mode()
    def run(self, step: StepInput, pool: torch.Tensor, embedded: torch.Tensor | None) -> StepOutput:
        """Run one step, operation by operation; it is over when this returns."""
        page_tokens = pool.shape[3] // self._config.head_dim
        pass_ = _Pass(step, pool.view(*pool.shape[:3], page_tokens, -1), page_tokens, self._angles)
        places: dict[Place, torch.Tensor] = {}
        for number, operation in enumerate(self._program):
            places[operation.target] = self._run(number, operation, places, pass_, embedded)
        wanted = len(step.logit_rows)
        logits = places[Place.LOGITS][:wanted].float()
        numbers = find_best(logits)
        return StepOutput(logits, places[Place.FINAL][:wanted], lambda: numbers)

    def prepare(self, step: StepInput) -> None:
        """Do nothing: a step here ends before the next is known."""

    def _load(self, number: int, operation: Operation, weights: Weights, kernel: str) -> None:
        if operation.kind is Kind.LINEAR:
            # what chooses experts is as exact as what it chooses by
            plain = operation.target is Place.SCORES
            codes = read_codes(operation, weights) if self._stored is Stored.Q4 else None
            self._linears[number] = (
                self._make_linear(
                    read_whole(operation, weights),
                    choose_linear_kernel(self._dtype) if plain else kernel,
                )
                if codes is None or plain
                else make_q4_linear(codes)
            )
            self._load_bias(number, operation, weights)
        elif operation.kind is Kind.ATTEND:
            for name in operation.weights:
                sinks = weights.read(name).float()
                self._scorings[number] = replace(self._scoring, sinks=sinks)
        elif operation.kind is Kind.EXPERTS:
            self._experts[number] = self._make_experts(operation, weights, kernel)
            self._load_bias(number, operation, weights)
        elif operation.kind is Kind.EMBED:
            self._lookup = self._make_lookup(operation, weights)
        else:
            for name in operation.weights:
                self._tensors[name] = weights.read(f"{name}.weight").float()

    def _load_bias(self, number: int, operation: Operation, weights: Weights) -> None:
        if operation.biased:
            parts = [weights.read(f"{name}.bias") for name in operation.weights]
            self._biases[number] = torch.cat(parts).to(self._dtype)

    def _make_linear(self, weight: torch.Tensor, kernel: str) -> Linear:
        return make_linear(weight.to(self._dtype) if kernel != "int8" else weight.float(), kernel)

    def _make_experts(self, operation: Operation, weights: Weights, kernel: str) -> list[Linear]:
        """Return a linear for each expert."""
        count = self._chosen_of.count
        codes = read_codes(operation, weights) if self._stored is Stored.Q4 else None
        if codes is not None:
            rows = len(codes.codes) // count
            return [
                make_q4_linear(codes.take(slice(first, first + rows)))
                for first in range(0, count * rows, rows)
            ]
        return [self._make_linear(piece, kernel) for piece in read_pieces(operation, weights)]

    def _make_lookup(
        self, operation: Operation, weights: Weights
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what looks rows of the embedding up, in float32."""
        codes = read_codes(operation, weights) if self._stored is Stored.Q4 else None
        if codes is not None:
            return lambda tokens: codes.take(tokens).dequantise()
        weight = read_whole(operation, weights)
        if self._stored is Stored.Q4:
            whole, scale = quantise_rows(weight.float())
            return lambda tokens: whole[tokens] * scale[tokens]
        table = weight.to(self._dtype)
        return lambda tokens: table[tokens].float()

    def _run(
        self,
        number: int,
        operation: Operation,
        places: dict[Place, torch.Tensor],
        step: _Pass,
        embedded: torch.Tensor | None,
    ) -> torch.Tensor:
        source = places.get(operation.source)
        if operation.kind is Kind.EMBED:
            rows = self.embed(step.tokens) if embedded is None else embedded
            return pad_rows(rows * self._config.embedding_scale, ROW_FLOOR[self._dtype])
        assert source is not None
        match operation.kind:
            case Kind.NORM:
                return self._norm(operation, source, places, step)
            case Kind.LINEAR:
                return self._linear(number, operation, source, places, step)
            case Kind.NORM_HEADS:
                self._norm_heads(operation, source, step)
            case Kind.ROTATE:
                heads = self._heads(source)[
                    : step.rows, : self._config.heads + self._config.kv_heads
                ]
                rotate(
                    heads.view(step.rows, -1, 2, self._config.head_dim // 2),
                    *step.angles[operation.rope],
                )
            case Kind.STORE:
                keys_and_values = self._heads(source)[: step.rows, self._config.heads :].transpose(
                    0, 1
                )
                step.layer(operation).flatten(1, 2).index_copy_(1, step.cells, keys_and_values)
            case Kind.ATTEND:
                return self._mix(
                    self._heads(source)[: step.rows, : self._config.heads],
                    step.layer(operation),
                    step.attention(operation.window),
                    len(source),
                    self._scorings.get(number, self._scoring),
                )
            case Kind.CHOOSE:
                step.routes = choose(source[: step.rows], self._chosen_of)
            case Kind.DEAL:
                return deal(source, step.routes)
            case Kind.EXPERTS:
                return self._pass_experts(number, operation, source, step)
            case Kind.GATHER:
                added = gather(source, step.routes, places.get(Place.DELTA))
                places[operation.target][: step.rows] += added
                return places[operation.target]
            case Kind.PICK:
                return pad_rows(source[step.logit_rows], ROW_FLOOR[self._dtype])
        return source

    def _linear(
        self,
        number: int,
        operation: Operation,
        source: torch.Tensor,
        places: dict[Place, torch.Tensor],
        step: _Pass,
    ) -> torch.Tensor:
        out = self._linears[number](source)
        site = self._site(operation)
        if site is not None:
            apply_gain(out, site, step.lora)
        if number in self._biases:
            out += self._biases[number]
        if site is not None:
            apply_lora(out, source, site, step.lora)
        if operation.ending is Ending.ADD:
            return places[operation.target].add_(out)
        return self._fold(out) if operation.ending in FOLDS else out

    def _site(self, operation: Operation) -> int | None:
        """Return the number by which adapters' stacks know a linear."""
        if operation.layer is None or operation.site is None:
            return None
        return site_number(self._config, operation.layer, operation.site)

    def _fold(self, gate_up: torch.Tensor) -> torch.Tensor:
        return fold(gate_up, self._config.activation, self._config.clamp)

    def _pass_experts(
        self, number: int, operation: Operation, source: torch.Tensor, step: _Pass
    ) -> torch.Tensor:
        """Pass the rows of each expert through it; those of one follow one another."""
        out = source.new_empty(len(source), operation.widths[-1])
        count = self._chosen_of.count
        site = self._site(operation)
        origins = step.routes.origins
        for expert, first, end in step.routes.runs():
            rows = pad_rows(source[first:end], ROW_FLOOR[self._dtype])
            made = self._experts[number][expert](rows)
            if operation.biased:
                made += self._biases[number].view(count, -1)[expert]
            if site is not None and step.lora:
                apply_to_expert(
                    made, rows, origins[first:end], (expert, count), site=site, groups=step.lora
                )
            made = self._fold(made) if operation.ending in FOLDS else made
            out[first:end] = made[: end - first]
        return out

    @property
    def _chosen_of(self) -> Experts:
        experts = self._config.experts
        assert experts is not None, "only a base with experts has an operation that chooses them"
        return experts

    def _norm(
        self,
        operation: Operation,
        source: torch.Tensor,
        places: dict[Place, torch.Tensor],
        step: _Pass,
    ) -> torch.Tensor:
        normed = rms_norm(
            source.float(), self._tensors[operation.weights[0]], self._config.norm_eps
        )
        if operation.norm is not None and step.lora:
            site = norm_site(self._config, operation.layer, operation.norm)
            if operation.source is Place.PICKED:
                gain = normed.new_ones(step.rows, normed.shape[1])
                apply_gain(gain, site, step.lora)
                normed[: len(step.logit_rows)] *= gain[step.logit_rows]
            else:
                apply_gain(normed, site, step.lora)
        if operation.ending is Ending.ADD:
            return places[operation.target].add_(normed)
        return normed.to(self._dtype)

    def _heads(self, qkv: torch.Tensor) -> torch.Tensor:
        return qkv.view(len(qkv), -1, self._config.head_dim)

    def _norm_heads(self, operation: Operation, qkv: torch.Tensor, step: _Pass) -> None:
        assert operation.norm is not None
        heads = self._heads(qkv)
        bounds = (0, self._config.heads, self._config.heads + self._config.kv_heads)
        for number, name in enumerate(operation.weights):
            part = heads[:, bounds[number] : bounds[number + 1]]
            normed = rms_norm(part.float(), self._tensors[name], self._config.norm_eps)
            normed = normed.contiguous()
            if step.lora:
                site = norm_site(self._config, operation.layer, operation.norm + number)
                apply_gain(normed.flatten(1), site, step.lora)
            part.copy_(normed)

    def _mix(
        self,
        query: torch.Tensor,
        pool: torch.Tensor,
        groups: list[AttentionGroup],
        padded_rows: int,
        scoring: Scoring,
    ) -> torch.Tensor:
        if len(groups) == 1 and groups[0].in_order:
            return pad_rows(attend(query, pool, groups[0], scoring), padded_rows)
        mixed = query.new_zeros(padded_rows, self._config.heads * self._config.head_dim)
        for group in groups:
            rows = query.index_select(0, group.rows)
            mixed.index_copy_(0, group.rows, attend(rows, pool, group, scoring))
        return mixed


class _Pass:
    """One step's rows as torch wants them.

    `pool`: [layers, 2 * kv_heads, pages, page_tokens, head_dim].
    """

    def __init__(
        self,
        step: StepInput,
        pool: torch.Tensor,
        page_tokens: int,
        angles: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        self.tokens = torch.from_numpy(step.tokens)
        self.cells = torch.from_numpy(step.cells)
        self.logit_rows = torch.from_numpy(step.logit_rows)
        positions = torch.from_numpy(step.positions)
        self.rows = len(step.tokens)
        self.angles = [(cos[positions], sin[positions]) for cos, sin in angles]
        self._runs = step.runs
        self._page_tokens = page_tokens
        self._groups: dict[int | None, list[AttentionGroup]] = {}
        self.lora = _lora_groups(step)
        self.routes = Routes.none()
        self._pool = pool

    def attention(self, window: int | None) -> list[AttentionGroup]:
        """Return the runs in groups, for layers whose tokens see `window` tokens."""
        if window not in self._groups:
            self._groups[window] = group_runs(self._runs, self.rows, self._page_tokens, window)
        return self._groups[window]

    def layer(self, operation: Operation) -> torch.Tensor:
        """Return the pool of the operation's layer."""
        assert operation.layer is not None
        return self._pool[operation.layer]


def _lora_groups(step: StepInput) -> list[LoraGroup]:
    """Group neighbouring segments of one layout and one length."""
    bank = step.bank
    assert isinstance(bank, SlotBank)

    def shape(segment: Segment) -> tuple[int, int]:
        return bank.layout_number(segment.slot), segment.count

    groups = []
    for (_, count), members in groupby(step.segments, key=shape):
        segments = list(members)
        groups.append(
            LoraGroup(
                segments[0].first,
                len(segments),
                count,
                bank.stack(tuple(segment.slot for segment in segments)),
            )
        )
    return groups
