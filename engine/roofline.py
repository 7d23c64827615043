"""Measures what this machine can do at most: bytes read and numbers multiplied in a second.

Takes about two seconds. Knows no model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .executor.pages import HugePages

WORKING_SET_BYTES = 256 << 20
"""What is read for the bandwidth: the size of a small model, so that a cache that would hold the
model helps the limit as it helps the model.
"""

READ_BUDGET_S = 1.0
"""Longer than for the rest: what a rented machine reads can double from one second to the next."""

GEMM_ROWS = 1024
GEMM_WIDTH = 2048
APART_DEADLINE_S = 120


@dataclass(frozen=True)
class Roofline:
    """The measured limits: `read_bytes_s` bytes read a second; `operations_s` multiplications and
    additions a second by dtype name ("float32", "bfloat16", "int8").
    """

    threads: int
    read_bytes_s: float
    operations_s: dict[str, float]

    def seconds(self, dtype: str, read_bytes: float, operations: float) -> float:
        """Return the least seconds for work that reads so many bytes and does so many
        operations.
        """
        return max(read_bytes / self.read_bytes_s, operations / self._operations_s(dtype))

    def best(self, other: Roofline) -> Roofline:
        """Take the higher of both for each figure.

        What a busy neighbour took in one measurement, another may show.
        """
        rates = {
            name: max(rate, other.operations_s[name]) for name, rate in self.operations_s.items()
        }
        return Roofline(self.threads, max(self.read_bytes_s, other.read_bytes_s), rates)

    def bound(self, dtype: str, read_bytes: float, operations: float) -> str:
        """Return which of the two holds that work back: "memory" or "compute"."""
        return (
            "memory"
            if read_bytes / self.read_bytes_s >= operations / self._operations_s(dtype)
            else "compute"
        )

    def _operations_s(self, dtype: str) -> float:
        """Return the rate of a format; 4 bits are multiplied as int8."""
        return self.operations_s["int8" if dtype == "q4" else dtype]


def measure_apart(threads: int) -> Roofline:
    """Measure as `measure_roofline` does, in a process where torch may use all the processor has.

    In this process the engine's promises hold some of it back.
    """
    environment = {
        name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"
    }
    folder = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", __name__, str(threads)]
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=APART_DEADLINE_S,
        check=True,
    )
    return Roofline(**json.loads(done.stdout))


def measure_roofline(threads: int) -> Roofline:
    """Measure with torch's own kernels on `threads` threads, the best of several runs.

    That is a lower bound of the true limit.
    """
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return Roofline(
            threads,
            _read_rate(READ_BUDGET_S),
            {"float32": _float32_rate(), "bfloat16": _bfloat16_rate(), "int8": _int8_rate()},
        )


def measure_read_rate(threads: int, budget_s: float) -> float:
    """Measure bytes read a second, as `measure_roofline` does, within about `budget_s` seconds."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return _read_rate(budget_s)


def _best_seconds(work: Callable[[], object], budget_s: float = 0.15) -> float:
    """Return the shortest of the runs that fit the budget, at least three, after one to warm up."""
    work()
    best = float("inf")
    runs = 0
    began = time.perf_counter()
    while runs < 3 or time.perf_counter() - began < budget_s:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
        runs = runs + 1
    return best


def _read_rate(budget_s: float) -> float:
    """Measure a sum, which touches each byte once, in such memory as the native executor has for
    weights.
    """
    numbers = HugePages().zeros(WORKING_SET_BYTES // 4, dtype=torch.float32).fill_(1.0)
    return WORKING_SET_BYTES / _best_seconds(numbers.sum, budget_s)


def _gemm_operations() -> float:
    return 2.0 * GEMM_ROWS * GEMM_WIDTH * GEMM_WIDTH


def _float32_rate() -> float:
    left = torch.ones(GEMM_ROWS, GEMM_WIDTH)
    right = torch.ones(GEMM_WIDTH, GEMM_WIDTH)
    return _gemm_operations() / _best_seconds(lambda: torch.mm(left, right))


def _bfloat16_rate() -> float:
    left = torch.ones(GEMM_ROWS, GEMM_WIDTH).bfloat16()
    right = torch.ones(GEMM_WIDTH, GEMM_WIDTH).bfloat16()
    return _gemm_operations() / _best_seconds(lambda: torch.nn.functional.linear(left, right))


def _int8_rate() -> float:
    left = torch.ones(GEMM_ROWS, GEMM_WIDTH, dtype=torch.int8)
    right = torch.ones(GEMM_WIDTH, GEMM_WIDTH, dtype=torch.int8)
    return _gemm_operations() / _best_seconds(lambda: torch._int_mm(left, right.t()))


if __name__ == "__main__":
    print(json.dumps(asdict(measure_roofline(int(sys.argv[1])))))
