"""The engine's numbers, and which dtype a machine decodes fastest in. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class EngineConfig:
    """What an operator may choose; every count is a bound with its unit in the name."""

    base_path: Path
    dtype: str = "auto"
    threads: int = 1
    kv_tokens: int = 16384
    max_adapters: int = 64
    page_tokens: int = 16
    step_tokens: int = 128
    max_running: int = 64
    max_waiting: int = 256
    host_cache_bytes: int = 2 << 30
    waiting_deadline_s: float = 120.0
    parked_deadline_s: float = 120.0


@dataclass(frozen=True)
class Choice:
    """A dtype and the reason for it, for `python -m engine info`."""

    dtype: torch.dtype
    reason: str


def cpu_features() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def choose_dtype(name: str, features: frozenset[str]) -> Choice:
    """`auto` is bfloat16 where the CPU multiplies it in hardware, float32 elsewhere (emulated bfloat16 is several times slower)."""
    if name != "auto":
        return Choice({"float32": torch.float32, "bfloat16": torch.bfloat16}[name], "asked for")
    fast = sorted(features & {"avx512_bf16", "amx_bf16"})
    if fast:
        return Choice(torch.bfloat16, f"this CPU has {' and '.join(fast)}")
    return Choice(torch.float32, "this CPU has neither avx512_bf16 nor amx_bf16")
