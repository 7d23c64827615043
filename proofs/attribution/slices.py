"""Passes over arrays that are as long as a text, slice by slice, so that what is made on the way
stays small and in a processor's cache. Knows nothing of an index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .tokens import END, Ints, Ranks

SLICE = 1 << 18

Small = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


def slices(start: int, stop: int) -> Iterator[slice]:
    """Yield the slices of [start, stop), one after another."""
    for here in range(start, stop, SLICE):
        yield slice(here, min(here + SLICE, stop))


def gather(values: Array, at: npt.NDArray[np.uint32]) -> Array:
    """Return values[at], without making all of `at` wider to do so."""
    found = np.empty(len(at), dtype=values.dtype)
    for part in slices(0, len(at)):
        found[part] = values[at[part]]
    return found


def each_of(lo: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """List the places of ranges, one after another: which range each is of, and the place."""
    before = np.cumsum(sizes) - sizes
    places = np.arange(int(sizes.sum())) + np.repeat(lo - before, sizes)
    return np.repeat(np.arange(len(lo)), sizes), places


def tokens_since_end(text: Ranks, most: int) -> Small:
    """Return how many tokens stand between the last end mark and each position, the one there
    among them: at most `most`, which is below 256, and 0 at an end mark. One stands at the
    beginning.
    """
    since = np.empty(len(text), dtype=np.uint8)
    last = 0
    for part in slices(0, len(text)):
        place = np.arange(part.start, part.stop)
        ends = np.maximum.accumulate(np.where(text[part] == END, place, last))
        since[part] = np.minimum(place - ends, most)
        last = int(ends[-1])
    return since
