"""Describes what this engine chooses on this machine, and why, and what the machine can do at most.

Decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from .build import describe_division, describe_split
from .choose import choose_machine
from .config import EngineConfig, cpu_features
from .executor.library import NotNative, find_compiler, library_path, usable_sets
from .executor.memory import divide_host, linear_numbers
from .memory import free_memory
from .model.layers import ROW_FLOOR, choose_linear_kernel
from .model.weights import Weights, open_weights
from .roofline import Roofline, measure_apart

_ANY_SET = ("auto", "native")


def describe(base: Path | None, asked: EngineConfig) -> Iterator[str]:
    """Yield one line per choice, and the measured limits. Raises ModelError.

    Takes a second or two, longer when the executor is built first.
    """
    weights = None if base is None else open_weights(base)
    chosen = choose_machine(asked, weights)
    accelerator = chosen.accelerator
    config = chosen.config
    choice = chosen.dtype
    free = free_memory()
    yield f"torch      {torch.__version__}, {config.threads} threads"
    yield f"dtype      {choice.name}: {choice.reason}"
    for note in () if weights is None else weights.notes:
        yield f"note       {note}"
    if accelerator is not None:
        memory = accelerator.device.memory()
        yield (
            f"device     {accelerator.device.name}: {memory.free_bytes >> 20} of"
            f" {memory.total_bytes >> 20} MiB free"
        )
        if weights is not None:
            yield f"base       {weights.base_id.hex()}: {weights.config}"
            split = accelerator.divide(weights.config, choice, config)
            yield f"memory     {describe_split(split, config.page_tokens)}"
        return
    yield f"kernels    {describe_kernels(config.kernels)}"
    yield (
        f"twins      linears {choose_linear_kernel(choice.dtype)}; under {ROW_FLOOR[choice.dtype]}"
        " rows are padded, for the same bits in any batch"
    )
    if weights is not None:
        division = divide_host(weights.config, config, choice, False, free=free)
        token_bytes = weights.config.kv_numbers * choice.dtype.itemsize
        yield f"base       {weights.base_id.hex()}: {weights.config}"
        yield f"memory     {describe_division(division)}"
        yield (
            f"kv cache   {division.kv_tokens} tokens, {division.kv_tokens * token_bytes >> 20} MiB"
            " when full"
        )
    roofline = measure_apart(config.threads)
    rates = ", ".join(
        f"{name} {rate / 1e9:.0f} GOP/s" for name, rate in roofline.operations_s.items()
    )
    yield f"roofline   reads {roofline.read_bytes_s / 1e9:.1f} GB/s; multiplies {rates}"
    if weights is not None:
        yield f"limit      {describe_limit(weights, choice.name, roofline)}"


def describe_kernels(asked: str) -> str:
    """Describe the kernels and the reason: native with its instruction set and compiler, or
    torch.
    """
    if asked == "torch":
        return "torch: asked for"
    sets = [each for each in usable_sets(cpu_features()) if asked in (*_ANY_SET, each.name)]
    if not sets:
        return (
            "torch: this processor has none of the instruction sets that the native executor is"
            " written for"
            if asked in _ANY_SET
            else f"none: this processor has no {asked}"
        )
    try:
        path = library_path(sets[0])
    except NotNative as reason:
        return f"torch: {reason}"
    compiler = find_compiler()
    built = (
        "built earlier, no compiler is here now:"
        if compiler is None
        else f"built by {' '.join(compiler)} as"
    )
    why = "the best that this processor has" if asked in _ANY_SET else "asked for"
    return f"native {sets[0].name}: {why}; {built} {path.name}"


def describe_limit(weights: Weights, dtype: str, roofline: Roofline) -> str:
    """Describe the tokens a second that the machine allows for one request and for 32.

    That is without adapters and with an empty context.
    """
    config = weights.config
    chosen = 0 if config.experts is None else config.experts.chosen
    number_bytes = {"float32": 4, "bfloat16": 2, "int8": 1, "q4": 0.625}[dtype]
    parts = []
    for batch in (1, 32):
        read = int(linear_numbers(config, batch * chosen) * number_bytes)
        operations = 2.0 * batch * linear_numbers(config, chosen)
        parts.append(
            f"{batch / roofline.seconds(dtype, read, operations):.0f} tokens/s at batch {batch}"
            f" ({roofline.bound(dtype, read, operations)})"
        )
    return "; ".join(parts)
