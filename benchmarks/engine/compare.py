"""Our engine against vLLM CPU, OpenVINO GenAI, llama.cpp and transformers + peft: one run, one
model, the same prompts and token counts.

    python -m benchmarks.engine.compare --peers FOLDER [--install] [--rounds 5] [--tokens 48]
    [--only NAME ...] [--minutes 9]

The peers live in environments of their own in FOLDER; `--install` makes them. Every side is a
process; all have started before the first figure is taken, and while one is asked the others are
stopped (SIGSTOP). A round asks every side for every case once, in an order that turns from round to
round. The machine's limits are measured before each round, and the best counts. How fast memory is
read can double from one second to the next, so it is measured again right before and after our side
is asked: the better of the two is the limit of that moment. Decoding is timed as the difference
between an answer of 1 + TOKENS tokens and one of a single token, so that prefill drops out. Prompts
are random and new in each round: no prefix cache helps anybody. Greedy, end-of-text ignored, as
many threads for each side.

Writes benchmarks/results/MACHINE-engine-compare.{json,md,svg}. A side that is missing or fails is
named in the table with its reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import machine_name, write_result
from benchmarks.engine import world
from benchmarks.engine.report import cell, plot, table
from benchmarks.engine.sides import Running, Side, SideFailed, install_peers
from engine.roofline import Roofline, measure_read_rate, measure_roofline

EXPECTATION = {
    "written": "after trying each driver with 16 tokens, before the first whole run",
    "distinct adapters": (
        "ours 3 to 5 times vLLM, which runs one kernel per linear and adapter part; peft as vLLM at"
        " batch 1, a fifth of it at 32"
    ),
    "base only, bfloat16": (
        "at batch 1 everybody within 40 % of the memory limit, so at most 1.4 times OpenVINO;"
        " OpenVINO first of the peers"
    ),
    "base only, int8": "1.5 to 2 times ours in bfloat16 at batch 1, since half the bytes are read",
    "prefill": "compute bound: whoever uses AMX tiles best",
    "memory": "adapters 1.0 times their bytes; process 0.7 to 0.8 GB",
}
GOALS = {
    ("distinct", "ours+lora", "vllm+lora"): (5.0, 5.0, 3.5),
    ("distinct", "ours+lora", "peft"): (6.0, 6.0, 6.0),
    ("distinct", "ours+lora borrowed compiler", "vllm+lora"): (2.0, 2.0, 1.5),
    ("distinct", "ours+lora torch twins", "vllm+lora"): (2.0, 2.0, 1.5),
    ("base bf16", "ours", "best"): (1.7, 1.5, 1.15),
    ("base int8", "ours int8", "best"): (2.0, 2.0, 1.3),
}
"""Case, our side, the other one (or the best of all others) → the ratio at each batch size."""
BATCHES = (1, 8, 32)
HELD = 64
PROMPT_TOKENS = 32
PREFILL = (32, 128)
READ_BUDGET_S = 0.1
NATIVE = {"kernels": "native"}
SIDES = [
    Side("ours", "ours", None, {**NATIVE, "dtype": "bfloat16"}),
    Side("ours+lora", "ours", None, {**NATIVE, "dtype": "bfloat16", "held": HELD}),
    Side(
        "ours+lora in process",
        "ours",
        None,
        {**NATIVE, "dtype": "bfloat16", "held": 32, "in_process": True},
    ),
    Side(
        "ours+lora borrowed compiler",
        "ours",
        None,
        {**NATIVE, "dtype": "bfloat16", "held": 32},
        borrows=True,
    ),
    Side(
        "ours+lora torch twins", "ours", None, {"kernels": "torch", "dtype": "bfloat16", "held": 32}
    ),
    Side("ours int8", "ours", None, {**NATIVE, "dtype": "int8"}),
    Side("vllm", "vllm", "vllm", {"lora": False}),
    Side("vllm+lora", "vllm", "vllm", {"lora": True}),
    Side("openvino", "openvino", "ov", {"dtype": "bfloat16"}),
    Side("openvino int8", "openvino", "ov", {"dtype": "int8"}),
    Side("llama.cpp", "llama", "ov", {"file": "bf16.gguf"}),
    Side("llama.cpp q8_0", "llama", "ov", {"file": "q8_0.gguf", "repack": False}),
    Side("peft", "peft", None, {"held": 32}),
]
CASES = {
    "distinct": [
        "ours+lora",
        "ours+lora in process",
        "ours+lora borrowed compiler",
        "ours+lora torch twins",
        "vllm+lora",
        "peft",
    ],
    "base bf16": ["ours", "vllm", "openvino", "llama.cpp"],
    "idle": ["ours+lora", "ours", "vllm+lora"],
    "base int8": ["ours int8", "openvino int8", "llama.cpp q8_0"],
    "prefill": ["ours", "vllm", "openvino"],
    "prefill distinct": ["ours+lora", "vllm+lora"],
}

DTYPES = {"distinct": "bfloat16", "base bf16": "bfloat16", "base int8": "int8"}
"""The cases that are held against the machine's limits."""

Key = tuple[str, int, str]
"""Case, batch, side."""


class Comparison:
    """The sides that run, what failed, and the figures so far."""

    def __init__(
        self, running: dict[str, Running], failed: dict[str, str], tokens: int, threads: int
    ) -> None:
        self.running = running
        self.failed = failed
        self.tokens = tokens
        self._threads = threads
        self.rates: dict[Key, list[float]] = defaultdict(list)
        self.first_token_ms: dict[Key, list[float]] = defaultdict(list)
        self.first_tokens: dict[tuple[str, int, int], dict[str, list[int]]] = defaultdict(dict)
        self.rss_mb: dict[str, int] = {}
        self.read_rates: dict[Key, list[float]] = defaultdict(list)
        self._seeds = itertools.count(1)

    def round(self, number: int, tokens: int, keep: bool) -> None:
        """Ask every side for every case once; `number` turns the order."""
        for case, names in CASES.items():
            for batch in (PREFILL[0],) if case.startswith("prefill") else BATCHES:
                length = PREFILL[1] if case.startswith("prefill") else PROMPT_TOKENS
                prompts = (
                    world.make_prompts(batch, length, next(self._seeds)),
                    world.make_prompts(batch, length, next(self._seeds)),
                )
                turned = [*names[number % len(names) :], *names[: number % len(names)]]
                for name in (each for each in turned if each in self.running):
                    try:
                        self._ask(case, batch, name, prompts, tokens, keep, number)
                    except SideFailed as reason:
                        self.failed[name] = str(reason)
                        self.running.pop(name).end()

    def _ask(
        self,
        case: str,
        batch: int,
        name: str,
        prompts: tuple[Any, Any],
        tokens: int,
        keep: bool,
        number: int,
    ) -> None:
        side = self.running[name]
        adapters = [index if case.endswith("distinct") else None for index in range(batch)]
        key = (case, batch, name)
        has_limit = keep and case in DTYPES and name == CASES[case][0]
        before = measure_read_rate(self._threads, READ_BUDGET_S) if has_limit else 0.0
        single = side.ask(prompts[0], adapters, 1)
        if not case.startswith("prefill"):
            whole = side.ask(prompts[1], adapters, 1 + tokens)
        if not keep:
            return
        if has_limit:
            self.read_rates[key].append(
                max(before, measure_read_rate(self._threads, READ_BUDGET_S))
            )
        self.first_token_ms[key].append(1e3 * single["seconds"])
        self.first_tokens[case, batch, number][name] = [answer[0] for answer in single["answers"]]
        if case.startswith("prefill"):
            self.rates[key].append(batch * PREFILL[1] / single["seconds"])
            self.rss_mb[name] = max(self.rss_mb.get(name, 0), single["rss_bytes"] >> 20)
        else:
            self.rates[key].append(batch * tokens / (whole["seconds"] - single["seconds"]))
            self.rss_mb[name] = max(self.rss_mb.get(name, 0), whole["rss_bytes"] >> 20)

    def median(self, case: str, batch: int, name: str) -> float | None:
        """A side's median rate, None where there is none."""
        values = self.rates.get((case, batch, name))
        return statistics.median(values) if values else None

    def median_first(self, case: str, name: str) -> float | None:
        """A side's median time to the first token of one request, in milliseconds."""
        values = self.first_token_ms.get((case, 1, name))
        return statistics.median(values) if values else None

    def ratio(
        self, case: str, batch: int, ours: str, theirs: str, theirs_case: str | None = None
    ) -> float | None:
        """The median over the rounds of our rate over theirs, round by round; within a case the two
        are taken one after the other.
        """
        mine = self.rates.get((case, batch, ours), [])
        other = self.rates.get((theirs_case or case, batch, theirs), [])
        pairs = [a / b for a, b in zip(mine, other, strict=False)]
        return statistics.median(pairs) if pairs else None

    def share_of_limit(self, case: str, batch: int, roofline: Roofline) -> float | None:
        """The median over the rounds of our rate over what the machine allowed at that moment."""
        key = case, batch, CASES[case][0]
        shares = [
            rate
            / limit(
                replace(roofline, read_bytes_s=read),
                batch,
                self.tokens,
                DTYPES[case],
                case == "distinct",
            )
            for rate, read in zip(self.rates.get(key, []), self.read_rates[key], strict=True)
        ]
        return statistics.median(shares) if shares else None

    def alike(self, case: str, ours: str, theirs: str) -> float | None:
        """The share of first tokens on which two sides agree: near 1 where both compute the same
        model.
        """
        same = [
            a == b
            for (c, _, _), sides in self.first_tokens.items()
            if c == case and ours in sides and theirs in sides
            for a, b in zip(sides[ours], sides[theirs], strict=True)
        ]
        return sum(same) / len(same) if same else None


def step_cost(batch: int, tokens: int, bytes_a_weight: int, adapters: int) -> tuple[float, float]:
    """Bytes that a decode step must read, and operations it must do; keys and values at half of the
    answer's length.
    """
    context = PROMPT_TOKENS + tokens / 2
    keys = batch * context * world.KV_NUMBERS_A_TOKEN
    read = bytes_a_weight * world.LINEAR_WEIGHTS + 2 * adapters * world.ADAPTER_WEIGHTS + 2 * keys
    # queries against keys and weights against values, for every query head
    attention = 4 * batch * context * world.LAYERS * world.HEADS * world.HEAD_DIM
    return (
        read,
        2 * batch * (world.LINEAR_WEIGHTS + (world.ADAPTER_WEIGHTS if adapters else 0)) + attention,
    )


def limit(roofline: Roofline, batch: int, tokens: int, dtype: str, distinct: bool) -> float:
    """Tokens per second that the machine's limits allow."""
    return batch / roofline.seconds(
        dtype, *step_cost(batch, tokens, 1 if dtype == "int8" else 2, batch if distinct else 0)
    )


def show(value: float | None, form: str = ".2f") -> str:
    """A number, or a dash."""
    return "-" if value is None else format(value, form)


def verdict(value: float | None, goal: float) -> str:
    """A figure beside its goal."""
    return (
        "-"
        if value is None
        else f"{value:.2f} (goal {goal:g}: {'reached' if value >= goal else 'missed'})"
    )


def report(taken: Comparison, roofline: Roofline, facts: dict[str, dict[str, Any]]) -> str:
    """All tables as Markdown."""
    parts = [
        f"Machine: {machine_name()}, {roofline.threads} threads; reads"
        f" {roofline.read_bytes_s / 1e9:.1f} GB/s, "
        + ", ".join(
            f"{name} {rate / 1e9:.0f} GOP/s" for name, rate in roofline.operations_s.items()
        )
        + "."
    ]
    parts += [
        rates_table(taken, "distinct", "Decode, a distinct rank-8 adapter for every row", roofline)
    ]
    parts += [rates_table(taken, "base bf16", "Decode, base only, bfloat16", roofline)]
    parts += [rates_table(taken, "base int8", "Decode, base only, int8 weights", roofline)]
    parts += [ratios_table(taken, roofline), others_table(taken, facts)]
    if taken.failed:
        parts.append(
            "Without figures: "
            + "; ".join(f"{name}: {reason}" for name, reason in taken.failed.items())
        )
    return "\n\n".join(parts) + "\n"


def rates_table(taken: Comparison, case: str, title: str, roofline: Roofline) -> str:
    """Tokens per second of each side and the share of the machine's limit that our side reaches."""
    dtype = DTYPES[case]
    rows = [
        [
            name,
            *(
                (
                    taken.failed[name]
                    if name in taken.failed
                    else cell(taken.rates.get((case, batch, name), []))
                )
                for batch in BATCHES
            ),
        ]
        for name in CASES[case]
    ]
    limits = [limit(roofline, batch, taken.tokens, dtype, case == "distinct") for batch in BATCHES]
    costs = [
        step_cost(b, taken.tokens, 1 if dtype == "int8" else 2, b if case == "distinct" else 0)
        for b in BATCHES
    ]
    rows.append(
        [
            "limit of the machine",
            *(
                f"{each:.0f} ({roofline.bound(dtype, *cost)})"
                for each, cost in zip(limits, costs, strict=True)
            ),
        ]
    )
    reached = [taken.median(case, batch, CASES[case][0]) for batch in BATCHES]
    rows.append(
        [
            f"{CASES[case][0]} / limit",
            *(
                "-" if r is None else f"{r / each:.0%}"
                for r, each in zip(reached, limits, strict=True)
            ),
        ]
    )
    shares = [taken.share_of_limit(case, batch, roofline) for batch in BATCHES]
    rows.append(
        [f"{CASES[case][0]} / limit of the moment", *(show(share, ".0%") for share in shares)]
    )
    return f"### {title}\n\n" + table(["tokens/s", *(f"batch {batch}" for batch in BATCHES)], rows)


def ratios_table(taken: Comparison, roofline: Roofline) -> str:
    """Every goal that is a ratio."""
    rows = []
    for (case, ours, peer), goals in GOALS.items():
        values = []
        for batch, goal in zip(BATCHES, goals, strict=True):
            rivals = (
                [name for name in CASES[case] if not name.startswith("ours")]
                if peer == "best"
                else [peer]
            )
            found = [
                ratio
                for rival in rivals
                if (ratio := taken.ratio(case, batch, ours, rival)) is not None
            ]
            values.append(verdict(min(found) if found else None, goal))
        rows.append([f"{case}: {ours} / {peer if peer != 'best' else 'best peer'}", *values])
    idle = [taken.ratio("idle", batch, "ours+lora", "ours") for batch in BATCHES]
    rows.append(["LoRA on but unused / base only", *(verdict(each, 0.99) for each in idle)])
    ratios = []
    ideals = []
    for batch in BATCHES:
        ideal = limit(roofline, batch, taken.tokens, "bfloat16", True) / limit(
            roofline, batch, taken.tokens, "bfloat16", False
        )
        ratio = taken.ratio("distinct", batch, "ours+lora", "ours", theirs_case="base bf16")
        ratios.append("-" if ratio is None else verdict(ratio / ideal, 0.9))
        ideals.append(f"{ideal:.2f}")
    rows += [
        ["ideal ratio, distinct / base", *ideals],
        ["distinct / base only, share of the ideal", *ratios],
    ]
    return "### Ratios\n\n" + table(["", *(f"batch {batch}" for batch in BATCHES)], rows)


def others_table(taken: Comparison, facts: dict[str, dict[str, Any]]) -> str:
    """Prefill, first token, memory, and whether the sides computed the same thing."""
    rows = []
    for name, known in facts.items():
        case = "prefill distinct" if name.endswith("+lora") else "prefill"
        mine = next((c for c, names in CASES.items() if name in names), "")
        reference = {"distinct": "ours+lora", "base bf16": "ours", "base int8": "ours int8"}.get(
            mine, ""
        )
        rows.append(
            [
                name,
                cell(taken.rates.get((case, PREFILL[0], name), [])),
                show(taken.median_first(mine, name), ".0f") + " ms",
                f"{taken.rss_mb.get(name, known['rss_bytes'] >> 20)} MB",
                f"{known['start_s']} s",
                "-" if reference == name else show(taken.alike(mine, reference, name), ".0%"),
                str(known.get("version") or known.get("kernels") or ""),
            ]
        )
    held = facts.get("ours+lora", {}).get("adapter_bytes")
    weights = HELD * world.ADAPTER_WEIGHTS * 2
    text = (
        ""
        if held is None
        else (
            f"\n\n{HELD} adapters held: {held / 1e6:.1f} MB for {weights / 1e6:.1f} MB of weights"
            f" ({held / weights:.3f})."
        )
    )
    head = [
        "",
        f"prefill {PREFILL[0]}x{PREFILL[1]}, tokens/s",
        "first token, batch 1",
        "resident",
        "start",
        "first tokens as ours",
        "what",
    ]
    return "### Prefill, first token, memory\n\n" + table(head, rows) + text


def take_cores(folder: Path, threads: int) -> dict[str, Any]:
    """Keep this process and its children on so many cores; return what every side is told."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    return {
        "base": str(folder / "hf"),
        "adapters": str(folder),
        "world": str(folder),
        "threads": threads,
        "cores": cores,
    }


def start_all(
    sides: Iterable[Side], peers: Path, shared: dict[str, Any], logs: Path
) -> tuple[dict[str, Running], dict[str, str]]:
    """Start one after the other; what fails is kept with its reason."""
    running: dict[str, Running] = {}
    failed: dict[str, str] = {}
    for side in sides:
        try:
            running[side.name] = Running(
                side, peers, shared, logs / f"{side.name.replace(' ', '-')}.log"
            )
            print(
                f"{side.name}: started in {running[side.name].facts['start_s']} s",
                file=sys.stderr,
                flush=True,
            )
        except SideFailed as reason:
            failed[side.name] = str(reason)
            print(f"{side.name}: {reason}", file=sys.stderr, flush=True)
    return running, failed


def main() -> None:
    """Start, warm up, measure in rounds, write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine.compare",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--peers", type=Path, required=True, help="folder of the peers' environments"
    )
    parser.add_argument(
        "--install", action="store_true", help="make the environments that are missing, with pip"
    )
    parser.add_argument(
        "--world",
        type=Path,
        help="where the model, the adapters and the conversions are kept; default: PEERS/world",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="no round is begun that would end later"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--only", nargs="*", metavar="SIDE", help=f"of {', '.join(side.name for side in SIDES)}"
    )
    parser.add_argument(
        "--logs", type=Path, help="where the sides' own words go; default: a temporary folder"
    )
    parser.add_argument("--dry", action="store_true", help="print only: write no result")
    chosen = parser.parse_args()
    began = time.monotonic()
    if chosen.install:
        install_peers(chosen.peers)
    folder = (chosen.world or chosen.peers / "world").absolute()
    world.make_world(folder)
    roofline = measure_roofline(chosen.threads)
    shared = take_cores(folder, chosen.threads)
    sides = [side for side in SIDES if not chosen.only or side.name in chosen.only]
    with tempfile.TemporaryDirectory() as temporary:
        logs = chosen.logs or Path(temporary)
        logs.mkdir(parents=True, exist_ok=True)
        running, failed = start_all(sides, chosen.peers, shared, logs)
        facts = {name: side.facts for name, side in running.items()}
        taken = Comparison(running, failed, chosen.tokens, chosen.threads)
        try:
            taken.round(0, 2, keep=False)
            longest = 0.0
            for number in range(chosen.rounds):
                started = time.monotonic()
                if number and started - began + longest > 60 * chosen.minutes:
                    break
                roofline = roofline.best(measure_roofline(chosen.threads))
                taken.round(number, chosen.tokens, keep=True)
                longest = max(longest, time.monotonic() - started)
                print(
                    f"round {number + 1}: {time.monotonic() - started:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
        finally:
            for side in running.values():
                side.end()
    text = report(taken, roofline, facts)
    print(text)
    if not chosen.dry:
        keep(taken, roofline, facts, text, chosen)


def keep(
    taken: Comparison,
    roofline: Roofline,
    facts: dict[str, dict[str, Any]],
    text: str,
    chosen: argparse.Namespace,
) -> None:
    """Write the JSON, the table and the plot."""
    figures: dict[str, Any] = defaultdict(dict)
    for (case, batch, name), rates in taken.rates.items():
        first = taken.first_token_ms[case, batch, name]
        figures[f"{case}, batch {batch}"][name] = {
            "tokens_s": [round(r, 1) for r in rates],
            "first_token_ms": [round(f, 1) for f in first],
        }
        if reads := taken.read_rates.get((case, batch, name)):
            figures[f"{case}, batch {batch}"][name]["read_gb_s"] = [
                round(read / 1e9, 1) for read in reads
            ]
    setting = {
        "threads": chosen.threads,
        "tokens": chosen.tokens,
        "prompt_tokens": PROMPT_TOKENS,
        "expectation": EXPECTATION,
    }
    limits = {"read_bytes_s": roofline.read_bytes_s, "operations_s": roofline.operations_s}
    write_result(
        "engine-compare",
        {
            **setting,
            "roofline": limits,
            "sides": facts,
            "failed": taken.failed,
            "rss_mb": taken.rss_mb,
            "figures": figures,
        },
    )
    stem = Path(__file__).parents[1] / "results" / f"{machine_name()}-engine-compare"
    stem.with_suffix(".md").write_text(text)
    shown = {
        f"{case}, batch {batch}": {
            name: taken.rates.get((case, batch, name), []) for name in CASES[case]
        }
        for case in DTYPES
        for batch in BATCHES
    }
    lines = {
        f"{case}, batch {batch}": limit(roofline, batch, taken.tokens, dtype, case == "distinct")
        for case, dtype in DTYPES.items()
        for batch in BATCHES
    }
    stem.with_suffix(".svg").write_text(plot(shown, lines))
    print(
        json.dumps({"written": [stem.with_suffix(end).name for end in (".json", ".md", ".svg")]}),
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
