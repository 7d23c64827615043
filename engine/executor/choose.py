"""Which executor runs a model here: the one place where that choice is made."""

from __future__ import annotations

import torch

from ..errors import ModelError
from ..model.weights import Weights
from .library import NotNative
from .native import NativeExecutor
from .step import Executor
from .twins import TorchExecutor

KERNELS = ("auto", "native", "torch")


def make_executor(weights: Weights, dtype: torch.dtype, weights_int8: bool, context: int, kernels: str, threads: int) -> Executor:
    """`auto`: the native executor, or torch where it cannot be built or does not fit the model. `native` raises ModelError then."""
    if kernels not in KERNELS:
        raise ModelError(f"kernels is {kernels!r}; it must be one of {', '.join(KERNELS)}")
    if kernels != "torch":
        try:
            return NativeExecutor(weights, dtype, weights_int8, context, threads)
        except NotNative as reason:
            if kernels == "native":
                raise ModelError(f"the native executor cannot run here: {reason}") from reason
    return TorchExecutor(weights, dtype, weights_int8, context)
