"""Finds the place in the base of every tensor that an adapter's file declares, and checks its
shape, before any is read.

Decides what is whole and what is changed in two ways at once. Reads no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import BadAdapter
from ..model.config import ModelConfig
from ..model.parts import (
    DOWN_EXPERTS,
    EXPERT_KINDS,
    GATE_UP_EXPERTS,
    ROUTING,
    SITES,
    Module,
    adapted_modules,
    norm_width,
    norms_of,
)
from .adapter_config import MAX_RANK, AdapterConfig
from .linears import Linears, inner_layer, number_of, settle
from .names import OfEnd, OfNorm, OfPart, find_place, find_unused
from .read_ends import MODULES, saves_end
from .whole import check_rank

EMBEDDING_PAIR = {"lora_embedding_A", "lora_embedding_B"}
HEAD_PAIR = {"lora_A", "lora_B"}
OF_EXPERTS = ".mlp."
"""Stands in the name of all that a layer with experts has behind attention but norms."""
MAX_TOKENS_FEWER = 1024
"""By how many tokens a resized vocabulary may be smaller than the base's (which is padded)."""


@dataclass(frozen=True)
class TensorHeader:
    """The declaration of one tensor in the safetensors header."""

    shape: tuple[int, ...]
    dtype: str
    size_bytes: int


Tensors = dict[str, str]
"""What a tensor is ("lora_A.weight", …) → its name in the file."""


@dataclass
class Modules:
    """The tensors by what they change: `parts` by (layer, part name), `ends` by "embed_tokens" and
    "lm_head", `norms` by (layer, name).

    linears, names: of the `parts`, their shape, and what the adapter's configuration calls them.
    """

    parts: dict[tuple[int, str], Tensors]
    ends: dict[str, Tensors]
    norms: dict[tuple[int | None, str], str]
    linears: dict[tuple[int, str], Module]
    names: dict[tuple[int, str], str]
    num_tensors: int = 0


def match_tensors(
    header: dict[str, TensorHeader], config: AdapterConfig, base: ModelConfig
) -> Modules:
    """Find each tensor's place in the base and check its shape.

    All halves of every module must be there. Raises BadAdapter.
    """
    linears = Linears(base)
    modules = Modules({}, {}, {}, {}, {})
    inner = {inner_layer(find_place(name)) for name in header}
    unused = find_unused(header)
    for name, tensor in header.items():
        if name in unused:
            continue
        modules.num_tensors += 1
        place = settle(find_place(name), config, inner)
        if isinstance(place, OfEnd):
            _match_end(name, tensor, place, config, base=base, modules=modules)
        elif isinstance(place, OfNorm) and _has_norm(base, place):
            _match_norm(name, tensor, place, config, base=base, modules=modules)
        elif isinstance(place, OfPart) and (part := linears.find(place)) is not None:
            _match_part(name, tensor, place, part, config=config, base=base, modules=modules)
        else:
            raise _out_of_place(name, base)
    if not modules.parts and not modules.ends and not modules.norms:
        raise BadAdapter("the adapter declares no tensor")
    for key, tensors in modules.parts.items():
        _check_part(modules.names[key], tensors, config, modules.linears[key])
    _check_experts(modules)
    _check_ends(modules.ends, config, base)
    _check_saved(modules, config, base)
    return modules


def _out_of_place(name: str, base: ModelConfig) -> BadAdapter:
    if base.experts is not None and OF_EXPERTS in name:
        return BadAdapter(
            f"tensor {name[:200]} changes experts or what chooses them in a way that is not served;"
            " LoRA of each expert's linears, or of all experts' together (target_parameters), is"
        )
    layers = next((layer for layer in range(base.layers) if base.experts_of(layer) is None), 0)
    found = ", ".join(module.name.rpartition(".")[2] for module in adapted_modules(base, layers))
    return BadAdapter(
        f"tensor {name[:200]} has no place in this base ({base.layers} layers of {found})"
    )


def _has_norm(base: ModelConfig, place: OfNorm) -> bool:
    return place.layer is None or (place.layer < base.layers and place.name in norms_of(base))


def _match_end(
    name: str,
    tensor: TensorHeader,
    place: OfEnd,
    config: AdapterConfig,
    *,
    base: ModelConfig,
    modules: Modules,
) -> None:
    module, half = place.module, place.half
    if (half in EMBEDDING_PAIR and module == "lm_head") or (
        half in {*HEAD_PAIR, "lora_B.bias"} and module == "embed_tokens"
    ):
        raise BadAdapter(f"tensor {name} belongs to no kind of adapter for {module}")
    if half == "tokens" and module not in config.tokens:
        raise BadAdapter(
            f"tensor {name} has no place: trainable_token_indices does not name {module}"
        )
    _expect(name, tensor, _end_shape(config, module, half, base, tensor.shape))
    _place(modules.ends.setdefault(module, {}), half, name)


def _match_norm(
    name: str,
    tensor: TensorHeader,
    place: OfNorm,
    config: AdapterConfig,
    *,
    base: ModelConfig,
    modules: Modules,
) -> None:
    if not config.saves(place.module):
        raise BadAdapter(f"tensor {name} has no place: modules_to_save does not name it")
    _expect(name, tensor, (norm_width(base, place.name),))
    if modules.norms.setdefault((place.layer, place.name), name) != name:
        raise BadAdapter(f"tensor {name} is declared twice")


def _match_part(
    name: str,
    tensor: TensorHeader,
    place: OfPart,
    part: Module,
    config: AdapterConfig,
    base: ModelConfig,
    modules: Modules,
) -> None:
    is_saved = config.saves(place.told)
    # PEFT means what chooses experts by its tensor, unless that is a linear's
    as_tensor = f"{place.told}.weight"
    told = as_tensor if config.targets(as_tensor) else place.told
    if place.half == "bias" and not ((config.bias != "none" or is_saved) and has_bias(base, part)):
        why = f"bias is {config.bias!r}" if has_bias(base, part) else "this base has no bias there"
        raise BadAdapter(f"tensor {name} has no place: {why}")
    if place.half == "weight" and is_saved:
        check_rank(place.told, min(part.width_in, part.width_out))
    _expect(name, tensor, _part_shape(config, told, part, place.half))
    key = place.layer, part.name
    modules.linears[key] = part
    modules.names[key] = told
    _place(modules.parts.setdefault(key, {}), place.half, name)


def _check_saved(modules: Modules, config: AdapterConfig, base: ModelConfig) -> None:
    """Raise BadAdapter unless the file holds whatever modules_to_save names."""
    present = [MODULES[module] for module, tensors in modules.ends.items() if "weight" in tensors]
    present += [OfNorm(*key).module for key in modules.norms]
    present += [modules.names[key] for key, tensors in modules.parts.items() if "weight" in tensors]
    for name in config.saved:
        one = replace(config, saved=(name,))
        if not any(map(one.saves, present)):
            raise BadAdapter(
                f"modules_to_save names {name[:80]}, but the file has no tensor for it"
            )
    norms = [OfNorm(None, "norm")]
    for layer in range(base.layers):
        norms += [OfNorm(layer, name) for name in norms_of(base)]
    wanted = [norm.module for norm in norms if norm.module not in present]
    wanted += [
        f"model.layers.{layer}.{linear.name}"
        for layer in range(base.layers)
        for linear in adapted_modules(base, layer)
        if "weight" not in modules.parts.get((layer, linear.name), {})
    ]
    for module in wanted:
        if config.saves(module):
            raise BadAdapter(f"modules_to_save names {module}, but the file has no tensor for it")


def has_bias(base: ModelConfig, part: Module) -> bool:
    """Return whether the base adds a bias to this linear."""
    if part.kind < SITES:
        return (base.qkv_bias, base.out_bias, base.mlp_bias, base.mlp_bias)[part.kind]
    return part.kind == ROUTING and base.experts is not None and base.experts.biased


def _expect(name: str, tensor: TensorHeader, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise BadAdapter(
            f"tensor {name} has shape {list(tensor.shape)}, this base and its rank need"
            f" {list(expected)}: made for another base?"
        )


def _place(tensors: Tensors, half: str, name: str) -> None:
    if tensors.setdefault(half, name) != name:
        raise BadAdapter(f"tensor {name} is declared twice, also as {tensors[half]}")


def _check_part(module: str, tensors: Tensors, config: AdapterConfig, part: Module) -> None:
    if part.kind in EXPERT_KINDS and (config.dora or config.lora_bias):
        field = "use_dora" if config.dora else "lora_bias"
        raise BadAdapter(f"{field} is not served for experts ({next(iter(tensors.values()))})")
    if part.kind in EXPERT_KINDS and "weight" in tensors:
        raise BadAdapter(
            f"tensor {tensors['weight']} replaces an expert's linear as a whole, which is not"
            " served; train it with LoRA"
        )
    own = tensors.keys() - {"bias", "weight"}
    if config.saves(module):
        if own:
            raise BadAdapter(
                f"{module} is changed in two ways at once (of target_modules and modules_to_save);"
                " that is not served"
            )
        return
    needed = (
        {"lora_A", "lora_B"}
        | ({"lora_magnitude_vector"} if config.dora else set())
        | ({"lora_B.bias"} if config.lora_bias else set())
    )
    if own or config.bias != "all":
        _check_whole(
            own,
            needed,
            tensors,
            " (use_dora)" if config.dora else " (lora_bias)" if config.lora_bias else "",
        )


def _check_experts(modules: Modules) -> None:
    """Raise BadAdapter where experts are changed both one by one and together."""
    for layer, name in modules.parts:
        fused = DOWN_EXPERTS if name.endswith(".down_proj") else GATE_UP_EXPERTS
        if number_of(name) is not None and (layer, fused) in modules.parts:
            raise BadAdapter(
                f"model.layers.{layer}.{name} is changed in two ways at once, by itself and with"
                " those of all experts; that is not served"
            )


def _check_whole(present: set[str], needed: set[str], tensors: Tensors, field: str = "") -> None:
    if present != needed:
        wrong = sorted(present ^ needed)
        verdict = (
            "has no place here" if set(wrong) <= present else "is missing: it lacks its other half"
        )
        raise BadAdapter(
            f"beside tensor {next(iter(tensors.values()))} {', '.join(wrong)}{field} {verdict}"
        )


def _check_ends(ends: dict[str, Tensors], config: AdapterConfig, base: ModelConfig) -> None:
    """Raise BadAdapter unless each end is changed in at most one way.

    The ways are a pair, some rows of its own, or the whole.
    """
    pairs = {"embed_tokens": EMBEDDING_PAIR, "lm_head": HEAD_PAIR}
    for module, halves in pairs.items():
        tensors = ends.get(module, {})
        by_tokens = module in config.tokens or (base.tied_head and "embed_tokens" in config.tokens)
        pair = tensors.keys() - {"weight", "tokens"}
        is_saved = saves_end(config, base, module)
        if by_tokens + is_saved + bool(pair) > 1:
            ways = "target_modules, modules_to_save and trainable_token_indices"
            raise BadAdapter(
                f"{module} is changed in two ways at once (of {ways}); that is not served"
            )
        for field, half, is_declared in (
            ("modules_to_save", "weight", config.saves(MODULES[module])),
            ("trainable_token_indices", "tokens", module in config.tokens),
        ):
            if is_declared and half not in tensors:
                raise BadAdapter(f"{field} names {module}, but the file has no tensor for it")
        if pair and config.lora_bias and module == "embed_tokens":
            raise BadAdapter(f"lora_bias is not served for the embedding ({tensors[min(pair)]})")
        if pair:
            dora = {"lora_magnitude_vector"} if config.dora else set()
            bias = {"lora_B.bias"} if config.lora_bias else set()
            _check_whole(pair, halves | dora | bias, tensors)
    tied = config.ties and base.tied_head and "lora_embedding_A" in ends.get("embed_tokens", {})
    if tied and "lora_A" not in ends.get("lm_head", {}):
        raise BadAdapter(
            "ensure_weight_tying ties lm_head to the embedding's adapter, but the file has no"
            " tensor for it"
        )


def _part_shape(config: AdapterConfig, told: str, part: Module, half: str) -> tuple[int, ...]:
    if half == "weight":
        return (part.width_out, part.width_in)
    rank = part.count * _checked_rank(config, told)
    shapes = {"lora_A": (rank, part.width_in), "lora_B": (part.width_out, rank)}
    return shapes.get(half, (part.width_out,))


def _end_shape(
    config: AdapterConfig, module: str, half: str, base: ModelConfig, given: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the shape that a tensor must have; a resized vocabulary is as large as it says."""
    vocab = base.vocab_size
    sizes = [each for each in given if each != base.hidden]
    if len(sizes) <= 2 and half not in ("tokens", "lora_magnitude_vector") and sizes:
        resized = max(sizes)
        vocab = resized if vocab - MAX_TOKENS_FEWER <= resized <= 2 * vocab else vocab
    if half == "weight":
        return (vocab, base.hidden)
    if half == "tokens":
        return (len(config.tokens[module]), base.hidden)
    if half == "lora_magnitude_vector":
        return (base.hidden,) if module == "embed_tokens" else given[:1]
    rank = _checked_rank(config, MODULES[module])
    return {
        "lora_embedding_A": (rank, vocab),
        "lora_embedding_B": (base.hidden, rank),
        "lora_A": (rank, base.hidden),
        "lora_B": (vocab, rank),
        "lora_B.bias": (vocab,),
    }[half]


def _checked_rank(config: AdapterConfig, module: str) -> int:
    rank = config.rank_of(module)
    if not 1 <= rank <= MAX_RANK:
        raise BadAdapter(f"rank_pattern gives rank {rank} to {module}; it must be 1 to {MAX_RANK}")
    return rank
