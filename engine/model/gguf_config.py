"""Reads what differs between the families of bases from a GGUF file's metadata.

What a file does not say is what llama.cpp takes for it. Opens no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ModelError
from .config import MAX_CONTEXT_TOKENS, MAX_LAYERS, ModelConfig, every, find_family
from .experts import read_gguf_experts
from .families import ALWAYS_WINDOW, GGUF_FAMILIES, Family
from .fields import Fields
from .rope import (
    MAX_POSITIONS,
    Divided,
    Linear,
    Rope,
    long_magnitude,
    make_long,
    make_yarn,
)

ROPE_FREQS = "rope_freqs.weight"
SHORT_FACTORS = "rope_factors_short.weight"
LONG_FACTORS = "rope_factors_long.weight"
ROPE_TENSORS = (ROPE_FREQS, SHORT_FACTORS, LONG_FACTORS)
LOCAL_ROPE_BASE = 10000.0
"""Of layers that slide, where a family has a base for them; few files say it."""


@dataclass(frozen=True)
class Tensors:
    """What a file's tensors tell beside its metadata.

    names: of all of them; a tied head, biases and norms of q and k follow from it. divisors: the
    numbers of ROPE_TENSORS, by name.
    """

    names: frozenset[str]
    divisors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def from_gguf(raw: Mapping[str, Any], tensors: Tensors) -> ModelConfig:
    """Read GGUF metadata. Raises ModelError."""
    family = find_family(GGUF_FAMILIES, raw.get("general.architecture"), "general.architecture")
    fields = Fields(
        {name.removeprefix(f"{family.gguf}."): value for name, value in raw.items()},
        "the GGUF file",
    )
    heads = fields.whole("attention.head_count")
    hidden = fields.whole("embedding_length")
    layers = fields.whole("block_count", highest=MAX_LAYERS)
    head_dim = fields.whole("attention.key_length", max(1, hidden // heads))
    if fields.whole("attention.value_length", head_dim) != head_dim:
        raise ModelError(
            "the GGUF file has heads whose keys and values differ in width, which is not served"
        )
    context = fields.whole("context_length", highest=MAX_POSITIONS)
    sliding = _sliding(fields, family, layers)
    rope = _rope(fields, tensors, family, head_dim, context=context)
    return ModelConfig(
        vocab_size=fields.whole("vocab_size", raw.get("tokenizer.ggml.tokens"), 1 << 24),
        hidden=hidden,
        intermediate=fields.whole("feed_forward_length"),
        layers=layers,
        heads=heads,
        kv_heads=fields.whole("attention.head_count_kv", heads),
        head_dim=head_dim,
        context=min(context, MAX_CONTEXT_TOKENS),
        norm_eps=fields.real("attention.layer_norm_rms_epsilon"),
        rope_base=rope.base,
        rope=rope,
        qkv_bias="blk.0.attn_q.bias" in tensors.names,
        out_bias="blk.0.attn_output.bias" in tensors.names,
        mlp_bias="blk.0.ffn_down.bias" in tensors.names,
        qk_norm="blk.0.attn_q_norm.weight" in tensors.names,
        tied_head="output.weight" not in tensors.names,
        # a GGUF file does not say which
        unrotated=every(family.rotation_gap, layers),
        window=fields.whole("attention.sliding_window", highest=MAX_POSITIONS) if sliding else None,
        sliding=sliding,
        local_rope_base=(
            fields.real("rope.freq_base_swa", LOCAL_ROPE_BASE) if family.local_rope else None
        ),
        activation=family.activation_of(None),
        norm_offset=family.norm_offset,
        post_norms=family.post_norms,
        fused=family.fused,
        embedding_scale=family.embedding_scale(hidden),
        query_scale=(
            (hidden / heads if layers == family.gguf_wide_layers else head_dim) ** -0.5
            if family.scales_queries
            else None
        ),
        score_cap=fields.maybe_real("attn_logit_softcapping") if family.caps_scores else None,
        logit_cap=fields.maybe_real("final_logit_softcapping") if family.caps_logits else None,
        experts=read_gguf_experts(fields, family.routing, layers),
    )


def _sliding(fields: Fields, family: Family, layers: int) -> frozenset[int]:
    """Return the layers whose tokens see a window only."""
    window = fields["attention.sliding_window"]
    if window in (None, 0) or not (family.window == ALWAYS_WINDOW or family.window_gap):
        return frozenset()
    return frozenset(range(layers)) - every(family.window_gap, layers)


def _rope(fields: Fields, tensors: Tensors, family: Family, head_dim: int, *, context: int) -> Rope:
    width = fields.whole("rope.dimension_count", head_dim)
    if width > head_dim or width % 2 or (width < head_dim and not family.partial_rotation):
        raise ModelError(
            f"the GGUF file rotates {width} of a head's {head_dim} numbers, which is not served"
        )
    plain = Rope(fields.real("rope.freq_base", 10000.0), width)
    kind = fields["rope.scaling.type"] or "none"
    if tensors.divisors:
        return _divided(fields, tensors, plain, context)
    if kind == "none":
        return plain
    if kind == "linear":
        return Rope(plain.base, width, Linear(fields.real("rope.scaling.factor")))
    if kind == "yarn":
        original = fields.whole("rope.scaling.original_context_length", context, MAX_POSITIONS)
        return Rope(
            plain.base, width, make_yarn(plain, fields.real("rope.scaling.factor"), original)
        )
    raise ModelError(
        f"the GGUF file: rope.scaling.type {str(kind)[:40]!r} is not served; we serve none, linear"
        " and yarn, rope_freqs and rope_factors"
    )


def _divided(fields: Fields, tensors: Tensors, plain: Rope, context: int) -> Rope:
    for name, divisors in tensors.divisors.items():
        if len(divisors) != plain.width // 2 or not all(0 < each < math.inf for each in divisors):
            raise ModelError(
                f"the GGUF file: {name.removesuffix('.weight')} must hold {plain.width // 2}"
                " positive numbers"
            )
    if ROPE_FREQS in tensors.divisors:
        return Rope(plain.base, plain.width, Divided(tensors.divisors[ROPE_FREQS]))
    if len(tensors.divisors) != 2:
        raise ModelError("the GGUF file lacks one of rope_factors_short and rope_factors_long")
    original = fields.whole("rope.scaling.original_context_length", context, MAX_POSITIONS)
    magnitude = fields.real(
        "rope.scaling.attn_factor", long_magnitude(context / original, original)
    )
    short, long = (
        Divided(tensors.divisors[name], magnitude) for name in (SHORT_FACTORS, LONG_FACTORS)
    )
    return make_long(plain, short, long, original, context)
