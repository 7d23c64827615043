"""Lists the families of bases that are served: one row for what differs between them.

No other file asks which family a base belongs to. Reads no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from .experts import Routing

NEVER = False
ALWAYS = True
AS_DECLARED = None
"""config.json's `attention_bias` (or the family's `bias_field`) or `mlp_bias` says whether there is
one.
"""
NO_WINDOW = "none"
"""`sliding_window` means nothing, as in transformers."""
ALWAYS_WINDOW = "always"
"""Every layer slides where `sliding_window` is a number."""
WINDOW_IF_USED = "if used"
"""Some layers slide: those of `layer_types` or the family's own, where there is a switch for it
(`use_sliding_window`) only if it is on.
"""
ALL_IF_USED = "all if used"
"""Every layer slides where `use_sliding_window` is on."""
SECOND_IF_USED = "every second if used"
"""Where `use_sliding_window` is on those of `layer_types` slide, or else every second layer, from
the first on, below `max_window_layers`.
"""
SILU = "silu"
GELU_TANH = "gelu_tanh"
"""The GELU by way of a tanh, not the exact one."""
CLAMPED = "clamped"
"""(up + 1) * gate * sigmoid(alpha * gate), both kept within a limit (gpt-oss)."""
SILU_NAMES: Mapping[str, str] = MappingProxyType({"silu": SILU, "swish": SILU})
GELU_NAMES: Mapping[str, str] = MappingProxyType(
    {"gelu_pytorch_tanh": GELU_TANH, "gelu_new": GELU_TANH}
)
COMMON: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "use_sliding_window": False,
        "hidden_act": "silu",
    }
)
"""What a field that config.json leaves out means in most families (Llama's configuration class in
transformers); null heads of keys are as many as there are heads.
"""


@dataclass(frozen=True)
class Family:
    """One family, by transformers' `model_type` (`name`).

    qkv_bias, out_bias, mlp_bias: whether the projections have biases (NEVER, ALWAYS or
        AS_DECLARED).
    qk_norm: queries and keys of each head are normalised.
    rotation_gap: every so many layers one is left unrotated (NoPE), unless the base says otherwise;
        None: all rotate.
    in_gguf: GGUF files name it as their `general.architecture`, or as `gguf_name`.
    gguf_pairs: such files keep the rows of q and k in the order of rotated pairs.
    defaults: what config.json means where it leaves a field out, besides COMMON.
    window: which fields say that attention slides (NO_WINDOW, ALWAYS_WINDOW, WINDOW_IF_USED …).
    window_gap: every so many layers one does not slide, unless the base says otherwise.
    local_rope: layers that slide rotate by a base of their own, without scaling.
    partial_rotation: a base may say that only the first numbers of a head rotate.
    rope_names: what it calls some kinds of scaling → what others call them.
    activation_field, activations: what says what gates the MLP, and what its words mean.
    norm_offset, post_norms, fused: as ModelConfig has them.
    scales_embedding: embeddings are multiplied by the root of their width.
    scales_queries: `query_pre_attn_scalar` takes the place of head_dim in the scale of scores. A
        GGUF file does not say it: it is head_dim, but hidden / heads in the model of
        `gguf_wide_layers` layers.
    caps_scores, caps_logits: whether the fields for soft caps mean something.
    routing: how it describes the experts of its layers; None: there are none.
    sinks: each head has a learned score that no token has.
    """

    name: str
    qkv_bias: bool | None = AS_DECLARED
    out_bias: bool | None = AS_DECLARED
    mlp_bias: bool | None = NEVER
    bias_field: str = "attention_bias"
    qk_norm: bool = False
    rotation_gap: int | None = None
    in_gguf: bool = True
    gguf_pairs: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    window: str = NO_WINDOW
    window_gap: int | None = None
    local_rope: bool = False
    partial_rotation: bool = False
    rope_names: Mapping[str, str] = field(default_factory=dict)
    activation_field: str = "hidden_act"
    activations: Mapping[str, str] = field(default_factory=lambda: SILU_NAMES)
    norm_offset: float = 0.0
    post_norms: bool = False
    fused: bool = False
    scales_embedding: bool = False
    scales_queries: bool = False
    caps_scores: bool = False
    caps_logits: bool = False
    gguf_name: str | None = None
    gguf_wide_layers: int | None = None
    routing: Routing | None = None
    sinks: bool = False

    @property
    def gguf(self) -> str:
        """Return what GGUF files call it."""
        return self.gguf_name or self.name

    def embedding_scale(self, hidden: int) -> float:
        """Return by what embeddings of that width are multiplied."""
        return math.sqrt(hidden) if self.scales_embedding else 1.0

    def activation_of(self, name: str | None) -> str:
        """Return what gates the MLP where a base names it so; the family's own for None."""
        return next(iter(self.activations.values())) if name is None else self.activations[name]

    def meant(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return what config.json means: its own fields, then those that it leaves out."""
        return {**COMMON, **self.defaults, **raw}


_QWEN: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }
)
_QWEN_ROUTING = Routing(128, "moe_intermediate_size", partly=True)
_GEMMA: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh",
    }
)
_GEMMA_ROW = Family(
    "",
    window=WINDOW_IF_USED,
    activation_field="hidden_activation",
    activations=GELU_NAMES,
    norm_offset=1.0,
    post_norms=True,
    scales_embedding=True,
    scales_queries=True,
    caps_logits=True,
)
"""What Gemma 2 and 3 share."""
_ROWS = (
    Family("llama", mlp_bias=AS_DECLARED, gguf_pairs=True),
    # llama.cpp writes Mistral's bases as Llama's; transformers ignores `attention_bias` here
    Family(
        "mistral",
        qkv_bias=NEVER,
        out_bias=NEVER,
        in_gguf=False,
        defaults={
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
            "sliding_window": 4096,
        },
        window=ALWAYS_WINDOW,
    ),
    Family("qwen2", qkv_bias=ALWAYS, out_bias=NEVER, defaults=_QWEN, window=WINDOW_IF_USED),
    Family("qwen3", qk_norm=True, defaults={**_QWEN, "head_dim": 128}, window=WINDOW_IF_USED),
    Family(
        "smollm3",
        mlp_bias=AS_DECLARED,
        rotation_gap=4,
        gguf_pairs=True,
        defaults={
            "vocab_size": 128256,
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_theta": 2000000.0,
            "tie_word_embeddings": True,
        },
        window=WINDOW_IF_USED,
    ),
    replace(
        _GEMMA_ROW,
        name="gemma2",
        defaults={
            **_GEMMA,
            "vocab_size": 256000,
            "max_position_embeddings": 8192,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        window_gap=2,
        caps_scores=True,
        gguf_wide_layers=46,
    ),
    # transformers reads a soft cap of scores here and does not apply it
    replace(
        _GEMMA_ROW,
        name="gemma3_text",
        qk_norm=True,
        defaults={
            **_GEMMA,
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
        },
        window_gap=6,
        local_rope=True,
        gguf_name="gemma3",
        gguf_wide_layers=62,
    ),
    Family(
        "phi3",
        qkv_bias=NEVER,
        out_bias=NEVER,
        defaults={
            "vocab_size": 32064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
        window=ALWAYS_WINDOW,
        partial_rotation=True,
        rope_names={"yarn": "longrope"},
        fused=True,
    ),
    Family(
        "qwen2_moe",
        out_bias=NEVER,
        bias_field="qkv_bias",
        defaults={
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "qkv_bias": True,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts_per_tok": 4,
        },
        window=SECOND_IF_USED,
        gguf_name="qwen2moe",
        routing=replace(
            _QWEN_ROUTING,
            count=60,
            shared="shared_expert_intermediate_size",
            counts=("num_experts",),
        ),
    ),
    Family(
        "qwen3_moe",
        qk_norm=True,
        defaults={
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
            "moe_intermediate_size": 768,
            "num_experts_per_tok": 8,
        },
        window=ALL_IF_USED,
        gguf_name="qwen3moe",
        routing=_QWEN_ROUTING,
    ),
    Family(
        "mixtral",
        qkv_bias=NEVER,
        out_bias=NEVER,
        in_gguf=False,
        defaults={
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_experts_per_tok": 2,
        },
        window=ALWAYS_WINDOW,
        routing=Routing(8, "intermediate_size", normalised=True),
    ),
    Family(
        "gpt_oss",
        in_gguf=False,
        defaults={
            "num_hidden_layers": 36,
            "vocab_size": 201088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "head_dim": 64,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "sliding_window": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000.0,
            "attention_bias": True,
            "num_experts_per_tok": 4,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 32.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        },
        window=WINDOW_IF_USED,
        window_gap=2,
        activations={"silu": CLAMPED},
        routing=Routing(128, "intermediate_size", normalised=True, biased=True, in_turn=True),
        sinks=True,
    ),
)
FAMILIES: Mapping[str, Family] = MappingProxyType({row.name: row for row in _ROWS})
GGUF_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {row.gguf: row for row in _ROWS if row.in_gguf}
)

TEXT_PARTS: Mapping[str, str] = MappingProxyType({"gemma3": "gemma3_text"})
"""Bases that see pictures, too: the family of the part that reads and writes text, which alone is
served. `text_config` in config.json describes it.
"""


def is_biased(rule: bool | None, declared: bool) -> bool:
    """Return whether a projection has a bias, by the family's rule and what the base declares."""
    return declared if rule is AS_DECLARED else rule
