"""Gathers the operations of a step on a device into one value, so that an executor can be given the
kernels or the references that they are held to.

Computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from types import ModuleType

import torch

from ..executor.draw import Draw, Drawn
from . import attention, elementwise, lora, matvec, narrow, sampling


@dataclass(frozen=True)
class Kernels:
    """The operations of a step: each is the function of that name in elementwise.py, matvec.py,
    narrow.py, lora.py, attention.py or sampling.py.
    """

    rms_norm: Callable[..., None]
    add_rms_norm: Callable[..., None]
    rotate_and_store: Callable[..., None]
    fold: Callable[..., None]
    matvec: Callable[..., None]
    matvec_fold: Callable[..., None]
    narrow_matvec: Callable[..., None]
    narrow_product: Callable[..., None]
    look_up: Callable[..., None]
    shrink_site: Callable[..., None]
    expand_site: Callable[..., None]
    attend_decode: Callable[..., None]
    attend_prefill: Callable[..., None]
    best_and_finite: Callable[..., None]
    draw: Callable[[torch.Tensor, list[Draw]], list[Drawn]]


_MODULES: tuple[ModuleType, ...] = (elementwise, matvec, narrow, lora, attention, sampling)


def _gather(ending: str) -> Kernels:
    return Kernels(
        *(
            next(getattr(m, each.name + ending) for m in _MODULES if hasattr(m, each.name))
            for each in fields(Kernels)
        )
    )


TRITON = _gather("")
REFERENCES = _gather("_reference")
