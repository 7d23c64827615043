"""Holds the engine's numbers, and chooses the dtype that a machine decodes fastest in. Knows no
model.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch

BFLOAT16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class EngineConfig:
    """An operator's choices; every count is a bound with its unit in the name.

    Those that are 0 here depend on the machine: see `settled`.
    """

    base_path: Path
    dtype: str = "auto"
    kernels: str = "auto"
    threads: int = 1
    kv_tokens: int = 0
    max_adapters: int = 0
    page_tokens: int = 16
    step_tokens: int = 0
    prompt_step_tokens: int = 0
    beside_tokens: int = 0
    max_running: int = 0
    max_waiting: int = 256
    max_waiting_tokens: int = 0
    host_cache_bytes: int = 0
    slot_bytes: int = 0
    spill_bytes: int = 8 << 30
    waiting_deadline_s: float = 120.0
    parked_deadline_s: float = 120.0
    age_bound_s: float = 5.0
    draft_tokens: int = 0
    seat_steps: int = 0


ON_PROCESSOR = {
    "max_adapters": 64,
    "step_tokens": 128,
    "prompt_step_tokens": 512,
    "max_running": 64,
    "seat_steps": 4,
    "max_waiting_tokens": 1 << 20,
}
ON_DEVICE = {
    "step_tokens": 512,
    "prompt_step_tokens": 2048,
    "max_running": 256,
    "seat_steps": 32,
    "max_waiting_tokens": 1 << 24,
}
"""What is 0 in a configuration becomes this. Room for keys and values and for adapters is divided
once the base is known, by executor/memory.py or on a device by cuda/memory.py; a seat lasts longer
there, since another adapter in it costs a copy, of about as long as a step.
"""
BESIDE_TOKENS = 32
"""Of prompts beside others' decoding, on a processor without tile registers: there a step takes as
long as it has rows, and more of them at once gain nothing. Elsewhere a step is bound by reading the
weights, and takes what it may hold.
"""
WANTED_KV_TOKENS = 16384
MAX_HOST_CACHE_BYTES = 2 << 30
"""What a processor's keys and values and its packed adapters are given where there is memory
enough.
"""
HOST_CACHE_SHARE = 4
"""Beside a device, one part in so many of the host's free memory is for packed adapters: they are
larger there, as the bases are.
"""


def settled(
    config: EngineConfig, on_device: bool, features: frozenset[str] = frozenset()
) -> EngineConfig:
    """Fill in for the machine what the configuration leaves open.

    `features` are a processor's.
    """
    suited = ON_DEVICE if on_device else ON_PROCESSOR
    by_rows = not on_device and "amx_bf16" not in features
    suited = {
        **suited,
        "beside_tokens": BESIDE_TOKENS if by_rows else config.step_tokens or suited["step_tokens"],
    }
    open_ones: dict[str, Any] = {
        name: value for name, value in suited.items() if getattr(config, name) == 0
    }
    return replace(config, **open_ones)


class Stored(Enum):
    """The form of a linear's weights: in the dtype that is computed in, in int8 with a scale per
    row, or in 4 bits as the base's file has them (and in int8 where it has them otherwise).
    """

    PLAIN = 0
    INT8 = 1
    Q4 = 2


@dataclass(frozen=True)
class Choice:
    """The number format of a model, and why.

    `dtype` is that of activations, keys and values; `stored` the form of the linears' weights.
    """

    dtype: torch.dtype
    reason: str
    stored: Stored = Stored.PLAIN

    @property
    def name(self) -> str:
        """Return the name as an operator writes it and a receipt carries it: float32, bfloat16,
        int8 or q4.
        """
        if self.stored is Stored.PLAIN:
            return str(self.dtype).removeprefix("torch.")
        return self.stored.name.lower()


def cpu_features() -> frozenset[str]:
    """Return the CPU's feature flags as Linux names them.

    Leaves out those of the tile registers where the kernel does not grant these to this process.
    """
    flags = _cpu_flags()
    return (
        flags
        if "amx_tile" not in flags or _grants_tiles()
        else flags - {"amx_tile", "amx_bf16", "amx_int8"}
    )


def _grants_tiles() -> bool:
    """Ask for the tile registers, as Linux wants each process to do once
    (Documentation/arch/x86/xstate.rst).
    """
    arch_prctl = 158
    req_xcomp_perm = 0x1023
    xtiledata = 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, req_xcomp_perm, xtiledata) == 0)


def _cpu_flags() -> frozenset[str]:
    """Read the flags from /proc/cpuinfo; empty where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def choose_dtype(
    name: str,
    features: frozenset[str],
    capability: tuple[int, int] | None = None,
    in_4_bits: bool = False,
) -> Choice:
    """Choose the number format.

    `auto` is q4 on a processor for a base whose linears lie in 4 bits (on a device choose.py makes
    it q4 where nothing wider fits). Otherwise it is bfloat16
    where the CPU, or the device of that `capability`, multiplies it in hardware, and float32
    elsewhere. Emulated bfloat16 is several times slower; float16 overflows in models that were
    trained in bfloat16.
    """
    fastest = _fastest(features) if capability is None else _fastest_there(capability)
    if name == "q4" or (name == "auto" and in_4_bits and capability is None):
        reason = "asked for" if name == "q4" else "the base's file has its linears in 4 bits"
        return Choice(fastest.dtype, reason, Stored.Q4)
    if name == "int8":
        dtype = torch.bfloat16 if capability is None else fastest.dtype
        return Choice(dtype, "asked for", Stored.INT8)
    if name != "auto":
        return Choice(torch.float32 if name == "float32" else torch.bfloat16, "asked for")
    return fastest


def _fastest(features: frozenset[str]) -> Choice:
    """Choose what a processor multiplies in hardware."""
    fast = sorted(features & {"avx512_bf16", "amx_bf16"})
    if fast:
        return Choice(torch.bfloat16, f"this CPU has {' and '.join(fast)}")
    return Choice(torch.float32, "this CPU has neither avx512_bf16 nor amx_bf16")


def _fastest_there(capability: tuple[int, int]) -> Choice:
    """Choose what a device multiplies in hardware."""
    has = capability >= BFLOAT16_CAPABILITY
    version = ".".join(map(str, capability))
    return Choice(
        torch.bfloat16 if has else torch.float32,
        f"a device of capability {version} multiplies {'it' if has else 'no bfloat16'}",
    )
