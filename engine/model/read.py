"""Reads the weights of one operation of a program: whole, or in 4 bits where all lie so.

Decides no layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from .program import Kind, Operation
from .quantised import GROUPS, Quantised, stack
from .weights import Weights


def read_whole(operation: Operation, weights: Weights) -> torch.Tensor:
    """Return its weights, one under the other, [out, in] in float32 or as stored."""
    parts = [weights.read(f"{name}.weight") for name in operation.weights]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def read_pieces(operation: Operation, weights: Weights) -> Iterator[torch.Tensor]:
    """Yield its weights as `read_whole` returns them, those of experts one expert at a time: a
    layer's experts together are more than all else that is in memory for a while.
    """
    if operation.kind is not Kind.EXPERTS:
        yield read_whole(operation, weights)
        return
    each = len(operation.widths)
    for first in range(0, len(operation.weights), each):
        one = replace(operation, weights=operation.weights[first : first + each])
        yield read_whole(one, weights)


def read_codes(operation: Operation, weights: Weights) -> Quantised | None:
    """Return its weights, one under the other; None where not all lie in 4 bits in equal groups."""
    parts: list[Quantised] = []
    for name in operation.weights:
        part = weights.read_quantised(f"{name}.weight")
        if part is None or part.group not in GROUPS or part.group != (parts or [part])[0].group:
            return None
        parts.append(part)
    return parts[0] if len(parts) == 1 else stack(parts)
