"""Reads what differs between the members of the Llama family, as flags.

Reads Hugging Face and GGUF names for the same things. Opens no file and knows no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ModelError
from .families import (
    FAMILIES,
    GGUF_FAMILIES,
    NO_WINDOW,
    WINDOW_IF_USED,
    Family,
    is_biased,
)

MAX_CONTEXT_TOKENS = 1 << 17
MAX_SIZE = 1 << 20
MAX_LAYERS = 1 << 10


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3's frequency smoothing (`factor`, `low`, `high`, `original` context), or linear when
    `low` is None.

    divisors: [head_dim / 2], by which each frequency is divided instead, where a file says it so
    (GGUF's rope_freqs).
    """

    factor: float
    low: float | None = None
    high: float = 0.0
    original: int = 0
    divisors: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder.

    Counts are heads, layers, tokens; the biases and `qk_norm` say which extra tensors exist.

    unrotated: layers whose queries and keys carry no rotary embedding (SmolLM3's NoPE).
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
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = False
    unrotated: frozenset[int] = frozenset()

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

    def inverse_frequencies(self) -> torch.Tensor:
        """Return the rotary inverse frequencies, [head_dim / 2] in float32, scaled as the model was
        trained.
        """
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        plain = 1.0 / (self.rope_base**exponents)
        return plain if self.rope_scaling is None else _scale(plain, self.rope_scaling)


def _scale(plain: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    if scaling.divisors:
        return plain / torch.tensor(scaling.divisors)
    if scaling.low is None:
        return plain / scaling.factor
    wavelengths = 2 * math.pi / plain
    smooth = (scaling.original / wavelengths - scaling.low) / (scaling.high - scaling.low)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * plain / scaling.factor + smooth * plain


class _Fields:
    """Untrusted settings: each is checked for its kind and range when it is taken.

    `where` names them in errors.
    """

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self._raw = raw
        self._where = where

    def whole(
        self, name: str, default: int | None = None, highest: int = MAX_SIZE, lowest: int = 1
    ) -> int:
        """Return a number from `lowest` to `highest`. Raises ModelError."""
        value = self._given(name, default)
        if type(value) is not int or not lowest <= value <= highest:
            raise ModelError(
                f"{self._where}: {name} is {str(value)[:40]}; it must be a whole number from"
                f" {lowest} to {highest}"
            )
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """Return a positive, finite number. Raises ModelError."""
        value = self._given(name, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ModelError(
                f"{self._where}: {name} is {str(value)[:40]}; it must be a positive number"
            )
        return float(value)

    def flag(self, name: str) -> bool:
        """Return whether something holds; False unless it is said. Raises ModelError."""
        value = self._given(name, False)
        if type(value) is not bool:
            raise ModelError(
                f"{self._where}: {name} is {str(value)[:40]}; it must be true or false"
            )
        return value

    def inner(self, name: str) -> dict[str, Any]:
        """Return the settings inside the settings; empty unless they are said. Raises
        ModelError.
        """
        value = self._given(name, {})
        if not isinstance(value, dict):
            raise ModelError(f"{self._where}: {name} is {str(value)[:40]}; it must be an object")
        return dict(value)

    def __getitem__(self, name: str) -> Any:
        return self._raw.get(name)

    def _given(self, name: str, default: Any) -> Any:
        value = self._raw.get(name)
        if value is None and default is None:
            raise ModelError(f"{self._where} lacks {name}")
        return default if value is None else value


def from_huggingface(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a `config.json` as transformers does: what it leaves out is its family's default.

    Raises ModelError that names what is not served.
    """
    family = _find_family(FAMILIES, raw.get("model_type"), "config.json: model_type")
    fields = _Fields(family.meant(raw), "config.json")
    rope = _rope_fields(fields)
    _refuse_unserved(fields, rope)
    biased = fields.flag("attention_bias")
    layers = fields.whole("num_hidden_layers", highest=MAX_LAYERS)
    hidden = fields.whole("hidden_size")
    heads = fields.whole("num_attention_heads")
    unrotated = _unrotated(fields, family, layers)
    context = fields.whole("max_position_embeddings", highest=1 << 30)
    return ModelConfig(
        vocab_size=fields.whole("vocab_size", highest=1 << 24),
        hidden=hidden,
        intermediate=fields.whole("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=fields.whole("num_key_value_heads", heads),
        head_dim=fields.whole("head_dim", max(1, hidden // heads)),
        context=min(context, _window(fields, family, layers, unrotated), MAX_CONTEXT_TOKENS),
        norm_eps=fields.real("rms_norm_eps"),
        rope_base=rope.real("rope_theta"),
        rope_scaling=_rope_scaling(rope),
        qkv_bias=is_biased(family.qkv_bias, biased),
        out_bias=is_biased(family.out_bias, biased),
        mlp_bias=is_biased(family.mlp_bias, fields.flag("mlp_bias")),
        qk_norm=family.qk_norm,
        tied_head=fields.flag("tie_word_embeddings"),
        unrotated=unrotated,
    )


def _rope_fields(fields: _Fields) -> _Fields:
    """Return what says how positions rotate: `rope_scaling` (or else `rope_parameters`), and what
    stands beside it.
    """
    given = fields.inner("rope_scaling") or fields.inner("rope_parameters")
    beside = {
        "rope_theta": fields["rope_theta"],
        "partial_rotary_factor": fields["partial_rotary_factor"],
        "original_max_position_embeddings": fields["max_position_embeddings"],
    }
    original = fields["original_max_position_embeddings"]
    first = {"original_max_position_embeddings": original} if original is not None else {}
    return _Fields({**beside, **given, **first}, "config.json: rope_parameters")


def _find_family(families: Mapping[str, Family], name: Any, where: str) -> Family:
    """Return the row of that name. Raises ModelError that says which there are."""
    family = families.get(name) if isinstance(name, str) else None
    if family is None:
        raise ModelError(
            f"{where} {str(name)[:40]!r} is not served; we serve {', '.join(families)}"
        )
    return family


def _refuse_unserved(fields: _Fields, rope: _Fields) -> None:
    neutral = {
        "hidden_act": ("silu", "swish"),
        "pretraining_tp": (1,),
        "is_causal": (True,),
    }
    found = [(name, fields[name], values) for name, values in neutral.items()]
    found.append(("partial_rotary_factor", rope["partial_rotary_factor"], (1,)))
    for name, value, values in found:
        if value is not None and value not in values:
            raise ModelError(
                f"config.json: {name} {str(value)[:40]!r} is not served; only {values[0]!r} is"
            )


def _window(fields: _Fields, family: Family, layers: int, unrotated: frozenset[int]) -> int:
    """Return how many tokens a token looks back in the layer that looks back least.

    Within one window sliding attention is plain attention, so only longer contexts are not served.
    """
    if family.window == NO_WINDOW or fields["sliding_window"] is None:
        return MAX_CONTEXT_TOKENS
    if family.window == WINDOW_IF_USED:
        kinds = fields["layer_types"]
        if not fields.flag("use_sliding_window"):
            slides = False
        elif isinstance(kinds, list):
            slides = "sliding_attention" in kinds
        elif family.rotation_gap is not None:
            slides = bool(unrotated)
        else:
            slides = layers > fields.whole("max_window_layers", highest=1 << 30, lowest=0)
        if not slides:
            return MAX_CONTEXT_TOKENS
    return fields.whole("sliding_window", highest=1 << 30)


def _unrotated(fields: _Fields, family: Family, layers: int) -> frozenset[int]:
    """Return the layers that do not rotate; a base may say for each whether it rotates (1)."""
    if family.rotation_gap is None:
        return frozenset()
    rotates = fields["no_rope_layers"]
    if rotates is None:
        gap = fields.whole("no_rope_layer_interval", family.rotation_gap)
        return _every(gap, layers)
    if (
        not isinstance(rotates, list)
        or len(rotates) != layers
        or not all(each in (0, 1) for each in rotates)
    ):
        raise ModelError(
            f"config.json: no_rope_layers must hold a 0 or a 1 for each of the {layers} layers"
        )
    return frozenset(layer for layer, each in enumerate(rotates) if not each)


def _every(gap: int | None, layers: int) -> frozenset[int]:
    """Return the last of each `gap` layers; None: none of them."""
    return frozenset() if gap is None else frozenset(range(gap - 1, layers, gap))


def _rope_scaling(rope: _Fields) -> RopeScaling | None:
    kind = rope["rope_type"] or rope["type"] or "default"
    if kind in ("default", "dynamic"):  # dynamic scales nothing before the context's end
        return None
    if kind == "linear":
        return RopeScaling(rope.real("factor"))
    if kind == "llama3":
        low = rope.real("low_freq_factor")
        high = rope.real("high_freq_factor")
        if low >= high:
            raise ModelError(
                f"config.json: low_freq_factor {low:g} must be less than high_freq_factor {high:g}"
            )
        return RopeScaling(
            rope.real("factor"),
            low,
            high,
            rope.whole("original_max_position_embeddings", highest=1 << 30),
        )
    raise ModelError(
        f"config.json: rope scaling {str(kind)[:40]!r} is not served; we serve default, dynamic,"
        " linear and llama3"
    )


def from_gguf(
    raw: Mapping[str, Any], tensor_names: frozenset[str], rope_divisors: tuple[float, ...] = ()
) -> ModelConfig:
    """Read GGUF metadata. Raises ModelError.

    `tensor_names` tells what metadata does not: a tied head, biases, norms of q and k;
    `rope_divisors` are rope_freqs.
    """
    family = _find_family(GGUF_FAMILIES, raw.get("general.architecture"), "general.architecture")
    fields = _Fields(
        {name.removeprefix(f"{family.name}."): value for name, value in raw.items()},
        "the GGUF file",
    )
    heads = fields.whole("attention.head_count")
    hidden = fields.whole("embedding_length")
    layers = fields.whole("block_count", highest=MAX_LAYERS)
    head_dim = fields.whole("attention.key_length", max(1, hidden // heads))
    if (
        fields.whole("attention.value_length", head_dim) != head_dim
        or fields.whole("rope.dimension_count", head_dim) != head_dim
    ):
        raise ModelError(
            "the GGUF file has heads whose keys, values and rotated numbers differ in width, which"
            " is not served"
        )
    return ModelConfig(
        vocab_size=fields.whole("vocab_size", raw.get("tokenizer.ggml.tokens"), 1 << 24),
        hidden=hidden,
        intermediate=fields.whole("feed_forward_length"),
        layers=layers,
        heads=heads,
        kv_heads=fields.whole("attention.head_count_kv", heads),
        head_dim=head_dim,
        context=min(fields.whole("context_length", highest=1 << 30), MAX_CONTEXT_TOKENS),
        norm_eps=fields.real("attention.layer_norm_rms_epsilon"),
        rope_base=fields.real("rope.freq_base", 10000.0),
        rope_scaling=_gguf_rope_scaling(fields, rope_divisors, head_dim),
        qkv_bias="blk.0.attn_q.bias" in tensor_names,
        out_bias="blk.0.attn_output.bias" in tensor_names,
        mlp_bias="blk.0.ffn_down.bias" in tensor_names,
        qk_norm="blk.0.attn_q_norm.weight" in tensor_names,
        tied_head="output.weight" not in tensor_names,
        # a GGUF file does not say which
        unrotated=frozenset()
        if family.rotation_gap is None
        else _every(family.rotation_gap, layers),
    )


def _gguf_rope_scaling(
    fields: _Fields, divisors: tuple[float, ...], head_dim: int
) -> RopeScaling | None:
    kind = fields["rope.scaling.type"] or "none"
    if kind not in ("none", "linear"):
        raise ModelError(
            f"the GGUF file: rope.scaling.type {str(kind)[:40]!r} is not served; we serve none and"
            " linear, and rope_freqs"
        )
    if divisors:
        if len(divisors) != head_dim // 2 or not all(0 < each < math.inf for each in divisors):
            raise ModelError(
                f"the GGUF file: rope_freqs must hold {head_dim // 2} positive numbers"
            )
        return RopeScaling(1.0, divisors=divisors)
    return RopeScaling(fields.real("rope.scaling.factor")) if kind == "linear" else None
