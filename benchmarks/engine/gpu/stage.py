"""One stage of `scripts/gpu` in a process of its own: python -m benchmarks.engine.gpu.stage NAME
OPTIONS

OPTIONS is one JSON object: kernels, dtype, shape, free_bytes, host_bytes. What is found goes to
stdout, a JSON line each, as soon as it is there; whatever libraries print goes to stderr. The
process ends with 1 when the stage did not come to its end.

    {"figure": ROW, "measured": NUMBER, "detail": {…}}
    {"trouble": ROW, "error": TEXT}
    {"fact": NAME, "value": …}
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.engine.gpu import bare


def main() -> None:
    """Run the stage that is named."""
    name = sys.argv[1]
    options = json.loads(sys.argv[2])
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    absent = bare.stand_in()

    from benchmarks.engine.gpu.rows import Fact, Figure, Trouble

    def tell(found: Figure | Trouble | Fact) -> None:
        lines.write(json.dumps(line_of(found)) + "\n")
        lines.flush()

    if absent:
        tell(Fact("stood_in", absent))
    run(name, options, tell)


def line_of(found: Any) -> dict[str, Any]:
    """A figure, trouble or fact as it crosses to the parent."""
    from benchmarks.engine.gpu.rows import Fact, Figure

    match found:
        case Figure(row, measured, detail):
            return {"figure": row, "measured": measured, "detail": detail}
        case Fact(name, value):
            return {"fact": name, "value": value}
        case _:
            return {"trouble": found.row, "error": found.error}


def run(name: str, options: dict[str, Any], tell: Any) -> None:
    """The stage `name`, in this process."""
    import torch

    from benchmarks.engine.gpu.agreement import agreement
    from benchmarks.engine.gpu.decode import decode, narrow, profile
    from benchmarks.engine.gpu.limits import limits
    from benchmarks.engine.gpu.model import plan
    from benchmarks.engine.gpu.paging import paging, resident, seats
    from benchmarks.engine.gpu.rows import Fact, Rows, World

    if name == "look":
        tell(Fact("machine", look(options["kernels"])))
        return
    dtype = getattr(torch, options["dtype"])
    if name == "agreement":
        agreement(options["kernels"], dtype, tell, options.get("answers", 24))
        return
    if name == "memcheck":
        from benchmarks.engine.gpu.memcheck import memcheck

        memcheck(dtype, tell)
        return
    scale = plan(options["shape"], dtype.itemsize, options["free_bytes"], options["host_bytes"])
    world = World(options["kernels"], dtype, scale, options["free_bytes"])
    stages = (
        limits,
        decode,
        narrow,
        profile,
        paging,
        seats,
        resident,
    )
    {stage.__name__: stage for stage in stages}[name](world, Rows(tell))


def look(kernels: str) -> dict[str, Any]:
    """The machine in a few words and numbers, as it is before anything is measured."""
    import torch

    from benchmarks import machine_name
    from benchmarks.engine.gpu.drive import free_bytes
    from engine.config import choose_dtype, cpu_features

    cuda = kernels == "cuda"
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else machine_name(),
        "free_bytes": free_bytes(torch.device("cuda" if cuda else "cpu")),
        "host_bytes": _host_bytes(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernel": platform.release(),
        "load_average": os.getloadavg(),
    }
    if not cuda:
        choice = choose_dtype("auto", cpu_features())
        return {**found, "dtype": str(choice.dtype).removeprefix("torch.")}
    import triton

    capability = torch.cuda.get_device_capability()
    properties = torch.cuda.get_device_properties(0)
    return {
        **found,
        "dtype": "bfloat16" if capability >= (8, 0) else "float32",
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "capability": list(capability),
        "total_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
    }


def _host_bytes() -> int:
    """Host memory that is available, as Linux counts it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


if __name__ == "__main__":
    main()
