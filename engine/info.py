"""What this engine chooses on this machine, and why, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from .config import choose_dtype, cpu_features
from .model.layers import ROW_FLOOR, choose_linear_kernel
from .model.weights import open_weights


def describe(base: Path | None, dtype: str, threads: int, kv_tokens: int) -> Iterator[str]:
    """One line per choice."""
    choice = choose_dtype(dtype, cpu_features())
    kernel = choose_linear_kernel(choice.dtype)
    why = "prepacked weights, a third faster in bfloat16" if kernel == "onednn" else "oneDNN's prepacked products serve bfloat16 only"
    yield f"torch      {torch.__version__}, {threads} threads"
    yield f"dtype      {str(choice.dtype).removeprefix('torch.')}: {choice.reason}"
    yield f"linears    {kernel}: {why}"
    yield f"row floor  {ROW_FLOOR[choice.dtype]}: fewer rows are padded, so that a row's bits do not depend on its neighbours"
    if base is not None:
        weights = open_weights(base)
        config = weights.config
        page = 2 * config.kv_heads * config.head_dim * config.layers * choice.dtype.itemsize
        yield f"base       {weights.base_id.hex()}: {config}"
        yield f"kv cache   {kv_tokens} tokens, {kv_tokens * page >> 20} MiB when full"
