"""Which tokens of a text count: those of windows that stand nowhere before.

Windows are told apart by a number made of their tokens, and compared token by token where two
numbers are the same. Decides what is as if it were not there; sorts nothing, knows no contributor.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .runs import RUN_BYTES, Runs, look_back
from .slices import each_of, slices, tokens_since_end
from .tokens import MAX_RANKS, Ranks, room_in

_POSITION = np.uint64(MAX_RANKS - 1)  # the bits of a position in a number
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Numbers = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def only_first(row: Ranks, window: int) -> Ranks:
    """Return a text with an end mark in the place of each token that does not count; the text
    itself where all do.

    A token counts when some run of `window` tokens of one document holds it that stands nowhere
    before.
    """
    room = room_in(row)
    text = row[room:]
    since_end = tokens_since_end(text, window)
    first = _first_windows(look_back(row, room), since_end == window, row.itemsize, window)
    counts = first.copy()
    for ahead in range(1, window):
        counts[:-ahead] |= first[ahead:]
    if np.count_nonzero(counts) == np.count_nonzero(since_end):
        return row
    only: Ranks = row.copy()
    only[room:] *= counts
    return only


def _first_windows(runs: Runs, is_whole: Mask, width: int, window: int) -> Mask:
    """Return whether the window up to each position is whole, and stands nowhere before."""
    backs = range(0, window, RUN_BYTES // width)
    numbers = _number(runs, is_whole, backs)
    numbers.sort()  # so that of one window the positions ascend
    first = np.zeros(len(runs), dtype=bool)
    first[(numbers[:1] & _POSITION).astype(np.int64)] = True
    doubtful = [numbers[:0]]
    for part in slices(1, len(numbers)):
        some = numbers[part.start - 1 : part.stop]
        positions = (some & _POSITION).astype(np.int64)
        first[positions[1:]] = True
        again = np.flatnonzero((some[1:] ^ some[:-1]) <= _POSITION)
        here, before = positions[1:][again], positions[:-1][again]
        first[here] = False
        differ = np.any([runs[here - back] != runs[before - back] for back in backs], axis=0)
        doubtful.append(some[1:][again[differ]])
    _tell_apart(runs, first, numbers, np.concatenate(doubtful), backs=backs)
    return first


def _number(runs: Runs, is_whole: Mask, backs: range) -> Numbers:
    """Return a number of each whole window, with the position up to which it is in its low bits."""
    numbers = np.empty(np.count_nonzero(is_whole), dtype=np.uint64)
    done = 0
    for part in slices(0, len(runs)):
        positions = part.start + np.flatnonzero(is_whole[part])
        mixed = np.zeros(len(positions), dtype=np.uint64)
        for back in backs:
            mixed = (mixed ^ runs[positions - back]) * _FACTOR
            mixed ^= mixed >> np.uint64(31)
        mixed *= _FACTOR
        numbers[done : done + len(positions)] = mixed & ~_POSITION | positions.astype(np.uint64)
        done += len(positions)
    return numbers


def _tell_apart(runs: Runs, first: Mask, numbers: Numbers, doubtful: Numbers, backs: range) -> None:
    """Set right which windows are first among those of one number that are not all alike.

    `doubtful` has one number or more of each such.
    """
    shared = np.unique(doubtful & ~_POSITION)
    lo = np.searchsorted(numbers, shared)
    sizes = np.searchsorted(numbers, shared | _POSITION, side="right") - lo
    _, index = each_of(lo, sizes)
    positions = (numbers[index] & _POSITION).astype(np.int64)
    windows = [runs[positions - back] for back in backs]
    order = np.lexsort([positions, *windows])
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = np.any([one[order[1:]] != one[order[:-1]] for one in windows], axis=0)
    first[positions[order]] = is_new
