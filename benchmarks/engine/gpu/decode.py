"""Rows of steps in lockstep: base only, distinct adapters, Zipf, LoRA on but unused, prompts, the
base in fewer bits; and where one step's time goes (`profile`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.engine.gpu.drive import Batch, Driver, RowFailed
from benchmarks.engine.gpu.model import (
    NARROW_BITS,
    Scale,
    fits_beside,
    kv_tokens_for,
    narrow_batches,
    quantile,
)
from benchmarks.engine.gpu.rows import Figure, Rows, World
from benchmarks.engine.gpu.world import zipf

WARM_STEPS = 4


def decode(world: World, rows: Rows) -> None:
    """Decode steps at all batches, and prompts."""
    scale = world.scale
    adapters = world.adapters(max(scale.zipf_adapters, scale.largest_batch))
    with world.open(
        adapters, scale.largest_batch, kv_tokens_for(scale, world.free_bytes)
    ) as driver:
        rows.fact("kernels", driver.built.kernels)
        rows.after_failure = driver.quiet
        alone = {
            batch: rows.attempt(f"base-{batch}", lambda b=batch: _base(driver, scale, b))  # type: ignore[misc]
            for batch in (1, scale.zipf_batch)
            if batch in scale.batches
        }
        rows.attempt("prefill", lambda: _prompts(driver, scale, [None] * scale.prefill[0]))
        driver.hold(range(adapters.count))
        for batch in sorted(scale.batches, key=lambda batch: (batch > 64, -batch)):
            if batch == scale.zipf_batch:
                _distinct(driver, scale, batch, rows, alone=alone)
                chosen: list[int | None] = [*zipf(scale.zipf_adapters, batch, 1)]
                rows.attempt(
                    "zipf",
                    lambda c=chosen: _share(
                        *_compare(driver, scale, c), "zipf", len(set(c)), scale
                    ),
                )  # type: ignore[misc]
                rows.attempt("unused", lambda b=batch: _unused(driver, scale, b, alone))  # type: ignore[misc]
                rows.attempt("sampled", lambda b=batch: _sampled(driver, scale, b, alone))  # type: ignore[misc]
            else:
                _distinct(driver, scale, batch, rows, alone=alone)
        rows.attempt(
            "prefill-distinct",
            lambda: _prompts(driver, scale, list(range(scale.prefill[0])), "prefill-distinct"),
        )
    rows.fact("seconds_to_open_decode", world.opened_s[-1])


def _base(driver: Driver, scale: Scale, batch: int, temperature: float = 0.0) -> Figure:
    opened = _open(driver, scale, [None] * batch, temperature)
    steps = [driver.decode(opened, scale.decode_steps) for _ in range(scale.rounds)]
    driver.end_batch(opened)
    return _rate(f"base-{batch}", batch, steps)


def narrow(world: World, rows: Rows) -> None:
    """Decode steps over linears in 8 and in 4 bits, base only."""
    scale = world.scale
    batches = narrow_batches(scale)
    for form in NARROW_BITS:
        with world.open(None, 1, batches[-1] * scale.reserved_tokens, dtype=form) as driver:
            rows.after_failure = driver.quiet
            for batch in batches:
                rows.attempt(
                    f"{form}-{batch}",
                    lambda b=batch, f=form: replace(_base(driver, scale, b), row=f"{f}-{b}"),  # type: ignore[misc]
                )


def _distinct(
    driver: Driver, scale: Scale, batch: int, rows: Rows, alone: dict[int, Figure | None]
) -> None:
    """A row for the batch with an adapter each against bare rows; the bare side is a row of its own
    where it was not measured before.
    """

    def measure() -> Figure:
        bare, own = _compare(driver, scale, list(range(batch)))
        if batch not in alone:
            alone[batch] = rows.attempt(
                f"base-{batch}", lambda: _rate(f"base-{batch}", batch, bare)
            )
        return _share(bare, own, f"distinct-{batch}", batch, scale=scale)

    rows.attempt(f"distinct-{batch}", measure)


def _unused(driver: Driver, scale: Scale, batch: int, alone: dict[int, Figure | None]) -> Figure:
    before = alone[batch]
    if before is None:
        raise RowFailed("there is no rate from before the first adapter to compare with")
    after = _base(driver, scale, batch)
    return Figure(
        "unused", after.measured / before.measured, {"before": before.detail, "after": after.detail}
    )


def _sampled(driver: Driver, scale: Scale, batch: int, alone: dict[int, Figure | None]) -> Figure:
    greedy = alone[batch]
    if greedy is None:
        raise RowFailed("there is no greedy rate to compare with")
    sampled = _base(driver, scale, batch, 0.8)
    return Figure("sampled", sampled.measured / greedy.measured, sampled.detail)


def _compare(
    driver: Driver, scale: Scale, adapters: list[int | None]
) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds of each step, by round: of a bare batch and of one with these adapters; in turn where
    both fit, else one after the other.
    """
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


def _open(
    driver: Driver, scale: Scale, adapters: Sequence[int | None], temperature: float = 0.0
) -> Batch:
    """A batch at the scale's context, warm: what is captured or compiled at the first steps is not
    measured.
    """
    batch = driver.open_batch(adapters, scale.prompt_tokens, scale.reserved_tokens, temperature)
    driver.decode(batch, WARM_STEPS)
    return batch


def _rate(row: str, batch: int, steps: list[list[float]]) -> Figure:
    rates = [batch * len(each) / sum(each) for each in steps]
    return Figure(
        row,
        statistics.median(rates),
        {"rounds": [round(rate, 1) for rate in rates], **_step_ms(steps)},
    )


def _step_ms(steps: list[list[float]]) -> dict[str, float]:
    every = [1e3 * second for each in steps for second in each]
    return {
        "step_ms_median": round(statistics.median(every), 4),
        "step_ms_min": round(min(every), 4),
        "step_ms_p99": round(quantile(every, 0.99), 4),
    }


def _share(
    bare: list[list[float]], own: list[list[float]], row: str, distinct: int, scale: Scale
) -> Figure:
    shares = [sum(without) / sum(with_) for without, with_ in zip(bare, own, strict=True)]
    detail = {
        "rounds": [round(share, 4) for share in shares],
        "distinct": distinct,
        "bare": _step_ms(bare),
        "own": _step_ms(own),
    }
    return Figure(row, statistics.median(shares), detail)


def _prompts(
    driver: Driver, scale: Scale, adapters: list[int | None] | list[int], row: str = "prefill"
) -> Figure:
    tokens = len(adapters) * scale.prefill[1]
    driver.time_prompts(adapters, scale.prefill[1])
    rates = [tokens / driver.time_prompts(adapters, scale.prefill[1]) for _ in range(scale.rounds)]
    return Figure(row, statistics.median(rates), {"rounds": [round(rate) for rate in rates]})


# --- profile ---


def profile(world: World, rows: Rows) -> None:
    """One decode step under torch's profiler, of one row, bare and with an adapter for each row:
    where its time goes.
    """
    scale = world.scale
    batch = world.scale.zipf_batch
    with world.open(world.adapters(batch), batch, batch * scale.reserved_tokens) as driver:
        driver.hold(range(batch))
        for name, chosen in (
            ("one", [None]),
            ("bare", [None] * batch),
            ("distinct", list(range(batch))),
        ):
            opened = _open(driver, scale, chosen)
            plain_s = statistics.median(driver.decode(opened, 5))
            rows.fact(f"profile-{name}", _profile_step(driver, opened, world.device, plain_s))
            driver.end_batch(opened)


def _profile_step(
    driver: Driver, batch: Batch, device: torch.device, plain_s: float
) -> dict[str, Any]:
    on_device = device.type == "cuda"
    kinds = [
        torch.profiler.ProfilerActivity.CPU,
        *([torch.profiler.ProfilerActivity.CUDA] if on_device else []),
    ]
    with torch.profiler.profile(activities=kinds) as seen:
        driver.decode(batch, 1)
    averages = [each for each in seen.key_averages() if not on_device or _ran_on_device(each)]
    times = [
        (_device_us(each) if on_device else each.self_cpu_time_total, each.count, each.key)
        for each in averages
    ]
    total_us = sum(us for us, _, _ in times)
    lines = [
        {
            "us": round(us, 1),
            "share": round(us / total_us, 4) if total_us else 0.0,
            "calls": count,
            "name": key[:120],
        }
        for us, count, key in sorted(times, reverse=True)[:30]
        if us > 0
    ]
    return {
        "step_ms_without_profiler": round(1e3 * plain_s, 4),
        "device_ms": round(total_us / 1e3, 4),
        "lines": lines,
    }


def _ran_on_device(event: Any) -> bool:
    """Whether it is a kernel or a copy: what launched one carries its time as well, and would count
    it twice.
    """
    return event.device_type == torch.autograd.DeviceType.CUDA and not getattr(
        event, "is_user_annotation", False
    )


def _device_us(event: Any) -> float:
    """Its own time on the device; torch has called it by two names."""
    return float(
        getattr(event, "self_device_time_total", None)
        or getattr(event, "self_cuda_time_total", 0.0)
    )
