"""Turns a base's tensors as its files have them into those that the program computes with.

    fused     q, k and v in one tensor, gate and up in another: each part is some of its rows
    partly    where only the first numbers of a head rotate, each head's rows are put in an order in
    rotated   which pairs that turn together lie half a head apart, as everywhere else; what does
              not rotate fills the rest (rope.py gives it cosine 1). Queries and keys have the same
              order, so their products are what they were
    norms     what a family adds to their weights is added

    head of 8 numbers, 4 rotate     0 1 | 2 3 | 4 5 6 7   →   0 1 4 5 | 2 3 6 7

An adapter's tensors are in the files' terms, and are read in these; `cut_for` gives what is each
part's. Knows no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .config import ModelConfig
from .parts import HEAD_NORMS, Module, Part, modules_of

Read = Callable[[str], torch.Tensor]
HEADED = ("self_attn.q_proj", "self_attn.k_proj")


@dataclass(frozen=True)
class Source:
    """What a tensor of the program is made of.

    name: of the tensor in the files. rows: those of its rows, in the files' order (None: all).
    order: that in which the program has them, of a tensor with that many rows (None: the same).
    offset: what is added to its numbers.
    """

    name: str
    rows: slice | None = None
    order: torch.Tensor | None = None
    offset: float = 0.0


def source_of(config: ModelConfig, name: str) -> Source:
    """Return what the program's tensor of that name is made of."""
    stem, _, ending = name.rpartition(".")
    layer, part = _cut(stem)
    offset = config.norm_offset if "norm" in part else 0.0
    order = _order(config, part)
    for module in modules_of(config):
        for one in module.parts:
            if one.name == part and len(module.parts) > 1:
                return Source(f"{layer}{module.name}.{ending}", _rows_of(module, one), order)
    return Source(name, None, order, offset)


def computed(config: ModelConfig, stored: Read) -> Read:
    """Return what reads tensors as the program wants them, from what reads those of the files."""

    def read(name: str) -> torch.Tensor:
        source = source_of(config, name)
        tensor = stored(source.name)
        tensor = tensor if source.rows is None else tensor[source.rows]
        tensor = tensor.float() + source.offset if source.offset else tensor
        return tensor if source.order is None else tensor[source.order]

    return read


def cut_for(config: ModelConfig, module: Module, part: Part, tensor: torch.Tensor) -> torch.Tensor:
    """Return what of a module's rows, in the files' order, is the part's, in the program's."""
    own = tensor[_rows_of(module, part)] if len(module.parts) > 1 else tensor
    return in_order(config, part.name, own)


def in_order(config: ModelConfig, part: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return the rows of a part, or a norm's numbers, in the program's order."""
    order = _order(config, part)
    return tensor if order is None else tensor[order]


def _cut(stem: str) -> tuple[str, str]:
    """Return a layer's prefix and the name inside it; the prefix is empty outside the layers."""
    words = stem.split(".")
    if words[:2] != ["model", "layers"]:
        return "", stem
    return ".".join(words[:3]) + ".", ".".join(words[3:])


def _rows_of(module: Module, part: Part) -> slice:
    before = module.parts[: module.parts.index(part)]
    first = sum(each.width_out for each in before)
    return slice(first, first + part.width_out)


def _order(config: ModelConfig, part: str) -> torch.Tensor | None:
    """Return the rows of a part in the order in which numbers of a head that turn together lie half
    a head apart; None where they lie so.
    """
    head = config.head_dim
    rotated = config.rotated
    if rotated == head or part not in (*HEADED, *HEAD_NORMS):
        return None
    turning, still = torch.arange(rotated).chunk(2), torch.arange(rotated, head).chunk(2)
    one = torch.cat([turning[0], still[0], turning[1], still[1]])
    heads = {HEADED[0]: config.heads, HEADED[1]: config.kv_heads}.get(part, 1)
    return (torch.arange(heads)[:, None] * head + one).flatten()
