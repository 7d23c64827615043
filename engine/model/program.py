"""Writes one step as a short program: which operations run in which order over which buffers.

Pure; the same for every executor. Runs nothing.

    EMBED  → hidden                                                   per layer:
    NORM hidden → normed;  LINEAR normed → qkv;  (NORM_HEADS qkv);  ROTATE qkv;  STORE qkv's keys
                           and values;  ATTEND qkv → mixed
    LINEAR mixed → added to hidden
    NORM hidden → normed;  LINEAR normed → silu(gate) * up → gated;  LINEAR gated → added to hidden
    (of a layer with experts, instead of its last three linears:
    LINEAR normed → scores;  CHOOSE scores' experts;  DEAL normed → dealt, a row for each expert of
    each row, sorted by expert;  EXPERTS dealt → silu(gate) * up → folded;  EXPERTS folded → made;
    (LINEAR normed → silu(gate) * up → shared;  LINEAR shared → delta);
    GATHER each row's made, weighed (and its delta), → added to hidden)
    PICK hidden's wanted rows → picked;  NORM picked → final;  LINEAR final → logits

Where a family normalises what attention and MLP give, LINEAR writes to delta, and NORM adds that,
normalised, to hidden.

engine/executor/native.py runs it in one C++ call, engine/executor/twins.py operation by operation
in torch: the twin is the reference that tests compare the native executor with, and what serves
where there is no compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from .config import ModelConfig
from .experts import Experts
from .families import CLAMPED, GELU_TANH, SILU
from .parts import (
    DOWN_PARTS,
    EXPERTS_IN,
    EXPERTS_OUT,
    GATE_UP_PARTS,
    HEAD_NORMS,
    ROUTER,
    ROUTING,
    SHARED,
    SHARED_GATE,
    SHARED_IN,
    SHARED_OUT,
    SITES,
    expert_names,
    norms_of,
)


class Kind(IntEnum):
    """The operations. Executors in other languages know these numbers."""

    EMBED = 0
    NORM = 1
    LINEAR = 2
    NORM_HEADS = 3
    ROTATE = 4
    STORE = 5
    ATTEND = 6
    PICK = 7
    CHOOSE = 8
    DEAL = 9
    EXPERTS = 10
    GATHER = 11


class Ending(IntEnum):
    """The fate of what a linear or a norm gives: written, added to its target, or gate and up
    folded into one by SiLU (SwiGLU), by GELU (GeGLU) or by SiLU within a limit (gpt-oss).
    """

    WRITE = 0
    ADD = 1
    SWIGLU = 2
    GEGLU = 3
    CLAMPED = 4


FOLDS = (Ending.SWIGLU, Ending.GEGLU, Ending.CLAMPED)
FOLDING = {SILU: Ending.SWIGLU, GELU_TANH: Ending.GEGLU, CLAMPED: Ending.CLAMPED}


class Place(IntEnum):
    """The buffers.

    HIDDEN, PICKED, SCORES and LOGITS are float32; the others what the executor computes in, or
    more.
    """

    HIDDEN = 0
    NORMED = 1
    QKV = 2
    MIXED = 3
    GATED = 4
    PICKED = 5
    FINAL = 6
    DELTA = 7
    SCORES = 8
    SHARED = 9
    DEALT = 10
    FOLDED = 11
    MADE = 12
    LOGITS = 13


OF_EXPERTS = (Place.DEALT, Place.FOLDED, Place.MADE)
"""The buffers with a row for each expert of each row."""


QKV, OUT, GATE_UP, DOWN = range(SITES)
"""The kinds of site, in the order of `lora.layout.parts_of`."""


@dataclass(frozen=True)
class Operation:
    """One line of the program.

    weights: Hugging Face names without ".weight", concatenated by output rows in a linear (with
    ".bias" too when `biased`); in EXPERTS those of one expert after the other; of ATTEND the sinks
    of its heads, if they have any. site: the kind of adapter site of a linear (parts.py); None
    outside the layers (the head). widths: the outputs of each part of a linear, where they are not
    those of parts.parts_of. layer: None where adapters change nothing and no keys are kept. norm:
    which of the layer's norms (parts.norms_of) it is, of NORM_HEADS the queries', behind which the
    keys' follows; 0 for that behind the layers. rope: which of the base's ropes turns the heads.
    window: how many tokens a token sees; None: all.
    """

    kind: Kind
    source: Place
    target: Place
    weights: tuple[str, ...] = ()
    layer: int | None = None
    site: int | None = None
    ending: Ending = Ending.WRITE
    biased: bool = False
    norm: int | None = None
    rope: int = 0
    window: int | None = None
    widths: tuple[int, ...] = ()


def make_program(config: ModelConfig) -> list[Operation]:
    """List the operations of one step of this model."""
    head = "model.embed_tokens" if config.tied_head else "lm_head"
    return [
        Operation(Kind.EMBED, Place.HIDDEN, Place.HIDDEN, ("model.embed_tokens",)),
        *(operation for layer in range(config.layers) for operation in _layer(config, layer)),
        Operation(Kind.PICK, Place.HIDDEN, Place.PICKED),
        Operation(Kind.NORM, Place.PICKED, Place.FINAL, ("model.norm",), norm=0),
        Operation(Kind.LINEAR, Place.FINAL, Place.LOGITS, (head,), widths=(config.vocab_size,)),
    ]


def _layer(config: ModelConfig, layer: int) -> Iterator[Operation]:
    def names(*parts: str) -> tuple[str, ...]:
        return tuple(f"model.layers.{layer}.{part}" for part in parts)

    def linear(
        source: Place,
        target: Place,
        parts: tuple[str, ...],
        site: int,
        ending: Ending,
        biased: bool = False,
    ) -> Operation:
        return Operation(
            Kind.LINEAR,
            source,
            target,
            names(*parts),
            layer=layer,
            site=site,
            ending=ending,
            biased=biased,
        )

    def norm(number: int, source: Place, target: Place, ending: Ending) -> Operation:
        name = norms_of(config)[number]
        return Operation(
            Kind.NORM, source, target, names(name), layer=layer, ending=ending, norm=number
        )

    def into_stream(
        source: Place, part: str, site: int, biased: bool, number: int
    ) -> Iterator[Operation]:
        if config.post_norms:
            yield linear(source, Place.DELTA, (part,), site, Ending.WRITE, biased=biased)
            yield norm(number, Place.DELTA, Place.HIDDEN, Ending.ADD)
        else:
            yield linear(source, Place.HIDDEN, (part,), site, Ending.ADD, biased=biased)

    yield norm(0, Place.HIDDEN, Place.NORMED, Ending.WRITE)
    qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    yield linear(Place.NORMED, Place.QKV, qkv, QKV, Ending.WRITE, biased=config.qkv_bias)
    if config.qk_norm:
        yield Operation(
            Kind.NORM_HEADS,
            Place.QKV,
            Place.QKV,
            names(*HEAD_NORMS),
            layer=layer,
            norm=norms_of(config).index(HEAD_NORMS[0]),
        )
    if layer not in config.unrotated:
        rope = config.rope_of(layer)
        yield Operation(Kind.ROTATE, Place.QKV, Place.QKV, (), layer=layer, rope=rope)
    yield Operation(Kind.STORE, Place.QKV, Place.QKV, (), layer=layer)
    window = config.window_of(layer)
    sinks = names("self_attn.sinks") if config.sinks else ()
    yield Operation(Kind.ATTEND, Place.QKV, Place.MIXED, sinks, layer=layer, window=window)
    yield from into_stream(Place.MIXED, "self_attn.o_proj", OUT, config.out_bias, number=1)
    yield norm(2 if config.post_norms else 1, Place.HIDDEN, Place.NORMED, Ending.WRITE)
    experts = config.experts_of(layer)
    if experts is not None:
        yield from _mlp_of_experts(config, experts, layer)
        return
    gate_up = ("mlp.gate_proj", "mlp.up_proj")
    folds = FOLDING[config.activation]
    yield linear(Place.NORMED, Place.GATED, gate_up, GATE_UP, folds, biased=config.mlp_bias)
    yield from into_stream(Place.GATED, "mlp.down_proj", DOWN, config.mlp_bias, number=3)


def _mlp_of_experts(config: ModelConfig, experts: Experts, layer: int) -> Iterator[Operation]:
    def linear(
        kind: Kind,
        source: Place,
        target: Place,
        parts: tuple[str, ...],
        *,
        site: int,
        widths: tuple[int, ...],
    ) -> Operation:
        names = tuple(f"model.layers.{layer}.{part}" for part in parts)
        folds = target in (Place.FOLDED, Place.SHARED)
        return Operation(
            kind,
            source,
            target,
            names,
            layer=layer,
            site=site,
            ending=FOLDING[config.activation] if folds else Ending.WRITE,
            biased=experts.biased,
            widths=widths,
        )

    router = (ROUTER, SHARED_GATE) if experts.shared else (ROUTER,)
    widths = (experts.count, 1)[: len(router)]
    yield linear(Kind.LINEAR, Place.NORMED, Place.SCORES, router, site=ROUTING, widths=widths)
    yield Operation(Kind.CHOOSE, Place.SCORES, Place.SCORES)
    yield Operation(Kind.DEAL, Place.NORMED, Place.DEALT)
    gate_up = expert_names(experts.count, GATE_UP_PARTS)
    down = expert_names(experts.count, DOWN_PARTS)
    widths = (experts.width, experts.width)
    out = (config.hidden,)
    yield linear(Kind.EXPERTS, Place.DEALT, Place.FOLDED, gate_up, site=EXPERTS_IN, widths=widths)
    yield linear(Kind.EXPERTS, Place.FOLDED, Place.MADE, down, site=EXPERTS_OUT, widths=out)
    if experts.shared:
        gate_up, down = (
            tuple(f"{SHARED}.{part}" for part in parts) for parts in (GATE_UP_PARTS, DOWN_PARTS)
        )
        widths = (experts.shared, experts.shared)
        yield linear(
            Kind.LINEAR, Place.NORMED, Place.SHARED, gate_up, site=SHARED_IN, widths=widths
        )
        yield linear(Kind.LINEAR, Place.SHARED, Place.DELTA, down, site=SHARED_OUT, widths=out)
    yield Operation(Kind.GATHER, Place.MADE, Place.HIDDEN)
