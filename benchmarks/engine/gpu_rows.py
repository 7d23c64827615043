"""The figures of `scripts/gpu`, in stages: each opens an engine of its own, measures several rows, and gives every figure away at once.

    agreement   answers of this device replayed on the CPU and the other way round
    limits      copy bandwidth, GEMM rate, host-to-device rate, free memory
    decode      base only, distinct adapters, Zipf, LoRA on but unused; then prompts
    paging      a cold adapter; many adapters on the host, few places on the device
    seats       twice as many adapters as slots
    resident    how many adapters lie beside the base, all of them served
    profile     which kernels one decode step spends its time in

A row that fails is told with its error, and the next one is tried. Run by `benchmarks.engine.gpu`, each stage in a process of its own:
after a fault on the device nothing in that process works any more.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks.engine.gpu_drive import Batch, Driver, RowFailed, Times, free_bytes, name_of
from benchmarks.engine.gpu_model import Limits, Scale, decode_seconds, fits_beside, kv_tokens_for, lora_share, quantile, resident_kv_tokens, room_for_adapters
from benchmarks.engine.gpu_world import Adapters, random_weights, zipf

WARM_STEPS = 4
SHARES_OF_ROOM = (0.98, 0.96, 0.93, 0.90)
"""What of the room for adapters is tried in turn."""


@dataclass(frozen=True)
class Figure:
    """One measured number, and what else was seen."""

    row: str
    measured: float
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trouble:
    """A row that gave no figure."""

    row: str
    error: str


@dataclass(frozen=True)
class Fact:
    """Something to keep that is no row of the table."""

    name: str
    value: Any


Tell = Callable[[Figure | Trouble | Fact], None]


@dataclass(frozen=True)
class World:
    """What is measured: an executor (`kernels`) on a device, in a number format, at a scale. `free_bytes` of the device when it was empty."""

    kernels: str
    dtype: torch.dtype
    scale: Scale
    free_bytes: int

    @property
    def device(self) -> torch.device:
        """Where the executor computes."""
        return torch.device("cuda" if self.kernels == "cuda" else "cpu")

    def adapters(self, count: int, room_bytes: int = 1 << 30) -> Adapters:
        """So many of the scale's rank, in at most about `room_bytes` of host memory."""
        return Adapters(self.scale.config, self.scale.rank, self.dtype, count, min(room_bytes, self.scale.room_bytes), self.device)

    @contextmanager
    def open(self, adapters: Adapters | None, slots: int, kv_tokens: int, **settings: Any) -> Iterator[Driver]:
        """An engine of this world, and its memory back afterwards."""
        given = {"prompt_step_tokens": 8192, "step_tokens": max(512, self.scale.largest_batch), "max_running": max(64, self.scale.largest_batch)}
        started = time.perf_counter()
        driver = Driver(
            random_weights(self.scale.shape, self.dtype, self.device), adapters and adapters.load, dtype=str(self.dtype).removeprefix("torch."), kernels=self.kernels,
            threads=len(os.sched_getaffinity(0)), kv_tokens=kv_tokens, max_adapters=slots, max_waiting=8192, host_cache_bytes=1 << 44,
            waiting_deadline_s=600.0, parked_deadline_s=600.0, **{**given, **settings},
        )  # fmt: skip
        self.opened_s.append(round(time.perf_counter() - started, 2))
        try:
            yield driver
        finally:
            driver.close()
            del driver
            gc.collect()
            free_bytes(self.device)

    opened_s: list[float] = field(default_factory=list, compare=False)


class Rows:
    """Tries one row after the other."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def attempt(self, row: str, measure: Callable[[], Figure]) -> Figure | None:
        """The row's figure, told; a failure is told too and is None."""
        try:
            figure = measure()
        except Exception as error:  # whatever went wrong, the rows after this one are still worth something
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._tell(Trouble(row, f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"))
            return None
        self._tell(figure)
        return figure

    def fact(self, name: str, value: Any) -> None:
        """Keep something beside the table."""
        self._tell(Fact(name, value))


# --- decode ---


def decode(world: World, rows: Rows) -> None:
    """Decode steps at all batches, and prompts."""
    scale = world.scale
    adapters = world.adapters(max(scale.zipf_adapters, scale.largest_batch))
    with world.open(adapters, scale.largest_batch, kv_tokens_for(scale, world.free_bytes)) as driver:
        rows.fact("kernels", driver.built.kernels)
        alone = {batch: rows.attempt(f"base-{batch}", lambda b=batch: _base(driver, scale, b))  # type: ignore[misc]
                 for batch in (1, scale.zipf_batch) if batch in scale.batches}  # fmt: skip
        rows.attempt("prefill", lambda: _prompts(driver, scale, [None] * scale.prefill[0]))
        driver.hold(range(adapters.count))
        for batch in sorted(scale.batches, key=lambda batch: (batch > 64, -batch)):
            if batch == scale.zipf_batch:
                _distinct(driver, scale, batch, rows, alone)
                chosen: list[int | None] = [*zipf(scale.zipf_adapters, batch, 1)]
                rows.attempt("zipf", lambda c=chosen: _share(*_compare(driver, scale, c), "zipf", len(set(c)), scale))  # type: ignore[misc]
                rows.attempt("unused", lambda b=batch: _unused(driver, scale, b, alone))  # type: ignore[misc]
            else:
                _distinct(driver, scale, batch, rows, alone)
        rows.attempt("prefill-distinct", lambda: _prompts(driver, scale, list(range(scale.prefill[0])), "prefill-distinct"))
    rows.fact("seconds_to_open_decode", world.opened_s[-1])


def _base(driver: Driver, scale: Scale, batch: int) -> Figure:
    opened = _open(driver, scale, [None] * batch)
    steps = [driver.decode(opened, scale.decode_steps) for _ in range(scale.rounds)]
    driver.end_batch(opened)
    return _rate(f"base-{batch}", batch, steps)


def _distinct(driver: Driver, scale: Scale, batch: int, rows: Rows, alone: dict[int, Figure | None]) -> None:
    """A row for the batch with an adapter each against bare rows; the bare side is a row of its own where it was not measured before."""

    def measure() -> Figure:
        bare, own = _compare(driver, scale, list(range(batch)))
        if batch not in alone:
            alone[batch] = rows.attempt(f"base-{batch}", lambda: _rate(f"base-{batch}", batch, bare))
        return _share(bare, own, f"distinct-{batch}", batch, scale)

    rows.attempt(f"distinct-{batch}", measure)


def _unused(driver: Driver, scale: Scale, batch: int, alone: dict[int, Figure | None]) -> Figure:
    before = alone[batch]
    if before is None:
        raise RowFailed("there is no rate from before the first adapter to compare with")
    after = _base(driver, scale, batch)
    return Figure("unused", after.measured / before.measured, {"before": before.detail, "after": after.detail})


def _compare(driver: Driver, scale: Scale, adapters: list[int | None]) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds of each step, by round: of a bare batch and of one with these adapters; in turn where both fit, else one after the other."""
    sides: list[list[int | None]] = [[None] * len(adapters), adapters]
    steps: list[list[list[float]]] = [[], []]
    if fits_beside(scale, driver.stats().kv_pages * driver.built.ready.page_tokens, len(adapters)):
        opened = [_open(driver, scale, side) for side in sides]
        for _ in range(scale.rounds):
            for side, batch in enumerate(opened):
                steps[side].append(driver.decode(batch, scale.decode_steps))
        for batch in opened:
            driver.end_batch(batch)
    else:
        for side, numbers in enumerate(sides):
            batch = _open(driver, scale, numbers)
            steps[side] = [driver.decode(batch, scale.decode_steps) for _ in range(scale.rounds)]
            driver.end_batch(batch)
    return steps[0], steps[1]


def _open(driver: Driver, scale: Scale, adapters: Sequence[int | None]) -> Batch:
    """A batch at the scale's context, warm: what is captured or compiled at the first steps is not measured."""
    batch = driver.open_batch(adapters, scale.prompt_tokens, scale.reserved_tokens)
    driver.decode(batch, WARM_STEPS)
    return batch


def _rate(row: str, batch: int, steps: list[list[float]]) -> Figure:
    rates = [batch * len(each) / sum(each) for each in steps]
    return Figure(row, statistics.median(rates), {"rounds": [round(rate, 1) for rate in rates], **_step_ms(steps)})


def _step_ms(steps: list[list[float]]) -> dict[str, float]:
    every = [1e3 * second for each in steps for second in each]
    return {"step_ms_median": round(statistics.median(every), 4), "step_ms_min": round(min(every), 4), "step_ms_p99": round(quantile(every, 0.99), 4)}


def _share(bare: list[list[float]], own: list[list[float]], row: str, distinct: int, scale: Scale) -> Figure:
    shares = [sum(without) / sum(with_) for without, with_ in zip(bare, own, strict=True)]
    detail = {"rounds": [round(share, 4) for share in shares], "distinct": distinct, "bare": _step_ms(bare), "own": _step_ms(own)}
    return Figure(row, statistics.median(shares), detail)


def _prompts(driver: Driver, scale: Scale, adapters: list[int | None] | list[int], row: str = "prefill") -> Figure:
    tokens = len(adapters) * scale.prefill[1]
    driver.time_prompts(adapters, scale.prefill[1])
    rates = [tokens / driver.time_prompts(adapters, scale.prefill[1]) for _ in range(scale.rounds)]
    return Figure(row, statistics.median(rates), {"rounds": [round(rate) for rate in rates]})


# --- paging ---


def paging(world: World, rows: Rows) -> None:
    """Many adapters on the host, few places on the device."""
    scale = world.scale
    slots, prompt = scale.paged_slots, scale.context // 8
    adapters = world.adapters(scale.paged_adapters, scale.room_bytes)
    rows.fact("adapters", {"size_bytes": adapters.size_bytes, "room_bytes": len(adapters.room), "count": adapters.count})
    with world.open(adapters, slots, 2 * slots * (2 * scale.context // 8 + 32), max_running=slots) as driver:
        started = time.perf_counter()
        driver.hold(range(adapters.count))
        rows.fact("register_ms_each", round(1e3 * (time.perf_counter() - started) / adapters.count, 3))
        rows.attempt("cold", lambda: _cold(driver, scale, prompt))
        streams = _Streams(driver, scale, prompt)
        full = rows.attempt("paging-full", streams.full)
        if full is not None:
            rates: list[tuple[Times, Times]] = []
            rows.attempt("paging-throughput", lambda: streams.throughput(full.detail["requests_s"], rates))
            if rates:
                rows.attempt("paging-gap-p99", lambda: streams.gaps(rates))


def _cold(driver: Driver, scale: Scale, prompt_tokens: int) -> Figure:
    """The first token of a request alone: with an adapter that was never on the device, and with the same one again."""
    fresh = range(scale.paged_adapters // 2, scale.paged_adapters)
    tries = min(16, len(fresh) // 2)
    cold, warm = [], []
    for turn in range(tries + 2):
        seconds = driver.time_prompts([fresh[turn]], prompt_tokens), driver.time_prompts([fresh[turn]], prompt_tokens)
        if turn >= 2:
            cold.append(1e3 * seconds[0])
            warm.append(1e3 * seconds[1])
    detail = {"cold_ms": round(statistics.median(cold), 3), "warm_ms": round(statistics.median(warm), 3), "tries": tries}
    return Figure("cold", statistics.median(cold) - statistics.median(warm), detail)


class _Streams:
    """Requests over all adapters by Zipf's law, against the same folded over as many as there are slots."""

    def __init__(self, driver: Driver, scale: Scale, prompt_tokens: int) -> None:
        self._driver, self._scale, self._prompt_tokens = driver, scale, prompt_tokens
        self._numbers = zipf(scale.paged_adapters, 200_000, 3)

    def answer(self, number: int) -> int:
        """The n-th answer's tokens: from half to one and a half of a sixteenth of the context, so that nobody goes in lockstep."""
        middle = self._scale.context // 16
        return middle - middle // 2 + number * 37 % (middle + 1)

    def full(self) -> Figure:
        """As many requests at a time as there are slots."""
        self._make_resident()
        resident = self._for_a_while(lambda number: number % self._scale.paged_slots)
        paged = self._for_a_while(lambda number: number)
        detail = {"requests_s": resident.requests / resident.seconds, "resident": _summary(resident), "paged": _summary(paged)}
        return Figure("paging-full", paged.tokens_s / resident.tokens_s, detail)

    def throughput(self, capacity_requests_s: float, rates: list[tuple[Times, Times]]) -> Figure:
        """Arrivals at 80 % of what the resident side can do, twice, in both orders; `rates` gets (paged, resident) of each."""
        for turn in range(2):
            pair: dict[bool, Times] = {}
            for resident in (True, False) if turn == 0 else (False, True):
                if resident:
                    self._make_resident()
                pair[resident] = self._arrivals(0.8 * capacity_requests_s, turn, resident)
            rates.append((pair[False], pair[True]))
        detail = {"arrivals_s": round(0.8 * capacity_requests_s, 2), "paged": _summary(rates[-1][0]), "resident": _summary(rates[-1][1])}
        return Figure("paging-throughput", statistics.median(paged.tokens_s / all_.tokens_s for paged, all_ in rates), detail)

    def gaps(self, rates: list[tuple[Times, Times]]) -> Figure:
        """The same streams, by the time between two tokens of one request."""
        ratios = [quantile(paged.gaps, 0.99) / quantile(resident.gaps, 0.99) for paged, resident in rates]
        return Figure("paging-gap-p99", statistics.median(ratios), {"rounds": [round(ratio, 3) for ratio in ratios]})

    def _make_resident(self) -> None:
        self._driver.serve(iter(range(self._scale.paged_slots)), self._prompt_tokens, lambda _: 2, self._scale.paged_slots)

    def _for_a_while(self, fold: Callable[[int], int]) -> Times:
        until = time.perf_counter() + self._scale.stream_s / 2
        chosen = (fold(number) for number in self._numbers if time.perf_counter() < until)
        return self._driver.serve(chosen, self._prompt_tokens, self.answer, self._scale.paged_slots)

    def _arrivals(self, rate_s: float, seed: int, resident: bool) -> Times:
        count = max(8, int(rate_s * self._scale.stream_s))
        due = np.random.default_rng(seed).exponential(1.0 / rate_s, count).cumsum().tolist()
        numbers = self._numbers[seed * count : (seed + 1) * count]
        chosen = [number % self._scale.paged_slots if resident else number for number in numbers]
        return self._driver.serve_arrivals(list(zip(due, chosen, strict=True)), self._prompt_tokens, self.answer)


def _summary(times: Times) -> dict[str, float]:
    return {
        "tokens_s": round(times.tokens_s, 1),
        "requests": times.requests,
        "first_token_ms_median": round(1e3 * statistics.median(times.first_tokens), 2),
        "first_token_ms_p99": round(1e3 * quantile(times.first_tokens, 0.99), 2),
        "gap_ms_median": round(1e3 * statistics.median(times.gaps), 3),
        "gap_ms_p99": round(1e3 * quantile(times.gaps, 0.99), 3),
    }


# --- seats ---


def seats(world: World, rows: Rows) -> None:
    """Twice as many adapters as slots, one request each, again and again; against as many adapters as slots with as many requests."""
    scale = world.scale
    slots, prompt, answer = scale.seat_slots, scale.context // 32, scale.context // 16
    adapters = world.adapters(2 * slots)

    def measure() -> Figure:
        firsts: dict[int, list[float]] = {2: [], 1: []}
        for turn in range(scale.rounds + 1):
            for times_more in (2, 1) if turn % 2 else (1, 2):
                chosen = iter([index % (times_more * slots) for index in range(6 * slots)])
                times = driver.serve(chosen, prompt, lambda _: answer, 2 * slots)
                if turn:
                    firsts[times_more].append(1e3 * statistics.median(times.first_tokens))
        detail = {"many_ms": [round(ms, 2) for ms in firsts[2]], "few_ms": [round(ms, 2) for ms in firsts[1]]}
        return Figure("seats", statistics.median(firsts[2]) / statistics.median(firsts[1]), detail)

    with world.open(adapters, slots, 4 * slots * (prompt + answer + 32)) as driver:
        driver.hold(range(2 * slots))
        rows.attempt("seats", measure)


# --- resident ---


def resident(world: World, rows: Rows) -> None:
    """As many adapters as the device holds, each asked once; then each once more, which moves none."""
    scale = world.scale
    kv_tokens = resident_kv_tokens(scale)
    room = room_for_adapters(world.free_bytes, scale, kv_tokens)
    counts = sorted({max(1, int(share * min(room, 4096))) for share in SHARES_OF_ROOM}, reverse=True)
    errors: list[str] = []
    for count in counts:
        try:
            figure = _serve_all(world, count, kv_tokens)
        except Exception as error:  # out of memory at this count is an answer too: fewer are tried
            errors.append(f"{count}: {type(error).__name__}: {str(error)[:200]}")
            continue
        rows.attempt("resident", lambda f=figure: Figure("resident", f.measured, {**f.detail, "too_many": errors}))  # type: ignore[misc]
        return
    rows.attempt("resident", lambda: _fail(f"no count of adapters could be served: {'; '.join(errors)}"))


def _fail(text: str) -> Figure:
    raise RowFailed(text)


def _serve_all(world: World, count: int, kv_tokens: int) -> Figure:
    scale = world.scale
    small = {"prompt_step_tokens": 512, "step_tokens": max(512, scale.largest_batch)}
    with world.open(world.adapters(count), count, kv_tokens, **small) as driver:
        driver.hold(range(count))
        first = driver.serve(iter(range(count)), 8, lambda _: 4, scale.largest_batch)
        before = set(driver.stats().adapters_ready)
        again = driver.serve(iter(range(count)), 8, lambda _: 4, scale.largest_batch)
        ready = before & set(driver.stats().adapters_ready) & {name_of(number) for number in range(count)}
        detail = {
            "asked": count,
            "loaded_s": round(first.seconds, 2),
            "again_s": round(again.seconds, 2),
            "most_in_one_step": driver.stats().max_adapters_in_one_step,
            "free_bytes_then": free_bytes(world.device),
        }
    if again.requests != count:
        raise RowFailed(f"{again.requests} requests of {count} were served")
    return Figure("resident", float(len(ready)), detail)


# --- profile ---


def profile(world: World, rows: Rows) -> None:
    """One decode step under torch's profiler, bare and with an adapter for each row: where its time goes."""
    scale, batch = world.scale, world.scale.zipf_batch
    with world.open(world.adapters(batch), batch, 2 * batch * scale.reserved_tokens) as driver:
        driver.hold(range(batch))
        for name, chosen in (("bare", [None] * batch), ("distinct", list(range(batch)))):
            opened = _open(driver, scale, chosen)
            plain_s = statistics.median(driver.decode(opened, 5))
            rows.fact(f"profile-{name}", _profile_step(driver, opened, world.device, plain_s))
            driver.end_batch(opened)


def _profile_step(driver: Driver, batch: Batch, device: torch.device, plain_s: float) -> dict[str, Any]:
    on_device = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_device else [])]
    with torch.profiler.profile(activities=kinds) as seen:
        driver.decode(batch, 1)
    averages = seen.key_averages()
    times = [(_device_us(each) if on_device else each.self_cpu_time_total, each.count, each.key) for each in averages]
    total_us = sum(us for us, _, _ in times)
    lines = [{"us": round(us, 1), "share": round(us / total_us, 4) if total_us else 0.0, "calls": count, "name": key[:120]}
             for us, count, key in sorted(times, reverse=True)[:30] if us > 0]  # fmt: skip
    return {"step_ms_without_profiler": round(1e3 * plain_s, 4), "device_ms": round(total_us / 1e3, 4), "lines": lines}


def _device_us(event: Any) -> float:
    """Its own time on the device; torch has called it by two names."""
    return float(getattr(event, "self_device_time_total", None) or getattr(event, "self_cuda_time_total", 0.0))


# --- limits ---


def limits(world: World, rows: Rows) -> None:
    """What the device can do at most; the facts are what everything else is compared with."""
    found = measure_cuda(world.dtype) if world.device.type == "cuda" else measure_host(world.dtype)
    rows.fact("limits", {"device": found.device, "copy_bytes_s": found.copy_bytes_s, "gemm_operations_s": found.gemm_operations_s,
                         "host_to_device_bytes_s": found.host_to_device_bytes_s})  # fmt: skip


def measure_cuda(dtype: torch.dtype) -> Limits:
    """By CUDA events, the best of several: a copy within the device (read and written bytes count), an 8192³ product of random numbers, and a
    copy from pinned memory."""
    free = free_bytes(torch.device("cuda"))
    size = min(4 << 30, free // 4)
    source, target = torch.empty(size, dtype=torch.uint8, device="cuda").random_(), torch.empty(size, dtype=torch.uint8, device="cuda")
    copy_s = _cuda_seconds(lambda: target.copy_(source))
    del source, target
    width = 8192 if free > 4 << 30 else 2048
    left, right = torch.randn(width, width, device="cuda").to(dtype), torch.randn(width, width, device="cuda").to(dtype)
    out = torch.empty(width, width, dtype=dtype, device="cuda")
    gemm_s = _cuda_seconds(lambda: torch.mm(left, right, out=out))
    pinned = torch.empty(min(256 << 20, free // 8), dtype=torch.uint8, pin_memory=True)
    landing = torch.empty(len(pinned), dtype=torch.uint8, device="cuda")
    host_s = _cuda_seconds(lambda: landing.copy_(pinned, non_blocking=True))
    return Limits(torch.cuda.get_device_name(), 2 * size / copy_s, 2.0 * width**3 / gemm_s, len(pinned) / host_s)


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
    return Limits("this machine's CPU", found.read_bytes_s, found.operations_s[name], found.read_bytes_s)


def of_facts(fact: dict[str, Any]) -> Limits:
    """The limits as another process has told them."""
    return Limits(**fact)


