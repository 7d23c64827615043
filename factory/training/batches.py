"""Lays rows out as a batch: short ones share a line, so that little is computed for nothing.

    ids        [ row a · · · · | row b · · | pad ]     lines as long as the fullest
    positions  [ 0 1 2 3 4     | 0 1 2     | …   ]     a row sees itself alone
    targets    [ a's next ids  | b's       | -100 ]

transformers makes the mask that keeps rows apart of positions that begin anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .loss import NOT_LEARNT
from .rows import Ints, Rows

Line = list[int]
"""Rows that share a line, in their order."""


@dataclass(frozen=True)
class Batch:
    """Lines of rows: ids, targets (what each place should say next, NOT_LEARNT where it does not
    matter) and positions, int64 [lines, length].
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor


def lines_of(lengths: Sequence[int], window: int) -> list[Line]:
    """Put rows of these lengths into few lines of at most `window` tokens: the longest first, each
    into the first line with room for it. Returns their places; the same each time.
    """
    lines: list[tuple[Line, int]] = []
    full: list[Line] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        length = lengths[place]
        found = next((n for n, (_, room) in enumerate(lines) if room >= length), None)
        if found is None:
            lines.append(([place], window - length))
            found = len(lines) - 1
        else:
            line, room = lines[found]
            lines[found] = ([*line, place], room - length)
        if not lines[found][1]:
            full.append(lines.pop(found)[0])
    return full + [line for line, _ in lines]


def batches_of(
    rows: Rows, places: Sequence[int], device: torch.device, most_tokens: int
) -> list[Batch]:
    """Lay some rows out, as batches of at most so many tokens, or of one line."""
    lengths = lengths_of(rows)[list(places)].tolist()
    window = rows.ids.shape[1]
    lines = [[places[n] for n in line] for line in lines_of(lengths, window)]
    at_once = max(1, most_tokens // window)
    return [
        batch_of(rows, lines[first : first + at_once], device)
        for first in range(0, len(lines), at_once)
    ]


def batch_of(rows: Rows, lines: Sequence[Line], device: torch.device) -> Batch:
    """Lay lines of rows out."""
    lengths = lengths_of(rows)
    most = max(int(lengths[line].sum()) for line in lines)
    ids = np.zeros((len(lines), most), np.int64)
    targets = np.full((len(lines), most), NOT_LEARNT, np.int64)
    positions = np.zeros((len(lines), most), np.int64)
    for number, line in enumerate(lines):
        at = 0
        for row in line:
            length = int(lengths[row])
            first = max(int(rows.starts[row]), 1)
            own = rows.ids[row, :length]
            ids[number, at : at + length] = own
            targets[number, at + first - 1 : at + length - 1] = own[first:]
            last = most if row == line[-1] else at + length
            positions[number, at:last] = np.arange(last - at)
            at += length
    made = (torch.from_numpy(each).to(device) for each in (ids, targets, positions))
    return Batch(*made)


def lengths_of(rows: Rows) -> Ints:
    """Return how many tokens each row holds: int [rows]."""
    return np.asarray((rows.ids >= 0).sum(axis=1), np.int32)


def learnt_of(rows: Rows) -> np.ndarray:
    """Return how many tokens of each row are learnt: int64 [rows]."""
    return np.asarray(lengths_of(rows) - np.maximum(rows.starts, 1), np.int64)


def spread(count: int, most: int) -> list[int]:
    """Return the places of at most so many rows, evenly over all."""
    step = max(1, math.ceil(count / most))
    return list(range(0, count, step))
