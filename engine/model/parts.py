"""Names the linears and norms of a layer that an adapter may change, how the program fuses linears,
and how a base's own files do.

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


ATTENTION = (0, 1)
"""The kinds of site in attention; the others are the MLP's, which a layer with experts has not."""
EXPERTS_IN, EXPERTS_OUT, ROUTING, SHARED_IN, SHARED_OUT = range(SITES, SITES + 5)
"""Further kinds, of a layer with experts: gate and up of them all, and down; what chooses them (and
weighs the one that every token passes); gate and up of that one, and down.
"""
EXPERT_KINDS = (EXPERTS_IN, EXPERTS_OUT)
"""Those of which each expert has its own."""


@dataclass(frozen=True)
class Part:
    """One adaptable linear of a layer: PEFT's name for it, its width in and out, the kind of site
    it is fused into; of `count` experts each has one.
    """

    name: str
    width_in: int
    width_out: int
    kind: int
    count: int = 1


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


ROUTER = "mlp.gate"
SHARED_GATE = "mlp.shared_expert_gate"
SHARED = "mlp.shared_expert"
"""Of a layer with experts: the tensor by which they are chosen, and the expert that every token
passes with what it is weighed by.
"""
EXPERTS = "mlp.experts"
GATE_UP_PARTS = ("gate_proj", "up_proj")
DOWN_PARTS = ("down_proj",)
GATE_UP_EXPERTS = "mlp.experts.gate_up_proj"
DOWN_EXPERTS = "mlp.experts.down_proj"
"""What holds all experts' gate and up together, and their down, as models run."""


def expert_parts(config: ModelConfig) -> tuple[Part, ...]:
    """List what an adapter may change in a layer with experts behind attention, site by site; empty
    where there are none.
    """
    experts, hidden = config.experts, config.hidden
    if experts is None:
        return ()
    routed = (
        Part(f"{EXPERTS}.gate_proj", hidden, experts.width, EXPERTS_IN, experts.count),
        Part(f"{EXPERTS}.up_proj", hidden, experts.width, EXPERTS_IN, experts.count),
        Part(f"{EXPERTS}.down_proj", experts.width, hidden, EXPERTS_OUT, experts.count),
        Part(ROUTER, hidden, experts.count, ROUTING),
    )
    if not experts.shared:
        return routed
    return (
        *routed,
        Part(SHARED_GATE, hidden, 1, ROUTING),
        Part(f"{SHARED}.gate_proj", hidden, experts.shared, SHARED_IN),
        Part(f"{SHARED}.up_proj", hidden, experts.shared, SHARED_IN),
        Part(f"{SHARED}.down_proj", experts.shared, hidden, SHARED_OUT),
    )


def expert_names(count: int, parts: tuple[str, ...]) -> tuple[str, ...]:
    """List the linears of all experts of a layer, one expert after the other."""
    return tuple(f"mlp.experts.{number}.{part}" for number in range(count) for part in parts)


QKV_TENSOR = "self_attn.qkv_proj"
GATE_UP_TENSOR = "mlp.gate_up_proj"


@dataclass(frozen=True)
class Module:
    """One linear of a layer as the base's files and adapters know it: one part, or several whose
    rows follow one another.
    """

    name: str
    parts: tuple[Part, ...]

    @property
    def width_in(self) -> int:
        """Return its number of inputs."""
        return self.parts[0].width_in

    @property
    def width_out(self) -> int:
        """Return its number of outputs."""
        return sum(part.width_out for part in self.parts)

    @property
    def kind(self) -> int:
        """Return the kind of site that it is part of."""
        return self.parts[0].kind

    @property
    def count(self) -> int:
        """Return how many experts have such a linear, 1 of what is no expert's."""
        return self.parts[0].count


def modules_of(config: ModelConfig) -> tuple[Module, ...]:
    """List the linears of a layer by the names that the base's files give them."""
    q, k, v, out, gate, up, down = parts_of(config)
    if config.fused:
        return (
            Module(QKV_TENSOR, (q, k, v)),
            Module(out.name, (out,)),
            Module(GATE_UP_TENSOR, (gate, up)),
            Module(down.name, (down,)),
        )
    return tuple(Module(part.name, (part,)) for part in (q, k, v, out, gate, up, down))


def layer_modules(config: ModelConfig, layer: int) -> tuple[Module, ...]:
    """List the linears of one layer that lie in no layer's experts: of one with experts,
    attention's.
    """
    modules = modules_of(config)
    if config.experts_of(layer) is None:
        return modules
    return tuple(module for module in modules if module.kind in ATTENTION)


def layer_parts(config: ModelConfig, layer: int) -> tuple[Part, ...]:
    """List the parts of `layer_modules`."""
    return tuple(part for module in layer_modules(config, layer) for part in module.parts)


HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
"""Of each head of queries and of keys, where a base has them."""


def adapted_modules(config: ModelConfig, layer: int) -> tuple[Module, ...]:
    """List the linears of one layer that adapters may change, those of all experts as two."""
    modules = layer_modules(config, layer)
    if config.experts_of(layer) is None:
        return modules
    gate, up, down, *others = expert_parts(config)
    experts = (Module(GATE_UP_EXPERTS, (gate, up)), Module(DOWN_EXPERTS, (down,)))
    return (*modules, *experts, *(Module(part.name, (part,)) for part in others))


def norms_of(config: ModelConfig) -> tuple[str, ...]:
    """List the norms of a layer: those as wide as the stream in the order in which they run, then
    those of heads.
    """
    stream: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    if config.post_norms:
        stream += ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return stream + HEAD_NORMS if config.qk_norm else stream


def norm_width(config: ModelConfig, name: str) -> int:
    """Return how many numbers a norm of that name has: a head's, or the stream's."""
    return config.head_dim if name in HEAD_NORMS else config.hidden
