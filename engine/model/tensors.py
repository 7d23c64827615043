"""Lists the tensors that a base of some shape has, and checks a file's against them.

Pure: names and shapes, no bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import ModelError
from .config import ModelConfig
from .experts import Experts
from .parts import (
    DOWN_PARTS,
    GATE_UP_PARTS,
    ROUTER,
    SHARED,
    SHARED_GATE,
    expert_names,
    layer_modules,
    norm_width,
    norms_of,
)

Shape = tuple[int, ...]


def expected_tensors(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Yield every tensor by its Hugging Face name, and its shape."""
    hidden = config.hidden
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    yield "model.norm.weight", (hidden,)
    if not config.tied_head:
        yield "lm_head.weight", (config.vocab_size, hidden)
    biases = (config.qkv_bias, config.out_bias, config.mlp_bias, config.mlp_bias)
    norms = [(name, norm_width(config, name)) for name in norms_of(config)]
    for layer in range(config.layers):
        stem = f"model.layers.{layer}."
        for module in layer_modules(config, layer):
            yield f"{stem}{module.name}.weight", (module.width_out, module.width_in)
            if biases[module.kind]:
                yield f"{stem}{module.name}.bias", (module.width_out,)
        experts = config.experts_of(layer)
        for name, shape in () if experts is None else _of_experts(experts, hidden):
            yield f"{stem}{name}.weight", shape
            if experts is not None and experts.biased:
                yield f"{stem}{name}.bias", shape[:1]
        if config.sinks:
            yield f"{stem}self_attn.sinks", (config.heads,)
        for name, width in norms:
            yield f"{stem}{name}.weight", (width,)


def _of_experts(experts: Experts, hidden: int) -> Iterator[tuple[str, Shape]]:
    """Yield the linears of a layer's router and experts, and their shapes."""
    yield ROUTER, (experts.count, hidden)
    stems = [*expert_names(experts.count, GATE_UP_PARTS), *expert_names(experts.count, DOWN_PARTS)]
    yield from ((name, _shape(name, experts.width, hidden)) for name in stems)
    if experts.shared:
        yield SHARED_GATE, (1, hidden)
        for part in (*GATE_UP_PARTS, *DOWN_PARTS):
            yield f"{SHARED}.{part}", _shape(part, experts.shared, hidden)


def _shape(name: str, width: int, hidden: int) -> Shape:
    return (hidden, width) if name.endswith(DOWN_PARTS) else (width, hidden)


def check_tensors(config: ModelConfig, shapes: Mapping[str, Shape]) -> None:
    """Raise ModelError that names the first tensor that is missing, misshapen, or would be left
    out.
    """
    expected = dict(expected_tensors(config))
    for name, shape in expected.items():
        if name not in shapes:
            raise ModelError(f"the base lacks the tensor {name}, which its configuration calls for")
        if shapes[name] != shape:
            raise ModelError(
                f"tensor {name} has shape {list(shapes[name])}; the base's configuration makes it"
                f" {list(shape)}"
            )
    for name in shapes:
        if (
            name.startswith("model.layers.")
            and name not in expected
            and not name.endswith("rotary_emb.inv_freq")
        ):
            raise ModelError(
                f"tensor {name[:200]} is not one that the base's configuration calls for; serving"
                " it would leave it out"
            )
