"""What it costs that a row's bits never depend on its neighbours: python -m
benchmarks.engine.determinism [--folder F] [--rounds 3]

The promise forbids one thing: choosing a kernel by how many rows there are, or by how threads share
them. So its cost is what such a choice would gain. Each variant is a process of its own (a library
reads its settings once); they take turns, and the best of the rounds counts.

    native    AMX tiles always (what serves here) against AVX-512 always: a free choice would take
              the faster one at each batch size
    torch     oneDNN held back to AVX-512 (what serves without a compiler; AMX is not invariant
              there) against oneDNN as it likes

Expected before the first run: native 0 to 5 % at batch 1 to 8, where both wait for memory, nothing
from 16 on; torch nothing at small batches, a factor of two to four for prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks import write_result
from benchmarks.engine.world import make_base

CASES = {
    "batch 1": (1, 1, 100),
    "batch 8": (8, 1, 100),
    "batch 32": (32, 1, 100),
    "prompts of 128": (4, 128, 0),
}
"""Sequences, rows of each, the first row's position."""

VARIANTS = {
    "native, AMX always": ("native", "amx", "AVX512_CORE_BF16"),
    "native, AVX-512 always": ("native", "avx512_bf16", "AVX512_CORE_BF16"),
    "torch, held to AVX-512": ("torch", "", "AVX512_CORE_BF16"),
    "torch, free": ("torch", "", "DEFAULT"),
}
PAIRS = (
    ("native, AMX always", "native, AVX-512 always"),
    ("torch, held to AVX-512", "torch, free"),
)
CHILD_DEADLINE_S = 300


def measure(base: Path, kernels: str, instructions: str, threads: int) -> dict[str, float]:
    """Milliseconds of a step, by case; the best of many."""
    import time

    import numpy as np
    import torch

    from engine.decoder import Decoder
    from engine.executor import native
    from engine.executor.step import Run, StepInput
    from engine.lora.bank import SlotBank
    from engine.model.weights import open_weights

    if instructions:
        offered = native.usable_sets
        native.usable_sets = lambda features: [
            each for each in offered(features) if each.name == instructions
        ]
    torch.set_num_threads(threads)
    times = {}
    with torch.inference_mode():
        decoder = Decoder(open_weights(base), torch.bfloat16, 1024, kernels, threads=threads)
        pool = decoder.make_pool(1024, 16).zero_()
        for name, (sequences, rows, start) in CASES.items():
            runs = []
            pages = -(-(start + rows) // 16)
            for number in range(sequences):
                runs.append(
                    Run(
                        number * rows,
                        rows,
                        start,
                        list(range(1 + number * pages, 1 + (number + 1) * pages)),
                    )
                )
            places = np.tile(np.arange(start, start + rows), sequences)
            firsts = np.repeat(np.arange(sequences) * pages + 1, rows)
            tokens = (np.arange(sequences * rows) * 7919) % 32000
            wanted = np.arange(1, sequences + 1) * rows - 1
            step = StepInput(
                tokens,
                places,
                (firsts + places // 16) * 16 + places % 16,
                wanted,
                runs=runs,
                segments=[],
                bank=SlotBank(),
            )
            best = float("inf")
            for _ in range(40 if rows == 1 else 8):
                began = time.perf_counter()
                decoder.run(step, pool)
                best = min(best, time.perf_counter() - began)
            times[name] = best * 1e3
    return times


def main() -> None:
    """Run the variants in turn, print how much a free choice would gain, keep it."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/lorikeet-determinism"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--child", nargs=2, metavar=("KERNELS", "INSTRUCTIONS"), help=argparse.SUPPRESS
    )
    asked = parser.parse_args()
    base = asked.folder / "hf"
    if asked.child:
        print(json.dumps(measure(base, *asked.child, asked.threads)))
        return
    if not (base / "config.json").exists():
        asked.folder.mkdir(parents=True, exist_ok=True)
        make_base(base)
    best: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(CASES, float("inf")))
    for _ in range(asked.rounds):
        for name, (kernels, instructions, limit) in VARIANTS.items():
            command = [
                sys.executable,
                "-m",
                "benchmarks.engine.determinism",
                "--folder",
                str(asked.folder),
                "--threads",
                str(asked.threads),
            ]
            environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": limit}
            done = subprocess.run(
                [*command, "--child", kernels, instructions],
                env=environment,
                capture_output=True,
                text=True,
                timeout=CHILD_DEADLINE_S,
            )
            if done.returncode != 0:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            for case, milliseconds in json.loads(done.stdout.splitlines()[-1]).items():
                best[name][case] = min(best[name][case], milliseconds)
    costs = {}
    for name, times in best.items():
        print(
            f"{name:24}"
            + "".join(f"  {case} {milliseconds:.2f} ms" for case, milliseconds in times.items())
        )
    for kept, free in PAIRS:
        if kept in best and free in best:
            costs[kept] = {
                case: best[kept][case] / min(best[kept][case], best[free][case]) - 1
                for case in CASES
            }
            print(
                f"{kept:24}"
                + "".join(f"  {case} costs {cost:.0%}" for case, cost in costs[kept].items())
            )
    write_result("engine-determinism", {"step_ms": best, "cost": costs})


if __name__ == "__main__":
    main()
