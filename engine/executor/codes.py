"""Lays weights in 4 bits out as codes.hpp wants them, and looks rows of a table up there.

    panel of 32 columns   [32 inputs][codes | 32 scales | 32 offsets, where there are any]
    codes                 [half of 16 columns][4 lines][16 columns][4 bytes]; the low
                          halves of a line's bytes are the codes of 4 inputs, the high ones those of
                          the next 4, each with 8 taken off, as a signed number of 4 bits

Scales that more inputs share are repeated for each 32. Knows no operation and no file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..model.quantised import MIDDLE, Quantised
from .pages import HugePages

PANEL_COLUMNS = 32
GROUP = 32
CODES_BYTES = GROUP * PANEL_COLUMNS // 2
SCALES_BYTES = 2 * PANEL_COLUMNS
PANELS_AT_ONCE = 64
SIGNS = 0x88
"""Turns codes of both halves of a byte, 0 to 15, into signed numbers, -8 to 7."""


@dataclass(frozen=True)
class PackedCodes:
    """A weight in 4 bits, [panels, groups, bytes of a group] uint8; without offsets all are -8
    times the scale.
    """

    data: torch.Tensor
    has_offsets: bool

    @property
    def width_in(self) -> int:
        """Return the weight's columns: inputs."""
        return self.data.shape[1] * GROUP

    def lookup(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows `[n]` of the weight, [n, in] float32; it was packed in its own order."""
        groups = self.data[rows // PANEL_COLUMNS]
        column = rows % PANEL_COLUMNS
        at = torch.arange(len(rows))
        codes = groups[..., : -self._tail].view(len(rows), groups.shape[1], 2, 4, 16, 4)
        both = codes[at, :, column // 16, :, column % 16] ^ SIGNS
        plain = torch.stack((both & 15, both >> 4), 3).view(len(rows), groups.shape[1], GROUP)
        tail = groups[..., -self._tail :].contiguous().view(torch.float16)
        scale = tail[at, :, column].float()[..., None]
        offset = (
            tail[at, :, PANEL_COLUMNS + column].float()[..., None]
            if self.has_offsets
            else -MIDDLE * scale
        )
        return (plain.float() * scale + offset).view(len(rows), -1)

    @property
    def _tail(self) -> int:
        return SCALES_BYTES * (2 if self.has_offsets else 1)


def pack_codes(weight: Quantised, rows: torch.Tensor, pages: HugePages) -> PackedCodes:
    """Pack the columns that come from `rows` of the weight, a multiple of 32; -1 is padding."""
    has_offsets = not torch.equal(weight.offsets, -MIDDLE * weight.scales)
    groups = weight.shape[1] // GROUP
    bytes_a_group = CODES_BYTES + SCALES_BYTES * (2 if has_offsets else 1)
    packed = pages.zeros(len(rows) // PANEL_COLUMNS, groups, bytes_a_group, dtype=torch.uint8)
    for first in range(0, len(packed), PANELS_AT_ONCE):
        part = packed[first : first + PANELS_AT_ONCE]
        here = rows[first * PANEL_COLUMNS : (first + len(part)) * PANEL_COLUMNS]
        taken = weight.take(here.clamp(min=0))
        part[..., :CODES_BYTES] = _panels_of_codes(taken.codes, len(part), groups)
        tails = [taken.scales, taken.offsets] if has_offsets else [taken.scales]
        for number, values in enumerate(tails):
            values = values.repeat_interleave(weight.group // GROUP, dim=1)
            values = torch.where(here[:, None] >= 0, values, torch.zeros((), dtype=values.dtype))
            at = CODES_BYTES + number * SCALES_BYTES
            part[..., at : at + SCALES_BYTES] = (
                values.view(len(part), PANEL_COLUMNS, groups)
                .transpose(1, 2)
                .contiguous()
                .view(torch.uint8)
            )
    return PackedCodes(packed, has_offsets)


def _panels_of_codes(codes: torch.Tensor, panels: int, groups: int) -> torch.Tensor:
    """Return codes [columns, in / 2] by panels, [panels, groups, bytes]."""
    # 8 inputs are 4 bytes: two words of 4 inputs, which are to lie in one word of 4 bytes
    eights = codes.view(-1, 4)
    plain = torch.stack((eights & 15, eights >> 4), 2).view(-1, 2, 4)
    both = (plain[:, 0] | plain[:, 1] << 4) ^ SIGNS
    lines = both.view(panels, 2, 16, -1, 4, 4)  # panel, half, column, run, line, byte
    return lines.permute(0, 3, 1, 4, 2, 5).reshape(panels, groups, -1)
