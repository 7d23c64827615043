"""How much memory a step will take, and how much is free. Decides nothing.

What a pass keeps for its way back is counted, at two short lengths, as torch keeps it: the same for
every base and every kind of adapter.
"""

from __future__ import annotations

import resource
import weakref
from dataclasses import dataclass

import psutil  # accelerate needs it too
import torch
from torch import Tensor

from .loss import CACHED_NUMBERS, NOT_LEARNT
from .model import Learner

SHORT = 16
LONG = 48
COPIES = 12  # of the adapter, float32: gradient, AdamW's two, what checkpoints hold and write
LOSS_BYTES = 4 * 4 * CACHED_NUMBERS
PASSING = 1.2  # what comes and goes beside what is kept, as measured on a base of 135M


class _Kept:
    """What a pass keeps; it is gone when the pass lets go of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@dataclass(frozen=True)
class Needs:
    """Bytes that training takes beside the loaded base: for each token of a batch, and once."""

    a_token: float
    once: int

    def of(self, tokens: int) -> int:
        """Return what batches of at most so many tokens take."""
        return round(PASSING * self.a_token * tokens) + self.once


def needs_of(learner: Learner) -> Needs:
    """Count what a token takes, by two short passes."""
    short, long = (_kept(learner, tokens) for tokens in (SHORT, LONG))
    kept = (long - short) / (LONG - SHORT)
    config = learner.model.config.get_text_config()
    logits = 2 * config.vocab_size  # bfloat16; their gradient was counted
    numbers = sum(each.numel() for each in learner.adapter().values())
    once = max(0, round(short - kept * SHORT)) + COPIES * 4 * numbers + LOSS_BYTES
    return Needs(kept + logits, once)


def free_bytes(device: torch.device) -> int:
    """Return how much of the device's memory may still be taken."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = int(psutil.virtual_memory().available)
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return free
    return max(0, min(free, most - int(psutil.Process().memory_info().vms)))


def resident_bytes() -> int:
    """Return how much memory this process has now."""
    return int(psutil.Process().memory_info().rss)


def _kept(learner: Learner, tokens: int) -> int:
    """Return the bytes that a pass over so many tokens keeps for its way back."""
    own = {each.untyped_storage().data_ptr() for each in learner.parameters()}
    kept: list[weakref.ref[_Kept]] = []

    def keep(tensor: Tensor) -> _Kept:
        one = _Kept(tensor)
        kept.append(weakref.ref(one))
        return one

    ids = torch.ones((1, tokens), dtype=torch.int64, device=learner.device)
    targets = ids.clone()
    targets[:, -1] = NOT_LEARNT
    positions = torch.arange(tokens, device=learner.device)[None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one.tensor):
        loss = learner(ids, targets, positions)
    storages = [one.tensor.untyped_storage() for each in kept if (one := each())]
    del loss
    sizes = {each.data_ptr(): each.nbytes() for each in storages}
    return sum(size for place, size in sizes.items() if place not in own)
