"""Decides how a device's memory is divided. Pure: bytes in, bytes out.

First the base and what a step works with; the rest goes to keys and values and to adapters, by what
the two earn together:

    running    n = min(max_running, KV bytes / bytes of one request, adapter bytes / bytes of one
               adapter)
                   a running request needs room for its tokens, and at worst each brings an
                   adapter of its own
    step       t = (base bytes + n * KV bytes of one request) / read_bytes_s
    missing    m = 1 - H(resident) / H(known)          requests fall on `known` adapters by Zipf's
               law, H(k) = 1 + 1/2 + … + 1/k
    earned       = n / (t + m * (adapter bytes / copy_bytes_s) / answer_tokens)      tokens a
                 second: a request whose adapter has to be copied
                   holds its place for that long, once for all tokens of its answer

The split with the most tokens a second wins; among equals the one with the most keys and values,
which also hold prefixes that requests share. On a small card that means about as many adapters as
requests can run; on a large one, where max_running is reached, the surplus goes to adapters until
none is missing. Absolute speeds matter little: only that of a copy relative to that of a step does.

Does not know what is free (device.py) or what a step's work space is (space.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ..config import Stored
from ..count import ceil_div
from ..errors import ModelError
from ..lora.layout import adapter_numbers
from ..model.config import ModelConfig
from ..model.entries import num_entries
from ..model.tensors import expected_tensors

CANDIDATES = 200
Q4_EIGHTHS = 6
"""Of a byte for each number of a linear in 4 bits, at most: a group of 32 takes five with its scale
and offset, and files have some of their linears in more bits, which lie in int8.
"""
MARGIN = 0.02
"""Share of the device's whole memory that nobody plans with: graphs, compiled kernels, cuBLAS's
own, what a neighbour takes.
"""
TYPICAL_RANK = 16
SMALL_RANK = 8
MAX_SLOTS = 4096


@dataclass(frozen=True)
class Load:
    """What is expected of the device; mostly ratios matter.

    `request_tokens` of one request in all and `answer_tokens` of its answer; `known_adapters` are
    those that requests name.
    """

    max_running: int
    request_tokens: int = 2048
    answer_tokens: int = 256
    known_adapters: int = 2000
    read_bytes_s: float = 2e12
    copy_bytes_s: float = 25e9


@dataclass(frozen=True)
class Demand:
    """The bytes that a model needs: its base, a step's work space, one page of `page_tokens` keys
    and values, an adapter of typical rank, a slot's table.
    """

    base_bytes: int
    work_bytes: int
    page_bytes: int
    page_tokens: int
    adapter_bytes: int
    slot_bytes: int


@dataclass(frozen=True)
class Split:
    """The division. `num_pages` excludes the zero page; `reason` is in words."""

    num_pages: int
    adapter_bytes: int
    num_slots: int
    reason: str


def demand_of(
    config: ModelConfig,
    itemsize: int,
    page_tokens: int,
    work_bytes: int,
    stored: Stored = Stored.PLAIN,
) -> Demand:
    """Compute the bytes that a model needs whose numbers take `itemsize` bytes each (norms take
    four, linears what `stored` says).
    """
    page = config.kv_numbers * page_tokens * itemsize
    slot = num_entries(config) * 5 * 8
    return Demand(
        base_bytes=base_bytes(config, itemsize, stored),
        work_bytes=work_bytes,
        page_bytes=page,
        page_tokens=page_tokens,
        adapter_bytes=adapter_numbers(config, TYPICAL_RANK) * itemsize,
        slot_bytes=slot,
    )


def base_bytes(config: ModelConfig, itemsize: int, stored: Stored = Stored.PLAIN) -> int:
    """Count the bytes of all weights at most; each number of a norm or bias takes four.

    The embedding keeps `itemsize`, so a head that is tied to it and not kept so is there besides.
    """
    narrow = {Stored.PLAIN: None, Stored.INT8: 8, Stored.Q4: Q4_EIGHTHS}[stored]
    total = 0
    for name, shape in expected_tensors(config):
        is_table = name.startswith("model.embed_tokens")
        if len(shape) == 1:
            total += 4 * shape[0]
        elif narrow is None or is_table:
            total += math.prod(shape) * itemsize
        else:
            total += _linear_bytes(shape, 8 if name.startswith("lm_head") else narrow)
        if is_table and config.tied_head and narrow is not None:
            total += _linear_bytes(shape, 8)
    return total


def _linear_bytes(shape: tuple[int, ...], eighths: int) -> int:
    """Count the bytes of a linear whose numbers take so many eighths of one, and a scale a row."""
    return math.prod(shape) * eighths // 8 + 4 * shape[0]


def check_fits(demand: Demand, free_bytes: int, what: str) -> None:
    """Raise ModelError unless the base and a step fit."""
    if demand.base_bytes + demand.work_bytes > free_bytes:
        raise ModelError(shortage(demand, free_bytes, what))


def shortage(demand: Demand, free_bytes: int, what: str) -> str:
    """Say that a base does not fit: what is needed, what is free, and what to do."""
    return (
        f"the base needs {demand.base_bytes + demand.work_bytes} bytes of {what}"
        f" ({demand.base_bytes} for its weights, {demand.work_bytes} for a step), of which"
        f" {free_bytes} are free; end what else uses it, choose a smaller base, or run on the"
        " processor (--kernels native)"
    )


def divide(
    demand: Demand,
    free_bytes: int,
    total_bytes: int,
    load: Load,
    num_pages: int | None = None,
    num_slots: int | None = None,
) -> Split:
    """Divide what is free before the base is loaded.

    `num_pages` or `num_slots` that an operator has chosen are kept. Raises ModelError.
    """
    rest = free_bytes - demand.base_bytes - demand.work_bytes - int(MARGIN * total_bytes)
    request = ceil_div(load.request_tokens, demand.page_tokens) * demand.page_bytes
    if num_pages is not None:
        kv = (1 + num_pages) * demand.page_bytes
        why = "as asked for"
    else:
        kv = _best_kv(demand, rest, request, load, num_slots=num_slots or MAX_SLOTS)
        why = (
            f"{min(load.max_running, kv // request, (rest - kv) // demand.adapter_bytes)} requests"
            f" of {load.request_tokens} tokens at once"
        )
    room = rest - kv
    if num_slots is None:
        per_slot = demand.adapter_bytes * SMALL_RANK // TYPICAL_RANK + demand.slot_bytes
        num_slots = max(1, min(MAX_SLOTS, room // per_slot))
    room -= num_slots * demand.slot_bytes
    if kv < 2 * demand.page_bytes or room < demand.adapter_bytes:
        raise ModelError(
            f"beside the base and a step {max(0, rest)} bytes of the device are free; a page of"
            f" keys and values takes {demand.page_bytes}, an adapter of rank {TYPICAL_RANK}"
            f" {demand.adapter_bytes}: choose a smaller base, or fewer --kv-tokens"
        )
    return Split(kv // demand.page_bytes - 1, room, num_slots, why)


def earned(
    demand: Demand,
    kv_bytes: int,
    adapters_bytes: int,
    request_bytes: int,
    load: Load,
    num_slots: int = MAX_SLOTS,
) -> float:
    """Return the tokens a second of a split, by the model above; at most `num_slots` adapters are
    resident.
    """
    each_bytes = demand.adapter_bytes + demand.slot_bytes
    running = min(
        load.max_running, kv_bytes / request_bytes, adapters_bytes / each_bytes, num_slots
    )
    if running <= 0:
        return 0.0
    step_s = (demand.base_bytes + running * request_bytes) / load.read_bytes_s
    resident = min(load.known_adapters, num_slots, adapters_bytes // each_bytes)
    missing = 1 - harmonic(resident) / harmonic(load.known_adapters)
    return running / (
        step_s + missing * demand.adapter_bytes / load.copy_bytes_s / load.answer_tokens
    )


@lru_cache(1 << 14)
def harmonic(count: int) -> float:
    """Sum 1 + 1/2 + … + 1/count."""
    return sum(1 / k for k in range(1, count + 1))


def _best_kv(demand: Demand, rest: int, request: int, load: Load, num_slots: int) -> int:
    """Return the bytes of keys and values with which a split earns most; 0 when no split leaves two
    pages and an adapter.
    """
    candidates = [rest * k // CANDIDATES for k in range(1, CANDIDATES)]
    kept = [
        kv
        for kv in candidates
        if kv >= 2 * demand.page_bytes and rest - kv >= demand.adapter_bytes + demand.slot_bytes
    ]
    return max(
        ((earned(demand, kv, rest - kv, request, load, num_slots=num_slots), kv) for kv in kept),
        default=(0.0, 0),
    )[1]
