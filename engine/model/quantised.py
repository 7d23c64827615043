"""Holds a linear's weight in 4 bits as its file has it, and reads GGUF's blocks into that form.

One form for every format: each group of `g` inputs of a row has a scale and an offset, and a weight
is `scale * code + offset`. Decides no layout of any kernel; widens nothing but where it is asked.

    format      group  scale   offset         against the file's own numbers
    Q4_0        32     d       -8 * d         the same
    Q4_1        32     d       m              the same
    Q4_K        32     d * sc  -dmin * mins   both products are rounded to float16: see Q4_K_BOUND
    GPTQ, AWQ   any    s       -s * zero      the product is rounded to float16

Source of the blocks: ggml-common.h of llama.cpp (block_q4_0, block_q4_1, block_q4_K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from ..errors import ModelError

GROUPS = (32, 64, 128)
"""The inputs that may share a scale and an offset."""
Q4_K_BOUND = (2**-11, 2**-25)
"""By how much a number of Q4_K may be off: this share of |scale * code| + |offset|, and this much
for each of its 16 smallest steps where float16 is subnormal (16 times in all).
"""
BLOCKS_AT_ONCE = 1 << 13
"""Blocks that are taken apart together, so that their codes stay in a cache."""

MIDDLE = 8
"""Between the codes: a weight without offsets of its own has -MIDDLE times the scale for each."""

Blocks = NDArray[np.uint8]
Taken = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]
"""Codes [groups, 32] of one byte each, scales [groups] and offsets [groups]."""


@dataclass(frozen=True)
class Quantised:
    """A weight [out, in] in 4 bits.

    codes: uint8 [out, in / 2]; the low half of a byte is the code of an even input, the high half
    that of the next. scales, offsets: float16 [out, in / group].
    """

    codes: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Return the weight's rows and columns: outputs, inputs."""
        return len(self.codes), 2 * self.codes.shape[1]

    @property
    def group(self) -> int:
        """Return how many inputs share a scale and an offset."""
        return self.shape[1] // self.scales.shape[1]

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all three parts."""
        return sum(part.nbytes for part in (self.codes, self.scales, self.offsets))

    def take(self, rows: torch.Tensor | slice) -> Quantised:
        """Return these rows of the weight; `rows` is an index as torch takes one."""
        return Quantised(self.codes[rows], self.scales[rows], self.offsets[rows])

    def dequantise(self) -> torch.Tensor:
        """Return the weight, [out, in] in float32."""
        rows, columns = self.shape
        plain = torch.stack((self.codes & 15, self.codes >> 4), 2).view(rows, -1, self.group)
        wide = plain.float() * self.scales.float()[..., None] + self.offsets.float()[..., None]
        return wide.view(rows, columns)


def stack(parts: Sequence[Quantised]) -> Quantised:
    """Return weights of one width and group as one, one under the other."""
    return Quantised(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat([part.offsets for part in parts]),
    )


def check_finite(name: str, weight: Quantised) -> Quantised:
    """Raise ModelError where a scale or an offset is no number, or is too large for float16."""
    for part in (weight.scales, weight.offsets):
        if not torch.isfinite(part).all():
            raise ModelError(
                f"tensor {name[:200]} of the base holds numbers that are not finite, or scales"
                " beyond float16"
            )
    return weight


def from_blocks(raw: Blocks, kind: str, shape: tuple[int, int]) -> Quantised:
    """Read the whole blocks of a GGUF tensor; `kind` is a key of READERS.

    raw: its bytes, mapped: they are read once, in order, and nothing of them is kept.
    """
    numbers, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    per_block = numbers // 32
    blocks = raw.reshape(-1, block_bytes)
    codes = np.empty((len(blocks) * per_block, 16), np.uint8)
    scales = np.empty(len(codes), np.float16)
    offsets = np.empty(len(codes), np.float16)
    read = READERS[kind]
    with np.errstate(over="ignore", invalid="ignore"):  # check_finite looks at the outcome
        for first in range(0, len(blocks), BLOCKS_AT_ONCE):
            plain, scale, offset = read(blocks[first : first + BLOCKS_AT_ONCE])
            here = slice(first * per_block, first * per_block + len(plain))
            codes[here] = plain[:, 0::2] | plain[:, 1::2] << 4
            scales[here] = scale
            offsets[here] = offset
    rows, columns = shape
    return Quantised(
        torch.from_numpy(codes).view(rows, columns // 2),
        torch.from_numpy(scales).view(rows, columns // 32),
        torch.from_numpy(offsets).view(rows, columns // 32),
    )


def _halves(blocks: Blocks) -> NDArray[np.uint8]:
    """Return the codes of blocks [n, 16]: the low halves of all bytes, then the high ones."""
    return np.concatenate((blocks & 15, blocks >> 4), axis=1)


def _float16(blocks: Blocks, at: int) -> NDArray[np.float32]:
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)[:, 0]


def _take_q4_0(blocks: Blocks) -> Taken:
    scale = _float16(blocks, 0)
    return _halves(blocks[:, 2:]), scale, -8 * scale


def _take_q4_1(blocks: Blocks) -> Taken:
    return _halves(blocks[:, 4:]), _float16(blocks, 0), _float16(blocks, 2)


def _take_q4_k(blocks: Blocks) -> Taken:
    """Take blocks of eight groups apart: four runs of 32 bytes, each the codes of two groups.

    The twelve bytes of scales and minima: four with the low 6 bits of the first four scales, four
    with those of their minima, four with the low 4 bits of the last four of both, whose high 2 bits
    are the high ones of the bytes before.
    """
    first = blocks[:, 4:8]
    second = blocks[:, 8:12]
    last = blocks[:, 12:16]
    scales = np.concatenate((first & 63, last & 15 | (first >> 6) << 4), axis=1)
    minima = np.concatenate((second & 63, last >> 4 | (second >> 6) << 4), axis=1)
    runs = blocks[:, 16:].reshape(-1, 4, 32)
    codes = np.stack((runs & 15, runs >> 4), axis=2).reshape(-1, 32)
    scale = _float16(blocks, 0)[:, None] * scales
    offset = -_float16(blocks, 2)[:, None] * minima
    return codes, scale.reshape(-1), offset.reshape(-1)


READERS: dict[str, Callable[[Blocks], Taken]] = {
    "Q4_0": _take_q4_0,
    "Q4_1": _take_q4_1,
    "Q4_K": _take_q4_k,
}
"""GGUF's number formats that are kept as they lie."""
