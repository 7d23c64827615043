"""Reads what differs between the families of bases, as flags and numbers, from a `config.json`.

Opens no file and knows no tensor; gguf_config.py reads the same things from a GGUF file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ModelError
from .experts import Experts, read_experts
from .families import (
    ALL_IF_USED,
    ALWAYS_WINDOW,
    CLAMPED,
    FAMILIES,
    NO_WINDOW,
    SECOND_IF_USED,
    SILU,
    TEXT_PARTS,
    Family,
    is_biased,
)
from .fields import Fields
from .rope import MAX_POSITIONS, Rope, read_rope

MAX_CONTEXT_TOKENS = 1 << 17
MAX_LAYERS = 1 << 10
SLIDING = "sliding_attention"
FULL = "full_attention"


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder.

    Counts are heads, layers, tokens; the biases, `qk_norm`, `post_norms` and `fused` say which
    tensors exist.

    unrotated: layers whose queries and keys carry no rotary embedding (SmolLM3's NoPE).
    window: how many tokens a token of the layers `sliding` sees, itself among them.
    local_rope_base: of the layers that slide, where they rotate by a base of their own.
    rope: how heads rotate; None: all of each by powers of `rope_base`.
    activation: what gates the MLP (families.SILU, GELU_TANH or CLAMPED).
    clamp: alpha and limit of CLAMPED.
    norm_offset: what is added to the weights of norms as adapters and folders have them.
    post_norms: attention and MLP are normalised again before they are added (Gemma).
    fused: q, k and v lie in one tensor, gate and up in another (Phi-3).
    query_scale: what scores are multiplied by; None: head_dim ** -0.5.
    score_cap, logit_cap: x becomes cap * tanh(x / cap).
    experts: of the layers whose MLP is a router and experts; None: there are no such layers.
    sinks: each head has a learned score that no token has, which takes its part of the softmax.
    """

    vocab_size: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_eps: float
    rope_base: float
    rope: Rope | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = False
    unrotated: frozenset[int] = frozenset()
    window: int | None = None
    sliding: frozenset[int] = frozenset()
    local_rope_base: float | None = None
    activation: str = SILU
    norm_offset: float = 0.0
    post_norms: bool = False
    fused: bool = False
    embedding_scale: float = 1.0
    query_scale: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    experts: Experts | None = None
    sinks: bool = False
    clamp: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        sizes = (
            self.vocab_size,
            self.hidden,
            self.intermediate,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.context,
        )
        if min(sizes) < 1 or self.heads % self.kv_heads or self.head_dim % 2:
            raise ModelError(f"the model's shape is impossible: {self}")

    @property
    def kv_numbers(self) -> int:
        """Return how many numbers the keys and values of one token are."""
        return 2 * self.kv_heads * self.head_dim * self.layers

    @property
    def group(self) -> int:
        """Return the number of query heads for each key head."""
        return self.heads // self.kv_heads

    @property
    def score_scale(self) -> float:
        """Return by what the products of queries and keys are multiplied."""
        return self.head_dim**-0.5 if self.query_scale is None else self.query_scale

    @property
    def rotated(self) -> int:
        """Return how many numbers of a head rotate, from the first on."""
        return self.ropes[0].width

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """Return how heads rotate: in most layers and, where that differs, in those that slide."""
        rope = self.rope or Rope(self.rope_base, self.head_dim)
        return (rope,) if self.local_rope_base is None else (rope, self._local_rope)

    @property
    def short_context(self) -> int | None:
        """Return up to how many tokens a sequence rotates as a short one; None: any does."""
        rope = self.ropes[0]
        return None if rope.longer is None else rope.short

    def rope_of(self, layer: int) -> int:
        """Return which of `ropes` a layer has."""
        return int(self.local_rope_base is not None and layer in self.sliding)

    def experts_of(self, layer: int) -> Experts | None:
        """Return the experts of a layer; None: its MLP is an ordinary one."""
        return self.experts if self.experts and layer in self.experts.layers else None

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens a token of the layer sees, itself among them; None: all."""
        return self.window if layer in self.sliding else None

    @property
    def widest_window(self) -> int | None:
        """Return how many tokens a token sees in the layers that see most; None: all of them."""
        return self.window if len(self.sliding) == self.layers else None

    def inverse_frequencies(self) -> torch.Tensor:
        """Return the rotary inverse frequencies, [rotated / 2] in float32, scaled as the model was
        trained.
        """
        return self.ropes[0].frequencies()

    @property
    def _local_rope(self) -> Rope:
        assert self.local_rope_base is not None
        return Rope(self.local_rope_base, self.head_dim)


def from_huggingface(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a `config.json` as transformers does: what it leaves out is its family's default.

    Raises ModelError that names what is not served.
    """
    raw = _text_part(raw)
    family = find_family(FAMILIES, raw.get("model_type"), "config.json: model_type")
    fields = Fields(family.meant(raw), "config.json")
    rope = _rope_fields(fields, family)
    _refuse_unserved(fields, rope, family)
    biased = fields.flag(family.bias_field)
    layers = fields.whole("num_hidden_layers", highest=MAX_LAYERS)
    hidden = fields.whole("hidden_size")
    heads = fields.whole("num_attention_heads")
    head_dim = fields.whole("head_dim", max(1, hidden // heads))
    unrotated = _unrotated(fields, family, layers)
    context = fields.whole("max_position_embeddings", highest=MAX_POSITIONS)
    sliding = _sliding(fields, family, layers, unrotated)
    activation = family.activation_of(fields[family.activation_field])
    plain = Rope(rope.real("rope_theta"), _rotated(rope, head_dim))
    return ModelConfig(
        vocab_size=fields.whole("vocab_size", highest=1 << 24),
        hidden=hidden,
        intermediate=fields.whole("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=fields.whole("num_key_value_heads", heads),
        head_dim=head_dim,
        context=min(context, MAX_CONTEXT_TOKENS),
        norm_eps=fields.real("rms_norm_eps"),
        rope_base=plain.base,
        rope=read_rope(rope, plain, context, family.rope_names),
        qkv_bias=is_biased(family.qkv_bias, biased),
        out_bias=is_biased(family.out_bias, biased),
        mlp_bias=is_biased(family.mlp_bias, fields.flag("mlp_bias")),
        qk_norm=family.qk_norm,
        tied_head=fields.flag("tie_word_embeddings"),
        unrotated=unrotated,
        window=fields.whole("sliding_window", highest=MAX_POSITIONS) if sliding else None,
        sliding=sliding,
        local_rope_base=_local_base(fields) if family.local_rope else None,
        activation=activation,
        norm_offset=family.norm_offset,
        post_norms=family.post_norms,
        fused=family.fused,
        embedding_scale=family.embedding_scale(hidden),
        query_scale=_query_scale(fields, family),
        score_cap=fields.maybe_real("attn_logit_softcapping") if family.caps_scores else None,
        logit_cap=fields.maybe_real("final_logit_softcapping") if family.caps_logits else None,
        experts=read_experts(fields, family.routing, layers),
        sinks=family.sinks,
        clamp=_clamp(fields) if activation == CLAMPED else None,
    )


def _text_part(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of what reads and writes text, where a base has other parts as well."""
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in TEXT_PARTS:
        return raw
    return {**Fields(raw, "config.json").inner("text_config"), "model_type": TEXT_PARTS[name]}


def _rope_fields(fields: Fields, family: Family) -> Fields:
    """Return what says how positions rotate: `rope_scaling` (or else `rope_parameters`), and what
    stands beside it.
    """
    if family.local_rope:
        # here a scaling is found by `rope_type` alone, not by its older name
        plain = _inner(fields.inner("rope_parameters"), FULL) or {"rope_type": "default"}
        given = plain | fields.inner("rope_scaling")
        given.pop("truncate", None)  # and yarn's bounds are rounded whatever it says
    else:
        given = fields.inner("rope_scaling") or fields.inner("rope_parameters")
    beside = {
        "rope_theta": fields["rope_theta"],
        "partial_rotary_factor": fields["partial_rotary_factor"],
        "original_max_position_embeddings": fields["max_position_embeddings"],
    }
    original = fields["original_max_position_embeddings"]
    first = {"original_max_position_embeddings": original} if original is not None else {}
    return Fields({**beside, **given, **first}, "config.json: rope_parameters")


def _inner(by_kind: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return Fields(by_kind, "config.json: rope_parameters").inner(kind)


def _local_base(fields: Fields) -> float:
    """Return the base by which layers that slide rotate. Raises ModelError for a scaling there."""
    given = Fields(
        {"rope_theta": fields["rope_local_base_freq"]}
        | _inner(fields.inner("rope_parameters"), SLIDING),
        f"config.json: rope_parameters: {SLIDING}",
    )
    if (given["rope_type"] or given["type"] or "default") != "default":
        raise ModelError(f"{given.where}: only 'default' is served")
    return given.real("rope_theta")


def _rotated(rope: Fields, head_dim: int) -> int:
    """Return how many numbers of a head rotate."""
    rotated = int(head_dim * rope.real("partial_rotary_factor", 1.0))
    if not 2 <= rotated <= head_dim or rotated % 2:
        raise ModelError(
            f"config.json: partial_rotary_factor rotates {rotated} of a head's {head_dim} numbers;"
            " it must be an even part of them"
        )
    return rotated


def _clamp(fields: Fields) -> tuple[float, float]:
    return fields.real("swiglu_alpha"), fields.real("swiglu_limit")


def _query_scale(fields: Fields, family: Family) -> float | None:
    return fields.real("query_pre_attn_scalar") ** -0.5 if family.scales_queries else None


def find_family(families: Mapping[str, Family], name: Any, where: str) -> Family:
    """Return the row of that name. Raises ModelError that says which there are."""
    family = families.get(name) if isinstance(name, str) else None
    if family is None:
        raise ModelError(
            f"{where} {str(name)[:40]!r} is not served; we serve {', '.join(families)}"
        )
    return family


def _refuse_unserved(fields: Fields, rope: Fields, family: Family) -> None:
    neutral: dict[str, tuple[Any, ...]] = {
        family.activation_field: tuple(family.activations),
        "pretraining_tp": (1,),
        "is_causal": (True,),
        "use_bidirectional_attention": (False,),
    }
    found = [(name, fields[name], values) for name, values in neutral.items()]
    if not family.partial_rotation:
        found.append(("partial_rotary_factor", rope["partial_rotary_factor"], (1,)))
    for name, value, values in found:
        if value is not None and value not in values:
            raise ModelError(
                f"config.json: {name} {str(value)[:40]!r} is not served; only {values[0]!r} is"
            )


def _sliding(
    fields: Fields, family: Family, layers: int, unrotated: frozenset[int]
) -> frozenset[int]:
    """Return the layers whose tokens see a window only."""
    if family.window == NO_WINDOW or fields["sliding_window"] is None:
        return frozenset()
    if family.window == ALWAYS_WINDOW:
        return frozenset(range(layers))
    # elsewhere a switch says whether layers slide at all
    if family.window_gap is None and not fields.flag("use_sliding_window"):
        return frozenset()
    if family.window == ALL_IF_USED:
        return frozenset(range(layers))
    kinds = fields["layer_types"]
    if kinds is not None:
        return _named_sliding(kinds, layers)
    if family.window_gap is not None:
        gap = fields.whole("sliding_window_pattern", family.window_gap)
        return frozenset(range(layers)) - every(gap, layers)
    if family.rotation_gap is not None:
        return unrotated
    first = fields.whole("max_window_layers", highest=1 << 30, lowest=0)
    if family.window == SECOND_IF_USED:
        return frozenset(range(0, min(first, layers), 2))
    return frozenset(range(first, layers))


def _named_sliding(kinds: Any, layers: int) -> frozenset[int]:
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or not all(kind in (SLIDING, FULL) for kind in kinds)
    ):
        raise ModelError(
            f"config.json: layer_types must say {FULL} or {SLIDING} for each of the {layers} layers"
        )
    return frozenset(layer for layer, kind in enumerate(kinds) if kind == SLIDING)


def _unrotated(fields: Fields, family: Family, layers: int) -> frozenset[int]:
    """Return the layers that do not rotate; a base may say for each whether it rotates (1)."""
    if family.rotation_gap is None:
        return frozenset()
    rotates = fields["no_rope_layers"]
    if rotates is None:
        gap = fields.whole("no_rope_layer_interval", family.rotation_gap)
        return every(gap, layers)
    if (
        not isinstance(rotates, list)
        or len(rotates) != layers
        or not all(each in (0, 1) for each in rotates)
    ):
        raise ModelError(
            f"config.json: no_rope_layers must hold a 0 or a 1 for each of the {layers} layers"
        )
    return frozenset(layer for layer, each in enumerate(rotates) if not each)


def every(gap: int | None, layers: int) -> frozenset[int]:
    """Return the last of each `gap` layers; None: none of them."""
    return frozenset() if gap is None else frozenset(range(gap - 1, layers, gap))
