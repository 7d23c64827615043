"""Our engine over 4-bit bases of 1B's shape against llama.cpp, OpenVINO GenAI and vLLM: one run,
the same prompts and token counts.

    python -m benchmarks.engine.four_bits --peers FOLDER [--install] [--rounds 3] [--tokens 16]
    [--minutes 8] [--only NAME ...]

The sides, their drivers and environments are those of `compare`, and so is how they are asked: each
a process, all started before the first figure is taken, all stopped but the one that is asked, in
an order that turns from round to round. Decoding is timed as the difference between an answer of
1 + TOKENS tokens and one of a single token. Our own sides read the very files that llama.cpp reads;
OpenVINO has its own int4 (symmetric, 128 inputs a scale, head and embedding too), vLLM bfloat16.

Writes benchmarks/results/MACHINE-engine-four-bits.{json,md}. A side that is missing or fails is
named with its reason.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine_name, write_result
from benchmarks.engine import four_bits_world as world
from benchmarks.engine.compare import show, start_all, take_cores, verdict
from benchmarks.engine.report import cell, table
from benchmarks.engine.sides import Running, Side, SideFailed, install_peers
from engine.roofline import Roofline, measure_read_rate, measure_roofline

EXPECTATION = {
    "written": "before the first run, from the kernels' own times on one busy core",
    "base, batch 1": "0.8 of the memory limit; peers 0.6 to 0.8, so 1.1 to 1.3 times the best",
    "base, batch 8 and 32": (
        "2 and 3 times llama.cpp, which multiplies row by row; OpenVINO widens, so less there"
    ),
    "distinct adapters": "as the bytes of rank 16 have it: 0.9 of the ideal ratio",
    "prefill": "1 to 1.5 times OpenVINO, which multiplies bfloat16 by tiles",
    "memory": "the file's bytes and torch's own 220 MB: 1.35 times Q4_0, 1.25 times Q4_K_M",
}
BATCHES = (1, 8, 32)
PROMPT_TOKENS = 32
PREFILL = (8, 512)
READ_BUDGET_S = 0.1
OURS = {"kernels": "native", "dtype": "q4"}
LLAMA = {"context": 32 * 1024}
SIDES = [
    Side("ours q4_0", "ours", None, {**OURS, "file": "q4_0.gguf"}),
    Side("ours q4_0+lora", "ours", None, {**OURS, "file": "q4_0.gguf", "held": 32}),
    Side("ours q4_k_m", "ours", None, {**OURS, "file": "q4_k_m.gguf"}),
    Side("llama.cpp q4_0", "llama", "ov", {**LLAMA, "file": "q4_0.gguf"}),
    Side("llama.cpp q4_k_m", "llama", "ov", {**LLAMA, "file": "q4_k_m.gguf"}),
    Side("openvino int4", "openvino", "ov", {"dtype": "int4"}),
    Side("vllm+lora", "vllm", "vllm", {"lora": True, "rank": 16}),
]
PEERS = ["llama.cpp q4_0", "llama.cpp q4_k_m", "openvino int4"]
CASES = {
    "base": ["ours q4_0", "ours q4_k_m", *PEERS],
    "distinct": ["ours q4_0+lora", "vllm+lora"],
    "prefill": ["ours q4_0", "ours q4_k_m", *PEERS],
}
GOALS = {"base": (1.2, 2.5, 3.0), "prefill": (1.2,)}

Key = tuple[str, int, str]
"""Case, batch, side."""


class Figures:
    """Rates of each side in tokens a second, one for each round, and what was read beside them."""

    def __init__(self, running: dict[str, Running], failed: dict[str, str], threads: int) -> None:
        self.running = running
        self.failed = failed
        self.rates: dict[Key, list[float]] = defaultdict(list)
        self.read_rates: dict[int, list[float]] = defaultdict(list)
        self.rss_mb: dict[str, int] = {}
        self._threads = threads
        self._seeds = itertools.count(1)

    def round(self, number: int, tokens: int, keep: bool) -> None:
        """Ask every side for every case once; `number` turns the order."""
        for case, names in CASES.items():
            for batch in (PREFILL[0],) if case == "prefill" else BATCHES:
                turn = number % len(names)
                for name in [*names[turn:], *names[:turn]]:
                    if name not in self.running:
                        continue
                    try:
                        self._ask(case, batch, name, tokens, keep)
                    except SideFailed as reason:
                        self.failed[name] = str(reason)
                        self.running.pop(name).end()

    def _ask(self, case: str, batch: int, name: str, tokens: int, keep: bool) -> None:
        side = self.running[name]
        length = PREFILL[1] if case == "prefill" else PROMPT_TOKENS
        adapters = [index if case == "distinct" else None for index in range(batch)]
        limited = keep and case == "base" and name == CASES["base"][0]
        before = measure_read_rate(self._threads, READ_BUDGET_S) if limited else 0.0
        answer = single = side.ask(self._prompts(batch, length), adapters, 1)
        rate = batch * length / single["seconds"]
        if case != "prefill":
            answer = side.ask(self._prompts(batch, length), adapters, 1 + tokens)
            rate = batch * tokens / (answer["seconds"] - single["seconds"])
        if not keep:
            return
        if limited:
            read = max(before, measure_read_rate(self._threads, READ_BUDGET_S))
            self.read_rates[batch].append(read)
        self.rates[case, batch, name].append(rate)
        self.rss_mb[name] = max(self.rss_mb.get(name, 0), answer["rss_bytes"] >> 20)

    def _prompts(self, batch: int, length: int) -> list[list[int]]:
        draw = torch.Generator().manual_seed(next(self._seeds))
        prompts: list[list[int]] = torch.randint(
            3, world.VOCAB, (batch, length), generator=draw
        ).tolist()
        return prompts

    def ratio(self, mine: Key, theirs: Key) -> float | None:
        """The median over the rounds of our rate over theirs, round by round."""
        pairs = zip(self.rates.get(mine, []), self.rates.get(theirs, []), strict=False)
        ratios = [a / b for a, b in pairs]
        return statistics.median(ratios) if ratios else None

    def to_best(self, case: str, batch: int, ours: str) -> float | None:
        """Our rate over that of the best peer."""
        found = [self.ratio((case, batch, ours), (case, batch, peer)) for peer in PEERS]
        return min((each for each in found if each is not None), default=None)


def step_bytes(file_bytes: int, batch: int, tokens: int, distinct: bool) -> float:
    """Bytes that a decode step must read: the file, each row's keys and values at half of the
    answer's length, an adapter for each row.
    """
    context = PROMPT_TOKENS + tokens / 2
    kv = 2 * batch * context * world.KV_NUMBERS_A_TOKEN
    return file_bytes + kv + (2 * batch * world.ADAPTER_WEIGHTS if distinct else 0)


def limit(roofline: Roofline, read_bytes: float, batch: int, distinct: bool) -> float:
    """Tokens a second that the machine allows."""
    operations = 2.0 * batch * (world.WEIGHTS + (world.ADAPTER_WEIGHTS if distinct else 0))
    return batch / roofline.seconds("q4", read_bytes, operations)


def report(
    taken: Figures, roofline: Roofline, files: dict[str, int], tokens: int, started: Any
) -> str:
    """All tables as Markdown."""
    limits = {
        case: [
            limit(
                roofline,
                step_bytes(files["q4_0"], batch, tokens, case == "distinct"),
                batch,
                case == "distinct",
            )
            for batch in BATCHES
        ]
        for case in ("base", "distinct")
    }
    heads = ["tokens/s", *(f"batch {batch}" for batch in BATCHES)]
    parts = [
        f"Machine: {machine_name()}, {roofline.threads} threads; reads"
        f" {roofline.read_bytes_s / 1e9:.1f} GB/s, int8"
        f" {roofline.operations_s['int8'] / 1e9:.0f} GOP/s; load at the start {started[0]:.1f}."
    ]
    for case, title in (("base", "Decode, base only"), ("distinct", "Decode, rank 16 distinct")):
        rows = [
            [name, *(cell(taken.rates.get((case, batch, name), [])) for batch in BATCHES)]
            for name in CASES[case]
        ]
        rows.append(["limit of the machine (Q4_0)", *(f"{each:.0f}" for each in limits[case])])
        parts.append(f"### {title}\n\n" + table(heads, rows))
    ratios = ratio_rows(taken, limits, files, tokens)
    parts.append("### Ratios\n\n" + table(["", *heads[1:]], ratios))
    prefill = [
        [name, cell(taken.rates.get(("prefill", PREFILL[0], name), []))]
        for name in CASES["prefill"]
    ]
    best = taken.to_best("prefill", PREFILL[0], "ours q4_0")
    prefill.append(["ours q4_0 / best peer", "-" if best is None else verdict(best, 1.2)])
    parts.append("### Prefill\n\n" + table(["tokens/s", f"{PREFILL[0]}x{PREFILL[1]}"], prefill))
    memory = [
        [name, f"{rss} MB", show(rss * 2**20 / files[kind]) if kind in files else "-"]
        for name, rss in taken.rss_mb.items()
        for kind in [name.split()[-1]]
    ]
    parts.append("### Memory\n\n" + table(["", "resident", "times the file"], memory))
    if taken.failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in taken.failed.items())
        parts.append(f"Without figures: {reasons}")
    return "\n\n".join(parts) + "\n"


def ratio_rows(
    taken: Figures, limits: dict[str, list[float]], files: dict[str, int], tokens: int
) -> list[list[str]]:
    """Every goal that is a ratio, at each batch size."""
    rows = []
    for ours in ("ours q4_0", "ours q4_k_m"):
        found = [taken.to_best("base", batch, ours) for batch in BATCHES]
        marks = [
            "-" if each is None else verdict(each, goal)
            for each, goal in zip(found, GOALS["base"], strict=True)
        ]
        rows.append([f"base: {ours} / best peer", *marks])
    vllm = [
        taken.ratio(("distinct", b, "ours q4_0+lora"), ("distinct", b, "vllm+lora"))
        for b in BATCHES
    ]
    rows.append(["distinct: ours / vLLM in bfloat16", *(show(each) for each in vllm)])
    shares = []
    for index, batch in enumerate(BATCHES):
        ratio = taken.ratio(("distinct", batch, "ours q4_0+lora"), ("base", batch, "ours q4_0"))
        ideal = limits["distinct"][index] / limits["base"][index]
        shares.append("-" if ratio is None else verdict(ratio / ideal, 0.9))
    rows.append(["distinct / base, share of the ideal", *shares])
    moments = []
    for batch in BATCHES:
        pairs = zip(
            taken.rates.get(("base", batch, "ours q4_0"), []),
            taken.read_rates[batch],
            strict=False,
        )
        needed = step_bytes(files["q4_0"], batch, tokens, False) / batch
        reached = [rate * needed / read for rate, read in pairs]
        moments.append(show(statistics.median(reached) if reached else None, ".0%"))
    rows.append(["ours q4_0 / memory limit of the moment", *moments])
    return rows


def main() -> None:
    """Start, warm up, measure in rounds, write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine.four_bits",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--peers", type=Path, required=True, help="folder of their environments")
    parser.add_argument("--install", action="store_true", help="make those that are missing")
    parser.add_argument("--world", type=Path, help="where files are kept; default: PEERS/world-q4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=8.0, help="no round ends later")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="*", metavar="SIDE")
    parser.add_argument("--dry", action="store_true", help="print only: write no result")
    chosen = parser.parse_args()
    began = time.monotonic()
    started = os.getloadavg()
    if chosen.install:
        install_peers(chosen.peers)
    folder = (chosen.world or chosen.peers / "world-q4").absolute()
    world.make_world(folder)
    roofline = measure_roofline(chosen.threads)
    shared = take_cores(folder, chosen.threads)
    sides = [side for side in SIDES if not chosen.only or side.name in chosen.only]
    with tempfile.TemporaryDirectory() as logs:
        running, failed = start_all(sides, chosen.peers, shared, Path(logs))
        facts = {name: side.facts for name, side in running.items()}
        taken = Figures(running, failed, chosen.threads)
        try:
            taken.round(0, 2, keep=False)
            longest = 0.0
            for number in range(chosen.rounds):
                begun = time.monotonic()
                if number and begun - began + longest > 60 * chosen.minutes:
                    break
                roofline = roofline.best(measure_roofline(chosen.threads))
                taken.round(number, chosen.tokens, keep=True)
                longest = max(longest, time.monotonic() - begun)
                print(f"round {number + 1}: {longest:.0f} s", file=sys.stderr, flush=True)
        finally:
            for side in running.values():
                side.end()
    files = {kind: (folder / f"{kind}.gguf").stat().st_size for kind in ("q4_0", "q4_k_m")}
    text = report(taken, roofline, files, chosen.tokens, started)
    print(text)
    if chosen.dry:
        return
    figures: dict[str, Any] = defaultdict(dict)
    for (case, batch, name), rates in taken.rates.items():
        figures[f"{case}, batch {batch}"][name] = [round(rate, 1) for rate in rates]
    limits = {"read_bytes_s": roofline.read_bytes_s, "operations_s": roofline.operations_s}
    write_result(
        "engine-four-bits",
        {
            "threads": chosen.threads,
            "tokens": chosen.tokens,
            "expectation": EXPECTATION,
            "roofline": limits,
            "sides": facts,
            "failed": taken.failed,
            "rss_mb": taken.rss_mb,
            "files": files,
            "read_bytes_s": taken.read_rates,
            "figures": figures,
        },
    )
    name = f"{machine_name()}-engine-four-bits.md"
    (Path(__file__).parents[1] / "results" / name).write_text(text)


if __name__ == "__main__":
    main()
