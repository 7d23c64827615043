"""Measurements, kept apart from tests: they say how fast, tests say whether it is right."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path


def machine_name() -> str:
    """The processor's name and the number of cores, fit for a file name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    return f"{'-'.join(model.lower().replace('(r)', '').split())}-{os.cpu_count()}cpu"


def write_result(benchmark: str, figures: Mapping[str, object]) -> None:
    """Keep the figures, with where they come from, as benchmarks/results/MACHINE-BENCHMARK.json."""
    origin = {
        "benchmark": benchmark,
        "machine": machine_name(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }
    path = Path(__file__).parent / "results" / f"{machine_name()}-{benchmark}.json"
    path.write_text(json.dumps({**origin, **figures}, indent=1) + "\n")
