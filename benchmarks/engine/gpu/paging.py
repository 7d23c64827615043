"""Rows of adapters that come and go: many on the host and few places on the device, twice as many
as slots, as many as the memory holds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile

import numpy as np

from benchmarks.engine.gpu.drive import Driver, RowFailed, free_bytes, name_of
from benchmarks.engine.gpu.model import Scale, quantile, resident_kv_tokens, room_for_adapters
from benchmarks.engine.gpu.rows import Figure, Rows, World
from benchmarks.engine.gpu.world import zipf
from benchmarks.engine.times import Times

WARM_STEPS = 4
WARM_BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Sizes of a step that are visited before a stream is measured, so that what is compiled or
captured at first sight is there.
"""
SHARES_OF_ROOM = (0.98, 0.96, 0.93, 0.90)
"""What of the room for adapters is tried in turn."""


def paging(world: World, rows: Rows) -> None:
    """Many adapters on the host, few places on the device."""
    scale = world.scale
    slots = scale.paged_slots
    prompt = scale.context // 8
    adapters = world.adapters(scale.paged_adapters, scale.room_bytes)
    rows.fact(
        "adapters",
        {
            "size_bytes": adapters.size_bytes,
            "room_bytes": len(adapters.room),
            "count": adapters.count,
        },
    )
    with world.open(
        adapters, slots, 2 * slots * (2 * scale.context // 8 + 32), max_running=slots
    ) as driver:
        started = time.perf_counter()
        driver.hold(range(adapters.count))
        rows.fact(
            "register_ms_each", round(1e3 * (time.perf_counter() - started) / adapters.count, 3)
        )
        rows.after_failure = driver.quiet
        _warm_up(driver, rows, slots, prompt)
        rows.attempt("cold", lambda: _cold(driver, scale, prompt))
        streams = _Streams(driver, scale, prompt)
        full = rows.attempt("paging-full", streams.full)
        if full is not None:
            rates: list[tuple[Times, Times]] = []
            rows.attempt(
                "paging-throughput", lambda: streams.throughput(full.detail["requests_s"], rates)
            )
            if rates:
                rows.attempt("paging-gap-p99", lambda: streams.gaps(rates))


def _cold(driver: Driver, scale: Scale, prompt_tokens: int) -> Figure:
    """The first token of a request alone: with an adapter that was never on the device, and with
    the same one again.
    """
    fresh = range(scale.paged_adapters // 2, scale.paged_adapters)
    tries = min(16, len(fresh) // 2)
    cold = []
    warm = []
    for turn in range(tries + 2):
        seconds = (
            driver.time_prompts([fresh[turn]], prompt_tokens),
            driver.time_prompts([fresh[turn]], prompt_tokens),
        )
        if turn >= 2:
            cold.append(1e3 * seconds[0])
            warm.append(1e3 * seconds[1])
    detail = {
        "cold_ms": round(statistics.median(cold), 3),
        "warm_ms": round(statistics.median(warm), 3),
        "tries": tries,
    }
    return Figure("cold", statistics.median(cold) - statistics.median(warm), detail)


class _Streams:
    """Requests over all adapters by Zipf's law, against the same folded over as many as there are
    slots.
    """

    def __init__(self, driver: Driver, scale: Scale, prompt_tokens: int) -> None:
        self._driver = driver
        self._scale = scale
        self._prompt_tokens = prompt_tokens
        self._numbers = zipf(scale.paged_adapters, 200_000, 3)

    def answer(self, number: int) -> int:
        """The n-th answer's tokens: from half to one and a half of a sixteenth of the context, so
        that nobody goes in lockstep.
        """
        middle = self._scale.context // 16
        return middle - middle // 2 + number * 37 % (middle + 1)

    def full(self) -> Figure:
        """As many requests at a time as there are slots; a first, shorter stream warms up what
        steps of prompts and answers need.
        """
        self._for_a_while(lambda number: number, 0.2)
        self._make_resident()
        resident = self._for_a_while(lambda number: number % self._scale.paged_slots)
        paged = self._for_a_while(lambda number: number)
        detail = {
            "requests_s": resident.requests / resident.seconds,
            "resident": _summary(resident),
            "paged": _summary(paged),
        }
        return Figure("paging-full", paged.tokens_s / resident.tokens_s, detail)

    def throughput(self, capacity_requests_s: float, rates: list[tuple[Times, Times]]) -> Figure:
        """Arrivals at 80 % of what the resident side can do, twice, in both orders; `rates` gets
        (paged, resident) of each.
        """
        for turn in range(2):
            pair: dict[bool, Times] = {}
            for resident in (True, False) if turn == 0 else (False, True):
                if resident:
                    self._make_resident()
                pair[resident] = self._arrivals(0.8 * capacity_requests_s, turn, resident)
            rates.append((pair[False], pair[True]))
        detail = {
            "arrivals_s": round(0.8 * capacity_requests_s, 2),
            "paged": _summary(rates[-1][0]),
            "resident": _summary(rates[-1][1]),
        }
        return Figure(
            "paging-throughput",
            statistics.median(paged.tokens_s / all_.tokens_s for paged, all_ in rates),
            detail,
        )

    def gaps(self, rates: list[tuple[Times, Times]]) -> Figure:
        """The same streams, by the time between two tokens of one request."""
        ratios = [
            quantile(paged.gaps, 0.99) / quantile(resident.gaps, 0.99) for paged, resident in rates
        ]
        return Figure(
            "paging-gap-p99",
            statistics.median(ratios),
            {"rounds": [round(ratio, 3) for ratio in ratios]},
        )

    def _make_resident(self) -> None:
        self._driver.serve(
            iter(range(self._scale.paged_slots)),
            self._prompt_tokens,
            lambda _: 2,
            self._scale.paged_slots,
        )

    def _for_a_while(self, fold: Callable[[int], int], share: float = 0.5) -> Times:
        until = time.perf_counter() + self._scale.stream_s * share
        chosen = map(fold, takewhile(lambda _: time.perf_counter() < until, self._numbers))
        return self._driver.serve(chosen, self._prompt_tokens, self.answer, self._scale.paged_slots)

    def _arrivals(self, rate_s: float, seed: int, resident: bool) -> Times:
        count = max(8, int(rate_s * self._scale.stream_s))
        due = np.random.default_rng(seed).exponential(1.0 / rate_s, count).cumsum().tolist()
        numbers = self._numbers[seed * count : (seed + 1) * count]
        chosen = [number % self._scale.paged_slots if resident else number for number in numbers]
        return self._driver.serve_arrivals(
            list(zip(due, chosen, strict=True)), self._prompt_tokens, self.answer
        )


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
    """Twice as many adapters as slots, one request each, again and again; against as many adapters
    as slots with as many requests.
    """
    scale = world.scale
    slots = scale.seat_slots
    prompt = scale.context // 32
    answer = scale.context // 16
    adapters = world.adapters(2 * slots)

    def measure() -> Figure:
        firsts: dict[int, list[float]] = {2: [], 1: []}
        for turn in range(scale.rounds + 1):
            for times_more in (2, 1) if turn % 2 else (1, 2):
                chosen = iter([index % (times_more * slots) for index in range(6 * slots)])
                times = driver.serve(chosen, prompt, lambda _: answer, 2 * slots)
                if turn:
                    firsts[times_more].append(1e3 * statistics.median(times.first_tokens))
        detail = {
            "many_ms": [round(ms, 2) for ms in firsts[2]],
            "few_ms": [round(ms, 2) for ms in firsts[1]],
        }
        return Figure("seats", statistics.median(firsts[2]) / statistics.median(firsts[1]), detail)

    with world.open(adapters, slots, 4 * slots * (prompt + answer + 32)) as driver:
        driver.hold(range(2 * slots))
        _warm_up(driver, rows, slots, prompt)
        rows.attempt("seats", measure)


# --- resident ---


def resident(world: World, rows: Rows) -> None:
    """As many adapters as the device holds, each asked once; then each once more, which moves
    none.
    """
    scale = world.scale
    kv_tokens = resident_kv_tokens(scale)
    room = room_for_adapters(world.free_bytes, scale, kv_tokens)
    counts = sorted(
        {max(1, int(share * min(room, 4096))) for share in SHARES_OF_ROOM}, reverse=True
    )

    def measure() -> Figure:
        errors: list[str] = []
        for count in counts:
            try:
                figure = _serve_all(world, count, kv_tokens)
            except (
                Exception
            ) as error:  # out of memory at this count is an answer too: fewer are tried
                errors.append(f"{count}: {type(error).__name__}: {str(error)[:200]}")
            else:
                return replace(figure, detail={**figure.detail, "too_many": errors})
        raise RowFailed(f"no count of adapters could be served: {'; '.join(errors)}")

    rows.attempt("resident", measure)


def _serve_all(world: World, count: int, kv_tokens: int) -> Figure:
    scale = world.scale
    small = {"prompt_step_tokens": 512, "step_tokens": max(512, scale.largest_batch)}
    with world.open(world.adapters(count), count, kv_tokens, **small) as driver:
        driver.hold(range(count))
        first = driver.serve(iter(range(count)), 8, lambda _: 4, scale.largest_batch)
        ready = set(driver.stats().adapters_ready)
        there = [number for number in range(count) if name_of(number) in ready]
        again = driver.serve(iter(there), 8, lambda _: 4, scale.largest_batch)
        stayed = ready == set(driver.stats().adapters_ready)
        detail = {
            "asked": count,
            "loaded_s": round(first.seconds, 2),
            "again_s": round(again.seconds, 2),
            "most_in_one_step": driver.stats().max_adapters_in_one_step,
            "free_bytes_then": free_bytes(world.device),
        }
    if first.requests != count or again.requests != len(there) or not stayed:
        raise RowFailed(
            f"of {count} adapters {len(there)} were resident, but serving those once more moved"
            f" some: {detail}"
        )
    return Figure("resident", float(len(there)), detail)


def _warm_up(driver: Driver, rows: Rows, slots: int, prompt_tokens: int) -> None:
    """Visit every size of a decode step up to `slots`, with an adapter for each row."""
    started = time.perf_counter()
    for size in (size for size in WARM_BATCHES if size <= slots):
        batch = driver.open_batch(range(size), prompt_tokens, WARM_STEPS + 2)
        driver.decode(batch, WARM_STEPS)
        driver.end_batch(batch)
    rows.fact("seconds_to_warm_up", round(time.perf_counter() - started, 2))
