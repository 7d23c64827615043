"""Lists the families of bases that are served: one row for what differs between them.

No other file asks which family a base belongs to. Reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

NEVER = False
ALWAYS = True
AS_DECLARED = None
"""config.json's `attention_bias` or `mlp_bias` says whether there is one."""
NO_WINDOW = "none"
"""`sliding_window` means nothing, as in transformers."""
ALWAYS_WINDOW = "always"
"""Every layer slides where `sliding_window` is a number."""
WINDOW_IF_USED = "if used"
"""Some layers slide, where `use_sliding_window` is true as well."""
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
    in_gguf: GGUF files name it as their `general.architecture`.
    gguf_pairs: such files keep the rows of q and k in the order of rotated pairs.
    defaults: what config.json means where it leaves a field out, besides COMMON.
    window: which fields say that attention slides (NO_WINDOW, ALWAYS_WINDOW or WINDOW_IF_USED).
    """

    name: str
    qkv_bias: bool | None = AS_DECLARED
    out_bias: bool | None = AS_DECLARED
    mlp_bias: bool | None = NEVER
    qk_norm: bool = False
    rotation_gap: int | None = None
    in_gguf: bool = True
    gguf_pairs: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    window: str = NO_WINDOW

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
)
FAMILIES: Mapping[str, Family] = MappingProxyType({row.name: row for row in _ROWS})
GGUF_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {row.name: row for row in _ROWS if row.in_gguf}
)


def is_biased(rule: bool | None, declared: bool) -> bool:
    """Return whether a projection has a bias, by the family's rule and what the base declares."""
    return declared if rule is AS_DECLARED else rule
