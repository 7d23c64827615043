"""What paging adapters costs: python -m benchmarks.engine.paging [--folder F] [--adapters 2000]
[--requests 400]

Three tables, both sides of each in one process with one model (110M, bfloat16), interleaved,
medians over rounds:

    zipf     2,000 adapters on disk, room for 64 in memory in all, Zipf-1.0 requests, 16 at a time;
             against the same stream folded over 64
             adapters that are all resident. Answers are of 16 to 48 tokens: with equal ones the
             resident side goes in lockstep, its prompts never share a step with anybody's decoding,
             and the comparison is with that. Expected: throughput 95 to 98 %, since what is read
             back takes its time between steps; the 99th percentile of the time between tokens some
             per cent higher.
    seats    16 adapters over 8 slots, one request each, again and again; against 8 over 8 with as
             many requests. Expected: a median first
             token 1.0 to 1.3 times as late, since seats go round every four steps.
    cold     the first token of a request whose adapter is on disk, against one whose adapter is in
             memory. Expected: 10 to 15 ms more.

What was written just before is in the page cache, as it is on a node that fetched it; reading a
cold disk comes on top.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from benchmarks import write_result
from benchmarks.engine.times import Times
from benchmarks.engine.world import make_adapter, make_base, make_prompts
from engine.build import build_engine
from engine.config import EngineConfig
from engine.grammar import GrammarDone
from engine.lora.loader import LoadDone
from engine.messages import AdapterHeld, Failed, Finished, HoldAdapter, Sampling, Submit, Tokens

RESIDENT = 64
CONCURRENT = 16
PROMPT_TOKENS = 32
ANSWER_TOKENS = 32
SPREAD_TOKENS = 16


class Bench:
    """One engine in this process, with adapters known by number."""

    def __init__(self, folder: Path, threads: int, slots: int, host_bytes: int) -> None:
        self._done: SimpleQueue[LoadDone | GrammarDone] = SimpleQueue()
        config = EngineConfig(
            folder / "hf",
            dtype="bfloat16",
            threads=threads,
            max_adapters=slots,
            host_cache_bytes=host_bytes,
            kv_tokens=8192,
        )
        self._built = build_engine(config, self._done.put)
        self.engine = self._built.engine
        self._folder = folder
        self._next_id = 0

    def hold(self, numbers: range) -> float:
        """Register adapters; the seconds it took until all were checked."""
        started = time.perf_counter()
        missing = len(numbers)
        for number in numbers:
            files = self._folder / f"a{number:04}"
            self.engine.handle(
                HoldAdapter(
                    _name(number),
                    str(files / "adapter_config.json"),
                    str(files / "adapter_model.safetensors"),
                )
            )
        while missing:
            self.engine.receive(self._done.get(timeout=60))
            for message in self.engine.take_messages():
                assert isinstance(message, AdapterHeld), message
                missing -= 1
        return time.perf_counter() - started

    def serve(
        self,
        adapters: Iterator[int],
        concurrent: int = CONCURRENT,
        answer: int = ANSWER_TOKENS,
        spread: int = 0,
    ) -> Times:
        """Serve one request after another, `concurrent` at a time; an answer has `answer` tokens,
        or up to `spread` more or fewer.
        """
        times = Times()
        started = time.perf_counter()
        born: dict[int, float] = {}
        last: dict[int, float] = {}
        while True:
            for number in islice(adapters, concurrent - len(born)):
                self._next_id += 1
                born[self._next_id] = time.perf_counter()
                prompt = make_prompts(1, PROMPT_TOKENS, self._next_id)[0]
                tokens = answer - spread + self._next_id * 37 % (2 * spread + 1)
                self.engine.handle(
                    Submit(
                        self._next_id,
                        prompt,
                        _name(number),
                        Sampling(bytes(32)),
                        max_tokens=tokens,
                        credit=tokens,
                        stop_ids=[],
                    )
                )
            if not born:
                break
            self._step()
            now = time.perf_counter()
            for message in self.engine.take_messages():
                match message:
                    case Tokens(request_id):
                        (times.gaps if request_id in last else times.first_tokens).append(
                            now - last.get(request_id, born[request_id])
                        )
                        last[request_id] = now
                        times.tokens += 1
                    case Finished(request_id):
                        del born[request_id]
                    case Failed():
                        raise SystemExit(f"paging: {message}")
        times.seconds = time.perf_counter() - started
        return times

    def _step(self) -> None:
        try:
            while True:
                self.engine.receive(self._done.get_nowait())
        except Empty:
            if not self.engine.step():
                self.engine.receive(self._done.get(timeout=60))


def _name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def zipf(count: int, requests: int, seed: int) -> list[int]:
    """Adapter numbers drawn with probability proportional to 1 / rank."""
    weights = 1.0 / np.arange(1, count + 1)
    numbers: list[int] = (
        np.random.default_rng(seed).choice(count, requests, p=weights / weights.sum()).tolist()
    )
    return numbers


def compare_zipf(
    folder: Path, threads: int, adapters: int, requests: int, rounds: int
) -> dict[str, object]:
    """Many on disk, few in memory, against all in memory."""
    paged = Bench(
        folder, threads, RESIDENT, 1
    )  # the slots hold all that is in memory, the host cache one
    held_s = paged.hold(range(adapters))
    resident = Bench(folder, threads, RESIDENT, 2 << 30)
    resident.hold(range(RESIDENT))
    results: dict[str, list[Times]] = {"paged": [], "resident": []}
    for turn in range(rounds + 1):
        stream = zipf(adapters, requests, turn)
        sides: list[Callable[[], tuple[str, Times]]] = [
            lambda: ("paged", paged.serve(iter(stream), spread=SPREAD_TOKENS)),  # noqa: B023
            lambda: (
                "resident",
                resident.serve(
                    iter([number % RESIDENT for number in stream]),  # noqa: B023
                    spread=SPREAD_TOKENS,
                ),
            ),
        ]
        for side in sides if turn % 2 else reversed(sides):
            name, times = side()
            if turn:
                results[name].append(times)
    figures = {name: _summary(times) for name, times in results.items()}
    return {
        **figures,
        "registered": adapters,
        "register_ms_each": 1e3 * held_s / adapters,
        "throughput_ratio": statistics.median(
            a.tokens_s / b.tokens_s
            for a, b in zip(results["paged"], results["resident"], strict=True)
        ),
        "gap_p99_ratio": statistics.median(
            _p99(a.gaps) / _p99(b.gaps)
            for a, b in zip(results["paged"], results["resident"], strict=True)
        ),
    }


def compare_seats(folder: Path, threads: int, rounds: int) -> dict[str, object]:
    """16 adapters over 8 slots against 8 over 8, 16 requests at a time in both."""
    many = Bench(folder, threads, 8, 2 << 30)
    few = Bench(folder, threads, 8, 2 << 30)
    many.hold(range(16))
    few.hold(range(8))
    results: dict[str, list[Times]] = {"16 over 8": [], "8 over 8": []}
    for turn in range(rounds + 1):
        for name, bench, count in (("16 over 8", many, 16), ("8 over 8", few, 8)):
            times = bench.serve(iter([index % count for index in range(96)]), 16, 64)
            if turn:
                results[name].append(times)
    firsts = {
        name: [statistics.median(times.first_tokens) for times in each]
        for name, each in results.items()
    }
    return {
        **{
            name: {**_summary(each), "first_token_ms_median": 1e3 * statistics.median(firsts[name])}
            for name, each in results.items()
        },
        "first_token_ratio": statistics.median(
            a / b for a, b in zip(firsts["16 over 8"], firsts["8 over 8"], strict=True)
        ),
    }


def compare_cold(folder: Path, threads: int, rounds: int) -> dict[str, object]:
    """One request alone: its adapter on disk, or in memory."""
    bench = Bench(folder, threads, 4, 1)  # the budget holds one adapter: every other one is cold
    bench.hold(range(8))
    cold = []
    warm = []
    for turn in range(rounds * 10):
        cold += bench.serve(iter([turn % 8]), 1, 2).first_tokens
        warm += bench.serve(iter([turn % 8]), 1, 2).first_tokens
    cold_ms = 1e3 * statistics.median(cold)
    warm_ms = 1e3 * statistics.median(warm)
    return {"cold_ms": cold_ms, "warm_ms": warm_ms, "more_ms": cold_ms - warm_ms}


def _summary(times: list[Times]) -> dict[str, float]:
    return {
        "tokens_s": statistics.median(each.tokens_s for each in times),
        "gap_ms_median": 1e3 * statistics.median(statistics.median(each.gaps) for each in times),
        "gap_ms_p99": 1e3 * statistics.median(_p99(each.gaps) for each in times),
    }


def _p99(values: list[float]) -> float:
    return float(np.quantile(values, 0.99))


def main() -> None:
    """Write what is missing, measure, keep the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine.paging", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--folder", type=Path, default=Path.home() / ".cache" / "lorikeet" / "paging"
    )
    parser.add_argument("--adapters", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    if not (chosen.folder / "hf" / "model.safetensors").exists():
        make_base(chosen.folder / "hf")
    for number in range(chosen.adapters):
        if not (chosen.folder / f"a{number:04}" / "adapter_config.json").exists():
            make_adapter(chosen.folder / f"a{number:04}", number)
    figures: dict[str, object] = {
        "seats": compare_seats(chosen.folder, chosen.threads, chosen.rounds),
        "cold": compare_cold(chosen.folder, chosen.threads, chosen.rounds),
        "zipf": compare_zipf(
            chosen.folder, chosen.threads, chosen.adapters, chosen.requests, rounds=chosen.rounds
        ),
    }
    for name, table in figures.items():
        print(name, table, flush=True)
    write_result("engine-paging", figures)


if __name__ == "__main__":
    main()
