"""What differs between the members of the Llama family, as flags. Reads Hugging Face and GGUF names for the same things."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ModelError

ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}
MAX_CONTEXT_TOKENS = 1 << 17


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3's frequency smoothing (`factor`, `low`, `high`, `original` context), or linear when `low` is None."""

    factor: float
    low: float | None = None
    high: float = 0.0
    original: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder. Counts are heads, layers, tokens; the biases and `qk_norm` say which extra tensors exist.

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
        sizes = (self.vocab_size, self.hidden, self.intermediate, self.layers, self.heads, self.kv_heads, self.head_dim, self.context)
        if min(sizes) < 1 or self.heads % self.kv_heads or self.head_dim % 2:
            raise ModelError(f"the model's shape is impossible: {self}")

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.heads // self.kv_heads

    def inverse_frequencies(self) -> torch.Tensor:
        """Rotary inverse frequencies, [head_dim / 2] in float32, scaled as the model was trained."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        plain = 1.0 / (self.rope_base**exponents)
        return plain if self.rope_scaling is None else _scale(plain, self.rope_scaling)


def _scale(plain: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    if scaling.low is None:
        return plain / scaling.factor
    wavelengths = 2 * math.pi / plain
    smooth = (scaling.original / wavelengths - scaling.low) / (scaling.high - scaling.low)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * plain / scaling.factor + smooth * plain


def from_huggingface(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a `config.json`. Raises ModelError naming what we do not serve."""
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        raise ModelError(f"model_type {kind!r} is not served; we serve {sorted(ARCHITECTURES)}")
    _refuse_unserved(raw)
    rope = dict(raw.get("rope_parameters") or {})
    rope.update(raw.get("rope_scaling") or {})
    try:
        return ModelConfig(
            vocab_size=raw["vocab_size"],
            hidden=raw["hidden_size"],
            intermediate=raw["intermediate_size"],
            layers=raw["num_hidden_layers"],
            heads=raw["num_attention_heads"],
            kv_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
            head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
            context=min(raw.get("max_position_embeddings", 2048), MAX_CONTEXT_TOKENS),
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_base=float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
            rope_scaling=_rope_scaling(rope),
            qkv_bias=kind == "qwen2" or bool(raw.get("attention_bias", False)),
            qk_norm=kind == "qwen3",
            tied_head=bool(raw.get("tie_word_embeddings", False)),
        )
    except KeyError as missing:
        raise ModelError(f"config.json lacks {missing}") from missing


def _refuse_unserved(raw: Mapping[str, Any]) -> None:
    if raw.get("hidden_act", "silu") != "silu":
        raise ModelError(f"hidden_act {raw['hidden_act']!r} is not served; only silu")
    if raw.get("mlp_bias"):
        raise ModelError("mlp_bias is not served")
    if raw.get("attention_bias") and raw.get("model_type") == "llama":
        raise ModelError("attention_bias on the output projection is not served")
    window = raw.get("sliding_window")
    if window and raw.get("use_sliding_window", True) and window < raw.get("max_position_embeddings", 2048):
        raise ModelError(f"sliding_window {window} is not served")


def _rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(float(rope["factor"]))
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        return RopeScaling(float(rope["factor"]), low, high, int(rope["original_max_position_embeddings"]))
    raise ModelError(f"rope scaling {kind!r} is not served; we serve default, linear and llama3")


def from_gguf(fields: Mapping[str, Any], tensor_names: frozenset[str]) -> ModelConfig:
    """Read GGUF metadata. `tensor_names` tells what metadata does not: a tied head, biases, norms of q and k."""
    kind = fields.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ModelError(f"general.architecture {kind!r} is not served; we serve {sorted(ARCHITECTURES)}")
    if "rope_freqs.weight" in tensor_names or fields.get(f"{kind}.rope.scaling.type") not in (None, "none"):
        raise ModelError("scaled rope in a GGUF file is not served; use the Hugging Face folder")
    try:
        heads, hidden = fields[f"{kind}.attention.head_count"], fields[f"{kind}.embedding_length"]
        return ModelConfig(
            vocab_size=fields.get(f"{kind}.vocab_size") or fields["tokenizer.ggml.tokens"],
            hidden=hidden,
            intermediate=fields[f"{kind}.feed_forward_length"],
            layers=fields[f"{kind}.block_count"],
            heads=heads,
            kv_heads=fields.get(f"{kind}.attention.head_count_kv", heads),
            head_dim=fields.get(f"{kind}.attention.key_length", hidden // heads),
            context=min(fields[f"{kind}.context_length"], MAX_CONTEXT_TOKENS),
            norm_eps=fields[f"{kind}.attention.layer_norm_rms_epsilon"],
            rope_base=fields.get(f"{kind}.rope.freq_base", 10000.0),
            qkv_bias="blk.0.attn_q.bias" in tensor_names,
            qk_norm="blk.0.attn_q_norm.weight" in tensor_names,
            tied_head="output.weight" not in tensor_names,
        )
    except KeyError as missing:
        raise ModelError(f"the GGUF file lacks the field {missing}") from missing
