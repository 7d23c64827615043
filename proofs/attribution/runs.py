"""Tokens in a row as one number, so that one comparison tells the order of several.

A run is the tokens up to a position, as many as 8 bytes hold, the one at the position highest: four
of two bytes, or two of four. Runs compare as the texts backwards do. Copies no text; searches
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .tokens import END, Ints, Ranks

RUN_BYTES = 8

Runs = npt.NDArray[np.uint64]


def look_back(row: Ranks, room: int) -> Runs:
    """Return the run of each rank from row[room] on, as a view of the same memory.

    `room` is as many ranks as a run has, or more. What stands there is read, and tells nothing as
    long as an end mark stands at row[room], since no bound that is sought has one.
    """
    width = row.itemsize
    return np.ndarray(
        len(row) - room,
        dtype="<u8",
        buffer=row,
        offset=(room + 1) * width - RUN_BYTES,
        strides=(width,),
    )


@dataclass(frozen=True, eq=False)
class Asked:
    """The contexts that end before each place of a row of ranks, and after the last.

    `known[i]` is how many ranks before place i some text holds, one behind another.
    """

    known: Ints
    run_tokens: int
    _keys: Runs
    _first: int

    @classmethod
    def of(cls, ranks: Ints, start: int, depth: int, width: int, nobody: int) -> Asked:
        """Read the contexts of up to `depth` ranks before ranks[start] and each place after it.

        `width` is a rank's in bytes; no text holds `nobody` or a rank above it.
        """
        run_tokens = RUN_BYTES // width
        room = depth + run_tokens
        padded = np.zeros(room + run_tokens + len(ranks), dtype=f"<u{width}")
        padded[room + run_tokens :] = np.where(ranks < nobody, ranks, END)
        place = np.arange(room + len(ranks))
        last_end = np.maximum.accumulate(np.where(padded[run_tokens:] == END, place, 0))
        first = room + start - 1
        return cls((place - last_end)[first:], run_tokens, look_back(padded, run_tokens), first)

    def bounds(self, places: Ints, back: int, num_lengths: int) -> Runs:
        """Return the runs between which contexts end that go on, `back` ranks before each place,
        for one to `num_lengths` ranks more, of which the first is known.

        Shape (2, places, lengths): the greatest run below them, and the greatest of them.
        """
        free_bits = 8 * RUN_BYTES * (self.run_tokens - np.arange(1, num_lengths + 1))
        free_bits //= self.run_tokens
        free = (np.uint64(1) << free_bits.astype(np.uint64)) - np.uint64(1)
        keys = self._keys[self._first - back + places][:, None]
        return np.stack([(keys & ~free) - np.uint64(1), keys | free])
