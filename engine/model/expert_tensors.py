"""Finds the tensors of experts under whatever names a folder has them, and gives each its own.

    one by one   mlp.experts.3.gate_proj.weight            [width, hidden]   as most are published
    Mixtral's    block_sparse_moe.experts.3.w1.weight      w1 gate, w3 up, w2 down
    together     mlp.experts.gate_up_proj                  [experts, 2 * width, hidden], as they
                 mlp.experts.down_proj                     [experts, hidden, width]      are run

Reads no file by itself; a tensor that holds all experts is read a slice at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from .experts import MAX_EXPERTS
from .parts import DOWN_PARTS, GATE_UP_PARTS
from .quantised_folder import Readable

MIXTRAL_NAMES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
MIXTRAL = re.compile(r"(.*\.mlp\.experts\.\d{1,4})\.(w[123])\.(.+)")
TOGETHER = re.compile(r"(model\.layers\.\d{1,4}\.mlp\.experts)\.(gate_up_proj|down_proj)")


class Sliced(Readable, Protocol):
    """A tensor in a file, of which a part can be read."""

    def read_part(self, number: int) -> torch.Tensor:
        """Read what has that number in its first dimension. Raises ModelError."""


@dataclass(frozen=True)
class OfExpert:
    """The rows `first` to `end` of what a tensor has for one expert."""

    whole: Sliced
    number: int
    first: int
    end: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Return its shape."""
        return self.end - self.first, self.whole.shape[2]

    @property
    def kind(self) -> str:
        """Return its number format."""
        return self.whole.kind

    def read(self) -> torch.Tensor:
        """Read it as stored. Raises ModelError."""
        return self.whole.read_part(self.number)[self.first : self.end]


def name_in_mlp(name: str) -> str:
    """Return a tensor's name with Mixtral's words replaced by those of all others."""
    name = name.replace(".block_sparse_moe.", ".mlp.")
    found = MIXTRAL.fullmatch(name)
    return name if found is None else f"{found[1]}.{MIXTRAL_NAMES[found[2]]}.{found[3]}"


def one_by_one(tensors: Mapping[str, Sliced]) -> Iterator[tuple[str, Readable]]:
    """Yield all tensors, those that hold a layer's experts together as one for each expert."""
    for name, tensor in tensors.items():
        found = TOGETHER.fullmatch(name)
        if found is None or len(tensor.shape) != 3 or tensor.shape[0] > MAX_EXPERTS:
            yield name, tensor
            continue
        parts = GATE_UP_PARTS if found[2] == "gate_up_proj" else DOWN_PARTS
        count, rows, _ = tensor.shape
        for number in range(count):
            for place, part in enumerate(parts):
                first, end = (rows * each // len(parts) for each in (place, place + 1))
                slice_ = OfExpert(tensor, number, first, end)
                yield f"{found[1]}.{number}.{part}.weight", slice_
