"""Reads how the layers of a base choose among experts, from config.json or a GGUF file's metadata.

In such a layer the MLP is a router, which chooses some experts for each token and weighs what they
give, and the experts themselves, each an MLP; some bases have one more, which every token passes.
Knows no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ModelError
from .fields import Fields

MAX_EXPERTS = 1 << 10
COUNTS = ("num_experts", "num_local_experts")
"""The fields for how many there are; transformers takes either in most families."""
TOP_K_NORMALISED = "norm_topk_prob"


@dataclass(frozen=True)
class Routing:
    """The words in which a family's config.json describes it.

    count: how many experts there are where it does not say. width: the field for how wide each is.
    shared: that for the width of the one that every token passes; None: there is none. normalised:
    the weights of a token's experts always come to 1; else where TOP_K_NORMALISED says so. partly:
    fields name layers that have an ordinary MLP. counts: those of COUNTS that mean something.
    biased, in_turn: as Experts has them.
    """

    count: int
    width: str
    shared: str | None = None
    normalised: bool = False
    partly: bool = False
    counts: tuple[str, ...] = COUNTS
    biased: bool = False
    in_turn: bool = False


@dataclass(frozen=True)
class Experts:
    """The experts of a base: `count` in each of the layers `layers`, of which each token passes
    `chosen`, each `width` wide inside.

    normalised: the weights of a token's experts come to 1; else they are the softmax over all.
    shared: the width of the one that every token passes, too; 0: there is none. biased: router and
    experts have biases. in_turn: where a folder has a layer's experts together, rows of gate and up
    take turns, and matrices lie transposed.
    """

    count: int
    chosen: int
    width: int
    layers: frozenset[int]
    normalised: bool
    shared: int = 0
    biased: bool = False
    in_turn: bool = False

    def __post_init__(self) -> None:
        if self.chosen > self.count:
            raise ModelError(
                f"the base's tokens pass {self.chosen} experts of {self.count}, which is impossible"
            )


def read_experts(fields: Fields, routing: Routing | None, layers: int) -> Experts | None:
    """Read what config.json says; None where no layer has any. Raises ModelError."""
    if routing is None:
        return None
    sparse = _sparse(fields, layers) if routing.partly else frozenset(range(layers))
    if not sparse:
        return None
    return Experts(
        count=fields.whole(
            next((name for name in routing.counts if fields[name] is not None), "num_experts"),
            routing.count,
            MAX_EXPERTS,
        ),
        chosen=fields.whole("num_experts_per_tok", highest=MAX_EXPERTS),
        width=fields.whole(routing.width),
        layers=sparse,
        normalised=routing.normalised or fields.flag(TOP_K_NORMALISED),
        shared=0 if routing.shared is None else fields.whole(routing.shared),
        biased=routing.biased,
        in_turn=routing.in_turn,
    )


def read_gguf_experts(fields: Fields, routing: Routing | None, layers: int) -> Experts | None:
    """Read what a GGUF file says; None where no layer has any. Raises ModelError.

    Such a file leaves out what llama.cpp knows of the architecture: whether weights come to 1, and
    mostly the width of the expert that every token passes.
    """
    count = fields["expert_count"]
    if routing is None and count not in (None, 0):
        raise ModelError(
            f"the GGUF file has {str(count)[:40]} experts in an architecture that is served without"
            " any; use the base's folder of safetensors"
        )
    if routing is None:
        return None
    chosen = fields.whole("expert_used_count", highest=MAX_EXPERTS)
    wide = fields.whole("feed_forward_length")
    return Experts(
        count=fields.whole("expert_count", highest=MAX_EXPERTS),
        chosen=chosen,
        width=fields.whole("expert_feed_forward_length", max(1, wide // chosen)),
        layers=frozenset(range(layers)),
        normalised=routing.shared is None,
        shared=(
            0 if routing.shared is None else fields.whole("expert_shared_feed_forward_length", wide)
        ),
    )


def _sparse(fields: Fields, layers: int) -> frozenset[int]:
    """Return the layers that have experts."""
    step = fields.whole("decoder_sparse_step", 1)
    plain = fields["mlp_only_layers"] or []
    if not isinstance(plain, list) or not all(type(each) is int for each in plain):
        raise ModelError("config.json: mlp_only_layers must be a list of layers")
    return frozenset(range(step - 1, layers, step)) - frozenset(plain)
