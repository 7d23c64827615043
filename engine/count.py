"""How many pieces, and sizes in whole pieces. Imports nothing that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Count = TypeVar("Count", int, NDArray[np.int64])


def ceil_div(count: Count, size: int) -> Count:
    """Return how many pieces of `size` it takes to hold `count`, or each of several counts."""
    return -(-count // size)


def round_up(count: int, size: int) -> int:
    """Return the least multiple of `size` that is not below `count`."""
    return -(-count // size) * size
