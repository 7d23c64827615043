"""What the device can do at most, measured in the run whose figures are compared with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise

import torch

from benchmarks.engine.gpu.drive import free_bytes
from benchmarks.engine.gpu.model import Limits
from benchmarks.engine.gpu.rows import Rows, World


def limits(world: World, rows: Rows) -> None:
    """What the device can do at most; the facts are what everything else is compared with."""
    found = measure_cuda(world.dtype) if world.device.type == "cuda" else measure_host(world.dtype)
    rows.fact("limits", asdict(found))


def measure_cuda(dtype: torch.dtype) -> Limits:
    """The device's rates by its own clock, the best of several; each in as much memory as a quarter
    of what is free.
    """
    device = torch.device("cuda")
    free = free_bytes(device)
    copies = _copy_rate(min(4 << 30, free // 4), device)
    from_host = _host_rate(min(256 << 20, free // 8), device)
    return Limits(
        torch.cuda.get_device_name(),
        copies,
        _gemm_rate(8192 if free > 4 << 30 else 2048, dtype, device),
        from_host,
    )


def _copy_rate(size_bytes: int, device: torch.device) -> float:
    """Bytes read and bytes written a second by a copy within the device."""
    source = torch.empty(size_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * size_bytes / _cuda_seconds(lambda: target.copy_(source))


def _gemm_rate(width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a product of two square matrices of random numbers: with zeros a
    device draws less power and is faster.
    """
    left = torch.randn(width, width, device=device).to(dtype)
    right = torch.randn(width, width, device=device).to(dtype)
    out = torch.empty_like(left)
    return 2.0 * width**3 / _cuda_seconds(lambda: torch.mm(left, right, out=out))


def _host_rate(size_bytes: int, device: torch.device) -> float:
    """Bytes a second from pinned host memory."""
    source = torch.zeros(size_bytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size_bytes, dtype=torch.uint8, device=device)
    return size_bytes / _cuda_seconds(lambda: target.copy_(source, non_blocking=True))


def _cuda_seconds(work: Callable[[], object], times: int = 10) -> float:
    """The best of some runs, by the device's own clock, after three to warm up."""
    for _ in range(3):
        work()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return min(first.elapsed_time(second) for first, second in pairwise(events)) / 1e3


def measure_host(dtype: torch.dtype) -> Limits:
    """This machine's own limits in the same words, for a run without a GPU."""
    from engine.roofline import measure_roofline

    found = measure_roofline(len(os.sched_getaffinity(0)))
    name = "float32" if dtype == torch.float32 else "bfloat16"
    return Limits(
        "this machine's CPU", found.read_bytes_s, found.operations_s[name], found.read_bytes_s
    )
