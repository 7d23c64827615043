"""Lists the families of bases that are served: one row for what differs between them.

No other file asks which family a base belongs to. Reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

NEVER = False
ALWAYS = True
AS_DECLARED = None
"""config.json's `attention_bias` says whether there is one."""


@dataclass(frozen=True)
class Family:
    """One family, by transformers' `model_type` (`name`).

    qkv_bias, out_bias: whether the attention's projections have biases (NEVER, ALWAYS or
        AS_DECLARED).
    qk_norm: queries and keys of each head are normalised.
    rotation_gap: every so many layers one is left unrotated (NoPE), unless the base says otherwise;
        None: all rotate.
    in_gguf: GGUF files name it as their `general.architecture`.
    gguf_pairs: such files keep the rows of q and k in the order of rotated pairs.
    """

    name: str
    qkv_bias: bool | None = AS_DECLARED
    out_bias: bool | None = AS_DECLARED
    qk_norm: bool = False
    rotation_gap: int | None = None
    in_gguf: bool = True
    gguf_pairs: bool = False


_ROWS = (
    Family("llama", gguf_pairs=True),
    # llama.cpp writes Mistral's bases as Llama's; transformers ignores `attention_bias` here
    Family("mistral", qkv_bias=NEVER, out_bias=NEVER, in_gguf=False),
    Family("qwen2", qkv_bias=ALWAYS, out_bias=NEVER),
    Family("qwen3", qk_norm=True),
    Family("smollm3", rotation_gap=4, gguf_pairs=True),
)
FAMILIES: Mapping[str, Family] = MappingProxyType({row.name: row for row in _ROWS})
GGUF_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {row.name: row for row in _ROWS if row.in_gguf}
)


def is_biased(rule: bool | None, declared: bool) -> bool:
    """Return whether a projection has a bias, by the family's rule and what the base declares."""
    return declared if rule is AS_DECLARED else rule
