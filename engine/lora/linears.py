"""Finds the linear of a base that the name of an adapter's tensor means, those of experts among
them: each by itself, or all of a layer's together.

    mlp.experts.3.up_proj          of one expert, as models had them
    mlp.experts                    of all: gate and up in one tensor, or down, as models run; PEFT
    mlp.experts.base_layer         calls them by the module that holds both, the first of two here

Knows no tensor.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..model.config import ModelConfig
from ..model.parts import (
    DOWN_EXPERTS,
    EXPERTS,
    GATE_UP_EXPERTS,
    Module,
    adapted_modules,
    expert_parts,
)
from .adapter_config import AdapterConfig
from .names import OfEnd, OfNorm, OfPart

INNER = f"{EXPERTS}.base_layer"


class Linears:
    """What adapters may change of a base's layers, by layer and name."""

    def __init__(self, base: ModelConfig) -> None:
        self._base = base
        self._modules = {
            (layer, module.name): module
            for layer in range(base.layers)
            for module in adapted_modules(base, layer)
        }
        self._of_experts = {part.name: part for part in expert_parts(base)}

    def find(self, place: OfPart) -> Module | None:
        """Return a linear; of an expert's, whose name has its number, the shape of that one."""
        found = self._modules.get((place.layer, place.part))
        if found is not None or place.layer >= self._base.layers:
            return found
        experts = self._base.experts_of(place.layer)
        number = number_of(place.part)
        if experts is None or number is None or number >= experts.count:
            return None
        part = self._of_experts.get(all_experts(place.part))
        return None if part is None else Module(place.part, (replace(part, count=1),))


def number_of(name: str) -> int | None:
    """Return which expert a linear's name says that it is of; None: it says none."""
    words = name.split(".")
    if len(words) != 4 or not name.startswith(f"{EXPERTS}.") or not words[2].isdecimal():
        return None
    return int(words[2]) if str(int(words[2])) == words[2] else None


def all_experts(name: str) -> str:
    """Return the name of what all experts have there, of one's."""
    return f"{EXPERTS}.{name.rpartition('.')[2]}"


def inner_layer(place: OfPart | OfNorm | OfEnd | None) -> int | None:
    """Return the layer of a tensor that is the first of two that an adapter changes of one module;
    None of others.
    """
    return place.layer if isinstance(place, OfPart) and place.part == INNER else None


def settle(
    place: OfPart | OfNorm | OfEnd | None, config: AdapterConfig, inner: Collection[int | None]
) -> OfPart | OfNorm | OfEnd | None:
    """Return a place with the tensor of all experts that it means, where PEFT names the module that
    holds two of them: gate and up are wrapped first, then down. inner: the layers that have both.
    """
    if isinstance(place, OfPart) and place.part in (GATE_UP_EXPERTS, DOWN_EXPERTS):
        return None  # PEFT writes no such name, so nobody knows what lies there
    if not isinstance(place, OfPart) or place.part not in (EXPERTS, INNER):
        return place
    stem = f"model.layers.{place.layer}."
    targets = [each for each in (GATE_UP_EXPERTS, DOWN_EXPERTS) if config.targets(stem + each)]
    both = place.layer in inner
    if len(targets) != 1 + both:
        return None
    return OfPart(place.layer, targets[0 if place.part == INNER or not both else 1], place.half)
