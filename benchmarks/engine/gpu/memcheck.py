"""A few answers over a small base, launch by launch, for a tool that watches every memory access of
the device to look on.

No graph is captured and torch does not cache memory (the parent sets
PYTORCH_NO_CUDA_MEMORY_CACHING), so each tensor is an allocation of its own and one element beside
it is an error that the tool sees.
"""

from __future__ import annotations

import torch

from benchmarks.engine.gpu.agreement import Party, Side
from benchmarks.engine.gpu.rows import Fact, Tell
from engine.cuda.accelerator import Accelerator
from engine.cuda.device import CudaDevice, Memory, Work

NUM_ANSWERS = 8
"""With four adapters of mixed ranks and without, greedy and at two temperatures."""


MAX_BYTES = 8 << 30


class Plain(CudaDevice):
    """The device without graphs, and with little memory: the tool needs some of it for itself."""

    def memory(self) -> Memory:
        """What there is, up to MAX_BYTES."""
        there = super().memory()
        return Memory(min(there.free_bytes, MAX_BYTES), min(there.total_bytes, MAX_BYTES))

    def capture(self, work: Work) -> Work:
        """The work itself, to be done again launch by launch."""
        return work


def memcheck(dtype: torch.dtype, tell: Tell) -> None:
    """Answer and replay; ends the same way whether or not the tool has found anything: the tool
    says so itself.
    """
    party = Party(Side("cuda", dtype, Accelerator(Plain())), NUM_ANSWERS)
    margins = party.replay(party.made)
    torch.cuda.synchronize()
    party.close()
    tell(
        Fact(
            "memcheck",
            {
                "answers": len(party.made),
                "tokens_replayed": sum(map(len, margins)),
                "own_margin_max": max(map(max, margins)),
            },
        )
    )
