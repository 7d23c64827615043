"""Writes one step as a short program: which operations run in which order over which buffers.

Pure; the same for every executor. Runs nothing.

    EMBED  → hidden                                                   per layer:
    NORM hidden → normed;  LINEAR normed → qkv;  (NORM_HEADS qkv);  ROTATE qkv;  STORE qkv's keys
                           and values;  ATTEND qkv → mixed
    LINEAR mixed → added to hidden
    NORM hidden → normed;  LINEAR normed → silu(gate) * up → gated;  LINEAR gated → added to hidden
    PICK hidden's wanted rows → picked;  NORM picked → final;  LINEAR final → logits

engine/executor/native.py runs it in one C++ call, engine/executor/twins.py operation by operation
in torch: the twin is the reference that tests compare the native executor with, and what serves
where there is no compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from .config import ModelConfig
from .parts import SITES


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


class Ending(IntEnum):
    """The fate of a linear's output: written, added to its target, or gate and up folded into one
    by SwiGLU.
    """

    WRITE = 0
    ADD = 1
    SWIGLU = 2


class Place(IntEnum):
    """The buffers.

    HIDDEN, PICKED and LOGITS are float32; the others what the executor computes in.
    """

    HIDDEN = 0
    NORMED = 1
    QKV = 2
    MIXED = 3
    GATED = 4
    PICKED = 5
    FINAL = 6
    LOGITS = 7


QKV, OUT, GATE_UP, DOWN = range(SITES)
"""The kinds of site, in the order of `lora.layout.parts_of`."""


@dataclass(frozen=True)
class Operation:
    """One line of the program.

    weights: Hugging Face names without ".weight", concatenated by output rows in a linear (with
    ".bias" too when `biased`). site: the kind of adapter site of a linear; None for the head.
    layer: None outside the layers.
    """

    kind: Kind
    source: Place
    target: Place
    weights: tuple[str, ...] = ()
    layer: int | None = None
    site: int | None = None
    ending: Ending = Ending.WRITE
    biased: bool = False


def make_program(config: ModelConfig) -> list[Operation]:
    """List the operations of one step of this model."""
    head = "model.embed_tokens" if config.tied_head else "lm_head"
    return [
        Operation(Kind.EMBED, Place.HIDDEN, Place.HIDDEN, ("model.embed_tokens",)),
        *(operation for layer in range(config.layers) for operation in _layer(config, layer)),
        Operation(Kind.PICK, Place.HIDDEN, Place.PICKED),
        Operation(Kind.NORM, Place.PICKED, Place.FINAL, ("model.norm",)),
        Operation(Kind.LINEAR, Place.FINAL, Place.LOGITS, (head,)),
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

    yield Operation(Kind.NORM, Place.HIDDEN, Place.NORMED, names("input_layernorm"), layer=layer)
    qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    yield linear(Place.NORMED, Place.QKV, qkv, QKV, Ending.WRITE, biased=config.qkv_bias)
    if config.qk_norm:
        yield Operation(
            Kind.NORM_HEADS,
            Place.QKV,
            Place.QKV,
            names("self_attn.q_norm", "self_attn.k_norm"),
            layer=layer,
        )
    if layer not in config.unrotated:
        yield Operation(Kind.ROTATE, Place.QKV, Place.QKV, (), layer=layer)
    yield Operation(Kind.STORE, Place.QKV, Place.QKV, (), layer=layer)
    yield Operation(Kind.ATTEND, Place.QKV, Place.MIXED, (), layer=layer)
    yield linear(
        Place.MIXED, Place.HIDDEN, ("self_attn.o_proj",), OUT, Ending.ADD, biased=config.out_bias
    )
    yield Operation(
        Kind.NORM, Place.HIDDEN, Place.NORMED, names("post_attention_layernorm"), layer=layer
    )
    yield linear(
        Place.NORMED,
        Place.GATED,
        ("mlp.gate_proj", "mlp.up_proj"),
        GATE_UP,
        Ending.SWIGLU,
        biased=config.mlp_bias,
    )
    yield linear(
        Place.GATED, Place.HIDDEN, ("mlp.down_proj",), DOWN, Ending.ADD, biased=config.mlp_bias
    )
