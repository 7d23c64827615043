"""Reads what an adapter changes of experts, each of which has a pair of its own.

    one by one   lora_A [rank, in], lora_B [out, rank] of each expert that is changed; ranks may
                 differ, and the largest of a layer's counts for all of them
    together     lora_A [experts * rank, in], an expert's ranks in a row; lora_B [out, rank *
                 experts], a rank's experts in a row; gate and up share A

Knows no file's names.
"""

from __future__ import annotations

import torch

from ..model.config import ModelConfig
from ..model.parts import EXPERT_KINDS
from .adapter_config import AdapterConfig
from .layout import PartWeights
from .linears import all_experts, number_of
from .matching import Modules
from .read_ends import Reads

Key = tuple[int, str]


def read_experts(
    modules: Modules, reader: Reads, config: AdapterConfig, base: ModelConfig
) -> dict[Key, PartWeights]:
    """Return the change to each part that experts have. Raises BadAdapter."""
    parts: dict[Key, PartWeights] = {}
    for key in _together(modules):
        parts |= _read_together(key, modules, reader, config, base)
    for key, members in _one_by_one(modules).items():
        parts[key] = _read_one_by_one(members, modules, reader, config, count=_count(base))
    return parts


def bytes_of_experts(
    modules: Modules, config: AdapterConfig, base: ModelConfig, dtype: torch.dtype
) -> int:
    """Return an upper bound of the bytes that experts' pairs take beside the tensors that are read:
    B is turned, A packed for gate and for up, and every expert has the largest rank.
    """
    total = 0
    for key in _together(modules):
        linear = modules.linears[key]
        rank = linear.count * config.rank_of(modules.names[key])
        total += rank * (4 * linear.width_out + dtype.itemsize * linear.width_in)
    for members in _one_by_one(modules).values():
        linear = modules.linears[members[0]]
        rank = _count(base) * _largest_rank(members, modules, config)
        total += rank * (linear.width_in + linear.width_out) * (4 + dtype.itemsize)
    return total


def _count(base: ModelConfig) -> int:
    return 0 if base.experts is None else base.experts.count


def _together(modules: Modules) -> list[Key]:
    """List what is changed of all experts of a layer at once."""
    return [
        key
        for key, linear in modules.linears.items()
        if linear.kind in EXPERT_KINDS and number_of(key[1]) is None
    ]


def _one_by_one(modules: Modules) -> dict[Key, list[Key]]:
    """Return the linears of single experts, by layer and by what all of its experts have there."""
    found: dict[Key, list[Key]] = {}
    for layer, name in modules.linears:
        if number_of(name) is not None:
            found.setdefault((layer, all_experts(name)), []).append((layer, name))
    return found


def _largest_rank(members: list[Key], modules: Modules, config: AdapterConfig) -> int:
    return max(config.rank_of(modules.names[key]) for key in members)


def _read_together(
    key: Key, modules: Modules, reader: Reads, config: AdapterConfig, base: ModelConfig
) -> dict[Key, PartWeights]:
    linear, tensors = modules.linears[key], modules.parts[key]
    rank = config.rank_of(modules.names[key])
    scale = config.scale(modules.names[key], rank)
    a = reader.read(tensors["lora_A"]).view(linear.count, rank, linear.width_in)
    b = reader.read(tensors["lora_B"], scale).view(linear.width_out, rank, linear.count)
    in_turn = base.experts is not None and base.experts.in_turn
    parts = {}
    for place, part in enumerate(linear.parts):
        first = place * part.width_out
        rows = (
            slice(place, None, len(linear.parts))
            if in_turn
            else slice(first, first + part.width_out)
        )
        parts[key[0], part.name] = PartWeights(a, b[rows].permute(2, 0, 1).contiguous())
    return parts


def _read_one_by_one(
    members: list[Key], modules: Modules, reader: Reads, config: AdapterConfig, count: int
) -> PartWeights:
    linear = modules.linears[members[0]]
    most = _largest_rank(members, modules, config)
    a = torch.zeros(count, most, linear.width_in)
    b = torch.zeros(count, linear.width_out, most)
    for key in members:
        tensors, name = modules.parts[key], modules.names[key]
        number = number_of(key[1])
        assert number is not None
        rank = config.rank_of(name)
        a[number, :rank] = reader.read(tensors["lora_A"])
        b[number, :, :rank] = reader.read(tensors["lora_B"], config.scale(name, rank))
    return PartWeights(a, b)
