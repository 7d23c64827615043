"""Names the linears of a layer that an adapter may change, and how they are fused.

Knows no adapter and no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import ModelConfig

PARTS = 7
"""Adaptable linears of a layer."""
SITES = 4
"""Fused linears of a layer: q, k and v; out; gate and up; down.

A *site* is `layer * SITES + kind`.
"""


@dataclass(frozen=True)
class Part:
    """One adaptable linear of a layer: PEFT's name for it, its width in and out, the kind of site
    (0 to 3) it is fused into.
    """

    name: str
    width_in: int
    width_out: int
    kind: int


def parts_of(config: ModelConfig) -> tuple[Part, ...]:
    """List the seven linears of a layer in the order in which they are fused (qkv, out, gate_up,
    down).
    """
    q = config.heads * config.head_dim
    kv = config.kv_heads * config.head_dim
    return (
        Part("self_attn.q_proj", config.hidden, q, 0),
        Part("self_attn.k_proj", config.hidden, kv, 0),
        Part("self_attn.v_proj", config.hidden, kv, 0),
        Part("self_attn.o_proj", q, config.hidden, 1),
        Part("mlp.gate_proj", config.hidden, config.intermediate, 2),
        Part("mlp.up_proj", config.hidden, config.intermediate, 2),
        Part("mlp.down_proj", config.intermediate, config.hidden, 3),
    )
