"""Gives memory for weights in huge pages, where the system has some.

A step reads all of it, and with small pages looks up an address every 4 KiB. Does not know what is
stored.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from contextlib import suppress

import torch

from ..count import round_up

HUGE_PAGE_BYTES = 2 << 20
REGION_BYTES = 64 << 20
ALIGN_BYTES = 64


class HugePages:
    """Gives out zeroed tensors that lie one after the other in regions of huge pages.

    A region lives as long as one of its tensors.
    """

    def __init__(self) -> None:
        self._region = torch.empty(0, dtype=torch.uint8)
        self._taken = 0

    def zeros(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a zeroed tensor, aligned to ALIGN_BYTES.

        Memory is only taken from the system as it is written to.
        """
        size = math.prod(shape) * dtype.itemsize
        if self._taken + size > len(self._region):
            self._region = _map_region(max(size, REGION_BYTES))
            self._taken = 0
        piece = self._region[self._taken : self._taken + size]
        self._taken = round_up(self._taken + size, ALIGN_BYTES)
        return piece.view(dtype).view(shape)


def give_back_memory() -> None:
    """Give the system back what was freed but is kept for later: reading a base leaves much of it,
    which would lie beside the weights for ever.
    """
    with suppress(AttributeError, OSError):  # another C library has no such call
        ctypes.CDLL(None).malloc_trim(0)


def _map_region(size_bytes: int) -> torch.Tensor:
    whole = round_up(size_bytes, HUGE_PAGE_BYTES)
    # One huge page more than needed: the mapping may begin anywhere, the region must not.
    memory = mmap.mmap(-1, whole + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # without huge pages it is ordinary memory
        memory.madvise(mmap.MADV_HUGEPAGE)
    region = torch.frombuffer(memory, dtype=torch.uint8)
    return region[-region.data_ptr() % HUGE_PAGE_BYTES :][:whole]
