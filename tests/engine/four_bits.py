"""Bases whose matrices are rounded to 4 bits, for tests: what reads them whole gets exactly what
their codes stand for.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from engine.model.quantised import MIDDLE, Quantised
from engine.model.weights import Weights


def round_to_4_bits(weight: torch.Tensor, group: int, with_offsets: bool) -> Quantised:
    """The nearest codes of `weight [out, in]`; with offsets a group begins at its least number."""
    groups = weight.float().reshape(len(weight), -1, group)
    if with_offsets:
        least, most = groups.aminmax(dim=-1)
        scales = ((most - least) / 15).half()
        offsets = least.half()
    else:
        scales = (groups.abs().amax(-1) / 7).half()
        offsets = -MIDDLE * scales
    scale, offset = scales.float()[..., None], offsets.float()[..., None]
    codes = ((groups - offset) / scale).round().clamp(0, 15).to(torch.uint8)
    pairs = codes.view(len(weight), -1, 2)
    return Quantised(pairs[..., 0] | pairs[..., 1] << 4, scales, offsets)


def in_4_bits(
    weights: Weights, group: int = 32, with_offsets: bool = False, but: tuple[str, ...] = ()
) -> Weights:
    """The same base with its matrices in 4 bits, all but those whose names hold one of `but`."""

    def read_quantised(name: str) -> Quantised | None:
        weight = weights.stored(name)
        if weight.dim() != 2 or any(part in name for part in but):
            return None
        return round_to_4_bits(weight, group, with_offsets)

    def read(name: str) -> torch.Tensor:
        codes = read_quantised(name)
        return weights.stored(name) if codes is None else codes.dequantise()

    return replace(weights, stored=read, stored_quantised=read_quantised, in_4_bits=True)
