"""Decides which executor and which device run a model here; no other file makes that choice.

Runs nothing, and does not divide memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from .config import Choice, EngineConfig, Stored, choose_dtype, cpu_features, settled
from .errors import ModelError
from .executor.library import INSTRUCTION_SETS, NotNative
from .executor.native import NativeExecutor
from .executor.step import Executor
from .executor.twins import TorchExecutor
from .model.config import ModelConfig
from .model.weights import Weights

if TYPE_CHECKING:
    from .cuda.accelerator import Accelerator

SETS = tuple(each.name for each in INSTRUCTION_SETS)
KERNELS = ("auto", "cuda", "native", "torch", *SETS)
"""The names of instruction sets are those of the native executor built for them."""
MIN_CAPABILITY = (7, 0)


@dataclass(frozen=True)
class Chosen:
    """What a configuration comes to on this machine: the device if any, settled numbers, number
    format.
    """

    accelerator: Accelerator | None
    config: EngineConfig
    dtype: Choice


def choose_machine(
    asked: EngineConfig, base: Weights | None, accelerator: Accelerator | None = None
) -> Chosen:
    """Choose the device and number format for a base. Raises ModelError.

    The device is `accelerator` where it is given, else the one that is found.
    """
    accelerator = accelerator or find_accelerator(
        asked.kernels, None if base is None else base.config, asked.dtype
    )
    in_4_bits = base is not None and base.in_4_bits
    if asked.dtype == "q4" and base is not None and not in_4_bits:
        raise ModelError(
            "--dtype q4 is for bases whose linears lie in 4 bits, which this one's do not; choose"
            " --dtype int8, or a file in Q4_0, Q4_1 or Q4_K"
        )
    capability = None if accelerator is None else accelerator.device.capability
    features = cpu_features()
    config = settled(asked, accelerator is not None, features)
    choice = choose_dtype(asked.dtype, features, capability, in_4_bits)
    if accelerator is not None and base is not None and in_4_bits and asked.dtype == "auto":
        choice = _narrowest_needed(choice, accelerator, base.config, config)
    return Chosen(accelerator, config, choice)


def _narrowest_needed(
    wide: Choice, accelerator: Accelerator, base: ModelConfig, config: EngineConfig
) -> Choice:
    """Return `wide` where a base in 4 bits fits a device when it is widened, else q4."""
    if accelerator.holds(base, wide, config):
        return wide
    narrow = choose_dtype("q4", frozenset(), accelerator.device.capability)
    return replace(narrow, reason=f"the base does not fit the device in {wide.name}")


def find_accelerator(
    kernels: str, config: ModelConfig | None = None, dtype: str = "auto"
) -> Accelerator | None:
    """Find the device on which `kernels` run a model in a number format; return None for the
    processor.

    Raises ModelError where `cuda` is asked for and cannot be had.
    """
    if kernels not in KERNELS:
        raise ModelError(f"kernels is {kernels!r}; it must be one of {', '.join(KERNELS)}")
    if kernels not in ("auto", "cuda"):
        return None
    found = _open_device()
    reason = found if isinstance(found, str) else config and found.why_not(config, dtype)
    if kernels == "cuda" and reason:
        raise ModelError(f"kernels is cuda, but {reason}")
    return None if reason or isinstance(found, str) else found


def _open_device() -> Accelerator | str:
    """Open the device, or return why there is none."""
    if not torch.cuda.is_available():
        return (
            "torch finds no CUDA device"
            if torch.version.cuda
            else "this build of torch knows no CUDA"
        )
    try:
        from .cuda.accelerator import Accelerator
        from .cuda.device import CudaDevice
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    device = CudaDevice()
    if device.capability < MIN_CAPABILITY:
        has, needs = (".".join(map(str, each)) for each in (device.capability, MIN_CAPABILITY))
        return (
            f"{device.name} has compute capability {has}, and Triton compiles for {needs} and newer"
        )
    return Accelerator(device)


def make_executor(
    weights: Weights,
    dtype: torch.dtype,
    stored: Stored,
    context: int,
    kernels: str,
    threads: int,
    accelerator: Accelerator | None = None,
) -> Executor:
    """Make the executor, on an accelerator if one is given.

    Otherwise `auto` is the native executor, or torch where that cannot be built or does not fit
    the model; `native`, or one instruction set of it, raises ModelError then.
    """
    if accelerator is not None:
        return accelerator.make_executor(weights, dtype, context, stored)
    if kernels not in KERNELS:
        raise ModelError(f"kernels is {kernels!r}; it must be one of {', '.join(KERNELS)}")
    assert kernels != "cuda", "find_accelerator comes first"
    if kernels != "torch":
        try:
            only = kernels if kernels in SETS else None
            return NativeExecutor(weights, dtype, stored, context, threads=threads, only=only)
        except NotNative as reason:
            if kernels != "auto":
                raise ModelError(f"the native executor cannot run here: {reason}") from reason
    return TorchExecutor(weights, dtype, stored, context)
