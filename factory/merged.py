"""What a merge of adapters is made of, and how: the order that a daemon gives and the process of
`merging.py` carries out. Pure; imports no tensors.

    FOLDER/merge.json    the order
    FOLDER/adapter/      the merged adapter, as peft keeps one
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from proofs.manifest import MAX_PARENTS, MAX_WEIGHT, MIN_MERGED, WEIGHT_UNIT

from .errors import BadRun

ORDER_FILE = "merge.json"
ADAPTER = "adapter"
Method = Literal["linear", "ties", "dare_linear", "dare_ties"]
METHODS: tuple[str, ...] = get_args(Method)


class Part(msgspec.Struct, frozen=True):
    """A parent: its name, the folder that has its files, and its weight in ten-thousandths."""

    name: str
    manifest: str
    folder: str
    weight: int


class Order(msgspec.Struct, frozen=True):
    """What is merged, over which base (its id, and the path where it lies), how, and from which
    seed what is dropped is drawn. `density` is the part that is kept where some is dropped.
    """

    name: str
    base: str
    base_path: str
    method: Method
    parents: Annotated[tuple[Part, ...], Meta(min_length=MIN_MERGED, max_length=MAX_PARENTS)]
    density: Annotated[float, Meta(gt=0, le=1)] = 0.5
    seed: Annotated[int, Meta(ge=0, lt=1 << 31)] = 20260


def normalised(weights: Sequence[float | None]) -> tuple[int, ...]:
    """Return weights in ten-thousandths that sum to 10,000, in the same proportion; None counts as
    1. Raises BadRun where that cannot be.
    """
    given = [1.0 if weight is None else weight for weight in weights]
    total = sum(given)
    if not 0 < total < float("inf"):
        raise BadRun(
            f"the weights sum to {total:g}; they are divided by their sum, so it must be more than"
            " 0"
        )
    parts = [round(WEIGHT_UNIT * weight / total) for weight in given]
    parts[max(range(len(parts)), key=lambda at: abs(parts[at]))] += WEIGHT_UNIT - sum(parts)
    for weight, part in zip(given, parts, strict=True):
        if not 0 < abs(part) <= MAX_WEIGHT:
            raise BadRun(
                f"the weight {weight:g} is {part / WEIGHT_UNIT:g} of the sum; each must be -2 to 2,"
                " and no less than 0.0001: leave a parent out, or change the others"
            )
    return tuple(parts)


def recipe_of(order: Order) -> str:
    """Write how it was merged, for people who merge it again: the same bytes, the same adapter."""
    lines = ["merge = 1"]
    values = {
        "name": order.name,
        "base": order.base,
        "method": order.method,
        "density": order.density,
        "seed": order.seed,
    }
    lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    for part in order.parents:
        lines += [
            "",
            "[[parents]]",
            f"name = {json.dumps(part.name)}",
            f'manifest = "{part.manifest}"',
            f"weight = {part.weight / WEIGHT_UNIT:g}",
        ]
    return "\n".join(lines) + "\n"
