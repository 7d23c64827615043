"""Finds the tensors of experts under whatever names a folder has them, and gives each its own.

    one by one   mlp.experts.3.gate_proj.weight            [width, hidden]   as most are published
    Mixtral's    block_sparse_moe.experts.3.w1.weight      w1 gate, w3 up, w2 down
    together     mlp.experts.gate_up_proj                  [experts, 2 * width, hidden], as they
                 mlp.experts.down_proj                     [experts, hidden, width]      are run
    gpt-oss's    mlp.experts.gate_up_proj                  [experts, hidden, 2 * width], gate and up
                 mlp.experts.down_proj                     [experts, width, hidden]      in turn
                 mlp.experts.gate_up_proj_bias             [experts, 2 * width]; mlp.router

or gpt-oss's in 4 bits (MXFP4), which are widened as they are read: instead of its two matrices

                 mlp.experts.down_proj_blocks              [experts, hidden, width / 32, 16] bytes
                 mlp.experts.down_proj_scales              [experts, hidden, width / 32] bytes

of which each byte holds two numbers of 4 bits, the lower one first, and each scale is a power of
two less 127. Reads no file by itself; a tensor that holds all experts is read a slice at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from .experts import MAX_EXPERTS
from .parts import DOWN_PARTS, GATE_UP_PARTS
from .quantised_folder import Readable

TOGETHER = re.compile(
    r"(model\.layers\.\d{1,4}\.mlp\.experts)\.(gate_up_proj|down_proj)(_bias|_blocks|_scales)?"
)
MX_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
MX_NUMBERS = torch.tensor([*MX_VALUES, *(-value for value in MX_VALUES)])
"""What the 16 codes of MXFP4 stand for (OCP Microscaling Formats 1.0, table 5)."""
MX_GROUP = 32
MX_BIAS = 127


class Sliced(Readable, Protocol):
    """A tensor in a file, of which a part can be read."""

    def read_part(self, number: int) -> torch.Tensor:
        """Read what has that number in its first dimension. Raises ModelError."""


@dataclass(frozen=True)
class OfExpert:
    """Of what tensors hold for one expert, the rows that `take` gives; `shape` is theirs."""

    whole: Sliced
    number: int
    shape: tuple[int, ...]
    take: Callable[[torch.Tensor], torch.Tensor]
    scales: Sliced | None = None

    @property
    def kind(self) -> str:
        """Return its number format."""
        return self.whole.kind

    def read(self) -> torch.Tensor:
        """Read it as stored, or widened where it lies in 4 bits. Raises ModelError."""
        part = self.whole.read_part(self.number)
        if self.scales is not None:
            part = widen(part, self.scales.read_part(self.number))
        return self.take(part)


def one_by_one(tensors: Mapping[str, Sliced], in_turn: bool) -> Iterator[tuple[str, Readable]]:
    """Yield all tensors, those that hold a layer's experts together as one for each expert.

    in_turn: gate and up take turns, and matrices lie transposed.
    """
    for name, tensor in tensors.items():
        found = TOGETHER.fullmatch(name)
        if found is None or not tensor.shape or tensor.shape[0] > MAX_EXPERTS:
            yield name, tensor
            continue
        stem, module, ending = found.groups()
        if ending == "_scales" and f"{stem}.{module}_blocks" in tensors:
            continue
        parts = GATE_UP_PARTS if module == "gate_up_proj" else DOWN_PARTS
        if ending == "_blocks":
            scales = tensors.get(f"{stem}.{module}_scales")
            lie_so = scales is not None and tensor.shape == (*scales.shape, MX_GROUP // 2)
            if not lie_so or len(tensor.shape) != 4:
                yield name, tensor
                continue
            shape = (tensor.shape[1], MX_GROUP * tensor.shape[2])
            yield from _of_each(stem, parts, tensor, shape, in_turn=in_turn, scales=scales)
        elif ending == "_bias" and len(tensor.shape) == 2:
            yield from _of_each(stem, parts, tensor, tensor.shape[1:], in_turn=in_turn, end="bias")
        elif ending is None and len(tensor.shape) == 3:
            shape = tensor.shape[:0:-1] if in_turn else tensor.shape[1:]
            yield from _of_each(stem, parts, tensor, shape, in_turn=in_turn, transposed=in_turn)
        else:
            yield name, tensor


def _of_each(
    stem: str,
    parts: tuple[str, ...],
    tensor: Sliced,
    shape: tuple[int, ...],
    *,
    in_turn: bool,
    transposed: bool = False,
    end: str = "weight",
    scales: Sliced | None = None,
) -> Iterator[tuple[str, Readable]]:
    """Yield the tensors of each expert; `shape` is that of all parts of one, outputs first."""
    rows = shape[0] // len(parts)
    for place, part in enumerate(parts):
        turn = slice(place, None, len(parts))
        chosen = turn if in_turn else slice(place * rows, (place + 1) * rows)

        def take(whole: torch.Tensor, chosen: slice = chosen) -> torch.Tensor:
            return (whole.t() if transposed else whole)[chosen].contiguous()

        for number in range(tensor.shape[0]):
            own = OfExpert(tensor, number, (rows, *shape[1:]), take, scales)
            yield f"{stem}.{number}.{part}.{end}", own


def widen(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return numbers in MXFP4, `blocks [rows, groups, 16]` and `scales [rows, groups]` uint8, in
    float32: [rows, 32 * groups].
    """
    codes = torch.stack((blocks & 15, blocks >> 4), -1).view(*scales.shape, MX_GROUP)
    powers = scales.to(torch.int32)[..., None] - MX_BIAS
    return torch.ldexp(MX_NUMBERS[codes.long()], powers).view(len(blocks), -1)
